"""Macro F1 as scikit-learn has it, and its interval: a bootstrap over units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.calibration.resampling import REPLICATES, weights
from logitbox.analysis.intervals import Z95

Float = NDArray[np.float64]
Int = NDArray[np.int64]

_CELLS = 1 << 22
"""Units × classes looked at together: bounds memory where classes are many."""


@dataclass(frozen=True)
class MacroF1:
    """Macro F1 of one evaluation.

    Attributes:
        value: mean over the classes that occur as gold or prediction of 2 TP / (gold + predicted).
        low, high: the value and the 2.5 % and 97.5 % quantile of a bootstrap's deviations from its mean; where drawings do
            not differ (all right, all wrong), Wilson's interval over the number of units; None with fewer than two.
        absent: classes that were predicted and are never gold, which count 0.
    """

    value: float
    low: float | None
    high: float | None
    absent: tuple[int, ...]


def macro_f1(pairs: pl.DataFrame) -> MacroF1:
    """Of one evaluation.

    Args:
        pairs: `unit`, `gold`, `predicted`, n; one row at least.
    """
    gold, predicted = (pairs[name].to_numpy() for name in ("gold", "predicted"))
    n = pairs["n"].to_numpy().astype(np.float64)
    units, unit = np.unique(pairs["unit"].to_numpy(), return_inverse=True)
    classes = np.unique(np.concatenate([gold, predicted]))
    at_gold, at_predicted = np.searchsorted(classes, gold), np.searchsorted(classes, predicted)
    hits = np.bincount(at_gold, n * (gold == predicted), minlength=len(classes))
    labels = np.bincount(at_gold, n, minlength=len(classes))
    size = labels + np.bincount(at_predicted, n, minlength=len(classes))
    low, high = _deviations(len(units), len(classes), _Rows(unit.reshape(-1), at_gold, at_predicted, n))
    absent = tuple(classes[labels == 0].tolist())
    value = float((2 * hits / size).mean())
    if low is None or high is None:
        return MacroF1(value, None, None, absent)
    if low == high == 0:  # all right or all wrong, in every drawing: as for a share
        return MacroF1(value, *wilson(value, len(units)), absent)
    return MacroF1(value, max(value + low, 0.0), min(value + high, 1.0), absent)


@dataclass(frozen=True)
class _Rows:
    """Places of units and classes, and how often they come together."""

    unit: Int
    gold: Int
    predicted: Int
    n: Float

    def blocks(self, units: int, classes: int) -> Iterator[tuple[Float, Float]]:
        """([units, some classes] right predictions, labels and predictions together), all classes in turn."""
        width = max(1, _CELLS // units)
        for start in range(0, classes, width):
            some = min(width, classes - start)
            hits, size = np.zeros(units * some), np.zeros(units * some)
            for of, is_gold in ((self.gold, True), (self.predicted, False)):
                inside = (of >= start) & (of < start + some)
                code = self.unit[inside] * some + of[inside] - start
                size += np.bincount(code, self.n[inside], minlength=len(size))
                if is_gold:
                    right = self.n[inside] * (self.gold[inside] == self.predicted[inside])
                    hits += np.bincount(code, right, minlength=len(hits))
            yield hits.reshape(units, some), size.reshape(units, some)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n."""
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)


def _deviations(units: int, classes: int, rows: _Rows) -> tuple[float | None, float | None]:
    """How far macro F1 goes down and up over drawings of units, each over the classes that occur in it.

    From the mean over drawings, not from the value: a drawing misses some of the rare classes, so that its macro F1 is
    that of others, on the whole higher.
    """
    if units < 2:
        return None, None
    drawn = weights(units)
    total, occurring = np.zeros(REPLICATES), np.zeros(REPLICATES)
    for hits, size in rows.blocks(units, classes):
        # Counts are whole numbers, exact in float32 up to 2²⁴.
        sizes = drawn @ size.astype(np.float32)
        right = drawn @ hits.astype(np.float32)
        total += np.divide(2 * right, sizes, out=np.zeros_like(sizes), where=sizes > 0).sum(axis=1)
        occurring += (sizes > 0).sum(axis=1)
    found = total / occurring
    low, high = np.quantile(found - found.mean(), (0.025, 0.975))
    return float(low), float(high)
