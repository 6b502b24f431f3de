"""How fast accuracy rises, and whether it is time to stop."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.classification.counting import add_up
from logitbox.analysis.classification.evidence import Evidence
from logitbox.analysis.intervals import Z95

Float = NDArray[np.float64]
Row = tuple[int, str, float | None, int, float | None, float | None, str | None]


def times(evidence: Evidence) -> tuple[Float, str]:
    """(the time of each evaluation, its unit): epochs where all have one, else steps."""
    points = evidence.evaluations
    if len(points) and points["epoch"].null_count() == 0:
        return points["epoch"].to_numpy().astype(np.float64), "epoch"
    return points["step"].to_numpy().astype(np.float64), "step"


def slope_weights(x: Float) -> Float | None:
    """Weights w with Σ w y the least-squares slope of y over x; None where x does not vary."""
    centred = x - x.mean()
    square = float(centred @ centred)
    return centred / square if square > 0 else None


def improvement_rates(evidence: Evidence) -> Iterator[Row]:
    """Rows of `learning/improvement_rate`, one per evaluation.

    Evaluations meet the same samples, so that their accuracies are correlated: the interval is over units, of each
    unit's own part in the slope.
    """
    key, window = "learning/improvement_rate", evidence.settings.window
    x, _ = times(evidence)
    steps = evidence.evaluations["step"].to_numpy()
    per = add_up(evidence.evaluated, ["step", "unit"], ["n", "correct"])
    row = np.searchsorted(steps, per["step"].to_numpy())
    units, unit = np.unique(per["unit"].to_numpy(), return_inverse=True)
    shape = (len(steps), len(units))
    n, correct = np.zeros(shape), np.zeros(shape)
    n[row, unit.reshape(-1)] = per["n"].to_numpy()
    correct[row, unit.reshape(-1)] = per["correct"].to_numpy()
    total = n.sum(axis=1)
    accuracy = np.divide(correct.sum(axis=1), total, out=np.full(len(steps), np.nan), where=total > 0)
    share = np.divide(
        correct - accuracy[:, None] * n, total[:, None], out=np.zeros(shape), where=total[:, None] > 0
    )
    for index, step in enumerate(steps.tolist()):
        last = slice(max(0, index - window + 1), index + 1)
        weights = slope_weights(x[last]) if index + 1 >= window else None
        if weights is None or np.isnan(accuracy[last]).any():
            yield (step, key, None, 0, None, None, _why(index + 1, window))
            continue
        # From the first accuracy on, so that a constant has the slope 0 and no rounding.
        value = float(weights @ (accuracy[last] - accuracy[last][0]))
        parts = weights @ share[last]
        g = int((n[last] > 0).any(axis=0).sum())
        half = Z95 * sqrt(g / (g - 1) * float(parts @ parts)) if g > 1 else None
        low, high = (None, None) if half is None else (value - half, value + half)
        yield (step, key, value, int(total[last].sum()), low, high, None)


def _why(done: int, window: int) -> str:
    if done < window:
        return f"needs {window} evaluations"
    return "evaluations at one and the same epoch, or without a finite sample, have no slope"


def slope_of(values: pl.Series, x: Float) -> float | None:
    """Least-squares slope of a series; None with fewer than two values."""
    known = values.is_not_null().to_numpy()
    if known.sum() < 2:
        return None
    y = values.to_numpy()[known]
    weights = slope_weights(x[known])
    return None if weights is None else float(weights @ (y - y[0]))
