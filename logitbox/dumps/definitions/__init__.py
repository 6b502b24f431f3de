"""What every metric means, once: per-token quantities, the tokens they are averaged over, keys and reductions.

The recorder evaluates these definitions live, on the device, and the analyses from a dump.
"""
