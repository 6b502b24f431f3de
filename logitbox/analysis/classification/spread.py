"""How much the loss differs from batch to batch, and the gradient norm from step to step."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, sqrt

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.intervals import Z95

Float = NDArray[np.float64]

_FEWEST = 8
"""Numbers from which on an interval is given."""

GRAD_NORM = ("grad_norm", "train/grad_norm", "train_grad_norm")
"""Keys of `scalars` under which the gradient norm may stand, best first."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of some numbers, taken as independent for the intervals.

    Attributes:
        n: how many.
        mean, deviation: None where there are none, or too few.
        mean_ends, deviation_ends: 95 % intervals; None with fewer than 8 numbers.
    """

    n: int
    mean: float | None
    deviation: float | None
    mean_ends: tuple[float | None, float | None] = (None, None)
    deviation_ends: tuple[float | None, float | None] = (None, None)


def spread(values: Float, ddof: int) -> Spread:
    """Of finite numbers.

    The standard deviation s has ln s ± 1.96 · √((m₄/s⁴ − 1)/n) / 2 as its interval, m₄ the fourth central moment: the delta method,
    on the logarithm so that no end is below 0.
    """
    n = len(values)
    if n == 0:
        return Spread(0, None, None)
    mean = float(values.mean())
    if n <= max(ddof, 1):
        return Spread(n, mean, None)
    deviation = float(values.std(ddof=ddof))
    if n < _FEWEST or deviation == 0.0:
        return Spread(n, mean, deviation)
    variance = float(((values - mean) ** 2).mean())
    fourth = float(((values - mean) ** 4).mean())
    half = Z95 * sqrt(max(fourth / (variance * variance) - 1.0, 0.0) / n) / 2
    error = Z95 * deviation / sqrt(n)
    return Spread(
        n, mean, deviation, (mean - error, mean + error), (deviation * exp(-half), deviation * exp(half))
    )


def grad_norms(scalars: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """(`step`, `value` of the gradient norm, the last one logged of each step; how many were NaN or infinite).

    Args:
        scalars: rows of the `scalars` table.
    """
    rows = scalars.filter(pl.col("key").is_in(GRAD_NORM))
    for key in GRAD_NORM:
        found = rows.filter(pl.col("key") == key)
        if len(found):
            rows = found
            break
    last = rows.group_by("step", maintain_order=True).agg(pl.col("value").last()).sort("step")
    good = last.filter(pl.col("value").is_finite())
    return good, len(last) - len(good)
