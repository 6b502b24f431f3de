"""Every key of seed 002 at every point, as rows of one long frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.classification.evidence import Evidence, means, measured, moments
from logitbox.analysis.classification.learning import improvement_rates
from logitbox.analysis.classification.macro_f1 import macro_f1
from logitbox.analysis.classification.settings import bucket_names
from logitbox.analysis.classification.speakers import consistency
from logitbox.analysis.classification.spread import grad_norms, spread

SCHEMA: dict[str, Any] = {
    "step": pl.Int64,
    "epoch": pl.Float64,
    "key": pl.String,
    "value": pl.Float64,
    "n": pl.Int64,
    "low": pl.Float64,
    "high": pl.Float64,
    "reason": pl.String,
}
"""Columns of the long frame."""

Row = tuple[int, str, float | None, int, float | None, float | None, str | None]
"""step, key, value, n, low, high, reason."""

_MEANS = {
    "accuracy": "correct",
    "top2_accuracy": "top2",
    "top3_accuracy": "top3",
    "loss": "nll",
    "avg_entropy": "entropy",
}
KEYS = (
    *("train/loss", "train/loss_std", "train/accuracy", "train/grad_norm", "train/grad_norm_std"),
    *("val/loss", "val/loss_std", "val/accuracy", "val/top2_accuracy", "val/top3_accuracy", "val/macro_f1"),
    *("val/avg_entropy", "val/speaker_consistency", "val/per_dataset_accuracy", "val/duration_accuracy"),
    *("train/per_dataset_accuracy", "learning/improvement_rate"),
)
"""In the order they are listed."""


def curves(evidence: Evidence) -> pl.DataFrame:
    """The long frame: by step, in the order of `KEYS`."""
    rows = pl.DataFrame(
        list(_rows(evidence)), schema=[(k, v) for k, v in SCHEMA.items() if k != "epoch"], orient="row"
    )
    epochs = pl.concat(
        [
            evidence.train.with_columns(_train=pl.lit(value=True)),
            evidence.evaluations.with_columns(_train=pl.lit(value=False)),
        ]
    )
    order = pl.DataFrame({"_key": KEYS, "_order": range(len(KEYS))}, schema_overrides={"_order": pl.Int64})
    base = pl.col("key").str.extract(r"^([^/]*/[^/]*)")
    return (
        rows.with_columns(_train=pl.col("key").str.starts_with("train/"), _key=base)
        .join(epochs, on=["step", "_train"], how="left", maintain_order="left")
        .join(order, on="_key", how="left", maintain_order="left")
        .sort("step", "_order", maintain_order=True)
        .select(list(SCHEMA))
    )


def _rows(evidence: Evidence) -> Iterator[Row]:
    for phase, prefix in (("train", "train/"), (evidence.settings.phase, "val/")):
        if phase is not None:
            yield from _mean_rows(evidence, phase, prefix)
            yield from _loss_std(evidence, phase, prefix)
            yield from _sources(evidence, phase, prefix)
    yield from _gradients(evidence)
    if evidence.settings.phase is not None:
        yield from _macro_f1(evidence)
        yield from _consistency(evidence)
        yield from _lengths(evidence)
        yield from improvement_rates(evidence)


def _missing(points: pl.DataFrame, seen: Iterable[int], key: str, reason: str) -> Iterator[Row]:
    """A row with no value for every point that was not seen."""
    done = set(seen)
    for step in points["step"]:
        if step not in done:
            yield (step, key, None, 0, None, None, reason)


def _points(evidence: Evidence, phase: str) -> pl.DataFrame:
    return evidence.train if phase == "train" else evidence.evaluations


def _of_means(found: pl.DataFrame, key: str) -> Iterator[Row]:
    for step, value, n, low, high in found.select("step", "value", "n", "low", "high").iter_rows():
        yield (step, key, value, n, low, high, None)


def _mean_rows(evidence: Evidence, phase: str, prefix: str) -> Iterator[Row]:
    wanted = ("accuracy", "loss") if phase == "train" else tuple(_MEANS)
    cells = moments(evidence.of_phase(phase), ["step"], [_MEANS[name] for name in wanted])
    for name in wanted:
        found = measured(cells, ["step"], _MEANS[name])
        key = prefix + name
        yield from _of_means(found, key)
        yield from _missing(_points(evidence, phase), found["step"], key, "no finite sample with a label")


def _loss_std(evidence: Evidence, phase: str, prefix: str) -> Iterator[Row]:
    key, ddof = f"{prefix}loss_std", evidence.settings.ddof
    batches = evidence.batches.filter(pl.col("phase") == phase).with_columns(loss=pl.col("nll") / pl.col("n"))
    seen: list[int] = []
    for (step,), rows in batches.group_by("step", maintain_order=True):
        found = spread(rows["loss"].to_numpy(), ddof)
        reason = None if found.deviation is not None else "one batch has no spread"
        seen.append(int(str(step)))
        yield (seen[-1], key, found.deviation, found.n, *found.deviation_ends, reason)
    yield from _missing(_points(evidence, phase), seen, key, "no finite sample with a label")


def _gradients(evidence: Evidence) -> Iterator[Row]:
    norms, lost = grad_norms(evidence.dump.scalars.select("step", "key", "value").collect())
    points = evidence.train
    keys = ("train/grad_norm", "train/grad_norm_std")
    if not len(points):
        return
    steps = points["step"].to_numpy()
    # The first point whose last step is not before the logged one; what was logged after the end belongs to the end.
    at = np.minimum(np.searchsorted(steps, norms["step"].to_numpy()), len(steps) - 1)
    told = "grad_norm was NaN or infinite" if lost else "no grad_norm was logged in scalars"
    for index, step in enumerate(steps.tolist()):
        found = spread(norms["value"].to_numpy()[at == index], evidence.settings.ddof)
        yield (step, keys[0], found.mean, found.n, *found.mean_ends, None if found.n else told)
        single = "one grad_norm has no spread" if found.n else told
        reason = single if found.deviation is None else None
        yield (step, keys[1], found.deviation, found.n, *found.deviation_ends, reason)


def _sources(evidence: Evidence, phase: str, prefix: str) -> Iterator[Row]:
    key = f"{prefix}per_dataset_accuracy"
    units = evidence.of_phase(phase).filter(pl.col("source").is_not_null())
    found = means(units, ["step", "source"], "correct")
    for step, source, value, n, low, high, _ in found.iter_rows():
        yield (step, f"{key}/{source}", value, n, low, high, None)
    yield from _missing(_points(evidence, phase), found["step"], key, "no sample has a source")


def _lengths(evidence: Evidence) -> Iterator[Row]:
    key = "val/duration_accuracy"
    names = bucket_names(evidence.settings.buckets, evidence.settings.unit)
    units = evidence.evaluated.filter(pl.col("bucket").is_not_null())
    found = means(units, ["step", "bucket"], "correct")
    for step, bucket, value, n, low, high, _ in found.iter_rows():
        yield (step, f"{key}/{names[bucket]}", value, n, low, high, None)
    yield from _missing(evidence.evaluations, found["step"], key, "no sample has a length in a bucket")


def _macro_f1(evidence: Evidence) -> Iterator[Row]:
    seen: list[int] = []
    for (step,), pairs in evidence.pairs.group_by("step", maintain_order=True):
        found = macro_f1(pairs)
        seen.append(int(str(step)))
        yield (seen[-1], "val/macro_f1", found.value, int(pairs["n"].sum()), found.low, found.high, None)
    yield from _missing(evidence.evaluations, seen, "val/macro_f1", "no finite sample with a label")


def _consistency(evidence: Evidence) -> Iterator[Row]:
    key = "val/speaker_consistency"
    found = consistency(evidence)
    yield from _of_means(found, key)
    why = "every group has one sample" if len(evidence.groups) else "no sample has a group"
    yield from _missing(evidence.evaluations, found["step"], key, why)
