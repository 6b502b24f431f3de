"""A small real model, trained live on the CPU, that reads handwritten digits and writes JSON with boxes."""
