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
from logitbox.analysis.splitting import by_columns
from logitbox.analysis.tally import HISTOGRAM_SUMS, Tally, merge_frames
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

BY = ("dataset", "pass", "step", "epoch")
_OF_FINE = {"dataset"}


@dataclass(frozen=True, eq=False)
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
    *,
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
    names = by_columns(by)
    _check_by(names)
    tally = tally_dump(dump, (), executor, progress, per_step=not set(names) <= _OF_FINE)
    return calibration_of_tally(tally, names, bins)


def _check_by(names: Sequence[str]) -> None:
    for name in names:
        if name not in (*BY, "phase", "type"):
            raise InputError(f"by is {name!r}; calibration can be split by {', '.join(BY)}")


def calibration_of_tally(tally: Tally, by: Sequence[str] = (), bins: int = 15) -> Calibration:
    """`calibration` from a tally at hand."""
    _check_by(by_columns(by))
    by = [name for name in by_columns(by) if name not in ("phase", "type")]
    grid, histogram = (FINE, tally.fine) if set(by) <= _OF_FINE else (COARSE, tally.coarse)
    if histogram.is_empty() and not tally.fine.is_empty():
        raise InputError(
            "this tally has no histograms per step; make it with tally_dump(dump, per_step=True)"
        )
    coarse = pl.Series("bin", grid.coarsen(histogram["bin"].to_numpy(), bins), pl.Int64)
    binned = histogram.with_columns(coarse)
    table = _table(binned, ["phase", *by, "type"], bins)
    frame = _errors(table, ["phase", *by, "type"])
    whole = _errors(_table(binned.filter(pl.col("type") == ALL), ["phase"], bins), ["phase"])
    return Calibration(frame, _verdict(whole, bins), table, bins)


def _table(binned: pl.DataFrame, keys: Sequence[str], bins: int) -> pl.DataFrame:
    """The reliability table per `keys`, from a histogram whose `bin` is one of the `bins`."""
    sums = merge_frames([binned.select(*keys, "bin", *HISTOGRAM_SUMS)], HISTOGRAM_SUMS)
    n = pl.col("n")
    return (
        sums.with_columns(
            _edge(sums["bin"], bins).alias("low"),
            _edge(sums["bin"] + 1, bins).alias("high"),
            (pl.col("correct") / n).alias("accuracy"),
            (pl.col("confidence") / n).alias("confidence"),
        )
        .with_columns((pl.col("accuracy") - pl.col("confidence")).alias("gap"))
        .select(*keys, "bin", "low", "high", "n", "accuracy", "confidence", "gap")
        .sort([*keys, "bin"], nulls_last=True)
    )


def _edge(number: pl.Series, bins: int) -> pl.Series:
    """The edges k/bins, correctly rounded (polars multiplies by a rounded 1/bins instead)."""
    return pl.Series(number.to_numpy() / bins, dtype=pl.Float64)


def _errors(table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """ECE and MCE per `keys`."""
    n = pl.col("n")
    share = n / n.sum()
    return table.group_by(keys, maintain_order=True).agg(
        n.sum(),
        *((share * pl.col(name)).sum().alias(name) for name in ("accuracy", "confidence")),
        (share * pl.col("gap").abs()).sum().alias("ece"),
        pl.col("gap").abs().max().alias("mce"),
    )


def _verdict(whole: pl.DataFrame, bins: int) -> str:
    parts: list[str] = []
    for row in whole.iter_rows(named=True):
        gap = row["confidence"] - row["accuracy"]
        lean = "over-confident" if gap > 0 else "under-confident"
        parts.append(
            f"{row['phase']}: ECE {row['ece']:.4f} ({bins} bins) over {row['n']:,} tokens; "
            f"mean confidence {row['confidence']:.4f} against accuracy {row['accuracy']:.4f} "
            f"({lean} by {abs(gap):.4f} on average)"
        )
    return "; ".join(parts) if parts else "no finite supervised tokens to calibrate"
