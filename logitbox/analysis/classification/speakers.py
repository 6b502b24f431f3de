"""Speaker consistency: groups whose samples all get one prediction."""

from __future__ import annotations

import polars as pl

from logitbox.analysis.classification.evidence import Evidence, measured, moments

_SAME = pl.col("lowest") == pl.col("highest")


def consistency(evidence: Evidence) -> pl.DataFrame:
    """`step`, `value`, `n` groups of two samples and more, `low`, `high` over groups.

    In several passes at one step a group is met as often; its passes are one cluster.
    """
    groups = evidence.groups.filter(pl.col("n") > 1).select(
        "step",
        pl.col("group").alias("unit"),
        pl.lit(1, pl.Int64).alias("n"),
        _SAME.cast(pl.Int64).alias("share"),
    )
    return measured(moments(groups, ["step"], ["share"]), ["step"], "share").drop("error")


def group_table(evidence: Evidence, step: int) -> pl.DataFrame:
    """The groups of one evaluation, `group`, `dataset`, `pass`, `n`, `consistent`, `predicted`, `accuracy`.

    `consistent` is null where there is one sample; `predicted` is where samples differ.
    """
    name = evidence.settings.name
    rows = evidence.groups.filter(pl.col("step") == step)
    names = {index: name(index) for index in rows["lowest"].unique().to_list()}
    return (
        rows.join(evidence.samples.groups, on=["group", "dataset"], how="left")
        .select(
            pl.col("name").alias("group"),
            "dataset",
            "pass",
            "n",
            pl.when(pl.col("n") > 1).then(_SAME).alias("consistent"),
            pl.when(_SAME)
            .then(pl.col("lowest").replace_strict(names, return_dtype=pl.String))
            .alias("predicted"),
            (pl.col("correct") / pl.col("n")).alias("accuracy"),
        )
        .sort("dataset", "group", "pass")
    )
