"""The loss of a whole run, as trainers tell it at the end, beside the losses they logged on the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from logitbox.analysis.audit.aliases import ALIASES, TRAIN_WORDS
from logitbox.analysis.audit.inequalities.interval import Float

_LOSS = "|".join(re.escape(name) for name, metric in ALIASES.items() if metric == "nll")
_TRAIN = "|".join(TRAIN_WORDS)
SUMMARY = rf"(?i)^(.*/)?(({_TRAIN})[_/.]({_LOSS})|({_LOSS})/({_TRAIN}))$"
"""A regular expression of keys that may be the loss of the whole run."""


@dataclass(frozen=True, eq=False)
class RunLoss:
    """The loss of a whole run, and the lines before it.

    Attributes:
        key: of the loss of the run.
        told, precision: its value, and what printing rounded away.
        row: where it stands.
        total: steps of the run; None where the log has no steps.
        loss: key of the lines.
        step: last step of each line, [lines]; its number, from 1, where the log has no steps.
        value, rounding: loss of each line, the mean of its steps, and what printing rounded away, [lines].
    """

    key: str
    told: float
    precision: float
    row: int
    total: float | None
    loss: str
    step: Float
    value: Float
    rounding: Float

    @property
    def highest(self) -> float:
        """The highest logged loss."""
        return float(self.value.max())

    @property
    def covered(self) -> float:
        """Steps that the lines tell of (lines, where the log has no steps)."""
        return float(self.step[-1])

    def after(self, step: float = 0.0) -> tuple[float, float, float]:
        """(Σ loss, its rounding, steps) of the steps after one that the lines tell of."""
        begin = np.maximum(np.concatenate([[0.0], self.step[:-1]]), step)
        weight = np.clip(self.step - begin, 0.0, None)
        return float(weight @ self.value), float(weight @ self.rounding), float(weight.sum())


def run_loss(frame: pl.DataFrame, key: str, losses: Sequence[str]) -> RunLoss | str:
    """The last loss of the whole run under a key, or in words why the lines cannot check it.

    Args:
        frame: of one run.
        key: of the loss of the whole run.
        losses: keys of training losses that were logged on the way; the first is taken.
    """
    if re.match(SUMMARY, key) is None:
        return "it is of a part of the data"
    ends = frame.filter((pl.col("key") == key) & pl.col("value").is_finite())
    if ends.is_empty():
        return "it is NaN or infinite"
    if not losses:
        return "no training loss was logged on the way"
    end = ends.row(-1, named=True)
    lines = frame.filter(pl.col("key") == losses[0])
    has_steps = (end["step"] or 0) > 0 and not lines["step"].has_nulls()
    if has_steps:
        lines = (
            lines.filter(pl.col("step").is_between(1, end["step"])).unique("step", keep="last").sort("step")
        )
    else:
        lines = lines.filter(pl.col("row") < end["row"])
    if lines.is_empty():
        return f"{losses[0]} was not logged before it"
    if odd := int((~lines["value"].is_finite()).sum()):
        return f"{losses[0]} is NaN or infinite in {odd:,} of {lines.height:,} lines"
    return RunLoss(
        key,
        float(end["value"]),
        float(end["precision"]),
        int(end["row"]),
        float(end["step"]) if has_steps else None,
        losses[0],
        lines["step"].to_numpy().astype(np.float64) if has_steps else np.arange(1.0, lines.height + 1),
        lines["value"].to_numpy(),
        lines["precision"].to_numpy(),
    )
