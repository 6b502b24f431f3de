"""Sums by cluster, the rows that belong together, from arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.calibration.atoms import Float, Int
from logitbox.analysis.calibration.evidence import CLUSTER_GRID, MOST_CLUSTERS, Clusters
from logitbox.analysis.sums import compress
from logitbox.errors import InputError

_DENSE = 1 << 18
"""Whole numbers that span no more are numbered by a table, which `compress` then has."""

_BLOCK = 1 << 15

Rows = tuple[Float, Float, Float | None, Mapping[str, Float]]
"""Of some rows: confidence, 0 or 1, weight (None is 1 each), and further quantities."""


def clusters_of(rows: Callable[[], Iterator[Rows]], labels: NDArray[Any] | None, count: int) -> Clusters:
    """Sums by cluster.

    Args:
        rows: gives all rows, block by block.
        labels: cluster of each row, of any type; None makes every row one of its own.
        count: how many rows there are.
    """
    number, total = (None, count) if labels is None else _numbered(labels)
    slot, universe = _slots(number, total)
    unit, place = compress(slot, universe)
    bins = CLUSTER_GRID.n_bins
    n, residual = np.zeros(len(unit) * bins), np.zeros(len(unit) * bins)
    sums: dict[str, Float] = {}
    start = 0
    for p, hit, w, others in rows():
        cluster = place[start : start + len(p)]
        code = cluster * bins + CLUSTER_GRID.locate(p)
        n += np.bincount(code, w, minlength=len(n))
        residual += np.bincount(code, _times(hit - p, w), minlength=len(n))
        for name, values in {"correct": hit, "confidence": p, **others}.items():
            found = np.bincount(cluster, _times(values, w), minlength=len(unit)).astype(
                np.float64, copy=False
            )
            sums[name] = sums[name] + found if name in sums else found
        start += len(p)
    shape = (len(unit), bins)
    return Clusters(
        unit, universe, CLUSTER_GRID, n.reshape(shape), residual.reshape(shape), sums, max(total, len(unit))
    )


def _times(values: Float, weight: Float | None) -> Float:
    return values if weight is None else values * weight


def _numbered(labels: NDArray[Any]) -> tuple[Int, int]:
    """(number of each row's label, how many labels)."""
    if labels.dtype.kind in "iub" and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if high - low < _DENSE and abs(low) < 2**62:  # no need to sort
            distinct, number = compress(labels.astype(np.int64) - low, high - low + 1)
            return number, len(distinct)
    if labels.dtype.kind == "O":
        return _numbered_objects(labels)
    distinct, number = np.unique(labels, return_inverse=True)
    return number.reshape(-1).astype(np.int64, copy=False), len(distinct)


def _numbered_objects(labels: NDArray[Any]) -> tuple[Int, int]:
    """The same of labels of any types: equal ones are one, all NaN are one, and so are all None."""
    seen: dict[Any, int] = {}
    try:
        each = [seen.setdefault(label, len(seen)) for label in labels.tolist()]
    except TypeError as error:
        raise InputError(
            f"cluster has a label that cannot be told apart: {error}; give texts or numbers"
        ) from None
    odd = [number for label, number in seen.items() if _is_nan(label)]
    number = np.arange(len(seen))
    number[odd] = odd[:1]
    place, of = compress(number, len(seen))
    return of[np.array(each, dtype=np.int64)], len(place)


def _is_nan(label: object) -> bool:
    try:
        return bool(label != label)  # noqa: PLR0124 (NaN alone, and missing times, differ from themselves)
    except (TypeError, ValueError):  # NA of pandas, which there is but one of
        return False


def _slots(number: Int | None, total: int) -> tuple[Int, int]:
    """(unit of each row, how many units): the clusters themselves, or where they are too many a hash of each."""
    if total <= MOST_CLUSTERS:
        return np.arange(total) if number is None else number, total
    slot = np.empty(total, dtype=np.int64)
    for start in range(0, total, _BLOCK):  # temporaries stay in the cache
        slot[start : start + _BLOCK] = folded(np.arange(start, min(start + _BLOCK, total)))
    return slot if number is None else slot[number], MOST_CLUSTERS


def folded(number: Int) -> Int:
    """A unit below MOST_CLUSTERS for each number, as if drawn at random but always the same (splitmix64)."""
    x = number.astype(np.uint64)
    x += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x % np.uint64(MOST_CLUSTERS)).astype(np.int64)
