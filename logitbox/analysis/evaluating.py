"""Metrics from cells: values and intervals of all metrics at once, since a query each would take far longer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from logitbox.analysis.intervals import interval, mean_of
from logitbox.analysis.populations import ALL
from logitbox.analysis.registry import Metric
from logitbox.analysis.tally import merge_frames
from logitbox.dumps.measures import phase_prefix

_COUNTS = ("n", "n_nonfinite", "n_duplicate", "clusters", "nn")

Numbered = list[tuple[int, Metric]]
"""Metrics with their places in the order they are listed."""


def evaluate(metrics: Sequence[Metric], cells: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Rows of all metrics in no order, with their `_phase` and `_order`.

    Where a metric's population has no tokens, one row with value null says so (unless it is split by type).

    Args:
        metrics: in the order they are listed; one at least.
        cells: pooled by phase, the by-columns and `spec`, with `evaluations`.
        by: the by-columns.
    """
    keys = list(dict.fromkeys(["phase", *(name for name in by if name != "type")]))
    everyone = cells.filter(pl.col("type") == ALL).select(keys).unique(maintain_order=True)
    parts: list[pl.DataFrame] = []
    for (population, specs), members in _alike(metrics, cells).items():
        rows = _sums(population, specs, members, cells, [*keys, "evaluations"])
        if "type" in by:
            rows = rows.with_columns(pl.lit(population).alias("type"))
        else:
            rows = everyone.join(rows, on=keys, how="left", nulls_equal=True, maintain_order="left")
        parts.append(_long(rows, members, list(dict.fromkeys([*by, "phase"]))))
    long = pl.concat(parts)
    prefixes = {phase: phase_prefix(phase) for phase in cells["phase"].unique()}
    prefix = pl.col("phase").replace_strict(prefixes, return_dtype=pl.String)
    listed = pl.DataFrame({"_order": range(len(metrics)), "_key": [metric.key for metric in metrics]})
    return pl.concat(
        rows.join(listed, on="_order").select(
            *by,
            (prefix + pl.col("_key")).alias("key"),
            *_estimate(str(reduction), is_share=bool(share)),
            pl.col("phase").alias("_phase"),
            "_order",
        )
        for (reduction, share), rows in long.group_by("reduction", "is_share", maintain_order=True)
    )


def _alike(metrics: Sequence[Metric], cells: pl.DataFrame) -> dict[tuple[str, frozenset[str]], Numbered]:
    """Metrics of the same tokens: those of a population, in the sessions that recorded the quantity."""
    recorded: dict[str, frozenset[str]] = {}
    alike: dict[tuple[str, frozenset[str]], Numbered] = {}
    for order, metric in enumerate(metrics):
        needed = metric.quantity if metric.reduction != "count" else metric.only_with or "n"
        if needed not in recorded:
            specs = cells.filter(pl.col(needed).is_not_null())["spec"].unique() if needed in cells else ()
            recorded[needed] = frozenset(specs)
        alike.setdefault((metric.population, recorded[needed]), []).append((order, metric))
    return alike


def _sums(
    population: str, specs: frozenset[str], members: Numbered, cells: pl.DataFrame, keys: Sequence[str]
) -> pl.DataFrame:
    """What the metrics are made of, of these sessions added up."""
    wanted = dict.fromkeys(_COUNTS)
    for _, metric in members:
        of_mean = (f"{metric.quantity}:xx", f"{metric.quantity}:xn") if metric.reduction != "count" else ()
        wanted |= dict.fromkeys([metric.quantity, *of_mean])
    absent = [pl.lit(None, pl.Float64).alias(name) for name in wanted if name not in cells.columns]
    rows = cells.filter((pl.col("type") == population) & pl.col("spec").is_in(list(specs)))
    rows = rows.with_columns(absent).select(*keys, *wanted)
    return merge_frames([rows], list(wanted)) if len(specs) > 1 else rows


def _long(rows: pl.DataFrame, members: Numbered, keys: Sequence[str]) -> pl.DataFrame:
    """One row per metric and row, with the sums of the metric's quantity as `x`."""
    height, count = rows.height, len(members)
    of_row, of_metric = np.tile(np.arange(height), count), np.repeat(np.arange(count), height)
    kept = rows.select(
        *keys, "evaluations", pl.col("n", "clusters").cast(pl.Int64), pl.col("nn").cast(pl.Float64)
    )
    nothing = pl.Series([None] * height, dtype=pl.Float64)
    told = pl.DataFrame(
        {
            "_order": [order for order, _ in members],
            "reduction": [metric.reduction for _, metric in members],
            "is_share": [metric.high == 1 for _, metric in members],
            "lowest": [float(metric.low) for _, metric in members],
            "highest": [float(metric.high) for _, metric in members],
        }
    )

    def stacked(end: str) -> pl.Series:
        names = [metric.quantity + end for _, metric in members]
        return pl.concat([rows[name].cast(pl.Float64) if name in rows else nothing for name in names]).alias(
            f"x{end}"
        )

    return pl.concat([kept[of_row], told[of_metric]], how="horizontal").with_columns(
        map(stacked, ("", ":xx", ":xn"))
    )


def _estimate(reduction: str, *, is_share: bool) -> list[pl.Expr]:
    """The columns `value` to `high`, from `_long` rows."""
    value, low, high = pl.col("x").fill_null(0), pl.lit(None, pl.Float64), pl.lit(None, pl.Float64)
    if reduction != "count":
        value, (low, high) = mean_of("x"), interval("x", is_share=is_share)
        if reduction == "exp_token_mean":
            value, low, high = value.exp(), low.exp(), high.exp()
        low, high = low.clip(lower_bound=pl.col("lowest")), high.clip(upper_bound=pl.col("highest"))
    return [
        value.alias("value"),
        pl.col("n").fill_null(0),
        pl.lit(reduction).alias("reduction"),
        low.alias("low"),
        high.alias("high"),
    ]
