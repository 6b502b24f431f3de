"""The six metrics of seed 002's dashboard, and the gap between training and evaluation by source."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.classification.confusion import confusions
from logitbox.analysis.classification.evidence import Evidence, means
from logitbox.analysis.classification.learning import slope_of, times
from logitbox.analysis.intervals import Z95

PRIORITY = (
    "val/loss",
    "val/macro_f1",
    "train/loss_std",
    "val/speaker_consistency",
    "val/per_dataset_accuracy",
    "val/top_confusions",
)
"""In the seed's order."""

SCHEMA: dict[str, Any] = {
    "key": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "step": pl.Int64,
    "trend": pl.Float64,
    "direction": pl.String,
    "detail": pl.String,
}
GAPS: dict[str, Any] = {
    "source": pl.String,
    "train": pl.Float64,
    "val": pl.Float64,
    "gap": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n_train": pl.Int64,
    "n_val": pl.Int64,
}


def dashboard(frame: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """One row per priority metric: its last value and interval, and its slope over the last evaluations.

    `trend` is per epoch (per step where no epochs are known), by least squares over the last `window` points; `direction`
    is "up", "down", or "steady" where it is 0. Of sources the worst is shown, of confusions the most frequent.
    """
    return pl.DataFrame([_row(key, frame, evidence) for key in PRIORITY], schema=SCHEMA, orient="row")


def _row(key: str, frame: pl.DataFrame, evidence: Evidence) -> tuple[Any, ...]:
    if key == "val/top_confusions":
        return _most_confused(key, evidence)
    rows = frame.filter(pl.col("key") == key)
    detail = ""
    if key == "val/per_dataset_accuracy":
        chosen = _worst_source(key, frame)
        rows = frame.filter(pl.col("key") == chosen)
        detail = chosen.removeprefix(key).removeprefix("/")
    if not len(rows):
        return (key, None, None, None, None, None, None, "not recorded")
    last = rows.row(-1, named=True)
    some = rows.tail(evidence.settings.window)
    has_epochs = some["epoch"].null_count() == 0
    trend = slope_of(some["value"], some["epoch" if has_epochs else "step"].to_numpy().astype(np.float64))
    ends = (last["value"], last["low"], last["high"], last["step"])
    return (key, *ends, trend, _direction(trend), last["reason"] or detail)


def _direction(trend: float | None) -> str | None:
    if trend is None:
        return None
    return "steady" if trend == 0 else "up" if trend > 0 else "down"


def _worst_source(key: str, frame: pl.DataFrame) -> str:
    rows = frame.filter(pl.col("key").str.starts_with(f"{key}/"))
    if not len(rows):
        return key
    last = rows.filter(pl.col("step") == rows["step"].max())
    return str(last.sort("value", "key")["key"][0])


def _most_confused(key: str, evidence: Evidence) -> tuple[Any, ...]:
    steps = evidence.evaluations["step"].to_list()
    found = confusions(evidence, steps[-1:], 0.0)
    if not len(found):
        return (
            key,
            None,
            None,
            None,
            None,
            None,
            None,
            "no two classes are confused" if steps else "not recorded",
        )
    top = found.row(0, named=True)
    window = steps[-evidence.settings.window :]
    rates = confusions(evidence, window, 0.0).filter(
        pl.col("gold_id") == top["gold_id"], pl.col("predicted_id") == top["predicted_id"]
    )
    by_step = dict(zip(rows_of(rates, "step"), rows_of(rates, "rate"), strict=True))
    x, _ = times(evidence)
    trend = slope_of(pl.Series([by_step.get(step, 0.0) for step in window]), x[-len(window) :])
    ends = (top["rate"], top["low"], top["high"], top["step"])
    return (key, *ends, trend, _direction(trend), f"{top['gold']} taken for {top['predicted']}")


def rows_of(frame: pl.DataFrame, name: str) -> list[Any]:
    """A column as a list."""
    return frame[name].to_list()


def gaps(evidence: Evidence) -> pl.DataFrame:
    """Accuracy by source in training and at the last evaluation, the widest gap first.

    Training is that of the last epoch (or step) up to the evaluation. The two are taken as independent.
    """
    steps = evidence.evaluations["step"].to_list()
    point = evidence.training_at(steps[-1]) if steps else None
    if point is None:
        return pl.DataFrame(schema=GAPS)
    parts: list[pl.DataFrame] = []
    for units, step in ((evidence.of_phase("train"), point["step"]), (evidence.evaluated, steps[-1])):
        here = units.filter(pl.col("step") == step, pl.col("source").is_not_null())
        parts.append(means(here, ["source"], "correct").select("source", "value", "n", "error"))
    both = parts[0].join(parts[1], on="source", suffix="_val")
    gap, error = (
        pl.col("value") - pl.col("value_val"),
        (pl.col("error") ** 2 + pl.col("error_val") ** 2).sqrt(),
    )
    return both.select(
        "source",
        pl.col("value").alias("train"),
        pl.col("value_val").alias("val"),
        gap.alias("gap"),
        (gap - Z95 * error).alias("low"),
        (gap + Z95 * error).alias("high"),
        pl.col("n").alias("n_train"),
        pl.col("n_val"),
    ).sort("gap", "source", descending=[True, False])
