"""`metrics`: every registered metric of a dump, in one long frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import polars as pl

from logitbox.analysis.intervals import interval, mean_of
from logitbox.analysis.populations import ALL
from logitbox.analysis.registry import Metric, basic_metrics, metrics_of
from logitbox.analysis.results import Result
from logitbox.analysis.splitting import by_columns, check_held, extra_keys
from logitbox.analysis.tally import Tally, merge_frames
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump
from logitbox.dumps.measures import phase_prefix
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
    """

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
    frames = [_evaluate(metric, cells, columns) for metric in keyed]
    if not frames:
        schema = {name: cells.schema[name] for name in columns} | SCHEMA
        return Metrics(pl.DataFrame(schema=schema), _verdict(tally, dump))
    frame = pl.concat(frames).with_row_index("_order")
    frame = frame.sort([*columns, "_phase", "_order"], nulls_last=True).drop("_order", "_phase")
    return Metrics(frame, _verdict(tally, dump))


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
    return [metric for name in cells["type"].unique(maintain_order=True) for metric in basic_metrics(name)]


def _evaluate(metric: Metric, cells: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Rows of one metric. Where its population has no tokens, one row with value null says so."""
    keys = list(dict.fromkeys(["phase", *(name for name in by if name != "type")]))
    rows = _recorded(metric, cells, [*keys, "evaluations"])
    if "type" not in by:
        everyone = cells.filter(pl.col("type") == ALL).select(keys).unique(maintain_order=True)
        rows = everyone.join(rows, on=keys, how="left", nulls_equal=True, maintain_order="left")
    value, low, high = _estimate(metric)
    prefixes = {phase: phase_prefix(phase) for phase in cells["phase"].unique()}
    return rows.select(
        *(pl.lit(metric.population).alias("type") if name == "type" else pl.col(name) for name in by),
        (pl.col("phase").replace_strict(prefixes, return_dtype=pl.String) + metric.key).alias("key"),
        value.alias("value"),
        pl.col("n").fill_null(0).alias("n"),
        pl.lit(metric.reduction).alias("reduction"),
        low.alias("low"),
        high.alias("high"),
        pl.col("phase").alias("_phase"),
    )


def _recorded(metric: Metric, cells: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The metric's population and sums, of the sessions that recorded its quantity."""
    sums = ["n", "n_nonfinite", "clusters", "nn"]
    if metric.reduction != "count":
        sums += [metric.quantity, f"{metric.quantity}:xx", f"{metric.quantity}:xn"]
    elif metric.only_with:
        sums.append(metric.only_with)
    rows = cells.filter(pl.col("type") == metric.population)
    absent = [pl.lit(None, pl.Float64).alias(name) for name in sums if name not in rows.columns]
    rows = rows.with_columns(absent).filter(pl.col(sums[-1]).is_not_null()).select(*keys, "spec", *sums)
    if rows["spec"].n_unique() > 1:
        return merge_frames([rows.drop("spec")], sums)
    return rows.drop("spec")


def _estimate(metric: Metric) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """(value, low, high) as expressions over `_recorded` rows."""
    nothing = pl.lit(None, pl.Float64)
    if metric.reduction == "count":
        return pl.col(metric.quantity).fill_null(0).cast(pl.Float64), nothing, nothing
    mean = mean_of(metric.quantity)
    low, high = interval(metric.quantity, is_share=metric.high == 1)
    if metric.reduction == "exp_token_mean":
        mean, low, high = mean.exp(), low.exp(), high.exp()
    return mean, low.clip(lower_bound=metric.low), high.clip(upper_bound=metric.high)


def _verdict(tally: Tally, dump: Dump) -> str:
    parts: list[str] = []
    whole = tally.cells.filter(pl.col("type") == ALL)
    for row in pooled(whole, ["phase"]).sort("phase").iter_rows(named=True):
        steps = whole.filter(pl.col("phase") == row["phase"])["step"].n_unique()
        if row["n"]:
            over = f"{row['n']:,} tokens" + (f" of {steps:,} steps" if steps > 1 else "")
            told = (
                f"accuracy {row['correct'] / row['n']:.4f}, nll {row['nll'] / row['n']:.4f} nats over {over}"
            )
            lost = f" ({row['n_nonfinite']:,} non-finite left out)" if row["n_nonfinite"] else ""
            parts.append(f"{row['phase']}: {told}{lost}")
        else:
            parts.append(f"{row['phase']}: no finite supervised tokens ({row['n_nonfinite']:,} left out)")
    if dump.skipped:
        parts.append(f"{len(dump.skipped):,} damaged shards left out")
    return "; ".join(parts) if whole.height else "; ".join(["no supervised tokens were recorded", *parts])
