"""Confidence against correctness in equal-width bins, from arrays. Bins are left-closed, the last closed on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.intervals import Z95
from logitbox.errors import InputError

Float = NDArray[np.float64]


def binned(confidence: Float, bins: int) -> tuple[Float, NDArray[np.int64]]:
    """(edges k/bins [bins + 1], bin of each value).

    Raises:
        InputError: bins is no whole number of 1 or more.
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise InputError(f"bins is {bins!r}; give a whole number, 1 or more")
    edges = np.arange(bins + 1) / bins
    # Compared with the edges themselves: confidence · bins may round across one.
    place = np.searchsorted(edges, confidence, side="right") - 1
    return edges, np.clip(place, 0, bins - 1).astype(np.int64)  # a mass may round to above 1


def reliability_table(confidence: Float, correct: NDArray[np.bool_], bins: int) -> pl.DataFrame:
    """Of every bin that has values: `low`, `high`, `n`, mean `confidence`, `accuracy`, `accuracy_low`, `accuracy_high`.

    The last two are the 95 % Wilson interval.
    """
    edges, place = binned(confidence, bins)
    n = np.bincount(place, minlength=bins)
    at = np.flatnonzero(n)
    right = np.bincount(place, correct, minlength=bins)[at]
    low, high = wilson(right, n[at])
    columns = {
        "low": edges[at],
        "high": edges[at + 1],
        "n": n[at],
        "confidence": np.bincount(place, confidence, minlength=bins)[at] / n[at],
        "accuracy": right / n[at],
        "accuracy_low": low,
        "accuracy_high": high,
    }
    return pl.DataFrame(columns, schema_overrides={"n": pl.Int64})


def count_table(confidence: Float, correct: NDArray[np.bool_], bins: int) -> pl.DataFrame:
    """Of every bin: `low`, `high`, `n`, and how many of these are `right` and `wrong`."""
    edges, place = binned(confidence, bins)
    n, right = (np.bincount(part, minlength=bins) for part in (place, place[correct]))
    columns = {"low": edges[:-1], "high": edges[1:], "n": n, "right": right, "wrong": n - right}
    return pl.DataFrame(columns)


def ece_of(table: pl.DataFrame) -> float | None:
    """Σ n/N · |accuracy − confidence| of a reliability table; None where it is empty."""
    gap = (pl.col("accuracy") - pl.col("confidence")).abs()
    return table.select((pl.col("n") * gap).sum() / pl.col("n").sum()).item() if table.height else None


def wilson(right: NDArray[Any], n: NDArray[Any]) -> tuple[Float, Float]:
    """95 % Wilson score interval of right/n, elementwise; n ≥ 1, values taken as independent."""
    p, z2 = right / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
