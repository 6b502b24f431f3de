"""Two evaluations of the same tokens, side by side."""
