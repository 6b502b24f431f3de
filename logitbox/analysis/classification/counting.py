"""One pass over the shards of a classifier's dump: every sum its metrics are made of.

Sums are kept by *unit*: a group of samples where the sample has one, else the sample itself. Units are what intervals
are over. More than `MOST_UNITS` of them in one evaluation are put together by a hash of their number, which leaves sums of independent
units independent; so what is kept is bounded by evaluations × units × classes², whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.calibration.evidence import MOST_CLUSTERS
from logitbox.analysis.calibration.units import folded
from logitbox.analysis.passes import Pass, Progress, run, tasks_of
from logitbox.analysis.reading import ShardTask, codes, read_rows
from logitbox.analysis.sums import added
from logitbox.analysis.tally import merge_frames
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag

Int = NDArray[np.int64]

MOST_UNITS = MOST_CLUSTERS
"""Units of one evaluation from which on they are put together."""

NEEDED = ("flags", "gold", "nll", "lse", "entropy", "n_gt", "n_eq_before", "top_ids")
LOOKED_UP = ("micro", "rank", "_unit", "_group", "_source", "_bucket")
"""Key columns beside those of every pass."""

SUMS = ("n", "correct", "top2", "top3", "nll", "entropy")
_GOOD = ("n", "nll")
_LOST = ("nonfinite", "duplicate")

UNIT_KEYS = ("phase", "step", "epoch", "source", "bucket", "unit")
BATCH_KEYS = ("phase", "dataset", "pass", "step", "epoch", "micro", "rank")
PAIR_KEYS = ("phase", "step", "unit", "gold", "predicted")
GROUP_KEYS = ("phase", "dataset", "step", "pass", "group")


@dataclass(frozen=True)
class Counts:
    """Sums over samples; non-finite and repeated rows are left out of all but `batches`.

    Attributes:
        units: by phase, step, epoch, source, bucket and unit: n, and how many are right at 1, 2 and 3; Σ nll,
            Σ entropy. Evaluations have no epoch here; training has no step where it is pooled by epoch.
        batches: one row per micro-batch: n, Σ nll, and how many were left out.
        pairs: of evaluations, n by step, unit, gold and predicted class.
        groups: of evaluations, one row per pass and group: n, n right, the lowest and highest class predicted.
    """

    units: pl.DataFrame
    batches: pl.DataFrame
    pairs: pl.DataFrame
    groups: pl.DataFrame


@dataclass(frozen=True)
class ClassTask(ShardTask):
    """A shard of a classifier's dump.

    Attributes:
        train_by: how training is pooled: by "step", "epoch", or "ceil", the epoch that ends next.
        fold: phases whose single samples are put together.
        groups: how many groups there are; units from there on are single samples.
    """

    train_by: str = "step"
    fold: tuple[str, ...] = ()
    groups: int = 0

    @property
    def options(self) -> str:
        """What else the sums depend on."""
        return f"{self.train_by} {self.fold} {self.groups}"


def count(
    dump: Dump,
    lookup: pl.DataFrame,
    options: Mapping[str, Any],
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Counts:
    """The sums of a whole dump; finished shards come from the cache.

    Args:
        dump: an opened dump.
        lookup: (sample, dataset) to `_unit`, `_group`, `_source` and `_bucket`.
        options: the fields of `ClassTask`.
        executor: where shards are summed up.
        progress: told after every shard.

    Raises:
        InputError: a dump without token rows.
        DamagedDumpError: a shard was altered.
    """

    def make(**fields: Any) -> ClassTask:
        given: dict[str, Any] = {**fields, "lookup": lookup, "by": LOOKED_UP, **options}
        return ClassTask(**given)

    return run(CLASSIFIER, dump, tasks_of(dump, (), make), executor, progress)


def count_shard(task: ClassTask) -> Counts:
    """Sum up one shard. Raises DamagedDumpError if its bytes are not those that were written."""
    shard = read_rows(task, NEEDED)
    columns = shard.columns
    repeated = (columns["flags"] & int(Flag.DUPLICATE)) != 0
    numbers = [columns[name] for name in ("nll", "lse", "entropy")]
    finite = np.isfinite(numbers).all(axis=0) if len(repeated) else repeated
    good = finite & ~repeated
    keys = shard.keys.with_columns(pl.col("epoch").cast(pl.Float64).round(6), pl.col("step").cast(pl.Int64))
    rank = columns["n_gt"].astype(np.int64) + columns["n_eq_before"].astype(np.int64)
    nll = np.where(good, columns["nll"], 0.0)
    lost = [~finite & ~repeated, repeated]
    batches = _summed(keys.select(BATCH_KEYS), dict(zip((*_GOOD, *_LOST), (good, nll, *lost), strict=True)))
    keys = _with_units(keys, columns["sample"].astype(np.int64), task).filter(good)
    values = {
        "n": np.ones(len(keys), dtype=bool),
        **{name: rank[good] < k for name, k in (("correct", 1), ("top2", 2), ("top3", 3))},
        "nll": nll[good],
        "entropy": columns["entropy"][good],
    }
    evaluated = (keys["phase"] != "train").to_numpy()
    chosen = {name: values[name][evaluated] for name in ("n", "correct")}
    classes = {
        "gold": columns["gold"][good][evaluated].astype(np.int64),
        "predicted": columns["top_1"][good][evaluated].astype(np.int64),
    }
    rows = keys.filter(evaluated).with_columns(**{name: pl.Series(of) for name, of in classes.items()})
    return Counts(
        units=_summed(_unit_keys(keys, task), values),
        batches=batches,
        pairs=_summed(rows.select(PAIR_KEYS), {"n": chosen["n"]}),
        groups=_groups(rows.with_columns(correct=pl.Series(chosen["correct"], dtype=pl.Int64))),
    )


def _with_units(keys: pl.DataFrame, sample: Int, task: ClassTask) -> pl.DataFrame:
    """Keys with the unit, source, bucket and group of each row."""
    unit = keys["_unit"].cast(pl.Int64).fill_null(-1).to_numpy()
    hashed = folded(sample)
    fold = keys["phase"].is_in(list(task.fold)).to_numpy() & (unit >= task.groups)
    # A sample that the samples table lacks (a lost shard) stands for itself too.
    unit = np.where(fold | (unit < 0), -1 - hashed, unit)
    return keys.select(
        *("phase", "dataset", "pass", "step", "epoch"),
        pl.Series("unit", unit),
        *(pl.col(f"_{name}").cast(dtype).alias(name) for name, dtype in _LOOKUP.items()),
    )


_LOOKUP = {"source": pl.String(), "bucket": pl.Int64(), "group": pl.Int64()}


def _unit_keys(keys: pl.DataFrame, task: ClassTask) -> pl.DataFrame:
    train, nothing = pl.col("phase") == "train", pl.lit(None)
    keys = keys.with_columns(bucket=pl.when(~train).then(pl.col("bucket")))
    if task.train_by == "step":
        return keys.with_columns(epoch=nothing.cast(pl.Float64)).select(UNIT_KEYS)
    return keys.with_columns(
        step=pl.when(~train).then(pl.col("step")),
        epoch=pl.when(train).then(whole_epoch(task.train_by)),
    ).select(UNIT_KEYS)


def whole_epoch(train_by: str) -> pl.Expr:
    """The epoch that a training row is pooled into."""
    epoch = pl.col("epoch")
    # float32 keeps seven digits of an epoch: a thousandth above a whole number still belongs to the epoch that ended.
    return (epoch - 1e-3).ceil().clip(lower_bound=1.0) if train_by == "ceil" else epoch


def _summed(keys: pl.DataFrame, values: Mapping[str, NDArray[Any]]) -> pl.DataFrame:
    """Sums of the values by key, added in row order."""
    code, distinct = codes(keys, keys.columns) if len(keys) else (np.zeros(0, dtype=np.int64), keys)
    sums = {name: added(code, value, len(distinct)) for name, value in values.items()}
    whole = [name for name in sums if name not in ("nll", "entropy")]
    return distinct.with_columns(**{name: pl.Series(total) for name, total in sums.items()}).with_columns(
        pl.col(whole).cast(pl.Int64)
    )


def _groups(rows: pl.DataFrame) -> pl.DataFrame:
    return (
        rows.filter(pl.col("group").is_not_null())
        .group_by(GROUP_KEYS, maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("n"),
            pl.col("correct").sum(),
            pl.col("predicted").min().alias("lowest"),
            pl.col("predicted").max().alias("highest"),
        )
    )


def add_up(frame: pl.DataFrame, keys: Sequence[str], sums: Sequence[str]) -> pl.DataFrame:
    """Sums over all other columns, added in row order."""
    return merge_frames([frame.select(*keys, *sums)], sums) if len(frame) else frame.select(*keys, *sums)


def merge(parts: Sequence[Counts]) -> Counts:
    """The sums of all shards together; give them in recording order."""
    groups = pl.concat([part.groups for part in parts])
    return Counts(
        units=add_up(pl.concat([part.units for part in parts]), UNIT_KEYS, SUMS),
        batches=add_up(pl.concat([part.batches for part in parts]), BATCH_KEYS, (*_GOOD, *_LOST)),
        pairs=add_up(pl.concat([part.pairs for part in parts]), PAIR_KEYS, ("n",)),
        groups=groups.group_by(GROUP_KEYS, maintain_order=True).agg(
            pl.col("n", "correct").sum(), pl.col("lowest").min(), pl.col("highest").max()
        ),
    )


CLASSIFIER = Pass(
    of_shard=count_shard,
    merge=merge,
    kind=Counts,
    columns=(
        frozenset((*UNIT_KEYS, *SUMS)),
        frozenset((*BATCH_KEYS, *_GOOD, *_LOST)),
        frozenset((*PAIR_KEYS, "n")),
        frozenset((*GROUP_KEYS, "n", "correct", "lowest", "highest")),
    ),
    suffix="classes",
    code=(
        ("logitbox.analysis.classification", ("counting.py",)),
        ("logitbox.analysis.calibration", ("units.py", "evidence.py")),
    ),
)
"""Every sum that a classifier's metrics are made of."""
