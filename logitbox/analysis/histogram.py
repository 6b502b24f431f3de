"""Grids of confidence bins that nest exactly, so that coarse tables come from fine ones without loss.

Edges are the correctly rounded quotients i/n. Since k/15 and 1080k/16200 are the same real number they are the
same float64, and a value is in the same coarse bin whichever way it is counted. Bins are closed on the left;
the last is closed on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.errors import InputError

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

    def locate(self, values: Float) -> Int:
        """Bin of each value in [0, 1]. Exact with respect to `edges`."""
        guess = np.clip((values * self.n_equal).astype(np.int64), 0, self.n_equal - 1)
        edges = self.edges
        guess -= values < edges[guess]  # the product is rounded; the edges decide
        guess += (guess < self.n_equal - 1) & (values >= edges[np.minimum(guess + 1, self.n_equal - 1)])
        last = guess == self.n_equal - 1
        if self.n_fine and last.any():
            inner = np.searchsorted(edges[self.n_equal - 1 : -1], values[last], side="right") - 1
            guess[last] = self.n_equal - 1 + inner
        return guess

    def coarsen(self, bins: NDArray[np.integer[Any]], n: int) -> Int:
        """Bin numbers of this grid as those of `n` equal bins. Raises InputError unless n divides `n_equal`."""
        if n < 1 or self.n_equal % n:
            allowed = [d for d in range(1, 101) if self.n_equal % d == 0]
            raise InputError(
                f"bins is {n}; it must divide {self.n_equal}. Up to 100: {', '.join(map(str, allowed))}"
            )
        return np.minimum(bins, self.n_equal - 1).astype(np.int64) * n // self.n_equal


FINE = Grid(16_200, 30)
"""Per phase and token type; 15, 10, 20 and 25 divide it, and confidences near 1 stay apart."""

COARSE = Grid(300)
"""Per step."""
