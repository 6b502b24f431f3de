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
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from logitbox.analysis.calibration.buckets import Buckets
from logitbox.analysis.calibration.checking import check_bins
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.result import Calibration
from logitbox.analysis.calibration.scan import Row, Scan, scan
from logitbox.analysis.calibration.temperatures import heat_of
from logitbox.analysis.calibration.vocabulary import class_errors
from logitbox.analysis.calibration.words import pooled, verdict_of_table
from logitbox.analysis.calibration.worst import rank_worst
from logitbox.analysis.given import check_dump
from logitbox.analysis.leftout import left_out
from logitbox.analysis.passes import Progress
from logitbox.analysis.populations import ALL
from logitbox.analysis.results import Result
from logitbox.analysis.splitting import by_columns
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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

_OFFERED = ("type", "position", "gold_frequency", "step", "epoch", "pass", "dataset")
"""What every dump can be split by, the most telling first."""

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
            interval, `clusters` (samples; 2,048 stands for as many or more, put together, unless each is one token) and `left_out` (NaN or
            infinite). `measures.MEASURES` holds the definitions. `ece_error` says how far off `ece` may be at most: 0 where
            the bins nest in the histogram's.
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

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw a diagram; returns the Axes and leaves matplotlib's global state alone.

        Args:
            ax: where to draw; by default a new figure.
            options: `kind` ("reliability", "cumulative", "types": all types side by side, or "steps", which needs by="step");
                `phase`, `type` and by-columns choose the tokens: by default the last phase that is not train, all of its
                tokens, and the last value of each by-column.

        Raises:
            InputError: nothing matches, or there is no such kind.
        """
        return super().plot(ax, **options)

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

        Returns:
            Of tokens that were all left out, as NaN or infinite ones are, a calibration of none: `n` is 0, and `left_out`
            says how many there are.

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
            InputError: a column that the table is not split by, or a table made with intervals=False.
        """
        if not self.scan.intervals:
            raise InputError(
                "this table was made with intervals=False, and ranking needs them; leave that out"
            )
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
            source, position and gold_frequency; else `ece_error` is above 0.
        cluster: what is independent of each other: "sample", or a column of `samples` such as "group". A row without a
            value there is of its sample's own cluster.
        intervals: by default a table of up to 500 rows has them. True or False decides. False keeps no sums by sample and
            confidence, most of what a table of many rows holds, so that `.of(…)` and `.worst()` have no intervals either.
        executor: where to sum up shards; any `concurrent.futures.Executor`. Processes must not be forked:
            `ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))`.
        progress: told after every shard.

    Raises:
        InputError: a column that cannot be split by, no number of bins, or processes that are forked.
    """
    names = _names(dump, by, bins)
    found = scan(dump, names, cluster, executor, progress, intervals=intervals is not False)
    return calibration_of_scan(found, bins, intervals)


def calibration_at(
    dump: Dump,
    steps: Mapping[str, int],
    by: Sequence[str] = (),
    bins: int = 15,
    progress: Progress | None = None,
) -> CalibrationTable:
    """`calibration` of one step of each phase, split by step too; phases that are not named are left out."""
    names = _names(dump, [*by, "step"], bins)
    tests = [(pl.col("phase") == phase) & (pl.col("step") == step) for phase, step in steps.items()]
    wanted = pl.any_horizontal(tests).alias("keep")
    found = scan(dump, names, progress=progress, only=lambda cells: cells.select(wanted)["keep"])
    return calibration_of_scan(found, bins)


def _names(dump: Dump, by: str | Sequence[str] | None, bins: int) -> tuple[str, ...]:
    """What is split by, checked before anything is read."""
    names = by_columns(by)
    check_bins(bins)
    check_dump(dump)
    samples, tokens = (frame.collect_schema().names() for frame in (dump.samples, dump.tokens))
    for name in names:
        if name in _TAKEN:
            raise InputError(
                f"by names {name!r}, which results use for a column of their own; give that column of samples "
                "another name"
            )
        if name not in (*_OFFERED, "phase", *samples, *tokens):
            raise InputError(
                f"by names {name!r}, which is a column of neither tokens nor samples; there are {', '.join(_OFFERED)}, "
                f"samples have {', '.join(samples)}, tokens have {', '.join(tokens)}"
            )
    return names


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
    whole = [row for empty in (False, True) for row in found.rows(["phase"], [ALL], empty=empty)]
    whole.sort(key=lambda row: row.keys["phase"])
    results = [
        kept.get(row.keys["phase"]) or _calibration_of(found, row, found.evidence(row, bins)) for row in whole
    ]
    # A phase without tokens is told of already.
    held = {row.keys["phase"] for row, result in zip(whole, results, strict=True) if result.n}
    empty = [row for row in found.rows(["phase", *found.by], [ALL], empty=True) if row.keys["phase"] in held]
    lost = [(_told(found, row), left_out(found.lost(row))) for row in empty]
    return verdict_of_table(
        results, [left_out(found.lost(row)) for row in whole], lost, rows, most, steps_of(found)
    )


def steps_of(found: Scan) -> dict[str, str]:
    """Of each phase whose tokens are of several steps or of one that was chosen, which steps, in words."""
    if "step" in found.where:
        return {}
    is_split = "step" in found.by
    # Not split by step, sums do not know it; the table of micro-batches does, and is small.
    places = found.cells.lazy() if is_split else found.dump.batches.filter(pl.col("n_supervised") > 0)
    step = pl.col("step")
    told = (
        places.filter(step.is_not_null())
        .group_by("phase")
        .agg(step.n_unique().alias("steps"), step.min().alias("first"), step.max().alias("last"))
        .filter((pl.col("steps") > 1) | pl.lit(is_split))
        .sort("phase")
        .collect()
    )
    return {row["phase"]: pooled(**row) for row in told.iter_rows(named=True)}


def _calibration_of(found: Scan, row: Row, evidence: Evidence) -> Calibration:
    keys = {**found.where, **row.keys}
    given = (found.dump, keys["phase"], row.type, dict(_wanted(found.buckets, keys)))
    return Calibration(
        evidence,
        _told(found, row),
        partial(heat_of, *given),
        partial(class_errors, *given, bins=evidence.bins),
    )


def _told(found: Scan, row: Row) -> str:
    """What the tokens are, in words."""
    keys = {**found.where, **row.keys}
    told = [row.type, *(f"{name} {value}" for name, value in keys.items() if name != "phase" and value != "")]
    return " · ".join(part for part in (keys["phase"], *told) if part)


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
    phases = found.cells["phase"].unique().sort().to_list()
    if phase is None and phases:
        counted = found.cells.filter(pl.col("_n") > 0)["phase"].unique().sort().to_list() or phases
        others = [name for name in counted if name != "train"]
        phase = "eval" if "eval" in counted else (others or counted)[-1]
    allowed = tuple(dict.fromkeys((*found.by, "dataset")))
    for name in where:
        if name not in allowed:
            raise InputError(
                f"{name!r} is no by-column of this table; it can be narrowed by {', '.join(allowed)}"
            )
    if phase not in phases:
        raise InputError(
            f"phase is {phase!r}; there are {', '.join(phases) or 'none with supervised tokens'}"
        )
    types = found.met_types
    if type_name not in types:
        raise InputError(f"type is {type_name!r}; there are {', '.join(map(repr, types))}")
    rest = Scan.of_type(found.cells, type_name).filter(pl.col("phase") == phase)
    for name, value in where.items():
        rest = _narrowed(rest, name, value)
    if rest.is_empty():
        told = "".join(f", {name} {value!r}" for name, value in where.items())
        raise InputError(f"no tokens have phase {phase!r}, type {type_name!r}{told}; see .frame")
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
