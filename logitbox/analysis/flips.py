"""`flips`: how often the arg-max falls in another class of tokens than gold, and how much mass leaks there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import polars as pl

from logitbox.analysis.metrics import SCHEMA, Metrics, metrics, metrics_of_tally
from logitbox.analysis.results import Result
from logitbox.analysis.tally import Tally
from logitbox.analysis.tallying import Progress
from logitbox.dumps.definitions.groups import monitored
from logitbox.dumps.dump import Dump


@dataclass(frozen=True, eq=False)
class Flips(Result):
    """Flip rates and group masses (seed 000's `coord_monitor/*` for the group `coord`).

    Attributes:
        frame: as of `metrics`, only the keys `…_monitor/…`.
    """

    @property
    def rates(self) -> pl.DataFrame:
        """Rows of arg-max flip rates."""
        return self.frame.filter(pl.col("key").str.contains("_monitor/flip_", literal=True))

    @property
    def masses(self) -> pl.DataFrame:
        """Rows of mean probability mass."""
        return self.frame.filter(pl.col("key").str.contains("_vocab_mass_at_gt_", literal=True))


def flips(
    dump: Dump,
    *,
    by: str | Sequence[str] | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Flips:
    """Flip rates in both directions and probability masses of every vocabulary group.

    Args:
        dump: an opened dump; without vocabulary groups the result is empty and says so.
        by: as in `metrics`.
        executor: where to tally shards.
        progress: told after every shard.
    """
    return _of_metrics(metrics(dump, by, executor=executor, progress=progress), dump)


def flips_of_tally(tally: Tally, dump: Dump, by: Sequence[str] = ()) -> Flips:
    """`flips` from a tally at hand."""
    return _of_metrics(metrics_of_tally(tally, dump, by), dump)


def _of_metrics(table: Metrics, dump: Dump) -> Flips:
    frame = table.frame.filter(pl.col("key").str.contains("_monitor/", literal=True))
    if not any(monitored(session.spec) for session in dump.sessions):
        answers = " but a decision's answers" if any(session.spec.groups for session in dump.sessions) else ""
        told = f"no vocabulary groups{answers} were recorded; pass groups= to the Recorder to see flips"
        return Flips(frame, told)
    rates = frame.filter(
        pl.col("key").str.contains("_monitor/flip_", literal=True) & pl.col("value").is_not_null()
    )
    if rates.is_empty():
        reasons = frame["reason"].drop_nulls()
        return Flips(
            frame, reasons[0] if len(reasons) else "no finite supervised token of a session with groups"
        )
    worst = rates.sort("value", descending=True, maintain_order=True).row(0, named=True)
    if worst["value"] == 0:
        return Flips(frame, f"no flips: the arg-max never crosses a group's border ({rates.height} rates)")
    split = [f"{name} {worst[name]}" for name in frame.columns if name not in SCHEMA]
    where = f" at {', '.join(split)}" if split else ""
    return Flips(
        frame, f"highest flip rate: {worst['key']} = {worst['value']:.4f} of {worst['n']:,} tokens{where}"
    )
