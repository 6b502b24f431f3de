"""`calibration`: the reliability table of top-1 confidence, and what follows from it.

Confidence is p(arg-max) = exp(−top_nll). With B equal-width bins, left-closed, the last closed on both sides:
ECE = Σ_b n_b/N · |accuracy_b − confidence_b| (Guo et al. 2017, arXiv 1706.04599); MCE is the largest gap of a bin
that has tokens. Both from float64 sums over a fine grid whose bins nest in the B bins exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import polars as pl

from logitbox.analysis.histogram import COARSE, FINE
from logitbox.analysis.populations import ALL
from logitbox.analysis.results import Result
from logitbox.analysis.tally import Tally, merge_frames
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

BY = ("dataset", "pass", "step", "epoch")
_OF_FINE = {"dataset"}


@dataclass(frozen=True)
class Calibration(Result):
    """Reliability of the arg-max's probability.

    Attributes:
        frame: one row per phase, by-columns and type: `n`, `accuracy`, `confidence`, `ece`, `mce`.
        table: the reliability table: per bin `low`, `high`, `n`, `accuracy`, `confidence`, `gap`; only bins
            that have tokens.
        bins: number of equal-width bins.
    """

    table: pl.DataFrame
    bins: int

    def ece(self, phase: str, token_type: str = ALL) -> float:
        """Expected calibration error of one phase and token type (without by-columns)."""
        rows = self.frame.filter((pl.col("phase") == phase) & (pl.col("type") == token_type))
        if rows.height != 1:
            raise InputError(f"{rows.height} rows have phase {phase!r} and type {token_type!r}; see .frame")
        return float(rows["ece"][0])


def calibration(
    dump: Dump,
    by: str | Sequence[str] | None = None,
    bins: int = 15,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Reliability table and calibration errors per phase and token type.

    Args:
        dump: an opened dump.
        by: any of dataset, pass, step, epoch.
        bins: number of equal-width bins; must divide 16,200 (300 when split by step).
        executor: where to tally shards.
        progress: told after every shard.

    Raises:
        InputError: a `by` or a number of bins that the histograms cannot give.
    """
    names = (by,) if isinstance(by, str) else tuple(by or ())
    for name in names:
        if name not in BY:
            raise InputError(f"by is {name!r}; calibration can be split by {', '.join(BY)}")
    return calibration_of_tally(tally_dump(dump, (), executor, progress), names, bins)


def calibration_of_tally(tally: Tally, by: Sequence[str] = (), bins: int = 15) -> Calibration:
    """`calibration` from a tally at hand."""
    grid, histogram = (FINE, tally.fine) if set(by) <= _OF_FINE else (COARSE, tally.coarse)
    keys = ["phase", *by, "type"]
    coarse = pl.Series("bin", grid.coarsen(histogram["bin"].to_numpy(), bins), pl.Int64)
    sums = merge_frames(
        [histogram.with_columns(coarse).select(*keys, "bin", "n", "confidence", "correct")],
        ("n", "confidence", "correct"),
    )
    n = pl.col("n")
    table = (
        sums.with_columns(
            (pl.col("bin") / bins).alias("low"),
            ((pl.col("bin") + 1) / bins).alias("high"),
            (pl.col("correct") / n).alias("accuracy"),
            (pl.col("confidence") / n).alias("confidence"),
        )
        .with_columns((pl.col("accuracy") - pl.col("confidence")).alias("gap"))
        .select(*keys, "bin", "low", "high", "n", "accuracy", "confidence", "gap")
        .sort([*keys, "bin"], nulls_last=True)
    )
    share = n / n.sum()
    frame = table.group_by(keys, maintain_order=True).agg(
        n.sum(),
        *((share * pl.col(name)).sum().alias(name) for name in ("accuracy", "confidence")),
        (share * pl.col("gap").abs()).sum().alias("ece"),
        pl.col("gap").abs().max().alias("mce"),
    )
    return Calibration(frame, _verdict(frame), table, bins)


def _verdict(frame: pl.DataFrame) -> str:
    whole = frame.filter(pl.col("type") == ALL)
    if whole.is_empty():
        return "no finite supervised tokens to calibrate"
    parts: list[str] = []
    for row in whole.group_by("phase", maintain_order=True).last().iter_rows(named=True):
        gap = row["confidence"] - row["accuracy"]
        lean = "over-confident" if gap > 0 else "under-confident"
        parts.append(
            f"{row['phase']}: ECE {row['ece']:.4f} over {row['n']:,} tokens; mean confidence {row['confidence']:.4f} "
            f"against accuracy {row['accuracy']:.4f} ({lean} by {abs(gap):.4f} on average)"
        )
    return "; ".join(parts)
