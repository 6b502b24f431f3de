"""Counting tokens into bins of confidence, chunk by chunk: fast, exact at the edges, and mergeable.

One bincount of whole numbers gives the tokens and the right ones, one of floats both sums of confidence. Chunks stay in the
cache, so memory does not depend on the number of tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.histogram import Grid
from logitbox.errors import InputError

_CHUNK = 1 << 15
"""Tokens at a time: what is made of them stays in the cache. With large tables more, so that adding those costs no more."""


class Counter:
    """Histograms of confidence, one per group; add tokens as they come, merge counters of the same shape.

    Attributes:
        grid: the bins.
        groups: how many histograms.
    """

    def __init__(self, grid: Grid, groups: int = 1) -> None:
        self.grid, self.groups = grid, groups
        size = 2 * groups * grid.n_bins  # wrong and right side by side
        self._count = np.zeros(size, dtype=np.int64)
        self._confidence = np.zeros(size)
        self._weight: Float | None = None
        self._squares: Float | None = None

    def add(
        self,
        confidence: NDArray[Any],
        correct: NDArray[Any],
        group: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
    ) -> None:
        """Count tokens, [tokens] each.

        Args:
            confidence: in [0, 1]; NaN must have been left out.
            correct: bool, or 0 and 1.
            group: in [0, groups).
            weight: above 0, and neither so large nor so small that squares overflow or vanish (1e-150 to 1e150).
        """
        if weight is not None and self._weight is None:
            self._weight = self._count.astype(np.float64)
            self._squares = self._weight.copy()
        size = len(self._count)
        step = min(len(confidence), max(_CHUNK, size))
        values, scratch = np.empty(step), np.empty(step)
        codes, others = np.empty(step, dtype=np.int64), np.empty(step, dtype=np.int64)
        for start in range(0, len(confidence), step or 1):
            part = slice(start, start + step)
            m = len(confidence[part])
            value, code, other = values[:m], codes[:m], others[:m]
            value[:] = confidence[part]
            self.grid.locate(value, code, scratch[:m])
            if group is not None:
                np.copyto(other, group[part], casting="unsafe")
                other *= self.grid.n_bins
                code += other
            code <<= 1
            code += correct[part].astype(bool, copy=False)
            self._count += np.bincount(code, minlength=size)
            w = None if weight is None else weight[part].astype(np.float64, copy=False)
            if w is not None:
                value *= w
            self._confidence += np.bincount(code, value, minlength=size)
            if self._weight is not None and self._squares is not None:
                self._weight += np.bincount(code, w, minlength=size)
                self._squares += np.bincount(code, None if w is None else w * w, minlength=size)

    def merge(self, other: Counter) -> None:
        """Add another's counts. Raises InputError where it has other bins or groups."""
        if (self.grid, self.groups) != (other.grid, other.groups):
            raise InputError(
                f"counters differ: {self.groups} groups of {self.grid.n_bins} bins and {other.groups} of {other.grid.n_bins}"
            )
        if self._weight is not None or other._weight is not None:
            mine, theirs = self._weights(), other._weights()
            self._weight, self._squares = mine[0] + theirs[0], mine[1] + theirs[1]
        self._count += other._count
        self._confidence += other._confidence

    def _weights(self) -> tuple[Float, Float]:
        """(Σ weight, Σ weight²)."""
        if self._weight is None or self._squares is None:
            return self._count.astype(np.float64), self._count.astype(np.float64)
        return self._weight, self._squares

    def atoms(self, group: int = 0) -> Atoms:
        """The bins of a group that have tokens."""
        shape = (self.groups, self.grid.n_bins, 2)
        count, n, squares, confidence = (
            part.reshape(shape)[group].astype(np.float64)
            for part in (self._count, *self._weights(), self._confidence)
        )
        at = np.flatnonzero(n.sum(axis=1) > 0)
        edges = self.grid.edges
        return Atoms(
            low=edges[at],
            high=edges[at + 1],
            count=count.sum(axis=1)[at],
            n=n.sum(axis=1)[at],
            right=n[at, 1],
            confidence=confidence.sum(axis=1)[at],
            right_confidence=confidence[at, 1],
            squares=None if self._squares is None else squares.sum(axis=1)[at],
        )

    def residuals(self) -> Float:
        """Σ weight · (correct − confidence), [groups, bins]."""
        right = self._weights()[0].reshape(-1, 2)[:, 1]
        return (right - self._confidence.reshape(-1, 2).sum(axis=1)).reshape(self.groups, self.grid.n_bins)
