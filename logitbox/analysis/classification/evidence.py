"""The sums behind a `Classification`, by point: an evaluation, or a step or epoch of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from logitbox.analysis.classification.counting import Counts, add_up, whole_epoch
from logitbox.analysis.classification.preparing import Calls, Samples
from logitbox.analysis.classification.settings import Settings
from logitbox.analysis.intervals import interval, mean_of, standard_error
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

SHARES = ("correct", "top2", "top3", "share")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Sums of one evaluation phase and of training.

    Attributes:
        dump: where they come from.
        settings: what was asked for.
        samples: groups and sources.
        train, evaluations: `step`, `epoch` of each point.
        units: `phase`, `step`, `source`, `bucket`, `unit` and the sums.
        batches: of both phases, `phase`, `step`, n, nll; one row per batch.
        pairs: `step`, `unit`, `gold`, `predicted`, n.
        groups: `step`, `dataset`, `pass`, `group`, n, correct, lowest, highest.
        nonfinite: `phase`, `step` (as recorded), `n` rows that are not finite.
        left_out: rows by what was wrong with them: "nonfinite", "duplicate", "no_epoch".
        train_by: how training is pooled.
        is_crowded: whether one step stands for several epochs.
    """

    dump: Dump
    settings: Settings
    samples: Samples
    train: pl.DataFrame
    evaluations: pl.DataFrame
    units: pl.DataFrame
    batches: pl.DataFrame
    pairs: pl.DataFrame
    groups: pl.DataFrame
    nonfinite: pl.DataFrame
    left_out: dict[str, int]
    train_by: str
    is_crowded: bool

    @classmethod
    def of(cls, dump: Dump, settings: Settings, calls: Calls, samples: Samples, counts: Counts) -> Evidence:
        """Bring sums and points together."""
        phase, train, last = pl.col("phase"), calls.points("train"), calls.last_steps
        wanted = (phase == "train") | (phase == (settings.phase or ""))
        batches = counts.batches.filter(wanted)
        nonfinite = batches.group_by("phase", "step").agg(pl.col("nonfinite").sum().alias("n"))
        no_epoch = 0
        if calls.train_by != "step":
            is_lost = (phase == "train") & pl.col("epoch").is_null()
            no_epoch = int(batches.filter(is_lost)["n"].sum())
            batches = batches.filter(~is_lost)
        of_phase = phase == (settings.phase or "")
        return cls(
            dump=dump,
            settings=settings,
            samples=samples,
            train=train,
            evaluations=calls.points(settings.phase) if settings.phase else train.clear(),
            units=_units(counts.units.filter(wanted), last, calls.train_by),
            batches=_batches(batches, last, settings, calls.train_by),
            pairs=counts.pairs.filter(of_phase).drop("phase"),
            groups=counts.groups.filter(of_phase).drop("phase"),
            nonfinite=nonfinite.sort("phase", "step"),
            left_out={name: int(batches[name].sum()) for name in ("nonfinite", "duplicate")}
            | {"no_epoch": no_epoch},
            train_by=calls.train_by,
            is_crowded=calls.crowded(settings.phase),
        )

    def of_phase(self, phase: str) -> pl.DataFrame:
        """Units of one phase."""
        return self.units.filter(pl.col("phase") == phase)

    @property
    def evaluated(self) -> pl.DataFrame:
        """Units of the evaluation phase."""
        return self.of_phase(self.settings.phase or "")

    def step(self, wanted: int | str) -> int:
        """The step of an evaluation, "last" or a number. Raises InputError where there is none."""
        steps = self.evaluations["step"].to_list()
        if wanted == "last" and steps:
            return steps[-1]
        if wanted not in steps:
            some = ", ".join(map(str, [*steps[:10], *(["…"] if len(steps) > 10 else [])])) or "none"
            raise InputError(f"step is {wanted!r}; evaluations are at {some}; or give 'last'")
        return int(wanted)

    def training_at(self, step: int) -> dict[str, float | int | None] | None:
        """The last point of training up to a step (else the first); None where there is none."""
        if not len(self.train):
            return None
        before = self.train.filter(pl.col("step") <= step)
        return (before.tail(1) if len(before) else self.train.head(1)).row(0, named=True)


def _units(units: pl.DataFrame, last_steps: pl.DataFrame, train_by: str) -> pl.DataFrame:
    """Units with the step of their point."""
    if train_by != "step":
        last = last_steps.select("epoch", pl.col("step").alias("_last"))
        units = (
            units.join(last, on="epoch", how="left", maintain_order="left")
            .with_columns(
                step=pl.when(pl.col("phase") == "train").then(pl.col("_last")).otherwise(pl.col("step"))
            )
            .drop("_last")
        )
    return units.drop("epoch").filter(pl.col("step").is_not_null())


def _batches(
    batches: pl.DataFrame, last_steps: pl.DataFrame, settings: Settings, train_by: str
) -> pl.DataFrame:
    """One row per batch, with the step of its point. Evaluations have no optimizer step: there it is a micro-batch."""
    is_train = pl.col("phase") == "train"
    if settings.batch == "step":
        steps = add_up(batches.filter(is_train), ("phase", "step", "epoch"), ("n", "nll"))
        batches = pl.concat([steps, batches.filter(~is_train)], how="diagonal")
    if train_by != "step":
        last = last_steps.select(pl.col("epoch").alias("_point"), pl.col("step").alias("_last"))
        batches = (
            batches.with_columns(_point=whole_epoch(train_by))
            .join(last, on="_point", how="left", maintain_order="left")
            .with_columns(step=pl.when(is_train).then(pl.col("_last")).otherwise(pl.col("step")))
        )
    return batches.select("phase", "step", "n", "nll").filter(pl.col("n") > 0)


def moments(units: pl.DataFrame, keys: Sequence[str], quantities: Sequence[str]) -> pl.DataFrame:
    """Cells as `analysis.intervals` takes them: sums over units, of squares and products.

    Args:
        units: `n` and the quantities by `unit` and whatever else.
        keys: of the cells.
        quantities: which.
    """
    per = add_up(units, [*keys, "unit"], ["n", *quantities])
    n = pl.col("n").cast(pl.Float64)
    each = [
        (pl.lit(1, pl.Int64).alias("clusters")),
        (n * n).alias("nn"),
        *((pl.col(x).cast(pl.Float64) * pl.col(x)).alias(f"{x}:xx") for x in quantities),
        *((pl.col(x).cast(pl.Float64) * n).alias(f"{x}:xn") for x in quantities),
    ]
    per = per.with_columns(each)
    sums = [name for name in per.columns if name not in (*keys, "unit")]
    cells = add_up(per, keys, sums).with_columns(evaluations=pl.lit(1.0))
    return cells.sort(keys)


def means(units: pl.DataFrame, keys: Sequence[str], quantity: str) -> pl.DataFrame:
    """`keys`, `value`, `n`, `low`, `high`, `error`: means over samples, clustered by unit."""
    return measured(moments(units, keys, [quantity]), keys, quantity)


def measured(cells: pl.DataFrame, keys: Sequence[str], quantity: str) -> pl.DataFrame:
    """`means` of cells at hand."""
    is_share = quantity in SHARES
    low, high = interval(quantity, is_share=is_share)
    return cells.select(
        *keys,
        mean_of(quantity).cast(pl.Float64).alias("value"),
        pl.col("n").cast(pl.Int64),
        low.clip(0.0, 1.0 if is_share else None).alias("low"),
        high.clip(0.0, 1.0 if is_share else None).alias("high"),
        standard_error(quantity).alias("error"),
    )
