"""Atoms: sets of tokens of one confidence, or of one narrow bin of confidences, as sums.

Every measure of calibration is a function of atoms. From arrays there is one atom per distinct confidence, so that ties are
never split and nothing is lost; from a dump's histogram an atom is a bin, and what that may change is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Atoms:
    """Sums over sets of tokens, ascending in confidence; all float64 [atoms].

    Attributes:
        low, high: all confidences of the set lie in [low, high]; equal where there is but one.
        count: tokens.
        n: Σ weight; above 0.
        right: Σ weight of the right ones.
        confidence: Σ weight · confidence.
        right_confidence: the same over the right ones.
        squares: Σ weight²; None where every token weighs 1.
    """

    low: Float
    high: Float
    count: Float
    n: Float
    right: Float
    confidence: Float
    right_confidence: Float
    squares: Float | None = None

    def __len__(self) -> int:
        return len(self.n)

    @property
    def wrong(self) -> Float:
        """Σ weight of the wrong ones."""
        return self.n - self.right

    @property
    def residual(self) -> Float:
        """Σ weight · (correct − confidence)."""
        return self.right - self.confidence

    @property
    def mean(self) -> Float:
        """Mean confidence, within [low, high] whatever the sums are rounded to."""
        return np.clip(self.confidence / self.n, self.low, self.high)

    @property
    def is_exact(self) -> bool:
        """Whether every atom is of one confidence."""
        return bool((self.low == self.high).all())

    @property
    def variation(self) -> Float:
        """Σ weight · |correct − confidence|: the most that a part of the set can add to any sum of residuals."""
        return self.right - 2 * self.right_confidence + self.confidence

    @property
    def effective(self) -> Float:
        """How many tokens of equal weight would tell as much: (Σ weight)² / Σ weight² (Kish 1965)."""
        return self.count if self.squares is None else self.n**2 / self.squares

    def grouped(self, index: Int) -> Atoms:
        """Atoms of the same index taken together; `index` ascends. Indices that do not occur are left out."""
        if not len(self):
            return self
        start = np.flatnonzero(np.diff(index, prepend=index[0] - 1))
        end = np.append(start[1:], len(index)) - 1
        sums = (self.count, self.n, self.right, self.confidence, self.right_confidence, self.squares)
        added = (None if part is None else np.add.reduceat(part, start) for part in sums)
        return Atoms(self.low[start], self.high[end], *added)  # pyright: ignore[reportArgumentType] (only the last may be None)


NOTHING = Atoms(*(np.zeros(0) for _ in range(7)))


def exact_atoms(confidence: NDArray[Any], correct: NDArray[np.bool_], weight: Float | None) -> Atoms:
    """One atom per distinct confidence. Sorts; [tokens] each."""
    if not len(confidence):
        return NOTHING
    # The bits of positive floats ascend as they do, and those of [0, 1] leave room for one more: sorting whole numbers is fast.
    key = (confidence.astype(np.float64) + 0.0).view(np.int64)  # + 0: no −0
    key <<= 1
    key |= correct
    order = None
    if weight is None:
        key.sort()
    else:
        order = np.argsort(key, kind="stable")
        key = key[order]
    right = (key & 1).astype(np.float64)
    key >>= 1
    start = np.flatnonzero(np.diff(key, prepend=-1))
    at = key[start].view(np.float64)
    count = np.diff(start, append=len(key)).astype(np.float64)
    n, squares = count, None
    if weight is not None:
        w = weight[order]
        right *= w
        n, squares = np.add.reduceat(w, start), np.add.reduceat(w * w, start)
    hits = np.add.reduceat(right, start)
    return Atoms(at, at, count, n, hits, n * at, hits * at, squares)
