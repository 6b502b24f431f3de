"""Sums over rows that are split by cell, sample and population, in a fixed order.

Rows of the same populations form one class, and classes do not overlap. So rows are summed once per (sample, class),
and the populations are made of those few sums, however many there are and however they overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DENSE = 1 << 18
"""Up to this many possible codes a lookup table is faster than sorting."""


def compress(code: Int, size: int) -> tuple[Int, Int]:
    """(the codes that occur, ascending; the place of each row's code among them), for codes below `size`."""
    if size > _DENSE:
        distinct, inverse = np.unique(code, return_inverse=True)
        return distinct, inverse.reshape(-1).astype(np.int64)
    seen = np.zeros(size, dtype=bool)
    seen[code] = True
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[code]


@dataclass(frozen=True)
class Classes:
    """Rows grouped by the populations they belong to.

    Attributes:
        of_row: class of each row.
        member: [classes, populations], whether a class belongs to a population.
    """

    of_row: Int
    member: Mask

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> Classes:
        """Classes from one mask per population."""
        rows = len(masks[0])
        code, size = np.zeros(rows, dtype=np.int64), 1
        for mask in masks:
            code, size = code * 2 + mask, size * 2
            if size > 1 << 16:  # any number of populations fits
                distinct, code = compress(code, size)
                size = len(distinct)
        distinct, of_row = compress(code, size)
        example = np.zeros(len(distinct), dtype=np.int64)
        example[of_row] = np.arange(rows)
        member = np.stack([mask[example] for mask in masks], axis=1)
        return cls(of_row, member)

    def __len__(self) -> int:
        return len(self.member)


@dataclass(frozen=True)
class CellSums:
    """Sums of one population, one row per cell that has tokens.

    Attributes:
        cell: which cells.
        n, clusters: tokens and samples.
        nn: Σ nᵢ² over samples.
        x, xx, xn: [cells, quantities], Σx, Σ xᵢ² and Σ xᵢ nᵢ (xᵢ a sample's sum).
    """

    cell: Int
    n: Int
    clusters: Int
    nn: Float
    x: Float
    xx: Float
    xn: Float


@dataclass(frozen=True)
class Units:
    """Sums over the rows of one sample and class within one cell, ordered by cell, sample and class."""

    cell: Int
    cluster: Int
    kind: Int
    n: Float
    x: Float

    @classmethod
    def of(cls, cell: Int, sample: Int, kind: Int, shares: Mask, values: Sequence[NDArray[Any]]) -> Units:
        """Sum rows.

        Args:
            cell: of each row.
            sample: of each row.
            kind: class of each row.
            shares: [classes, n], further quantities that are 0 or 1 for all rows of a class.
            values: the other quantities, [rows] each.
        """
        cluster, cell_of_cluster = clusters(cell, sample)
        n_kinds = max(len(shares), 1)
        code, unit = compress(cluster * n_kinds + kind, len(cell_of_cluster) * n_kinds)
        count = len(code)
        n = np.bincount(unit, minlength=count).astype(np.float64)
        sums: list[Float] = [added(unit, value, count) for value in values]
        sums += [n * share[code % n_kinds] for share in shares.T]
        return cls(
            cell=cell_of_cluster[code // n_kinds],
            cluster=code // n_kinds,
            kind=code % n_kinds,
            n=n,
            x=np.stack(sums, axis=1),
        )

    def over(self, chosen: Mask) -> CellSums:
        """Sums per cell over the chosen units."""
        first = _starts(self.cluster[chosen])
        n, x = _added(self.n[chosen], first), _added(self.x[chosen], first)
        cell = self.cell[chosen][first]
        start = _starts(cell)
        return CellSums(
            cell=cell[start],
            n=_added(n, start).astype(np.int64),
            clusters=np.diff(start, append=len(cell)).astype(np.int64),
            nn=_added(n * n, start),
            x=_added(x, start),
            xx=_added(x * x, start),
            xn=_added(x * n[:, None], start),
        )


def clusters(cell: Int, sample: Int) -> tuple[Int, Int]:
    """(cluster of each row, cell of each cluster); a cluster is one sample within one cell, ordered by cell."""
    start = np.ones(len(cell), dtype=bool)
    start[1:] = (cell[1:] != cell[:-1]) | (sample[1:] != sample[:-1])
    samples, number = np.unique(sample[start], return_inverse=True)
    width = max(len(samples), 1)
    distinct, inverse = np.unique(cell[start] * width + number.reshape(-1), return_inverse=True)
    return inverse.reshape(-1)[np.cumsum(start) - 1].astype(np.int64), distinct // width


def _starts(ascending: Int) -> Int:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.diff(ascending, prepend=-1))


def _added(values: Float, start: Int) -> Float:
    return np.add.reduceat(values, start, axis=0) if len(start) else values[:0]


def added(index: Int, values: NDArray[Any], count: int) -> Float:
    """Σ values per index, added in row order."""
    return np.bincount(index, weights=values, minlength=count).astype(np.float64, copy=False)
