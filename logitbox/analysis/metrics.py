"""`metrics`: every registered metric of a dump, in one long frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import polars as pl

from logitbox.analysis.evaluating import evaluate
from logitbox.analysis.given import repeated_steps
from logitbox.analysis.leftout import left_out, left_out_of_loss
from logitbox.analysis.meanings import mixtures
from logitbox.analysis.populations import ALL, is_internal
from logitbox.analysis.results import Result
from logitbox.analysis.splitting import by_columns, check_held, extra_keys
from logitbox.analysis.tally import Tally, merge_frames
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.definitions.entries import Metric
from logitbox.dumps.definitions.registry import metrics_of, populations_of
from logitbox.dumps.definitions.tokens import basic_metrics
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

Reductions = Literal["token_mean", "step_mean", "both"]

_LOGGING_STEP = ("dataset", "pass", "step")
"""With the phase, what one logging step is."""

SCHEMA = {
    "key": pl.String,
    "value": pl.Float64,
    "n": pl.Int64,
    "reduction": pl.String,
    "low": pl.Float64,
    "high": pl.Float64,
    "reason": pl.String,
}


@dataclass(frozen=True, eq=False)
class Metrics(Result):
    """The by-columns, then `key`, `value`, `n`, `reduction`, `low`, `high` (95 %, clustered by sample), `reason`.

    `reason` says why a value is null.

    Where the by-columns pool several evaluations of the same set, `low` and `high` allow for their being of the same
    samples (see `intervals.standard_error`).

    Frame methods can be called on it directly: `metrics(dump).filter(…)`.

    Attributes:
        phases: the phases that the rows are of; their keys begin with `definitions.entries.prefix_of`.
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
            by = [name for name in self.frame.columns if name not in SCHEMA]
            columns = ", ".join([*by, *(["reduction"] if rows["reduction"].n_unique() > 1 else [])])
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
    reduction: Reductions = "token_mean",
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Every metric of the dump, token-weighted unless asked for otherwise.

    Args:
        dump: an opened dump.
        by: columns to split by: any of phase, dataset, pass, step, epoch, type, whole-number columns of `tokens`
            (rank, micro, sample, pos, gold, …) and columns of `samples` (source, group, any of the user's).
            Without it a phase's tokens are pooled over everything that was recorded of it, all steps, data sets
            and passes included, each token counting as often as it was evaluated. With "type", the basic metrics
            of every token type, group and rest of a group are given under their bare keys.
        reduction: "token_mean" weights every token alike; "step_mean" is the mean over logging steps (each
            evaluation of each data set at each step) of the metric's value there, as many trainers log it; "both"
            gives a row for each. The column `reduction` tells them apart.
        executor: where to tally shards (see `tally_dump`).
        progress: told after every shard.

    Returns:
        A `Metrics`: a long frame. A metric over no tokens has value null, n 0 and a reason. One that the sessions
        of a row define differently (ids of its group, options of its ordered group, answers) is null too.

    Raises:
        InputError: an unknown column in `by`, or a dump without token rows.
    """
    names = by_columns(by)
    tally = tally_dump(dump, extra_keys(names), executor, progress)
    return metrics_of_tally(tally, dump, names, reduction)


def metrics_of_tally(
    tally: Tally, dump: Dump, by: Sequence[str] = (), reduction: Reductions = "token_mean"
) -> Metrics:
    """`metrics` from a tally at hand, which must hold the by-columns."""
    if reduction not in get_args(Reductions):
        raise InputError(f"reduction is {reduction!r}; allowed are {', '.join(get_args(Reductions))}")
    columns = check_held(tally.cells, by_columns(by))
    if tally.cells.is_empty():
        schema = {name: tally.cells.schema[name] for name in columns} | SCHEMA
        return Metrics(pl.DataFrame(schema=schema), _verdict(tally, dump))
    keyed = _metrics_by_type(tally.cells) if "type" in columns else registered(dump)
    parts: list[pl.DataFrame] = []
    if reduction != "step_mean":
        parts.append(evaluate(keyed, _pooled_cells(tally.cells, columns), columns, _abouts(dump)))
    if reduction != "token_mean":
        parts.append(_step_means(keyed, tally.cells, columns, _abouts(dump)))
    frame = (
        _told_apart(pl.concat(parts), mixtures(keyed, tally.cells, columns, dump), columns)
        .sort([*columns, "_phase", "_order"], nulls_last=True, maintain_order=True)
        .drop("_order", "_phase")
    )
    return Metrics(frame, _verdict(tally, dump), tuple(sorted(tally.cells["phase"].unique())))


def _pooled_cells(cells: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Cells as `evaluate` takes them."""
    keep = list(dict.fromkeys(["phase", *columns]))
    return pooled(cells, [*keep, "spec"]).join(
        _evaluations(cells, [name for name in keep if name != "type"]),
        on=[name for name in keep if name != "type"],
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )


def _step_means(
    keyed: Sequence[Metric], cells: pl.DataFrame, columns: Sequence[str], abouts: Mapping[str, str]
) -> pl.DataFrame:
    """Rows as of `evaluate`, each the mean over logging steps; steps where it is null are left out of it."""
    steps = list(dict.fromkeys([*columns, *_LOGGING_STEP]))
    frame = evaluate(keyed, _pooled_cells(cells, steps), steps, abouts)
    nothing = pl.lit(None, pl.Float64)
    return (
        frame.group_by(*columns, "key", "_phase", "_order", maintain_order=True)
        .agg(
            pl.col("value").mean(),
            pl.col("n").sum(),
            pl.lit("step_mean").alias("reduction"),
            nothing.alias("low"),
            nothing.alias("high"),
            pl.when(~pl.col("value").is_not_null().any()).then(pl.col("reason").first()).alias("reason"),
        )
        .select(*columns, *SCHEMA, "_phase", "_order")
    )


def _told_apart(frame: pl.DataFrame, mixed: pl.DataFrame | None, columns: Sequence[str]) -> pl.DataFrame:
    """Rows as they are, but null where they would mix sessions that mean different things (see `meanings`)."""
    if mixed is None:
        return frame
    on = [*(name for name in columns if name != "type"), "_phase", "_order"]
    mixed = mixed.with_columns(pl.col("phase").alias("_phase")).select(*on, "_differs")
    told = pl.format(
        "sessions differ in {}: their tokens are not pooled; split by step, if steps differ", "_differs"
    )
    is_one = pl.col("_differs").is_null()
    return (
        frame.join(mixed, on=on, how="left", nulls_equal=True, maintain_order="left")
        .with_columns(
            *(pl.when(is_one).then(pl.col(name)).alias(name) for name in ("value", "low", "high")),
            pl.when(is_one).then(pl.col("reason")).otherwise(told).alias("reason"),
        )
        .drop("_differs")
    )


def _abouts(dump: Dump) -> dict[str, str]:
    """Populations in words."""
    return {p.name: p.about for session in dump.sessions for p in populations_of(session.spec)}


def registered(dump: Dump) -> list[Metric]:
    """The metrics of all sessions, each once, with the widest of their ranges."""
    found: dict[str, Metric] = {}
    for metric in (metric for session in dump.sessions for metric in metrics_of(session.spec)):
        other = found.get(metric.key, metric)
        found[metric.key] = replace(metric, low=min(metric.low, other.low), high=max(metric.high, other.high))
    return list(found.values())


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
    return [metric for name in names if not is_internal(name) for metric in basic_metrics(name)]


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
