"""`calibration`: the reliability table of top-1 confidence, and what follows from it, for every subset of a dump.

Confidence is p(arg-max) = exp(−top_nll). With B equal-width bins, left-closed, the last closed on both sides:
ECE = Σ_b n_b/N · |accuracy_b − confidence_b| (Guo et al. 2017, arXiv 1706.04599); MCE is the largest gap of a bin
that has tokens. Both from float64 sums over a fine grid. Where its bins nest in the B bins they are exact; else a fine
bin that lies across an edge counts where its mean does, and `ece_error` says what that may change at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.calibration.buckets import Buckets
from logitbox.analysis.calibration.checking import check_bins
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.result import Calibration
from logitbox.analysis.calibration.scan import Row, Scan, scan
from logitbox.analysis.calibration.temperatures import heat_of
from logitbox.analysis.calibration.vocabulary import class_errors
from logitbox.analysis.calibration.words import verdict_of_table
from logitbox.analysis.calibration.worst import rank_worst
from logitbox.analysis.leftout import left_out
from logitbox.analysis.passes import Progress
from logitbox.analysis.populations import ALL
from logitbox.analysis.results import Result
from logitbox.analysis.splitting import by_columns
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

MOST_ROWS = 500
"""Rows up to which a table has intervals; they cost tens of milliseconds each."""

_VALUES = ("accuracy", "confidence", "ece", "mce")
_COLUMNS: tuple[tuple[str, bool], ...] = (
    ("ece", True),
    ("ece_noise", False),
    ("overconfidence", True),
    ("l2_debiased", False),
    ("brier", False),
    ("nll", False),
    ("entropy", False),
    ("entropy_gap", True),
)
"""Measures after those, and whether their intervals are shown."""

_FRAME: dict[str, Any] = {
    "n": pl.Int64,
    **dict.fromkeys(_VALUES, pl.Float64),
    **dict.fromkeys(
        ("ece_low", "ece_high", "ece_noise", "overconfidence", "overconfidence_low", "overconfidence_high"),
        pl.Float64,
    ),
    **dict.fromkeys(("l2_debiased", "brier", "nll", "entropy"), pl.Float64),
    **dict.fromkeys(("entropy_gap", "entropy_gap_low", "entropy_gap_high"), pl.Float64),
    "clusters": pl.Int64,
    "left_out": pl.Int64,
    "ece_error": pl.Float64,
}
_TABLE: dict[str, Any] = {
    "bin": pl.Int64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    **dict.fromkeys(("accuracy", "confidence", "gap"), pl.Float64),
}
_TAKEN = frozenset([*_FRAME, *_TABLE, "p", "p_adjusted", "note"])
"""Names of columns in results, which a by-column cannot have."""

_NOISY = (
    "ece_low",
    "ece_high",
    "ece_noise",
    "overconfidence_low",
    "overconfidence_high",
    "entropy_gap_low",
    "entropy_gap_high",
)


@dataclass(frozen=True, eq=False)
class CalibrationTable(Result):
    """Reliability of the arg-max's probability, subset by subset.

    Attributes:
        frame: one row per phase, by-columns and type that has tokens: `n`, `accuracy`, `confidence`, `ece`, `mce`, the 95 %
            interval of ECE `ece_low` and `ece_high`, what sampling alone would show `ece_noise`, `overconfidence` (confidence −
            accuracy) with `overconfidence_low` and `overconfidence_high`, `l2_debiased`, `brier`, `nll`, `entropy`, `entropy_gap` with its
            interval, `clusters` (samples; 2,048 stands for as many or more, put together) and `left_out` (NaN or
            infinite). `measures.MEASURES` holds the definitions. Where bins do not nest in the histogram's, `ece_error`
            says how far off `ece` may be at most.
        table: the reliability table: per bin `low`, `high`, `n`, `accuracy`, `confidence`, `gap` (here accuracy −
            confidence); only bins that have tokens.
        bins: number of equal-width bins.
        scan: the sums that all is made of.
    """

    table: pl.DataFrame
    bins: int
    scan: Scan = field(repr=False)

    @property
    def by(self) -> tuple[str, ...]:
        """Columns that the rows are split by, beside phase and type."""
        return self.scan.by

    def ece(self, phase: str, token_type: str = ALL) -> float:
        """Expected calibration error of one phase and token type (without by-columns)."""
        rows = self.frame.filter((pl.col("phase") == phase) & (pl.col("type") == token_type))
        if rows.height != 1:
            raise InputError(f"{rows.height} rows have phase {phase!r} and type {token_type!r}; see .frame")
        return float(rows["ece"][0])

    def of(self, phase: str | None = None, type: str = ALL, **where: Any) -> Calibration:  # noqa: A002 (as in frames)
        """Every measure of one subset, each computed when first asked for.

        Args:
            phase: by default the only one, else "eval", else the last that is not train.
            type: token type; "" is all tokens.
            where: value of by-columns, or of `dataset`; all values of those that are not named are pooled.

        Raises:
            InputError: nothing matches.
        """
        row = _picked(self.scan, phase, type, where)
        return _calibration_of(self.scan, row, self.scan.evidence(row, self.bins))

    def worst(self, n: int | None = 10, by: str | Sequence[str] | None = None) -> pl.DataFrame:
        """Subgroups that are calibrated worst, with p-values that allow for having looked at many (see `worst.rank_worst`).

        Args:
            n: how many; None for all.
            by: any of the by-columns and "type": subgroups are the combinations of their values, in every phase. By
                default all of them, and all tokens of each combination too; of those that are the same tokens the first.

        Returns:
            No rows where nothing is split.

        Raises:
            InputError: a column that the table is not split by.
        """
        names = by_columns(by)
        for name in names:
            if name not in ("phase", "type", *self.by):
                allowed = ", ".join([*self.by, "type"])
                raise InputError(f"by names {name!r}, but this table is split by {allowed}")
        keys = ["phase", *(name for name in self.by if by is None or name in names)]
        types = [name for name in self.scan.types if name != ALL] if by is None or "type" in names else []
        types += [ALL] if "type" not in names and len(keys) > 1 else []
        rows = list(self.scan.rows(keys, types))
        if by is None:
            counted = self.scan.cells["_n"].to_numpy() > 0
            held = {tuple(row.cells[counted[row.cells]]): row for row in reversed(rows)}
            rows = list(held.values())[::-1]
        found = (({**row.keys, "type": row.type}, self.scan.evidence(row, self.bins)) for row in rows)
        ranked = rank_worst(found, n)
        if not rows:
            ranked = _keyed(rows, keys, self.scan).hstack(ranked)
        return ranked.with_columns(pl.col(name).cast(self.scan.cells.schema[name]) for name in keys)


def calibration(
    dump: Dump,
    by: str | Sequence[str] | None = None,
    *,
    bins: int = 15,
    cluster: str = "sample",
    intervals: bool | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> CalibrationTable:
    """Reliability table and calibration errors per phase, by-columns and token type.

    Args:
        dump: an opened dump.
        by: any of dataset, pass, step, epoch, whole-number columns of `tokens` (rank, micro, …), columns of `samples`
            (source, group, any of the user's), and the computed `position` (in the sample) and `gold_frequency` (how
            often the gold id occurs), each in four buckets of about equally many tokens.
        bins: number of equal-width bins. Exact where it divides 16,200, or 300 when split by anything but dataset,
            source, position and gold_frequency; else the column `ece_error` says how far off ECE may be.
        cluster: what is independent of each other: "sample", or a column of `samples` such as "group". A row without a
            value there is of its sample's own cluster.
        intervals: by default a table of up to 500 rows has them. True or False decides.
        executor: where to sum up shards.
        progress: told after every shard.

    Raises:
        InputError: a column that cannot be split by, or no number of bins.
    """
    names = by_columns(by)
    check_bins(bins)
    for name in names:
        if name in _TAKEN:
            raise InputError(
                f"by names {name!r}, which results use for a column of their own; give that column of samples "
                "another name"
            )
    return calibration_of_scan(scan(dump, names, cluster, executor, progress), bins, intervals)


def calibration_of_scan(
    found: Scan, bins: int = 15, intervals: bool | None = None, types: Sequence[str] | None = None
) -> CalibrationTable:
    """`calibration` from sums at hand, by default of all types that have tokens."""
    check_bins(bins)
    keys = ["phase", *found.by]
    rows = list(found.rows(keys, found.types if types is None else types))
    shown = len(rows) <= MOST_ROWS if intervals is None else intervals
    kept: dict[str, Calibration] = {}
    values: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        result = _calibration_of(found, row, found.evidence(row, bins))
        values.append(_frame_row(result, found.n_clusters(row), intervals=shown))
        tables.append(_table_rows(result.evidence, number))
        if len(keys) == 1 and row.type == ALL:
            kept[row.keys["phase"]] = result
    frame = _keyed(rows, keys, found).hstack(_columns(values, _FRAME))
    if not (frame["ece_error"] > 0).any():
        frame = frame.drop("ece_error")
    joined = _concatenated(tables)
    table = _keyed(rows, keys, found)[joined.pop("row").tolist()].hstack(pl.DataFrame(joined, _TABLE))
    verdict = _verdict(found, bins, kept, len(rows), None if shown or intervals is not None else MOST_ROWS)
    return CalibrationTable(frame, verdict, table, bins, found)


def _frame_row(result: Calibration, clusters: int, *, intervals: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"n": result.n, "clusters": clusters, "left_out": result.left_out}
    row |= {name: result.value(name) for name in _VALUES}
    for name, has_interval in _COLUMNS:
        if intervals or name not in _NOISY:
            row[name] = result.value(name)
        if intervals and has_interval:
            row[f"{name}_low"], row[f"{name}_high"] = result.interval(name) or (None, None)
    return row | {"ece_error": result.error("ece")}


def _table_rows(evidence: Evidence, number: int) -> dict[str, Any]:
    atoms = evidence.table
    accuracy, confidence = atoms.right / atoms.n, atoms.confidence / atoms.n
    place = np.rint(atoms.low * evidence.bins).astype(np.int64)
    return {
        "row": np.full(len(atoms), number),
        "bin": place,
        "low": place / evidence.bins,
        "high": (place + 1) / evidence.bins,
        "n": atoms.count.astype(np.int64),
        "accuracy": accuracy,
        "confidence": confidence,
        "gap": accuracy - confidence,
    }


def _keyed(rows: Sequence[Row], keys: Sequence[str], found: Scan) -> pl.DataFrame:
    """Columns of the keys and `type`."""
    schema = {name: found.cells.schema[name] for name in keys}
    columns = [pl.Series(name, [row.keys[name] for row in rows], dtype) for name, dtype in schema.items()]
    return pl.DataFrame([*columns, pl.Series("type", [row.type for row in rows], pl.String)])


def _columns(values: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    columns = {name: [row.get(name) for row in values] for name in schema}
    return pl.DataFrame(columns, schema)


def _concatenated(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not parts:
        return {"row": np.zeros(0, dtype=np.int64), **{name: [] for name in _TABLE}}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _verdict(found: Scan, bins: int, kept: Mapping[str, Calibration], rows: int, most: int | None) -> str:
    """Of all tokens of every phase, however the table is split."""
    whole = list(found.rows(["phase"], [ALL]))
    results = [
        kept.get(row.keys["phase"]) or _calibration_of(found, row, found.evidence(row, bins)) for row in whole
    ]
    return verdict_of_table(results, [left_out(found.lost(row)) for row in whole], rows, most)


def _calibration_of(found: Scan, row: Row, evidence: Evidence) -> Calibration:
    keys = {**found.where, **row.keys}
    phase = keys["phase"]
    told = [row.type, *(f"{name} {value}" for name, value in keys.items() if name != "phase" and value != "")]
    where = dict(_wanted(found.buckets, keys))
    given = (found.dump, phase, row.type, where)
    return Calibration(
        evidence,
        " · ".join(part for part in (phase, *told) if part),
        partial(heat_of, *given),
        partial(class_errors, *given, bins=evidence.bins),
    )


def _wanted(buckets: Sequence[Buckets], keys: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Which rows are meant, by columns of tokens and samples, for a further pass over them."""
    cut = {found.name: found for found in buckets}
    for name, value in keys.items():
        if name in cut:
            yield cut[name].column, _in_bucket(cut[name], cut[name].labels.index(value))
        elif name != "phase":
            yield name, value


def _in_bucket(found: Buckets, number: int) -> Callable[[Any], Any]:
    return lambda values: found.of(values) == number


def _picked(found: Scan, phase: str | None, type_name: str, where: Mapping[str, Any]) -> Row:
    """The cells of one subset. Raises InputError where there are none, or a name means nothing."""
    held = found.cells.filter(pl.col("_n") > 0)
    phases = held["phase"].unique().sort().to_list()
    if phase is None and phases:
        others = [name for name in phases if name != "train"]
        phase = "eval" if "eval" in phases else (others or phases)[-1]
    allowed = tuple(dict.fromkeys((*found.by, "dataset")))
    for name in where:
        if name not in allowed:
            raise InputError(
                f"{name!r} is no by-column of this table; it can be narrowed by {', '.join(allowed)}"
            )
    if phase not in phases:
        raise InputError(
            f"phase is {phase!r}; there are {', '.join(phases) or 'none with finite supervised tokens'}"
        )
    if type_name not in found.types:
        raise InputError(f"type is {type_name!r}; there are {', '.join(map(repr, found.types))}")
    rest = Scan.of_type(found.cells, type_name).filter(pl.col("phase") == phase)
    for name, value in where.items():
        rest = _narrowed(rest, name, value)
    if not rest["_n"].sum():
        told = "".join(f", {name} {value!r}" for name, value in where.items())
        raise InputError(f"no finite tokens have phase {phase!r}, type {type_name!r}{told}; see .frame")
    return Row({"phase": phase, **where}, type_name, rest["_cell"].to_numpy().astype(np.int64))


def _narrowed(cells: pl.DataFrame, name: str, value: Any) -> pl.DataFrame:
    known = cells[name].unique().sort(nulls_last=True).to_list()
    try:
        found = cells.filter(pl.col(name).eq_missing(pl.lit(value)))
    except pl.exceptions.PolarsError:  # of another type
        found = cells.clear()
    if found.is_empty():
        shown = ", ".join(map(repr, known[:10])) + (", …" if len(known) > 10 else "")
        raise InputError(f"{name} is {value!r}; there are {shown or 'none'}")
    return found
