"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from logitbox.analysis.classification.counting import add_up
from logitbox.analysis.classification.evidence import Evidence, measured

_KEYS = ("step", "gold", "predicted")

SCHEMA = (
    "step",
    "gold",
    "predicted",
    "n",
    "of",
    "rate",
    "low",
    "high",
    "expected",
    "gold_id",
    "predicted_id",
)


def confusion_counts(pairs: pl.DataFrame) -> pl.DataFrame:
    """`gold`, `predicted`, `n`: the confusion matrix of the rows given, where it is not 0."""
    return add_up(pairs, ("gold", "predicted"), ("n",)).sort("gold", "predicted")


def confusions(evidence: Evidence, steps: Iterable[int], rate: float) -> pl.DataFrame:
    """Pairs of different classes, the highest rate first within a step.

    Args:
        evidence: the sums.
        steps: which evaluations.
        rate: only pairs above this share of gold's samples.
    """
    pairs = evidence.pairs.filter(pl.col("step").is_in(list(steps)))
    found = _rates(pairs).filter(pl.col("value") > rate)
    name, expected = evidence.settings.name, evidence.settings.expected
    known = sorted({*found["gold"], *found["predicted"]})
    names = {index: name(index) for index in known}
    told = [
        (g, p) in expected if expected else None for g, p in found.select("gold", "predicted").iter_rows()
    ]
    return (
        found.rename({"value": "rate", "gold": "gold_id", "predicted": "predicted_id"})
        .with_columns(
            pl.Series("expected", told, dtype=pl.Boolean),
            pl.col("gold_id").replace_strict(names, return_dtype=pl.String).alias("gold"),
            pl.col("predicted_id").replace_strict(names, return_dtype=pl.String).alias("predicted"),
        )
        .sort("step", "rate", "gold_id", "predicted_id", descending=[False, True, False, False])
        .select(SCHEMA)
    )


def _rates(pairs: pl.DataFrame) -> pl.DataFrame:
    """`step`, `gold`, `predicted`, `n`, `of`, `value`, `low`, `high`: of each pair its share of gold's samples.

    Intervals are over the units that have samples of gold, also those that never show the confusion.
    """
    labels = add_up(pairs, ("step", "gold", "unit"), ("n",)).rename({"n": "of"})
    of, square = pl.col("of"), (pl.col("of") * pl.col("of")).cast(pl.Float64)
    golds = labels.group_by("step", "gold").agg(
        of.sum(), square.sum().alias("nn"), pl.len().cast(pl.Int64).alias("clusters")
    )
    wrong = pairs.filter(pl.col("gold") != pl.col("predicted")).join(labels, on=["step", "gold", "unit"])
    x = pl.col("n").cast(pl.Float64)
    cells = (
        wrong.group_by(_KEYS)
        .agg(pl.col("n").sum(), (x * x).sum().alias("share:xx"), (x * pl.col("of")).sum().alias("share:xn"))
        .join(golds, on=["step", "gold"])
        .with_columns(share=pl.col("n"), evaluations=pl.lit(1.0))
        .rename({"n": "count", "of": "n"})
        .sort(_KEYS)
    )
    found = measured(cells, [*_KEYS, "count"], "share").rename({"n": "of"})
    return found.rename({"count": "n"}).drop("error")
