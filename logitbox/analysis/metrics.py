"""`metrics`: every registered metric of a dump, in one long frame."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import polars as pl

from logitbox.analysis.intervals import interval, mean_of
from logitbox.analysis.populations import ALL
from logitbox.analysis.registry import Metric, basic_metrics, metrics_of
from logitbox.analysis.results import Result
from logitbox.analysis.tally import KEYS, Tally, merge_frames
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump
from logitbox.dumps.live import phase_prefix
from logitbox.errors import InputError

SCHEMA = {
    "key": pl.String,
    "value": pl.Float64,
    "n": pl.Int64,
    "reduction": pl.String,
    "low": pl.Float64,
    "high": pl.Float64,
}


@dataclass(frozen=True)
class Metrics(Result):
    """The by-columns, then `key`, `value`, `n`, `reduction`, `low`, `high` (95 %, clustered by sample).

    Frame methods can be called on it directly: `metrics(dump).filter(…)`.
    """

    def value(self, key: str, **where: Any) -> float | None:
        """The value of one key (`where` picks among by-columns); None where it is undefined.

        Raises:
            InputError: no such key, or several rows match.
        """
        rows = self.frame.filter(pl.col("key") == key, *(pl.col(name) == v for name, v in where.items()))
        if rows.height != 1:
            known = ", ".join(self.frame["key"].unique(maintain_order=True))
            raise InputError(f"{rows.height} rows have key {key!r} {where or ''}; keys are {known}")
        return rows["value"][0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.frame, name)

    def __getitem__(self, key: Any) -> Any:
        return self.frame[key]

    def __len__(self) -> int:
        return self.frame.height


def metrics(
    dump: Dump,
    by: str | Sequence[str] | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Every metric of the dump, token-weighted.

    Args:
        dump: an opened dump.
        by: columns to split by: any of phase, dataset, pass, step, epoch, type, and any column of `tokens` or
            `samples`. Without it a phase's tokens are pooled over everything that was recorded of it, all steps
            included. With "type", the basic metrics of every token type are given under their bare keys.
        executor: where to tally shards (see `tally_dump`).
        progress: told after every shard.

    Returns:
        A `Metrics`: a long frame. A metric over no tokens has value null and n 0.

    Raises:
        InputError: an unknown column in `by`, or a dump without token rows.
    """
    names = (by,) if isinstance(by, str) else tuple(by or ())
    tally = tally_dump(dump, [name for name in names if name not in (*KEYS, "type")], executor, progress)
    return metrics_of_tally(tally, dump, names)


def metrics_of_tally(tally: Tally, dump: Dump, by: Sequence[str] = ()) -> Metrics:
    """`metrics` from a tally at hand, which must hold the by-columns."""
    cells = with_complements(pooled(tally.cells, ["phase", *by]), dump)
    keyed = _metrics_by_type(cells) if "type" in by else registered(dump)
    columns = list(by)
    frames = [_evaluate(metric, cells, columns) for metric in keyed]
    present = [frame for frame in frames if not frame.is_empty()]
    frame = pl.concat(present) if present else pl.DataFrame(schema=SCHEMA)
    order = [*columns, "_phase"]
    frame = frame.with_row_index("_order").sort([*order, "_order"], nulls_last=True).drop("_order", "_phase")
    return Metrics(frame, _verdict(cells))


def registered(dump: Dump) -> list[Metric]:
    """The metrics of all sessions, each once."""
    found = (metric for session in dump.sessions for metric in metrics_of(session.spec))
    return list({metric.key: metric for metric in found}.values())


def pooled(cells: pl.DataFrame, keep: Sequence[str]) -> pl.DataFrame:
    """Cells summed over every key but `keep` and the population."""
    sums = cells.columns[cells.columns.index("type") + 1 :]
    keys = [name for name in dict.fromkeys([*keep, "type"]) if name in cells.columns]
    return merge_frames([cells.select(*keys, *sums)], sums)


def with_complements(cells: pl.DataFrame, dump: Dump) -> pl.DataFrame:
    """Add `top_out_<group>` = n − `top_in_<group>` with its clustered moments."""
    groups = {group.name for session in dump.sessions for group in session.spec.groups}
    n, nn = pl.col("n"), pl.col("nn")
    added: list[pl.Expr] = []
    for group in sorted(groups):
        x, xx, xn = (pl.col(f"top_in_{group}{suffix}") for suffix in ("", ":xx", ":xn"))
        out = f"top_out_{group}"
        added += [(n - x).alias(out), (nn - 2 * xn + xx).alias(f"{out}:xx"), (nn - xn).alias(f"{out}:xn")]
    return cells.with_columns(added)


def _metrics_by_type(cells: pl.DataFrame) -> list[Metric]:
    return [metric for name in cells["type"].unique(maintain_order=True) for metric in basic_metrics(name)]


def _evaluate(metric: Metric, cells: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Rows of one metric. Where its population has no tokens, one row with value null says so."""
    everyone = cells.filter(pl.col("type") == ALL)
    rows = cells.filter(pl.col("type") == metric.population)
    keys = list(dict.fromkeys(["phase", *(name for name in by if name != "type")]))
    if "type" not in by:
        rows = everyone.select(keys).join(rows, on=keys, how="left", nulls_equal=True, maintain_order="left")
    value, low, high = _estimate(metric, rows)
    prefixes = {phase: phase_prefix(phase) for phase in rows["phase"].unique()}
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


def _estimate(metric: Metric, rows: pl.DataFrame) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """(value, low, high) as expressions over cells; null where the sessions at hand lack the quantity."""
    nothing = pl.lit(None, pl.Float64)
    if metric.quantity not in rows.columns:
        return nothing, nothing, nothing
    if metric.reduction == "count":
        return pl.col(metric.quantity).fill_null(0).cast(pl.Float64), nothing, nothing
    mean = mean_of(metric.quantity)
    low, high = interval(metric.quantity, is_share=metric.high == 1)
    if metric.reduction == "exp_token_mean":
        mean, low, high = mean.exp(), low.exp(), high.exp()
    return mean, low.clip(lower_bound=metric.low), high.clip(upper_bound=metric.high)


def _verdict(cells: pl.DataFrame) -> str:
    parts: list[str] = []
    for row in pooled(cells, ["phase"]).filter(pl.col("type") == ALL).iter_rows(named=True):
        if row["n"]:
            told = f"accuracy {row['correct'] / row['n']:.4f}, nll {row['nll'] / row['n']:.4f} nats over {row['n']:,} tokens"
            lost = f" ({row['n_nonfinite']:,} non-finite left out)" if row["n_nonfinite"] else ""
            parts.append(f"{row['phase']}: {told}{lost}")
        else:
            parts.append(f"{row['phase']}: no finite supervised tokens ({row['n_nonfinite']:,} left out)")
    return "; ".join(parts) if parts else "no supervised tokens were recorded"
