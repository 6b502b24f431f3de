"""What is looked up before shards are read: phases, epochs, and the group, source and bucket of every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.calibration.units import folded
from logitbox.analysis.classification.counting import MOST_UNITS, whole_epoch
from logitbox.analysis.classification.settings import By
from logitbox.dumps.dump import Dump


@dataclass(frozen=True)
class Calls:
    """One row per micro-batch that was recorded, and how training is pooled.

    Attributes:
        frame: `phase`, `step`, `epoch`, `rows`.
        train_by: "step", "epoch" or "ceil", see `ClassTask`.
    """

    frame: pl.DataFrame
    train_by: str

    @classmethod
    def of(cls, dump: Dump, by: By) -> Calls:
        """Read the `batches` table."""
        frame = dump.batches.select(
            "phase",
            pl.col("step").cast(pl.Int64),
            pl.col("epoch").cast(pl.Float64).round(6),
            pl.col("n_supervised").alias("rows"),
        ).collect()
        epoch = frame.filter(pl.col("phase") == "train")["epoch"].drop_nulls()
        if by == "step" or not len(epoch):
            return cls(frame, "step")
        return cls(frame, "epoch" if (epoch == epoch.round()).all() else "ceil")

    @property
    def phases(self) -> tuple[str, ...]:
        """All phases."""
        return tuple(sorted(self.frame["phase"].unique()))

    def points(self, phase: str) -> pl.DataFrame:
        """`step` and `epoch` of a phase's points: evaluations, or steps or epochs of training, by step.

        An epoch of training is told by its last step. Several epochs at one step are one point.
        """
        rows = self.last_steps if phase == "train" and self.train_by != "step" else self._of(phase)
        return rows.group_by("step").agg(pl.col("epoch").max()).sort("step")

    @property
    def last_steps(self) -> pl.DataFrame:
        """`epoch` of training, as it is pooled, to its last `step`."""
        rows = self._of("train").with_columns(epoch=whole_epoch(self.train_by))
        return rows.filter(pl.col("epoch").is_not_null()).group_by("epoch").agg(pl.col("step").max())

    def crowded(self, phase: str | None) -> bool:
        """Whether one step stands for several epochs: `record` was not told the step."""
        evaluated = self._of(phase or "").group_by("step").agg(pl.col("epoch").n_unique())
        return evaluated["epoch"].gt(1).any() or (
            self.train_by != "step" and self.last_steps["step"].is_duplicated().any()
        )

    def _of(self, phase: str) -> pl.DataFrame:
        return self.frame.filter(pl.col("phase") == phase)

    @property
    def folded(self) -> tuple[str, ...]:
        """Phases with a point of more rows than units are kept."""
        point = pl.col("step") if self.train_by == "step" else whole_epoch(self.train_by)
        keyed = self.frame.with_columns(
            point=pl.when(pl.col("phase") == "train").then(point.cast(pl.Float64)).otherwise(pl.col("step"))
        )
        rows = keyed.group_by("phase", "point").agg(pl.col("rows").sum())
        return tuple(sorted(rows.filter(pl.col("rows") > MOST_UNITS)["phase"].unique()))


@dataclass(frozen=True)
class Samples:
    """The samples table as shards are joined with it.

    Attributes:
        lookup: `sample`, `dataset`, `_unit`, `_group`, `_source`, `_bucket`.
        groups: `group` (its number), `dataset`, `name`, by number.
        sources: what tells sources apart: "source", "dataset" or "".
        has_length: whether any sample has one.
    """

    lookup: pl.DataFrame
    groups: pl.DataFrame
    sources: str
    has_length: bool

    @classmethod
    def of(cls, dump: Dump, edges: tuple[float, ...]) -> Samples:
        """Read the `samples` table.

        Args:
            dump: an opened dump.
            edges: lower ends of the buckets of length.
        """
        wanted = ("sample", "dataset", "group", "source", "length")
        frame = dump.samples.select(wanted).sort("dataset", "sample").collect()
        named = frame.filter(pl.col("group").is_not_null())
        groups = named.select("dataset", pl.col("group").alias("name")).unique().sort("dataset", "name")
        groups = groups.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("group"), "dataset", "name")
        sources = _told_by(frame)
        lookup = (
            frame.join(
                groups.rename({"group": "_group", "name": "group"}),
                on=["dataset", "group"],
                how="left",
                maintain_order="left",
            )
            .with_columns(_source=pl.col(sources) if sources else pl.lit(None, pl.String))
            .with_columns(_bucket=_bucket(frame["length"], edges))
        )
        return cls(
            lookup.with_columns(_unit=_units(lookup["_group"], len(groups))).select(
                "sample", "dataset", "_unit", "_group", "_source", "_bucket"
            ),
            groups,
            sources,
            frame["length"].is_not_null().any(),
        )

    def options(self, calls: Calls) -> dict[str, Any]:
        """As `counting.count` takes them."""
        return {"train_by": calls.train_by, "fold": calls.folded, "groups": _unit_count(len(self.groups))}


def _told_by(frame: pl.DataFrame) -> str:
    if frame["source"].is_not_null().any():
        return "source"
    return "dataset" if (frame["dataset"] != "").any() else ""


def _unit_count(groups: int) -> int:
    return min(groups, MOST_UNITS)


def _units(group: pl.Series, count: int) -> pl.Series:
    """A unit for each sample: its group, or a number of its own after those of the groups."""
    number = group.fill_null(0).to_numpy().astype(np.int64)
    if count > MOST_UNITS:
        number = folded(number)
    alone = np.arange(len(group)) + _unit_count(count)
    return pl.Series("_unit", np.where(group.is_null().to_numpy(), alone, number))


def _bucket(length: pl.Series, edges: tuple[float, ...]) -> pl.Series:
    """Number of the bucket that holds a length; null below the first."""
    values = length.fill_null(float("nan")).to_numpy()
    found = np.searchsorted(np.array(edges), values, side="right") - 1
    has_none = np.isnan(values) | (found < 0)
    return pl.Series("_bucket", found.astype(np.int64)).set(pl.Series(has_none), None)
