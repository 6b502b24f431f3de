"""The fewest tokens whose removal undoes a difference: sorted, not searched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.pairs.align import Float

CURVE_POINTS = 512


@dataclass(frozen=True)
class Removal:
    """Tokens to remove, worst first, until a total difference is no longer above 0.

    Attributes:
        tokens: how many; 0 if it is not above 0 as it is.
        rows: which, in the order of removal.
        total: Σ difference before.
    """

    tokens: int
    rows: NDArray[np.int64]
    total: float


@dataclass(frozen=True)
class Curve:
    """How a gap shrinks as tokens are removed, worst first: `removed` tokens, `gap` per token that is left."""

    removed: NDArray[np.int64]
    gap: Float


def removal(difference: Float) -> Removal:
    """The fewest rows whose removal makes Σ difference ≤ 0.

    Removing the k largest leaves less than removing any other k, so the first k that suffices is the fewest. Sums
    are compared as float64 sums in descending order; a remainder below their rounding counts as 0.
    """
    total = float(difference.sum())
    if total <= 0:
        return Removal(0, np.zeros(0, dtype=np.int64), total)
    positive = np.flatnonzero(difference > 0)
    order = positive[np.argsort(-difference[positive], kind="stable")]
    left = total - np.cumsum(difference[order])
    rounding = 1e-14 * float(np.abs(difference).sum())
    k = int(np.searchsorted(-left, -rounding)) + 1
    return Removal(k, order[:k], total)


def curve(difference: Float) -> Curve:
    """The gap per remaining token against tokens removed, thinned to `CURVE_POINTS` evenly in the logarithm."""
    positive = np.sort(difference[difference > 0])[::-1]
    left = difference.sum() - np.concatenate([[0.0], np.cumsum(positive)])
    most = min(len(positive), len(difference) - 1)
    removed = np.unique(np.concatenate([[0], np.geomspace(1, max(most, 1), CURVE_POINTS).astype(np.int64)]))
    removed = removed[removed <= most]
    return Curve(removed, left[removed] / (len(difference) - removed))
