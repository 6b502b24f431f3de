"""Recording beside training, and opening what was written.

The writing side (`recorder` and what it imports) needs torch, numpy and pyarrow only; the reading side
(`dump`, `verify`) needs polars, numpy and pyarrow, never torch.
"""
