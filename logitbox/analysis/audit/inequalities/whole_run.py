"""A trainer's loss of the whole run against the losses it logged on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from logitbox.analysis.audit.aliases import TRAIN_WORDS
from logitbox.analysis.audit.inequalities.interval import Float
from logitbox.analysis.audit.inequalities.table import Table
from logitbox.analysis.audit.result import Notice

_NAMES = tuple(f"{word}_loss" for word in TRAIN_WORDS)
_NOISE = 1e-4
"""Of the loss: what sums in float32, and steps whose NaN was replaced, may be off by."""


@dataclass(frozen=True, eq=False)
class _Lines:
    """Logged losses: each is the mean of `weight` steps up to `step`; all arrays [lines]."""

    key: str
    step: Float
    weight: Float
    loss: Float
    precision: Float

    def after(self, step: float) -> tuple[float, float, float]:
        """(Σ loss, its rounding, steps) of the lines after a step."""
        weight = np.where(self.step > step, self.weight, 0.0)
        return float(weight @ self.loss), float(weight @ self.precision), float(weight.sum())


def whole_run(table: Table) -> Iterator[Notice]:
    """Where `train_loss` is not the mean of the logged losses, weighted with their steps: which formula it is."""
    lines = _lines(table)
    rows = table.frame.filter(
        pl.col("key").str.split("/").list.last().is_in(_NAMES) & pl.col("value").is_finite()
    )
    rows = rows.filter(~pl.col("key").is_in(list(table.meanings)) & pl.col("step").is_not_null())
    if lines is None or rows.is_empty():
        return
    last = rows.row(-1, named=True)
    total, told = float(last["step"]), float(last["value"])
    rounding = float(last["precision"]) + _NOISE * abs(told)
    if total <= 0 or (about := _explained(lines, total, told, rounding)) is None:
        return
    yield Notice("train-loss", table.run, last["step"], (str(last["key"]), lines.key), about)


def _lines(table: Table) -> _Lines | None:
    """The losses of training; None where they or their steps are not all known."""
    keys = [
        k
        for k, m in table.meanings.items()
        if (m.terms, m.transform, m.phase) == ((("nll", ""),), "identity", "train")
    ]
    rows = (
        table.frame.filter(pl.col("key") == keys[0]).unique("step", keep="last").sort("step")
        if keys
        else None
    )
    if rows is None or rows.height < 2 or rows["step"].has_nulls() or not rows["value"].is_finite().all():
        return None
    step = rows["step"].to_numpy().astype(np.float64)
    return _Lines(
        keys[0], step, np.diff(step, prepend=0.0), rows["value"].to_numpy(), rows["precision"].to_numpy()
    )


def _explained(lines: _Lines, total: float, told: float, noise: float) -> str | None:
    """What the loss of the run is instead; None where it is the mean, or lines are missing that it may be of."""
    in_all, rounding, covered = lines.after(0.0)
    is_whole = covered == total
    if abs(told - in_all / total) <= rounding / total + noise or (not is_whole and told * total > in_all):
        return None
    begin = f"The loss of the whole run is {told:.6g}, the mean of the logged losses {in_all / max(covered, 1.0):.6g}."
    for resumed in lines.step[:-1] if is_whole else ():
        part, rounding, steps = lines.after(resumed)
        if abs(told - part / total) <= rounding / total + noise:
            right = told * total / steps
            return (
                f"{begin} It is the sum since step {resumed:g}, where training was resumed, divided by all {total:g} steps; "
                f"the mean since then is {right:.6g}."
            )
        if abs(told - part / steps) <= rounding / steps + noise:
            return f"{begin} It is the mean since step {resumed:g}, where training was resumed."
    if abs(told - float(lines.loss.mean())) <= float(lines.precision.mean()) + noise:
        return f"{begin} It is the mean of the lines, whatever number of steps each is of."
    return f"{begin} It is neither, nor the sum since a resume divided by all steps; lines may be of several runs."
