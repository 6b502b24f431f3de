"""Metrics from cells: values and intervals of all metrics at once, since a query each would take far longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from logitbox.analysis.intervals import interval, mean_of
from logitbox.analysis.populations import ALL
from logitbox.analysis.tally import merge_frames
from logitbox.dumps.definitions.entries import Metric, prefix_of
from logitbox.dumps.definitions.values import why_null

_COUNTS = ("n", "n_nonfinite", "n_duplicate", "clusters", "nn")

Numbered = list[tuple[int, Metric]]
"""Metrics with their places in the order they are listed."""


def evaluate(
    metrics: Sequence[Metric], cells: pl.DataFrame, by: Sequence[str], abouts: Mapping[str, str]
) -> pl.DataFrame:
    """Rows of all metrics in no order, with their `_phase` and `_order`.

    Where a metric's population has no tokens, one row with value null says so (unless it is split by type).

    Args:
        metrics: in the order they are listed; one at least.
        cells: pooled by phase, the by-columns and `spec`, with `evaluations`.
        by: the by-columns.
        abouts: populations in words, by name.
    """
    numbered = list(enumerate(metrics))
    means = _means([(order, m) for order, m in numbered if m.reduction != "sum_of_means"], cells, by, abouts)
    sums = [
        _sum_of_means(order, m, numbered, means, by) for order, m in numbered if m.reduction == "sum_of_means"
    ]
    rows = pl.concat([means, *sums])
    listed = _listed(metrics, cells["phase"].unique().to_list())
    return rows.join(listed, on=["_order", "_phase"]).select(*by, "key", *_VALUES, "_phase", "_order")


_VALUES = ("value", "n", "reduction", "low", "high", "reason")


def _means(
    numbered: Numbered, cells: pl.DataFrame, by: Sequence[str], abouts: Mapping[str, str]
) -> pl.DataFrame:
    """Means and counts over one population each."""
    keys = list(dict.fromkeys(["phase", *(name for name in by if name != "type")]))
    everyone = cells.filter(pl.col("type") == ALL).select(keys).unique(maintain_order=True)
    parts: list[pl.DataFrame] = []
    for (population, specs), members in _alike(numbered, cells).items():
        rows = _sums(population, specs, members, cells, [*keys, "evaluations"])
        if "type" in by:
            rows = rows.with_columns(pl.lit(population).alias("type"))
        else:
            rows = everyone.join(rows, on=keys, how="left", nulls_equal=True, maintain_order="left")
        about = abouts.get(population, population)
        parts.append(
            _long(rows, members, list(dict.fromkeys([*by, "phase"])), about, is_recorded=bool(specs))
        )
    long = pl.concat(parts)
    return pl.concat(
        rows.select(
            *by,
            *_estimate(str(reduction), is_share=bool(share)),
            pl.col("phase").alias("_phase"),
            "_order",
        )
        for (reduction, share), rows in long.group_by("reduction", "_is_share", maintain_order=True)
    )


def _sum_of_means(
    order: int, metric: Metric, numbered: Numbered, means: pl.DataFrame, by: Sequence[str]
) -> pl.DataFrame:
    """Values of other metrics added up; one over no tokens counts 0, and null is what has none but such."""
    of = [other for other, part in numbered if part.key in metric.parts]
    value = pl.when(pl.col("value").is_not_null().any()).then(pl.col("value").sum())
    rows = (
        means.filter(pl.col("_order").is_in(of))
        .sort("_order", maintain_order=True)
        .group_by(*by, "_phase", maintain_order=True)
    )
    nothing = pl.lit(None, pl.Float64)
    return rows.agg(
        value.alias("value"),
        pl.col("n").sum(),
        pl.lit(metric.reduction).alias("reduction"),
        nothing.alias("low"),
        nothing.alias("high"),
        pl.when(~pl.col("value").is_not_null().any()).then(pl.col("reason").first()).alias("reason"),
    ).select(*by, *_VALUES, "_phase", pl.lit(order, pl.Int64).alias("_order"))


def _listed(metrics: Sequence[Metric], phases: Sequence[str]) -> pl.DataFrame:
    """The full key of every metric in every phase."""
    rows = [
        (order, phase, prefix_of(metric.family, phase, phases) + metric.key)
        for phase in phases
        for order, metric in enumerate(metrics)
    ]
    return pl.DataFrame(
        rows, schema={"_order": pl.Int64, "_phase": pl.String, "key": pl.String}, orient="row"
    )


def _alike(numbered: Numbered, cells: pl.DataFrame) -> dict[tuple[str, frozenset[str]], Numbered]:
    """Metrics of the same tokens: those of a population, in the sessions that recorded the quantity."""
    recorded: dict[str, frozenset[str]] = {}
    alike: dict[tuple[str, frozenset[str]], Numbered] = {}
    for order, metric in numbered:
        needed = metric.only_with or ("n" if metric.reduction == "count" else metric.quantity)
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


def _long(
    rows: pl.DataFrame, members: Numbered, keys: Sequence[str], about: str, *, is_recorded: bool
) -> pl.DataFrame:
    """One row per metric and row, with the sums of the metric's quantity as `_x`. By-columns never begin so."""
    height, count = rows.height, len(members)
    of_row, of_metric = np.tile(np.arange(height), count), np.repeat(np.arange(count), height)
    kept = rows.select(
        *keys,
        "evaluations",
        pl.col("n", "clusters").cast(pl.Int64),
        pl.col("nn").cast(pl.Float64),
        (pl.col("n_nonfinite").fill_null(0) > 0).alias("_has_lost"),
    )
    nothing = pl.Series([None] * height, dtype=pl.Float64)
    told = pl.DataFrame(
        {
            "_order": [order for order, _ in members],
            "reduction": [metric.reduction for _, metric in members],
            "_is_share": [metric.high == 1 for _, metric in members],
            "_lowest": [float(metric.low) for _, metric in members],
            "_highest": [float(metric.high) for _, metric in members],
            "_if_empty": [
                why_null(metric, about, is_recorded=is_recorded, has_lost=False) for _, metric in members
            ],
            "_if_lost": [
                why_null(metric, about, is_recorded=is_recorded, has_lost=True) for _, metric in members
            ],
            "_if_unknown": [
                why_null(metric, about, is_recorded=False, has_lost=False) for _, metric in members
            ],
        }
    )

    def stacked(end: str) -> pl.Series:
        names = [metric.quantity + end for _, metric in members]
        return pl.concat([rows[name].cast(pl.Float64) if name in rows else nothing for name in names]).alias(
            f"_x{end}"
        )

    return pl.concat([kept[of_row], told[of_metric]], how="horizontal").with_columns(
        map(stacked, ("", ":xx", ":xn"))
    )


def _estimate(reduction: str, *, is_share: bool) -> list[pl.Expr]:
    """The columns `value` to `high`, from `_long` rows."""
    value, low, high = pl.col("_x").fill_null(0), pl.lit(None, pl.Float64), pl.lit(None, pl.Float64)
    if reduction != "count":
        value, (low, high) = mean_of("_x"), interval("_x", is_share=is_share)
        if reduction == "exp_token_mean":
            value = value.exp().clip(upper_bound=pl.col("_highest"))
            low, high = low.exp(), high.exp()
        # Both ends to both bounds: where the value is capped, so is its interval.
        low, high = (end.clip(pl.col("_lowest"), pl.col("_highest")) for end in (low, high))
    return [
        value.alias("value"),
        pl.col("n").fill_null(0),
        pl.lit(reduction).alias("reduction"),
        low.alias("low"),
        high.alias("high"),
        pl.when(value.is_null() & (pl.col("n") > 0))
        .then("_if_unknown")  # some of the rows pooled here lack it
        .when(value.is_null())
        .then(pl.when("_has_lost").then("_if_lost").otherwise("_if_empty"))
        .alias("reason"),
    ]
