"""`metrics`: every registered metric of a dump, in one long frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import polars as pl

from logitbox.analysis.evaluating import evaluate
from logitbox.analysis.given import repeated_steps
from logitbox.analysis.leftout import left_out, left_out_of_loss
from logitbox.analysis.populations import ALL, INTERNAL
from logitbox.analysis.registry import Metric, basic_metrics, metrics_of
from logitbox.analysis.results import Result
from logitbox.analysis.splitting import by_columns, check_held, extra_keys
from logitbox.analysis.tally import Tally, merge_frames
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

SCHEMA = {
    "key": pl.String,
    "value": pl.Float64,
    "n": pl.Int64,
    "reduction": pl.String,
    "low": pl.Float64,
    "high": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class Metrics(Result):
    """The by-columns, then `key`, `value`, `n`, `reduction`, `low`, `high` (95 %, clustered by sample).

    Where the by-columns pool several evaluations of the same set, `low` and `high` allow for their being of the same
    samples (see `intervals.standard_error`).

    Frame methods can be called on it directly: `metrics(dump).filter(…)`.

    Attributes:
        phases: the phases that the rows are of; their keys begin with `measures.phase_prefix`.
    """

    phases: tuple[str, ...] = ()

    def value(self, key: str, **where: Any) -> float | None:
        """The value of one key (`where` picks among by-columns); None where it is undefined.

        Raises:
            InputError: no such key, or several rows match.
        """
        for name in where:
            if name not in self.frame.columns:
                raise InputError(f"there is no column {name!r}; columns are {', '.join(self.frame.columns)}")
        chosen = [pl.col(name).eq_missing(pl.lit(v)) for name, v in where.items()]
        rows = self.frame.filter(pl.col("key") == key, *chosen)
        if rows.height != 1:
            known = ", ".join(self.frame["key"].unique(maintain_order=True))
            told = "".join(f", {name} {v!r}" for name, v in where.items())
            columns = ", ".join(name for name in self.frame.columns if name not in SCHEMA)
            narrow = f"; choose among rows by {columns}" if rows.height and columns else ""
            raise InputError(f"{rows.height} rows have key {key!r}{told}; keys are {known}{narrow}")
        return rows["value"][0]

    def __getattr__(self, name: str) -> Any:
        # Fields are not there yet while a copy is being made.
        if name.startswith("_") or name in self.__dataclass_fields__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.frame, name)

    def __getitem__(self, key: Any) -> Any:
        return self.frame[key]

    def __len__(self) -> int:
        return self.frame.height

    def __iter__(self) -> Iterator[pl.Series]:
        return iter(self.frame)


def metrics(
    dump: Dump,
    by: str | Sequence[str] | None = None,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Every metric of the dump, token-weighted.

    Args:
        dump: an opened dump.
        by: columns to split by: any of phase, dataset, pass, step, epoch, type, whole-number columns of `tokens`
            (rank, micro, sample, pos, gold, …) and columns of `samples` (source, group, any of the user's).
            Without it a phase's tokens are pooled over everything that was recorded of it, all steps, data sets
            and passes included, each token counting as often as it was evaluated. With "type", the basic metrics
            of every token type, group and rest of a group are given under their bare keys.
        executor: where to tally shards (see `tally_dump`).
        progress: told after every shard.

    Returns:
        A `Metrics`: a long frame. A metric over no tokens has value null and n 0.

    Raises:
        InputError: an unknown column in `by`, or a dump without token rows.
    """
    names = by_columns(by)
    tally = tally_dump(dump, extra_keys(names), executor, progress)
    return metrics_of_tally(tally, dump, names)


def metrics_of_tally(tally: Tally, dump: Dump, by: Sequence[str] = ()) -> Metrics:
    """`metrics` from a tally at hand, which must hold the by-columns."""
    columns = check_held(tally.cells, by_columns(by))
    keep = list(dict.fromkeys(["phase", *columns]))
    cells = pooled(tally.cells, [*keep, "spec"]).join(
        _evaluations(tally.cells, [name for name in keep if name != "type"]),
        on=[name for name in keep if name != "type"],
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    keyed = _metrics_by_type(cells) if "type" in columns else registered(dump)
    if cells.is_empty():
        schema = {name: cells.schema[name] for name in columns} | SCHEMA
        return Metrics(pl.DataFrame(schema=schema), _verdict(tally, dump))
    frame = (
        evaluate(keyed, cells, columns)
        .sort([*columns, "_phase", "_order"], nulls_last=True)
        .drop("_order", "_phase")
    )
    phases = tuple(sorted(cells["phase"].unique()))
    return Metrics(frame, _verdict(tally, dump), phases)


def registered(dump: Dump) -> list[Metric]:
    """The metrics of all sessions, each once."""
    found = (metric for session in dump.sessions for metric in metrics_of(session.spec))
    return list({metric.key: metric for metric in found}.values())


def pooled(cells: pl.DataFrame, keep: Sequence[str]) -> pl.DataFrame:
    """Cells summed over every key but `keep` and the population.

    A quantity that some of the cells did not record is null, unless `spec` is kept.
    """
    sums = cells.columns[cells.columns.index("type") + 1 :]
    keys = [name for name in dict.fromkeys([*keep, "type"]) if name in cells.columns]
    return merge_frames([cells.select(*keys, *sums)], sums)


def _evaluations(cells: pl.DataFrame, keep: Sequence[str]) -> pl.DataFrame:
    """How often the same samples are pooled in each row: the evaluations (pass, step) of one data set.

    Training is taken to meet other samples at every step.
    """
    each = (
        cells.filter(pl.col("type") == ALL)
        .select(*dict.fromkeys([*keep, "dataset", "pass", "step"]))
        .unique()
    )
    times = each.group_by(*dict.fromkeys([*keep, "dataset"])).agg(
        pl.len().cast(pl.Float64).alias("evaluations")
    )
    most = pl.when(pl.col("phase").first() == "train").then(1.0).otherwise(pl.col("evaluations").max())
    return times.group_by(keep).agg(most.alias("evaluations"))


def _metrics_by_type(cells: pl.DataFrame) -> list[Metric]:
    names = cells["type"].unique(maintain_order=True)
    return [metric for name in names if not name.endswith(INTERNAL) for metric in basic_metrics(name)]


def _verdict(tally: Tally, dump: Dump) -> str:
    parts: list[str] = []
    whole = tally.cells.filter(pl.col("type") == ALL)
    for row in pooled(whole, ["phase"]).sort("phase").iter_rows(named=True):
        here = whole.filter(pl.col("phase") == row["phase"])
        steps = here["step"].n_unique()
        lost = f" ({told})" if (told := left_out(row)) else ""
        lost += "".join(
            f" ({count:,} with a {group} loss that is NaN or infinite left out of it)"
            for group, count in left_out_of_loss(here).items()
        )
        if row["n"]:
            over = f"{row['n']:,} tokens" + (f" of {steps:,} steps" if steps > 1 else "")
            told = (
                f"accuracy {row['correct'] / row['n']:.4f}, nll {row['nll'] / row['n']:.4f} nats over {over}"
            )
            parts.append(f"{row['phase']}: {told}{lost}")
        else:
            parts.append(f"{row['phase']}: no finite supervised tokens{lost}")
    if dump.skipped:
        parts.append(f"{len(dump.skipped):,} damaged shards left out")
    if repeated := repeated_steps(dump):
        parts.append(f"{repeated:,} steps were recorded by more than one session and count more than once")
    return "; ".join(parts) if whole.height else "; ".join(["no supervised tokens were recorded", *parts])
