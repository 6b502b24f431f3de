"""Seed 002's rule for stopping: stop when all of three things hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from logitbox.analysis.classification.evidence import Evidence

LOSS_RISES = 3
"""Epochs in a row in which val/loss rises."""
ACCURACY_RESTS = 5
"""Epochs in a row in which val/accuracy changes by less than"""
CHANGE = 0.005
TRAIN_BELOW = 0.1
VAL_ABOVE = 0.5

SCHEMA: dict[str, Any] = {
    "condition": pl.String,
    "holds": pl.Boolean,
    "since_step": pl.Int64,
    "since_epoch": pl.Float64,
    "first_step": pl.Int64,
    "first_epoch": pl.Float64,
    "reason": pl.String,
}

_LOSS = f"val/loss rises for {LOSS_RISES} epochs or more"
_ACCURACY = f"val/accuracy changes by less than {CHANGE:.1%} for {ACCURACY_RESTS} epochs or more"
_SPREAD = f"train/loss_std is below {TRAIN_BELOW} and val/loss_std above {VAL_ABOVE}"
ALL = "all of them"


def stopping(frame: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """One row per condition and one for all of them: whether it holds at the last epoch, and since when.

    An epoch is told by its last evaluation; without epochs every evaluation counts as one. `holds` is null, with a
    reason, where it cannot be known.

    Args:
        frame: of `curves`.
        evidence: the sums behind it.
    """
    points = _last_of_epochs(evidence.evaluations)
    loss, accuracy = (_values(frame, key, points["step"]) for key in ("val/loss", "val/accuracy"))
    at = [evidence.training_at(step) for step in points["step"]]
    train = _values(frame, "train/loss_std", [None if point is None else point["step"] for point in at])
    val = _values(frame, "val/loss_std", points["step"])
    held = {
        _LOSS: _in_a_row(_steps(loss, lambda a, b: b > a), LOSS_RISES),
        _ACCURACY: _in_a_row(_steps(accuracy, lambda a, b: abs(b - a) < CHANGE), ACCURACY_RESTS),
        _SPREAD: [
            None if t is None or v is None else t < TRAIN_BELOW and v > VAL_ABOVE
            for t, v in zip(train, val, strict=True)
        ],
    }
    held[ALL] = [_all(states) for states in zip(*held.values(), strict=True)]
    reasons = {
        _LOSS: f"needs {LOSS_RISES + 1} epochs",
        _ACCURACY: f"needs {ACCURACY_RESTS + 1} epochs",
        _SPREAD: "needs train/loss_std and val/loss_std, each over two batches or more",
        ALL: "a condition cannot be known, and no other fails",
    }
    rows = [_row(name, states, points, reasons[name]) for name, states in held.items()]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _last_of_epochs(points: pl.DataFrame) -> pl.DataFrame:
    if points["epoch"].null_count():
        return points
    # A thousandth as in `counting.whole_epoch`: epochs are recorded as float32.
    whole = (pl.col("epoch") - 1e-3).ceil()
    return points.group_by(whole.alias("_whole"), maintain_order=True).last().drop("_whole").sort("step")


def _values(frame: pl.DataFrame, key: str, steps: Any) -> list[float | None]:
    rows = frame.filter(pl.col("key") == key)
    found = dict(zip(rows["step"], rows["value"], strict=True))
    return [None if step is None else found.get(step) for step in steps]


def _steps(values: Sequence[float | None], test: Any) -> list[bool | None]:
    """Of each value against the one before; None where one of them is missing."""
    found: list[bool | None] = [None]
    for before, now in pairwise(values):
        found.append(None if before is None or now is None else bool(test(before, now)))
    return found[: len(values)]


def _in_a_row(states: Sequence[bool | None], count: int) -> list[bool | None]:
    """Whether the last `count` states are all true; None where that is not known."""
    found: list[bool | None] = []
    for index in range(len(states)):
        last = states[max(0, index - count + 1) : index + 1]
        padded = [*last, *([None] * (count - len(last)))]
        found.append(_all(padded))
    return found


def _all(states: Sequence[bool | None]) -> bool | None:
    if any(state is False for state in states):
        return False
    return None if any(state is None for state in states) else True


def _row(name: str, states: Sequence[bool | None], points: pl.DataFrame, reason: str) -> tuple[Any, ...]:
    holds = states[-1] if states else None
    since = first = (None, None)
    if holds:
        start = len(states)
        while start and states[start - 1]:
            start -= 1
        since = points.select("step", "epoch").row(start)
    if True in states:
        first = points.select("step", "epoch").row(states.index(True))
    return (name, holds, *since, *first, reason if holds is None else None)
