"""Calibration of whole distributions: Full-ECE and class-wise ECE, from the top k and the mass outside them.

Full-ECE (Liu et al. 2024, arXiv 2406.11345) puts all N·V pairs of a token and a vocabulary entry into equal-width bins of
their probability p, and is here taken per token: (1/N) Σ_b |Σ_{pairs of b} ([gold = entry] − p)|. All pairs together have as
much gold as mass, N. So the lowest bin, where nearly all pairs are, needs no sum of its own: it is what the others leave.
What lies outside the top k is in the lowest bin where the k-th probability is below 1/B, as with k ≥ B it always is.

Class-wise ECE is the mean over all V classes, also those that are never gold, of Σ_b |Σ_{tokens of b} ([gold = c] − p_c)|/N.

The probabilities of the arg-max and of gold are known to 2e-6 of themselves. Those of others rest on recorded distances,
which are off by up to 2⁻¹¹ of themselves: what this may do to sums, and which pairs it may have moved to another bin, is
in the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.bins import binned
from logitbox.analysis.calibration.picked import Array, Where, pick
from logitbox.analysis.tail import ends_of, gaps_of
from logitbox.dumps.dump import Dump

Float = NDArray[np.float64]
Int = NDArray[np.int64]

_COLUMNS = ("nll", "top_nll", "n_finite", "n_gt", "n_eq_before", "top_gap", "tail_mass")
_F16, _F32 = 2.0**-11, 16 * 2.0**-23
_TINY16 = 2.0**-25
_BLOCK = 1 << 18
"""Probabilities looked at at a time."""


@dataclass(frozen=True)
class Bounded:
    """A value that lies in [low, high]; equal where it is exact."""

    value: float
    low: float
    high: float


def class_errors(
    dump: Dump,
    phase: str,
    type: str = "",  # noqa: A002 (as the column is called)
    where: Where | None = None,
    bins: int = 15,
) -> tuple[Bounded | None, Bounded | None]:
    """(Full-ECE, class-wise ECE) of some tokens, in one pass; None without tokens.

    Class-wise ECE is that of classifiers: None unless the top k hold the whole vocabulary.

    Args:
        dump: an opened dump.
        phase: of the tokens.
        type: of the tokens; by default all.
        where: what else must hold of them; see `picked.Where`.
        bins: number of equal-width bins.

    Raises:
        InputError: no such phase, type, column or number of bins.
        DamagedDumpError: a shard was altered.
    """
    picked = pick(dump, phase, [type], where)
    sizes = {session.spec.vocab_size for session in dump.sessions}
    size = sizes.pop() if len(sizes) == 1 else 0
    full = _Sums(1, bins)
    by_class = (
        _Sums(size, bins) if all(size <= session.spec.k for session in dump.sessions) and size else None
    )
    for found in picked.read(_COLUMNS if by_class is None else (*_COLUMNS, "top_ids")):
        for rows in _blocks(found):
            full.n += len(rows["nll"])
            _add_pairs(full, rows)
            if by_class is not None and not _add_classes(by_class, rows):
                by_class = None
    if not full.n:
        return None, None
    # The lowest bin has all the gold and the mass that the others have not.
    full.take_rest()
    return full.error(full.n), None if by_class is None else by_class.error(full.n * size)


def _blocks(columns: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    rows = max(_BLOCK // max(columns["top_gap"].shape[1], 1), 1)
    for start in range(0, len(columns["nll"]), rows):
        yield {name: values[start : start + rows] for name, values in columns.items()}


@dataclass(frozen=True)
class _Pairs:
    """Pairs of a token and an entry, [pairs] each: probability, how far ln p may be off, whether the entry is gold."""

    p: Float
    off: Float
    gold: NDArray[np.bool_]

    def of(self, keep: Array) -> _Pairs:
        return _Pairs(self.p[keep], self.off[keep], self.gold[keep])


class _Sums:
    """Σ ([gold] − p) by class and bin, and what they lie between; arrays [classes, bins].

    Attributes:
        n: tokens.
        sum: with every pair in the bin that it seems to be in.
        less, more: how far below and above that it may be.
    """

    def __init__(self, classes: int, bins: int) -> None:
        binned(np.zeros(0), bins)  # refuses what is no number of bins
        self.bins, self.n = bins, 0
        self.sum, self.less, self.more = np.zeros((3, classes, bins))

    def add(self, pairs: _Pairs, kind: Int | None = None) -> None:
        """Count pairs, of class `kind`, by default all of class 0."""
        p, value = pairs.p, pairs.gold - pairs.p
        start = np.zeros(len(p), np.int64) if kind is None else kind * self.bins
        first, place, last = (self._bin(p * np.exp(shift * pairs.off)) for shift in (-1, 0, 1))
        self._count(self.sum, start + place, value)
        moved = p * np.expm1(pairs.off)
        for part in (self.less, self.more):
            self._count(part, start + place, moved)
        near = np.flatnonzero(first < last)
        if not len(near):
            return
        start, first, place, last = (part[near] for part in (start, first, place, last))
        value, moved = value[near], moved[near]
        for b in range(int((last - first).max()) + 1):
            at = first + b
            inside, home = at <= last, at == place
            # The bin that it seems to be in may lack it; the others may have it, with what p is off by.
            change, off = np.where(home, -value, value), np.where(home, 0.0, moved)
            for part, sign in ((self.less, -1), (self.more, 1)):
                most = np.maximum(sign * change, 0.0) + off
                self._count(part, (start + at)[inside], most[inside])

    def scatter(self, mass: Float, most: Float) -> None:
        """Count mass that may lie, in entries of up to `most`, in any bin, as in the lowest."""
        highest = self._bin(np.minimum(mass, most) * (1 + _F32))
        # Bin b may have the mass of all rows whose highest bin is b or above.
        for_bin = np.cumsum(np.bincount(highest, mass, minlength=self.bins)[::-1])[::-1]
        self.less[0, 1:] += for_bin[1:]

    def take_rest(self) -> None:
        """Make the lowest bin the rest of all others; what moves between those two alone is in `less` of bin 1 up."""
        self.sum[0, 0] = -self.sum[0, 1:].sum()
        self.less[0, 0], self.more[0, 0] = self.more[0, 1:].sum(), self.less[0, 1:].sum()

    def error(self, n: float) -> Bounded:
        """Σ |sum| / n."""
        low, high = self.sum - self.less, self.sum + self.more
        least = np.maximum(np.maximum(low, -high), 0.0)
        most = np.maximum(abs(low), abs(high))
        value, below, above = (float(part.sum()) / n for part in (abs(self.sum), least, most))
        return Bounded(value, below, above)

    def _bin(self, p: Float) -> Int:
        return binned(p, self.bins)[1]

    def _count(self, part: Float, code: Int, values: Float) -> None:
        part += np.bincount(code, values, minlength=part.size).reshape(part.shape)


def _add_pairs(full: _Sums, rows: Mapping[str, Array]) -> None:
    """Count all pairs of these rows that may lie above the lowest bin."""
    width = min(rows["top_gap"].shape[1], full.bins + 1)  # no more than B probabilities are 1/B or above
    pairs, kept = _top(rows, width)
    gold_in_top = _rank(rows) < kept
    full.add(_above(pairs, full.bins))
    outside = ~gold_in_top
    nll = rows["nll"].astype(np.float64)
    full.add(_above(_Pairs(np.exp(-nll[outside]), _F32 * (1 + nll[outside]), outside[outside]), full.bins))
    # What else there is outside the top k: entries no likelier than the k-th.
    gap = ends_of(gaps_of(rows["top_gap"]))[1]
    most = np.exp(-(rows["top_nll"] + gap) + gap * _F16 + _TINY16 + _F32)
    rest = rows["tail_mass"] - np.where(outside, np.exp(-nll), 0.0)
    count = rows["n_finite"] - kept - outside
    rest = np.where(count > 0, np.maximum(rest, 0.0), 0.0)
    large = (rest * (1 + _F32) + _F32) * full.bins >= 1
    one = large & (count == 1)
    alone = _Pairs(rest[one], np.full(int(one.sum()), 2 * _F32 * full.bins), np.zeros(int(one.sum()), bool))
    full.add(alone)
    many = large & (count > 1) & (most * full.bins >= 1)
    full.scatter(rest[many], most[many])


def _add_classes(by_class: _Sums, rows: Mapping[str, Array]) -> bool:
    """Count every pair of these rows; False if some lists do not hold all classes."""
    ids = rows["top_ids"]
    size = len(by_class.sum)
    if ids.shape[1] != size or (ids < 0).any():
        return False
    pairs, _ = _top(rows, size)
    by_class.add(pairs, ids.reshape(-1).astype(np.int64))
    return True


def _top(rows: Mapping[str, Array], width: int) -> tuple[_Pairs, Int]:
    """(the pairs of the first `width` of the top k, row by row; how many every row has in all)."""
    gaps = rows["top_gap"]
    kept = (~np.isnan(gaps)).sum(axis=1)
    gap, place = gaps[:, :width].astype(np.float64), np.arange(width)
    there = np.isfinite(gap)  # a masked entry is infinitely far, and one that was not recorded NaN
    gap = np.where(there, gap, np.inf)
    top_nll, nll = (rows[name].astype(np.float64)[:, None] for name in ("top_nll", "nll"))
    gold = (place == _rank(rows)[:, None]) & (place < kept[:, None])
    cost = np.where(gold, nll, top_nll + gap)
    known = gold | (place == 0)
    finite = np.where(there, gap, 0.0)
    off = _F32 * (1 + top_nll + finite) + np.where(known, 0.0, finite * _F16 + _TINY16)
    flat = (part.reshape(-1) for part in (np.exp(-cost), np.where(there, off, 0.0), gold))
    return _Pairs(*flat), kept


def _above(pairs: _Pairs, bins: int) -> _Pairs:
    """Those that may lie above the lowest bin."""
    return pairs.of(pairs.p * np.exp(pairs.off) * bins >= 1 - _F32)


def _rank(rows: Mapping[str, Array]) -> Int:
    """Of gold, from 0; its place in the lists, where it is in them."""
    return rows["n_gt"].astype(np.int64) + rows["n_eq_before"]
