"""Confidence intervals of token means, clustered by sample: tokens of one sample are correlated.

Linearisation of a ratio R = Σxᵢ/Σnᵢ over clusters i (Cochran, Sampling Techniques, 1977, §6; the "clustered standard
error" of arXiv 2411.00640): Var R = G/(G−1) · Σ(xᵢ − R nᵢ)² / (Σnᵢ)². Approximate: it takes samples as independent,
and a sample met again at another step as another sample. A sample whose tokens lie in several shards (sliding windows
recorded by several calls) counts once per shard.
"""

from __future__ import annotations

import polars as pl

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


_ROUNDING = 1e-12
"""Squares below this share of their terms are what float64 sums leave of an exact 0."""


def mean_of(quantity: str) -> pl.Expr:
    """Token mean of a quantity, from the columns of a tally's cells; null where there are no tokens."""
    return pl.when(pl.col("n") > 0).then(pl.col(quantity) / pl.col("n"))


def standard_error(quantity: str) -> pl.Expr:
    """Clustered standard error of the token mean; null with fewer than two samples.

    Where the column `evaluations` m is there, the same samples were met m times. The error is then the one of m
    perfectly correlated evaluations, √m times that of independent ones: (Σₘ dᵢₘ)² ≤ m Σₘ dᵢₘ², so it is never
    too small.
    """
    x, xx, xn = (pl.col(name) for name in (quantity, f"{quantity}:xx", f"{quantity}:xn"))
    n, nn, g = pl.col("n"), pl.col("nn"), pl.col("clusters")
    ratio = x / n
    squares = xx - 2 * ratio * xn + ratio * ratio * nn
    # What is left where every sample has the same mean is rounding, of either sign.
    squares = pl.when(squares > _ROUNDING * (xx + ratio * ratio * nn)).then(squares).otherwise(0.0)
    times = pl.col("evaluations")
    return pl.when(g > times).then((times * g / (g - times) * squares).sqrt() / n)


def interval(quantity: str, *, is_share: bool) -> tuple[pl.Expr, pl.Expr]:
    """(low, high) of the 95 % interval of a token mean; null where there is none.

    A share whose samples all agree has no spread to estimate from; there the Wilson interval over the number of
    samples is given instead of one of zero width.
    """
    mean, error = mean_of(quantity), standard_error(quantity)
    low, high = mean - Z95 * error, mean + Z95 * error
    if is_share:
        g, z2 = pl.col("clusters") / pl.col("evaluations"), Z95 * Z95
        centre = (mean + z2 / (2 * g)) / (1 + z2 / g)
        # A mean of 1 can come out a rounding above it.
        half = Z95 * ((mean * (1 - mean)).clip(lower_bound=0.0) / g + z2 / (4 * g * g)).sqrt() / (1 + z2 / g)
        flat = error == 0
        # At a share of exactly 0 or 1 the ends may miss it by a rounding.
        low = pl.when(flat).then(pl.min_horizontal(centre - half, mean)).otherwise(low)
        high = pl.when(flat).then(pl.max_horizontal(centre + half, mean)).otherwise(high)
    return low.fill_nan(None), high.fill_nan(None)
