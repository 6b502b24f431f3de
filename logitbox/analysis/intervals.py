"""Confidence intervals of token means, clustered by sample: tokens of one sample are correlated.

Linearisation of a ratio R = Σxᵢ/Σnᵢ over clusters i (Cochran, Sampling Techniques, 1977, §6; the "clustered standard
error" of arXiv 2411.00640): Var R = G/(G−1) · Σ(xᵢ − R nᵢ)² / (Σnᵢ)². Approximate: it takes samples as independent,
and a sample met again at another step as another sample.
"""

from __future__ import annotations

import polars as pl

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def mean_of(quantity: str) -> pl.Expr:
    """Token mean of a quantity, from the columns of a tally's cells; null where there are no tokens."""
    return pl.when(pl.col("n") > 0).then(pl.col(quantity) / pl.col("n"))


def standard_error(quantity: str) -> pl.Expr:
    """Clustered standard error of the token mean; null with fewer than two samples."""
    x, xx, xn = (pl.col(name) for name in (quantity, f"{quantity}:xx", f"{quantity}:xn"))
    n, nn, g = pl.col("n"), pl.col("nn"), pl.col("clusters")
    ratio = x / n
    # Cancellation can leave a tiny negative rest where every sample has the same mean.
    squares = (xx - 2 * ratio * xn + ratio * ratio * nn).clip(lower_bound=0.0)
    return pl.when(g > 1).then((g / (g - 1) * squares).sqrt() / n)


def interval(quantity: str, *, is_share: bool) -> tuple[pl.Expr, pl.Expr]:
    """(low, high) of the 95 % interval of a token mean.

    A share whose samples all agree has no spread to estimate from; there the Wilson interval over the number of
    samples is given instead of one of zero width.
    """
    mean, error = mean_of(quantity), standard_error(quantity)
    low, high = mean - Z95 * error, mean + Z95 * error
    if not is_share:
        return low, high
    g, z2 = pl.col("clusters"), Z95 * Z95
    centre = (mean + z2 / (2 * g)) / (1 + z2 / g)
    half = Z95 * (mean * (1 - mean) / g + z2 / (4 * g * g)).sqrt() / (1 + z2 / g)
    flat = error == 0
    return pl.when(flat).then(centre - half).otherwise(low), pl.when(flat).then(centre + half).otherwise(high)
