"""What calibration keeps of a shard: sums that add up to those of any set of shards.

Rows are summed by cell, a combination of key columns and token types. Types overlap, but a row lies in one cell only:
the cell's name lists all types that its rows are of, and a type's sums are those of all cells that list it.

A cluster is a sample of a data set, wherever in the dump it is met; it is known by a hash, the same in every shard and
session. Where a phase has more than `MOST_CLUSTERS`, they are put together by what is left of the hash. Only the union
of all shards decides that, so that the result does not depend on how tokens lie in shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.calibration.buckets import Buckets
from logitbox.analysis.calibration.evidence import CLUSTER_GRID, MOST_CLUSTERS
from logitbox.analysis.histogram import FINE, Grid
from logitbox.analysis.passes import Pass
from logitbox.analysis.populations import is_internal
from logitbox.analysis.reading import ShardTask, codes, read_rows
from logitbox.analysis.sums import Classes, added, compress
from logitbox.dumps.definitions.registry import populations_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.definitions.tokens import duplicate, finite, rank_of_gold
from logitbox.dumps.spec import RecordSpec

Int = NDArray[np.int64]
Float = NDArray[np.float64]

KIND = "_kind"
"""Column with the names of all populations of a cell, one a line: names have no line breaks."""

PLACE = ("phase", "dataset")
"""Key columns that there always are."""

LOST = ("n_nonfinite", "n_duplicate")
HISTOGRAM = ("n", "right", "confidence", "right_confidence")
CLUSTERS = ("n", "correct", "confidence", "brier", "log", "nll", "entropy")
BINNED = ("n", "residual")

_NEEDS = ("flags", "gold", "types", "top_nll", "n_gt", "n_eq_before", "nll", "entropy")
_HASH_BIT = np.uint64(1 << 62)
"""Set in every hash, so that none is below MOST_CLUSTERS; the sign bit is not."""


@dataclass(frozen=True)
class Profile:
    """How finely confidences are told apart: in histograms, and in the sums by cluster."""

    atoms: Grid
    clusters: Grid


WHOLE = Profile(FINE, CLUSTER_GRID)
"""Of few, large cells."""

SPLIT = Profile(Grid(300, 12), Grid(60, 6))
"""Of many cells, as of every step."""


@dataclass(frozen=True)
class CalibrationTask(ShardTask):
    """A shard, and what to sum up of it."""

    profile: Profile = WHOLE
    cluster: str = ""
    """Column of `samples` whose values are the clusters; by default samples are."""
    buckets: tuple[Buckets, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Key columns that are read, and the clusters'."""
        return tuple(dict.fromkeys((*PLACE, *self.by, *((self.cluster,) if self.cluster else ()))))

    @property
    def options(self) -> str:
        """What else the sums depend on."""
        cuts = [(found.name, found.fingerprint) for found in self.buckets]
        return f"{self.profile} {self.cluster!r} {cuts}"


@dataclass(frozen=True)
class Partial:
    """Sums over tokens, sparse.

    Attributes:
        cells: one row per combination of keys and token types: the key columns, `_kind`, and how many tokens were left
            out, `n_nonfinite` and `n_duplicate`.
        histogram: per `cell` (a row of `cells`) and `bin`: `n` tokens, `right` ones, Σ `confidence`, and Σ
            `right_confidence` over the right ones. Ascending in cell and bin.
        clusters: per `cell` and `unit` (a cluster): `n` and Σ of each quantity. Ascending in cell and unit.
        binned: per `cluster` (a row of `clusters`) and `bin` of the coarser grid: `n` and Σ `residual`, correct −
            confidence. Ascending in both.
        lone: per `phase`, every `unit` of its counted tokens as long as none has two of them; one row 0 where one has.
            So it is known that tokens are independent, as a classifier's are, also where units were put together.
    """

    cells: pl.DataFrame
    histogram: pl.DataFrame
    clusters: pl.DataFrame
    binned: pl.DataFrame
    lone: pl.DataFrame


def partial_of_shard(task: CalibrationTask) -> Partial:
    """Sum up one shard. Raises DamagedDumpError if its bytes are not those that were written."""
    shard = read_rows(task, _needed(task.spec, task.buckets))
    rows = Rows(shard.columns, task.spec)
    keys = shard.keys.with_columns(
        pl.Series(found.name, found.of(shard.columns[found.column])) for found in task.buckets
    )
    names = list(dict.fromkeys((*PLACE, *task.by, *(found.name for found in task.buckets))))
    key, distinct = codes(keys, names)
    member = {p.name: p.mask(rows) for p in populations_of(task.spec) if not is_internal(p.name)}
    classes = Classes.of(list(member.values()))
    kinds = max(len(classes), 1)
    held, cell = compress(key * kinds + classes.of_row, len(distinct) * kinds)
    names_of = ["\n".join(np.array(list(member))[mask]) for mask in classes.member]
    repeated = duplicate(rows)
    good = finite(rows) & ~repeated
    cells = distinct[(held // kinds).tolist()].with_columns(
        pl.Series(KIND, [names_of[i] for i in held % kinds], pl.String),
        *(
            pl.Series(name, np.bincount(cell[lost], minlength=len(held)).astype(np.int64))
            for name, lost in zip(LOST, (~good & ~repeated, repeated), strict=True)
        ),
    )
    unit = _units(shard.columns["sample"], keys, task.cluster)
    columns = shard.columns
    if not good.all():
        columns = {name: values[good] for name, values in columns.items()}
        cell, unit = cell[good], unit[good]
    return _summed(cells, cell, unit, _quantities(Rows(columns, task.spec)), task.profile)


def _needed(spec: RecordSpec, buckets: Sequence[Buckets]) -> list[str]:
    shown = (population for population in populations_of(spec) if not population.is_internal)
    needs = (name for population in shown for name in population.needs)
    return list(dict.fromkeys([*_NEEDS, *needs, *(found.column for found in buckets)]))


def _quantities(rows: Rows) -> dict[str, Float]:
    """Per token, float64 [rows]."""
    surprise = rows["top_nll"]  # −ln confidence
    confidence = np.exp(-surprise)
    correct = rank_of_gold(rows) < 1
    with np.errstate(divide="ignore"):
        log = np.where(correct, surprise, -np.log(-np.expm1(-surprise)))  # exact where 1 − confidence is tiny
    right = correct.astype(np.float64)
    return {
        "correct": right,
        "confidence": confidence,
        "brier": (confidence - right) ** 2,
        "log": log,
        "nll": rows["nll"],
        "entropy": rows["entropy"],
    }


def _summed(cells: pl.DataFrame, cell: Int, unit: Int, values: dict[str, Float], profile: Profile) -> Partial:
    """Sums of rows that are counted."""
    confidence, right = values["confidence"], values["correct"]
    wide = len(cells) * profile.atoms.n_bins
    code, index = compress(cell * profile.atoms.n_bins + profile.atoms.locate(confidence), wide)
    counts = (None, right, confidence, confidence * right)
    histogram = {
        "cell": code // profile.atoms.n_bins,
        "bin": code % profile.atoms.n_bins,
        **_sums(dict(zip(HISTOGRAM, counts, strict=True)), index, len(code)),
    }
    units, number = _numbered(unit)
    code, row = compress(cell * len(units) + number, len(cells) * len(units))
    clusters = {
        "cell": code // max(len(units), 1),
        "unit": units[code % max(len(units), 1)],
        **_sums({"n": None, **values}, row, len(code)),
    }
    n_bins = profile.clusters.n_bins
    code, index = compress(row * n_bins + profile.clusters.locate(confidence), len(code) * n_bins)
    binned = {
        "cluster": code // n_bins,
        "bin": code % n_bins,
        **_sums({"n": None, "residual": right - confidence}, index, len(code)),
    }
    of_cell, phases = codes(cells, ["phase"])
    lone = _lone(phases["phase"], of_cell[cell], unit)
    return Partial(cells, _frame(histogram), _frame(clusters, _LEAN), _frame(binned, _LEAN), lone)


def _lone(phases: pl.Series, phase: Int, unit: Int) -> pl.DataFrame:
    """`Partial.lone` of rows of these phases (by number) and units; a unit 0 is one that has two tokens."""
    frames: list[pl.DataFrame] = []
    for number, name in enumerate(phases):
        mine = unit[phase == number]
        repeated = bool((mine[1:] == mine[:-1]).any()) or not mine.all()  # mostly tells, without sorting
        found = mine if repeated else np.unique(mine)
        if repeated or len(found) < len(mine):
            found = np.zeros(1, dtype=np.int64)
        frames.append(pl.DataFrame({"phase": pl.repeat(name, len(found), eager=True), "unit": found}))
    return pl.concat([pl.DataFrame(schema={"phase": pl.String, "unit": pl.Int64}), *frames])


def _sums(values: dict[str, Any], index: Int, count: int) -> dict[str, NDArray[Any]]:
    """Σ per index in row order, as many as there are rows where there are no values."""
    found: dict[str, NDArray[Any]] = {}
    for name, each in values.items():
        total = added(index, each, count) if each is not None else np.bincount(index, minlength=count)
        found[name] = total.astype(np.int64) if name in _COUNTS else total
    return found


_COUNTS = ("n", "right")
_TYPES = {
    "cell": pl.UInt32,
    "cluster": pl.UInt32,
    "bin": pl.UInt16,
    "unit": pl.Int64,
    **dict.fromkeys((*HISTOGRAM, *CLUSTERS, *BINNED), pl.Float64),
    **dict.fromkeys(_COUNTS, pl.Int64),
}
_LEAN = {**_TYPES, "n": pl.UInt32}
"""Of the sums by cluster, of which there are most: a cluster has fewer tokens in a cell than 2³²."""


def _frame(columns: dict[str, NDArray[Any]], types: Mapping[str, Any] = _TYPES) -> pl.DataFrame:
    return pl.DataFrame(
        [pl.Series(name, values).cast(types[name]) for name, values in columns.items()],
        schema={name: types[name] for name in columns},
    )


def _numbered(unit: Int) -> tuple[Int, Int]:
    """(units, ascending; number of each row's). Rows of a unit mostly follow each other."""
    start = np.flatnonzero(np.diff(unit, prepend=-1))
    units, number = np.unique(unit[start], return_inverse=True)
    return units, np.repeat(number.reshape(-1), np.diff(start, append=len(unit))).astype(np.int64)


def _units(sample: Int, keys: pl.DataFrame, cluster: str) -> Int:
    """The cluster of each row, as a hash."""
    dataset, sets = codes(keys, ["dataset"])
    salt = np.array([_text_hash(f"dataset {name}") for name in sets["dataset"]], dtype=np.uint64)
    unit = _mixed(_mixed(sample.astype(np.uint64)) ^ salt[dataset])
    if cluster:
        code, found = codes(keys, [cluster])
        values = found[cluster].to_list()
        told = np.array([_text_hash(f"{cluster} {value}") for value in values], dtype=np.uint64)
        is_told = np.array([value is not None for value in values], dtype=bool)
        unit = np.where(is_told[code], told[code], unit)
    return ((unit >> np.uint64(2)) | _HASH_BIT).astype(np.int64)


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea & Flood 2014): all bits depend on all bits, and no two values become equal."""
    found = values + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    return found ^ (found >> np.uint64(31))


def merge_partials(partials: Sequence[Partial]) -> Partial:
    """The sums of all shards together; give them in recording order."""
    cells, code = _merged_cells([partial.cells for partial in partials])
    starts = np.cumsum([0, *(partial.cells.height for partial in partials)])
    of_cell = [
        code[start : start + partial.cells.height] for start, partial in zip(starts, partials, strict=False)
    ]
    histogram = _added(
        [partial.histogram for partial in partials], of_cell, ("cell", "bin"), HISTOGRAM, len(cells)
    )[0]
    phase = codes(cells, ["phase"])[0]
    units = [partial.clusters["unit"].to_numpy() for partial in partials]
    of_row = [phase[of[part.clusters["cell"].to_numpy()]] for of, part in zip(of_cell, partials, strict=True)]
    unit, place = np.unique(_folded(_joined(units), _joined(of_row)), return_inverse=True)
    ends = np.cumsum([len(part) for part in units])[:-1]
    clusters, of_cluster = _added(
        [
            partial.clusters.with_columns(unit=pl.Series(numbers))
            for partial, numbers in zip(partials, np.split(place.reshape(-1), ends), strict=True)
        ],
        of_cell,
        ("cell", "unit"),
        CLUSTERS,
        len(cells),
    )
    clusters["unit"] = unit[clusters["unit"]]
    binned = _added(
        [partial.binned for partial in partials],
        np.split(of_cluster, ends),
        ("cluster", "bin"),
        BINNED,
        len(clusters["unit"]),
    )[0]
    alone = pl.concat([partial.lone for partial in partials])
    code, phases = codes(alone, ["phase"])
    lone = _lone(phases["phase"], code, alone["unit"].to_numpy())
    return Partial(cells, _frame(histogram), _frame(clusters, _LEAN), _frame(binned, _LEAN), lone)


def _joined(parts: Sequence[Int]) -> Int:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _merged_cells(frames: Sequence[pl.DataFrame]) -> tuple[pl.DataFrame, Int]:
    """(the distinct cells in order of first appearance, with what was left out added up; which each row became)."""
    whole = pl.concat(frames, how="diagonal_relaxed")
    keys = [name for name in whole.columns if name not in LOST]
    code, distinct = codes(whole, keys)
    lost = (
        pl.Series(name, np.bincount(code, whole[name].to_numpy(), len(distinct)).astype(np.int64))
        for name in LOST
    )
    return distinct.with_columns(*lost), code


def _added(
    frames: Sequence[pl.DataFrame],
    places: Sequence[Int],
    keys: tuple[str, str],
    sums: Sequence[str],
    size: int,
) -> tuple[dict[str, NDArray[Any]], Int]:
    """Add up rows of equal keys, in the order given.

    Args:
        frames: two key columns and sums.
        places: of each frame, what its first keys have become.
        keys: names of both.
        sums: names of the sums.
        size: first keys are below it.

    Returns:
        (columns, ascending in the keys; the row in them of each row that was given.)
    """
    first = _joined([place[frame[keys[0]].to_numpy()] for frame, place in zip(frames, places, strict=True)])
    second = _joined([frame[keys[1]].to_numpy().astype(np.int64) for frame in frames])
    width = int(second.max(initial=0)) + 1
    code, index = compress(first * width + second, size * width)
    found: dict[str, NDArray[Any]] = {keys[0]: code // width, keys[1]: code % width}
    for name in sums:
        values = np.concatenate([frame[name].to_numpy() for frame in frames])
        total = added(index, values, len(code))
        found[name] = total.astype(np.int64) if name in _COUNTS else total
    return found, index


def _folded(unit: Int, phase: Int) -> Int:
    """Units of a phase that has too many, put together by hash; the others as they are."""
    found = unit.copy()
    for number in np.unique(phase):
        mine = phase == number
        here = unit[mine]
        if here.min() < MOST_CLUSTERS or len(np.unique(here)) > MOST_CLUSTERS:
            found[mine] = here % MOST_CLUSTERS
    return found


def size_of(partial: Partial) -> int:
    """Rows of all frames."""
    return sum(getattr(partial, field.name).height for field in fields(partial))


CALIBRATION = Pass(
    of_shard=partial_of_shard,
    merge=merge_partials,
    kind=Partial,
    columns=(
        frozenset((*PLACE, KIND, *LOST)),
        frozenset(("cell", "bin", *HISTOGRAM)),
        frozenset(("cell", "unit", *CLUSTERS)),
        frozenset(("cluster", "bin", *BINNED)),
        frozenset(("phase", "unit")),
    ),
    suffix="calibration",
    code=(("logitbox.analysis.calibration", ("partials.py", "buckets.py", "evidence.py")),),
    size=size_of,
)
"""Sums that every measure of calibration is made of."""
