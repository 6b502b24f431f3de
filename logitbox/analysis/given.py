"""What analyses are given: a dump, and whether its sessions tell the same steps twice."""

from __future__ import annotations

import polars as pl

from logitbox.dumps.dump import Dump
from logitbox.errors import InputError


def check_dump(dump: object) -> Dump:
    """The dump itself. Raises InputError for anything else, such as its path."""
    if not isinstance(dump, Dump):
        raise InputError(f"dump is {dump!r}, a {type(dump).__name__}; open it first: lb.open({str(dump)!r})")
    return dump


def repeated_steps(dump: Dump) -> int:
    """How many (phase, dataset, step) more than one session recorded: a run started again in the same folder.

    Rows that `resume_from` hides do not count.
    """
    frames: list[pl.LazyFrame] = []
    for session in dump.sessions:
        paths = [shard.path for shard in dump.shards("batches") if shard.session is session]
        if paths:
            frame = dump.visible(session)(pl.scan_parquet(paths, glob=False, hive_partitioning=False))
            frames.append(
                frame.select("phase", "dataset", "step").unique().with_columns(by=pl.lit(session.session))
            )
    if len({session.session for session in dump.sessions}) < 2 or not frames:
        return 0
    told = pl.concat(frames).group_by("phase", "dataset", "step").agg(pl.col("by").n_unique())
    return int(told.filter(pl.col("by") > 1).select(pl.len()).collect().item())
