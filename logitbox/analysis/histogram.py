"""Grids of confidence bins that nest exactly, so that coarse tables come from fine ones without loss.

Edges are the correctly rounded quotients i/n. Since k/15 and 1080k/16200 are the same real number they are the
same float64, and a value is in the same coarse bin whichever way it is counted. Bins are closed on the left;
the last is closed on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """`n_equal` equal bins on [0, 1], the last of them split `n_fine` times by halving its distance to 1."""

    n_equal: int
    n_fine: int = 0

    @cached_property
    def edges(self) -> Float:
        """All edges, ascending, from 0 to 1."""
        equal = np.arange(self.n_equal) / self.n_equal
        fine = 1.0 - np.exp2(-np.arange(1, self.n_fine + 1, dtype=np.float64)) / self.n_equal
        return np.concatenate([equal, fine, [1.0]])

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return self.n_equal + self.n_fine

    @cached_property
    def _is_plain(self) -> bool:
        """Whether ⌊fl(value · n)⌋ is the equal bin of every float64: rounding is monotone, so edges and their neighbours tell."""
        edges, k = self.edges[1 : self.n_equal], np.arange(1, self.n_equal)
        return bool(((edges * self.n_equal >= k) & (np.nextafter(edges, 0.0) * self.n_equal < k)).all())

    @cached_property
    def _towards_one(self) -> Float:
        """Lower edges of the bins that the last equal bin is split into, and an end that nothing reaches."""
        return np.append(self.edges[self.n_equal - 1 : -1], np.inf)

    def locate(self, values: Float, out: Int | None = None, scratch: Float | None = None) -> Int:
        """Bin of each value in [0, 1]. Exact with respect to `edges`.

        Args:
            values: [n].
            out: [n], where to put the answer; made if None.
            scratch: [n], overwritten; made if None.
        """
        n = self.n_equal
        values = np.asarray(values, dtype=np.float64)
        product = np.multiply(values, float(n), out=scratch)
        bins = np.empty(np.shape(values), dtype=np.int64) if out is None else out
        np.copyto(bins, product, casting="unsafe")
        if not self._is_plain:
            self._settle(values, product, bins)
        np.clip(bins, 0, n - 1, out=bins)
        if self.n_fine:
            last = np.flatnonzero(bins == n - 1)
            bins[last] += self._inner(values[last])
        return bins

    def _settle(self, values: Float, product: Float, bins: Int) -> None:
        """Correct, in place, bins of values whose product is so near a whole number that rounding may have crossed it."""
        product -= np.rint(product)
        np.abs(product, out=product)
        near = np.flatnonzero(product <= self.n_equal * 2.0**-50)
        if not len(near):
            return
        value, guess = values[near], np.clip(bins[near], 0, self.n_equal - 1)
        guess -= value < self.edges[guess]
        above = np.minimum(guess + 1, self.n_equal - 1)
        guess += (guess < above) & (value >= self.edges[above])
        bins[near] = guess

    def _inner(self, values: Float) -> Int:
        """Which part of the last equal bin: 1 − value is exact there, and its binary exponent is a guess within one."""
        distance = (1.0 - values) * self.n_equal
        inner = 1022 - ((distance.view(np.int64) - 1) >> 52)  # of 2^-j exactly: j
        np.clip(inner, 0, self.n_fine, out=inner)
        edges = self._towards_one
        inner -= values < edges[inner]
        inner += values >= edges[inner + 1]
        return inner


FINE = Grid(16_200, 30)
"""15, 10, 20 and 25 divide it, and confidences near 1 stay apart."""
