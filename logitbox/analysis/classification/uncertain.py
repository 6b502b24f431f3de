"""The samples a classifier is least sure about."""

from __future__ import annotations

import polars as pl

from logitbox.analysis.classification.evidence import Evidence
from logitbox.dumps.flags import Flag
from logitbox.dumps.schema import IDENTITY

_COLUMNS = ("step", "sample", "dataset", "gold", "entropy", "nll", "top_nll", "top_ids")


def good_rows(evidence: Evidence, phase: str, step: int) -> pl.LazyFrame:
    """Rows of one evaluation that are finite and no repetition."""
    flags = pl.col("flags")
    lost = int(Flag.DUPLICATE | Flag.NONFINITE)
    return evidence.dump.tokens.filter(
        pl.col("phase") == phase,
        pl.col("step") == step,
        (flags & int(Flag.SUPERVISED)) != 0,
        (flags & lost) == 0,
    )


def uncertain(evidence: Evidence, phase: str, step: int, n: int) -> pl.DataFrame:
    """The `n` samples of highest entropy, highest first: key, source, group, gold, predicted, p of both, entropy."""
    evidence.dump.check(evidence.dump.shards("tokens"))  # single rows are shown: altered bytes must not pass
    name = evidence.settings.name
    rows = (
        good_rows(evidence, phase, step)
        .sort(["entropy", *IDENTITY], descending=[True, *([False] * len(IDENTITY))])
        .head(n)
        .select(_COLUMNS)
        .collect(engine="streaming")
    )
    known = evidence.dump.samples.select("sample", "dataset", "key", "source", "group", "length").collect()
    rows = rows.with_columns(predicted=pl.col("top_ids").list.first())
    ids = {*rows["gold"], *rows["predicted"]} - {None}
    names = {index: name(index) for index in ids}
    named = [
        pl.col(one).replace_strict(names, return_dtype=pl.String).alias(one) for one in ("gold", "predicted")
    ]
    return rows.join(known, on=["sample", "dataset"], how="left", maintain_order="left").select(
        *("step", "key", "dataset", "source", "group", "length"),
        *named,
        (pl.col("gold") == pl.col("predicted")).alias("correct"),
        (-pl.col("nll").cast(pl.Float64)).exp().alias("p_gold"),
        (-pl.col("top_nll").cast(pl.Float64)).exp().alias("p_predicted"),
        pl.col("entropy").cast(pl.Float64),
    )
