"""Atoms put into bins: which ones may lie in several, and what that leaves open about each bin.

An atom of one confidence lies in one bin. A narrow bin of a histogram may lie across an edge of the bins wanted; then its
tokens may belong to either side, in any way that its sums allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from logitbox.analysis.calibration.atoms import Atoms, Float, Int
from logitbox.analysis.histogram import Grid

_SLACK = 1e-12
"""Ranks of weights that miss a cut by no more than this share of all weight are at it: weights are rounded, as 0.1 is."""


@dataclass(frozen=True)
class Places:
    """Bins of atoms, [atoms] each.

    Attributes:
        index: the bin that an atom is counted in; ascends.
        first, last: the bins that its tokens may lie in.
    """

    index: Int
    first: Int
    last: Int

    def straddling(self, atoms: Atoms) -> float:
        """What Σ |residual| over bins may err by at most.

        Taking a part of an atom from one bin to another changes it by twice the part's residual, and the residuals of
        parts add to no more than the atom's variation.
        """
        return 2 * float(atoms.variation[self.first < self.last].sum())


def equal_width_places(atoms: Atoms, bins: int) -> Places:
    """Places in equal-width bins. An atom across an edge is where its mean is."""
    grid = Grid(bins)
    first = grid.locate(atoms.low)
    last = np.maximum(
        first, grid.locate(np.nextafter(atoms.high, 0.0))
    )  # bins of histograms do not hold their upper edge
    return Places(np.clip(grid.locate(atoms.mean), first, last), first, last)


def equal_width(atoms: Atoms, bins: int) -> tuple[Atoms, float]:
    """The equal-width bins that have tokens, and what their Σ |residual| may err by."""
    places = equal_width_places(atoms, bins)
    grouped, edges = atoms.grouped(places.index), Grid(bins).edges
    at = np.unique(places.index)
    return replace(grouped, low=edges[at], high=edges[at + 1]), places.straddling(atoms)


@dataclass(frozen=True)
class Ranks:
    """Where atoms lie in the order of confidence, in weight; [atoms] each.

    Attributes:
        before: Σ weight of all atoms below.
        at: weight below the last token, what decides on the equal-mass bin; with weights, raised by what rounding may
            have taken off.
        through: Σ weight up to and with the atom.
        total: Σ weight.
        slack: how much `at` was raised; 0 where every token weighs 1, since whole numbers are exact.
    """

    before: Float
    at: Float
    through: Float
    total: float
    slack: float

    @classmethod
    def of(cls, atoms: Atoms) -> Ranks:
        """Ranks of ascending atoms; there is at least one."""
        through = running(atoms.n, atoms)
        before, total = np.append(0.0, through[:-1]), float(through[-1])
        slack = 0.0 if atoms.squares is None else _SLACK * total
        at = np.maximum(through - atoms.n / atoms.count, before) + slack
        return cls(before, at, through, total, slack)

    def cuts(self, bins: int) -> Float:
        """The inner ends of equal-mass bins."""
        return np.arange(1, bins) * self.total / bins

    def places(self, atoms: Atoms, bins: int) -> Places:
        """Places in equal-mass bins: tokens of equal confidence go to the bin of their last, so that ties are never split."""
        cuts = self.cuts(bins)
        index = np.searchsorted(cuts, self.at, side="right")
        if atoms.is_exact:
            return Places(index, index, index)
        many = atoms.low < atoms.high
        first = np.where(many, np.searchsorted(cuts, self.before, side="right"), index)
        last = index
        if atoms.squares is not None:  # how the weight of the last token compares is not known
            last = np.where(many, np.searchsorted(cuts, self.through + 2 * self.slack, side="left"), index)
        return Places(index, np.minimum(first, index), np.maximum(last, index))


def running(part: Float, atoms: Atoms) -> Float:
    """Σ of a part of the weight up to and with each atom, as near as float64 gets.

    Weights are added as whole numbers: errors of floating sums would grow with their number, and ranks move.
    """
    if atoms.squares is None:  # these are whole
        return np.cumsum(part)
    shift = 62 - int(np.frexp(atoms.n.sum())[1])
    return np.ldexp(np.cumsum(np.rint(np.ldexp(part, shift)).astype(np.int64)).astype(np.float64), -shift)


@dataclass(frozen=True)
class Open:
    """What is sure of each bin, and what may lie in it or not; [bins] each.

    Attributes:
        n, right, residual: sums over the atoms that lie in it whole.
        more_right, more_wrong: Σ weight of right and wrong tokens that may lie in it.
        variation: Σ weight · |correct − confidence| of these.
    """

    n: Float
    right: Float
    residual: Float
    more_right: Float
    more_wrong: Float
    variation: Float

    @property
    def wrong(self) -> Float:
        """Σ weight of wrong tokens in atoms that lie in it whole."""
        return self.n - self.right

    @property
    def more(self) -> Float:
        """Σ weight that may lie in it."""
        return self.more_right + self.more_wrong

    @classmethod
    def of(cls, atoms: Atoms, places: Places, bins: int) -> Open:
        """What the places of atoms leave open."""
        sure = places.first == places.last
        at = places.index[sure]
        whole = (np.bincount(at, part[sure], bins) for part in (atoms.n, atoms.right, atoms.residual))
        some = np.flatnonzero(~sure)
        length = (places.last - places.first)[some] + 1
        step = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        bin_ = np.repeat(places.first[some], length) + step
        may = (
            np.bincount(bin_, np.repeat(part[some], length), bins)
            for part in (atoms.right, np.maximum(atoms.wrong, 0.0), np.maximum(atoms.variation, 0.0))
        )
        return cls(*(part.astype(np.float64, copy=False) for part in (*whole, *may)))
