"""A dump's sums for calibration, and the evidence of any subset of its tokens that they can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.calibration import partials
from logitbox.analysis.calibration.atoms import NOTHING, Atoms
from logitbox.analysis.calibration.buckets import COLUMNS, Buckets, buckets_of
from logitbox.analysis.calibration.evidence import Clusters, Evidence
from logitbox.analysis.calibration.partials import CALIBRATION, KIND, LOST, PLACE, CalibrationTask, Partial
from logitbox.analysis.calibration.placing import equal_width
from logitbox.analysis.passes import Progress, run, tasks_of
from logitbox.analysis.splitting import extra_keys, from_samples
from logitbox.analysis.sums import added, compress
from logitbox.dumps.definitions.registry import populations_of
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

Int = NDArray[np.int64]

_FEW = {*PLACE, "type", "source", *COLUMNS}
"""By-columns of few values; any other makes cells too many for fine histograms."""


@dataclass(frozen=True)
class Row:
    """A subset of tokens.

    Attributes:
        keys: value of each key column.
        type: token type, "" is all.
        cells: rows of `Partial.cells` that it is made of.
    """

    keys: dict[str, Any]
    type: str
    cells: Int


@dataclass(frozen=True, eq=False)
class Scan:
    """Sums of a dump.

    Attributes:
        dump: where they are from.
        by: columns asked for beside phase and type, in their order; cells are split by dataset too.
        cluster: what was resampled: a column of `samples`.
        profile: how finely confidences are told apart.
        partial: the sums. Computed columns hold the number of the bucket.
        buckets: of the computed columns.
        where: value of each key column that the sums were narrowed to.
        intervals: whether sums by cluster and bin were kept, without which there are no intervals.
    """

    dump: Dump
    by: tuple[str, ...]
    cluster: str
    profile: partials.Profile
    partial: Partial
    buckets: tuple[Buckets, ...]
    where: Mapping[str, Any]
    intervals: bool = True

    def narrowed(self, **where: Any) -> Scan:
        """The same of only those cells whose key columns have these values."""
        return replace(self, partial=_only(where, self.partial), where={**self.where, **where})

    @cached_property
    def cells(self) -> pl.DataFrame:
        """Cells that hold counted tokens; computed columns are labels, ascending as `pl.Enum`. `_cell` is the row's number."""
        n = np.bincount(self._rows.clusters["cell"], self._rows.clusters["n"], self.partial.cells.height)
        cells = self.partial.cells.with_row_index("_cell").with_columns(_n=pl.Series(n.astype(np.int64)))
        for found in self.buckets:
            labels = pl.Series(found.labels, dtype=pl.Enum(found.labels))
            cells = cells.with_columns(labels.gather(cells[found.name]).alias(found.name))
        return cells

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Populations that hold counted tokens, "" first."""
        return self._types_in(self.cells.filter(pl.col("_n") > 0))

    @cached_property
    def met_types(self) -> tuple[str, ...]:
        """Those that hold any tokens, left out ones too."""
        return self._types_in(self.cells)

    def _types_in(self, cells: pl.DataFrame) -> tuple[str, ...]:
        names = [p.name for session in self.dump.sessions for p in populations_of(session.spec)]
        held = {name for kind in cells[KIND].unique() for name in kind.split("\n")}
        return tuple(name for name in dict.fromkeys(names) if name in held)

    def rows(self, keys: Sequence[str], types: Sequence[str], *, empty: bool = False) -> Iterator[Row]:
        """Every combination of the values of `keys` and the types that holds counted tokens; sorted, nulls last.

        Args:
            keys: key columns.
            types: token types.
            empty: those whose tokens were all left out instead.
        """
        of_type = [
            frame.select(*keys, "_cell", "_n").with_columns(type=pl.lit(name))
            for name in types
            if not (frame := self.of_type(self.cells, name)).is_empty()
        ]
        if not of_type:
            return
        found = (
            pl.concat(of_type)
            .group_by(*keys, "type", maintain_order=True)
            .agg(pl.col("_cell"), pl.col("_n").sum())
            .filter((pl.col("_n") == 0) == empty)
            .drop("_n")
            .sort([*keys, "type"], nulls_last=True)
        )
        for *values, name, cells in found.iter_rows():
            yield Row(dict(zip(keys, values, strict=True)), name, np.array(cells, dtype=np.int64))

    @staticmethod
    def of_type(cells: pl.DataFrame, name: str) -> pl.DataFrame:
        """Cells whose tokens are all of a type."""
        kinds = cells[KIND].unique()
        return cells.filter(pl.col(KIND).is_in([kind for kind in kinds if name in kind.split("\n")]))

    def evidence(self, row: Row, bins: int) -> Evidence:
        """All that measures need of a subset."""
        atoms, clusters = self._atoms(row.cells), self._rows.of(row.cells)
        table, straddling = equal_width(atoms, bins)
        count = int(atoms.count.sum())
        names = ("brier", "log", "nll", "entropy")
        return Evidence(
            count=count,
            left_out=self.lost(row)["n_nonfinite"],
            n=float(count),
            bins=bins,
            table=table,
            sums={name: float(self._rows.clusters[name][clusters].sum()) for name in names},
            make_atoms=lambda: atoms,
            make_clusters=partial(self._clusters, row.keys["phase"], clusters) if self.intervals else None,
            straddling=straddling,
        )

    def lost(self, row: Row) -> dict[str, int]:
        """Tokens that were left out, by reason."""
        return {name: int(self._lost[name][row.cells].sum()) for name in LOST}

    def n_clusters(self, row: Row) -> int:
        """Units that the subset's tokens lie in; where some were put together and have several tokens, at least so many."""
        if row.keys["phase"] in self._lone:
            return int(self._rows.clusters["n"][self._rows.of(row.cells)].sum())
        return len(np.unique(self._rows.clusters["unit"][self._rows.of(row.cells)]))

    def _atoms(self, cells: Int) -> Atoms:
        at = self._bins.of(cells)
        size, found = self.profile.atoms.n_bins, self._bins.histogram
        bin_of = found["bin"][at].astype(np.int64)
        n, right, confidence, of_right = (added(bin_of, found[name][at], size) for name in partials.HISTOGRAM)
        held = np.flatnonzero(n)
        if not len(held):
            return NOTHING
        edges = self.profile.atoms.edges
        sums = (part[held] for part in (n, n, right, confidence, of_right))
        return Atoms(edges[held], edges[held + 1], *sums)

    def _clusters(self, phase: str, clusters: Int) -> Clusters:
        rows, grid = self._rows, self.profile.clusters
        units = self._units.get(phase, clusters[:0])  # none where all tokens were left out
        found = np.searchsorted(units, rows.clusters["unit"][clusters])
        unit, place = compress(found.astype(np.int64), len(units))
        start, end = rows.binned_of(clusters)
        entries = _ranges(start, end)
        code = np.repeat(place, end - start) * grid.n_bins + rows.binned["bin"][entries]
        shape = (len(unit), grid.n_bins)
        n, residual = (
            added(code, rows.binned[name][entries], shape[0] * shape[1]).reshape(shape)
            for name in partials.BINNED
        )
        sums = {
            name: added(place, rows.clusters[name][clusters], len(unit)) for name in partials.CLUSTERS[1:]
        }
        total = int(n.sum()) if phase in self._lone else len(unit)
        return Clusters(unit, len(units), grid, n, residual, sums, total)

    @cached_property
    def _units(self) -> dict[str, Int]:
        """All units of each phase, ascending."""
        phase = self.partial.cells["phase"].to_numpy()[self._rows.clusters["cell"]]
        unit = self._rows.clusters["unit"]
        return {name: np.unique(unit[phase == name]) for name in np.unique(phase).tolist()}

    @cached_property
    def _lone(self) -> frozenset[str]:
        """Phases in which every unit has one token, so that there are as many units as tokens."""
        alone = self.partial.lone.group_by("phase").agg(pl.col("unit").min())
        return frozenset(alone.filter(pl.col("unit") > 0)["phase"])

    @cached_property
    def _lost(self) -> dict[str, NDArray[Any]]:
        return _arrays(self.partial.cells.select(LOST))

    @cached_property
    def _bins(self) -> _Histogram:
        return _Histogram(_arrays(self.partial.histogram))

    @cached_property
    def _rows(self) -> _Clustered:
        return _Clustered(_arrays(self.partial.clusters), _arrays(self.partial.binned))


def _arrays(frame: pl.DataFrame) -> dict[str, NDArray[Any]]:
    """Columns as they lie there: a dump split by step has so many rows that copies would count."""
    return {name: frame[name].to_numpy() for name in frame.columns}


def _found(column: NDArray[Any], values: Int) -> tuple[Int, Int]:
    """(first, last + 1) of the rows of each value, in a column that ascends."""
    values = values.astype(column.dtype)  # else the whole column would be copied
    return np.searchsorted(column, values), np.searchsorted(column, values, side="right")


def _ranges(start: Int, end: Int) -> Int:
    """All numbers from every start to before its end, joined."""
    length = end - start
    first = np.cumsum(length) - length
    return np.repeat(start - first, length) + np.arange(int(length.sum()))


@dataclass(frozen=True)
class _Histogram:
    """`Partial.histogram`, rows of a cell next to each other."""

    histogram: dict[str, NDArray[Any]]

    def of(self, cells: Int) -> Int:
        """Rows of some cells."""
        return _ranges(*_found(self.histogram["cell"], cells))


@dataclass(frozen=True)
class _Clustered:
    """`Partial.clusters` and `Partial.binned`."""

    clusters: dict[str, NDArray[Any]]
    binned: dict[str, NDArray[Any]]

    def of(self, cells: Int) -> Int:
        """Rows of `clusters` of some cells."""
        return _ranges(*_found(self.clusters["cell"], cells))

    def binned_of(self, clusters: Int) -> tuple[Int, Int]:
        """(first, last + 1) of the rows of `binned` of each of some rows of `clusters`."""
        return _found(self.binned["cluster"], clusters)


def scan(
    dump: Dump,
    by: Sequence[str] = (),
    cluster: str = "sample",
    executor: Executor | None = None,
    progress: Progress | None = None,
    only: Callable[[pl.DataFrame], pl.Series] | None = None,
    *,
    intervals: bool = True,
) -> Scan:
    """Sum up a dump; finished shards come from its cache.

    Args:
        dump: an opened dump.
        by: columns to split by, beside phase and type.
        cluster: "sample", or a column of `samples`.
        executor: where to sum up shards.
        progress: told after every shard.
        only: which cells are wanted, given them as a frame of keys; by default all.
        intervals: False leaves out sums by cluster and bin, which take most of the memory where there are many cells.

    Raises:
        InputError: a column that cannot be split by, or a dump without token rows.
        DamagedDumpError: a shard was altered.
    """
    by = tuple(name for name in by if name not in ("phase", "type"))
    columns = [name for name in by if name not in (*PLACE, *COLUMNS)]
    of_samples = _cluster_column(dump, cluster)
    from_samples(dump, extra_keys(columns))  # refused before anything is read
    profile = partials.WHOLE if set(by) <= _FEW else partials.SPLIT
    buckets = tuple(buckets_of(dump, name) for name in by if name in COLUMNS)
    make = partial(
        CalibrationTask, profile=profile, cluster=of_samples[0] if of_samples else "", buckets=buckets
    )
    tasks = tasks_of(dump, columns, make, of_samples)

    def narrow(part: Partial) -> Partial:
        part = part if only is None else _chosen(only, part)
        return part if intervals else replace(part, binned=part.binned.clear())

    found = run(CALIBRATION, dump, tasks, executor, progress, None if only is None and intervals else narrow)
    return Scan(dump, by, cluster, profile, found, buckets, {}, intervals)


def _cluster_column(dump: Dump, name: object) -> list[str]:
    """The column of `samples` that tells clusters; none where samples are clusters themselves."""
    if name == "sample":
        return []
    known = dump.samples.collect_schema()
    allowed = [column for column in known.names() if column not in ("sample", "dataset", "input_ids")]
    if name not in allowed:
        raise InputError(
            f"cluster is {name!r}; it can be sample, or a column of samples: {', '.join(allowed)}"
        )
    if known[str(name)].is_nested():
        raise InputError(
            f"cluster is {name!r}, whose values are {known[str(name)]}; give one of text or numbers"
        )
    return [str(name)]


def _only(where: Mapping[str, Any], part: Partial) -> Partial:
    tests = [pl.col(name).eq_missing(pl.lit(value)) for name, value in where.items()]
    return _chosen(lambda cells: cells.select(pl.all_horizontal(tests).alias("keep"))["keep"], part)


def _chosen(only: Callable[[pl.DataFrame], pl.Series], part: Partial) -> Partial:
    """Sums of some cells alone; everything keeps its order."""
    keep = only(part.cells).to_numpy().astype(bool)
    number = pl.Series("cell", np.cumsum(keep)).cast(pl.UInt32)

    def moved(frame: pl.DataFrame) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
        mine = keep[frame["cell"].to_numpy()]
        kept = frame.filter(pl.Series(mine))
        return kept.with_columns((number.gather(kept["cell"]) - 1).alias("cell")), mine

    clusters, mine = moved(part.clusters)
    place = pl.Series("cluster", np.cumsum(mine)).cast(pl.UInt32)
    binned = part.binned.filter(pl.Series(mine[part.binned["cluster"].to_numpy()]))
    return Partial(
        part.cells.filter(pl.Series(keep)),
        moved(part.histogram)[0],
        clusters,
        binned.with_columns((place.gather(binned["cluster"]) - 1).alias("cluster")),
        part.lone,
    )
