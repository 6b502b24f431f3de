"""The temperature that minimises mean nll, fitted to a dump's columns, without logits.

With p_T(gold) ∝ e^{x/T} and β = 1/T, mean nll is convex in β. It is exact (to 1e-6 nats) at the six β of `lse_beta` and
`lse`, and so is its slope at β = 1, mean(nll − entropy); between them see `logitbox.analysis.scaling`. Measured on
SmolLM2, also with its logits times 1.5 and 0.6, and on random logits: T errs by 0.1 % at most, and mean nll at any T
in [0.5, 2] by 4e-4 nats with k = 32, 1e-3 with k = 8; from T = 2 to 4 by 2e-3 and 8e-3.

Where `lse_beta` is missing there are bounds (`logitbox.analysis.tail_bounds`). Several populations of the same rows are
fitted in the same three passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.convex import Piece, least, reach
from logitbox.analysis.node_means import (
    NO_TOKENS,
    ONE,
    ROUNDING,
    SINGLE,
    Means,
    NoFit,
    Read,
    finite,
    means_of,
    member_of,
)
from logitbox.analysis.scaling import COLUMNS, bands, blocks
from logitbox.analysis.tail import NODES, Columns, Float
from logitbox.analysis.tail_bounds import UNROUNDED

Each = Callable[[Columns, Float], None]

_POINTS = 6
_NEAR = (0.97, 0.99, 1.01, 1.03)
_INNER = 3
"""β between two nodes at which bounds are taken, and"""
_FINER = 8
"""how many more where the least may lie."""
_APART = 1e-4
"""No two β are closer: lines through their bounds would be steep with rounding."""
_FLAT = 1e-5
"""A slope whose sign float32 may have changed."""


@dataclass(frozen=True)
class Fit:
    """The temperature of least mean nll.

    Attributes:
        temperature: in [0.5, 4].
        nll_before: mean at T = 1, nats, exact.
        nll: mean at `temperature`, nats, interpolated.
        low, high: the least mean nll over [0.5, 4] lies between them, because mean nll and every token's tail are
            convex in β; widened by `ROUNDING`.
        at_edge: the best temperature is 0.5 or less, or 4 or more.
        tokens: fitted on.
        left_out: NaN or infinite nll.
        coolest, hottest: the temperature of least mean nll over [0.5, 4] lies between them.
        off: what float32 may have put mean nll off by at the recorded β; large if logits lie far from 0.
    """

    temperature: float
    nll_before: float
    nll: float
    low: float
    high: float
    at_edge: bool
    tokens: int
    left_out: int
    coolest: float = 1 / NODES[-1]
    hottest: float = 1 / NODES[0]
    off: float = 0.0

    @property
    def gain(self) -> float:
        """Mean nll that the temperature takes off, nats."""
        return self.nll_before - self.nll

    def __str__(self) -> str:
        beyond = (" or less" if self.temperature < 1 else " or more") if self.at_edge else ""
        told = f"T = {self.temperature:.3g}{beyond} takes mean nll from {self.nll_before:.4f} to {self.nll:.4f} nats"
        left_out = f"; left out: {self.left_out:,} NaN or infinite" if self.left_out else ""
        return f"{told} ({self.low:.4f} to {self.high:.4f}) over {self.tokens:,} tokens{left_out}"


@dataclass(frozen=True)
class Range:
    """What is known of the temperature of least mean nll where `lse_beta` was not recorded for all tokens.

    Attributes:
        coolest, hottest: it lies between them; 0.5 stands for that or less, 4 for that or more.
        nll_before: mean at T = 1, nats, exact.
        low, high: the least mean nll over [0.5, 4] lies between them.
        tokens: looked at.
        left_out: NaN or infinite nll.
        missing: tokens without `lse_beta`.
    """

    coolest: float
    hottest: float
    nll_before: float
    low: float
    high: float
    tokens: int
    left_out: int
    missing: int


def fit(read: Read, each: Each | None = None) -> Fit | NoFit:
    """The temperature of least mean nll, in three passes: exact means, six β around the least, the best one.

    Args:
        read: called once a pass.
        each: called in the last pass with the rows of finite nll of every chunk, and their nll at the temperature.
    """
    (means,) = means_of(read)
    if means.no_fit is not None:
        return means.no_fit
    search = _Search(means)
    _pass(read, [search])
    search.narrow()
    _pass(read, [search], each)
    return search.fit()


def fits(read: Read, populations: int) -> list[Fit | Range | NoFit]:
    """`fit` of several populations in three passes over all rows, and bounds where `lse_beta` is missing.

    Args:
        read: called once a pass; `node_means.MEMBER` says which rows are of which population.
        populations: how many there are.
    """
    every = means_of(read, populations)
    searches = [_Search(means) if means.tokens else None for means in every]
    _pass(read, searches)
    for search in searches:
        if search is not None:
            search.narrow()
    _pass(read, searches)
    return [NoFit(NO_TOKENS) if search is None else search.result() for search in searches]


class _Search:
    """The search for one population's temperature.

    Attributes:
        means: exact means.
        loose: `lse_beta` is missing.
        wanted: β at which the next pass is to take the means of `bands`.
    """

    def __init__(self, means: Means) -> None:
        self.means, self.loose = means, means.missing > 0
        self.best = 1.0
        self._at: list[float] = []
        self._found = np.zeros((0, 4))
        self._first = 0
        if self.loose:
            self.wanted = _grid(means.slope)
            return
        a, b = means.bracket
        around = (a + b) / 2 + (b - a) / 2 * np.cos(np.pi * (np.arange(_POINTS) + 0.5) / _POINTS)
        self.wanted: list[float] = around.tolist() if a < b else []

    def add(self, sums: Float) -> None:
        """Σ over rows of `bands` at every β wanted, [wanted, 4]."""
        self._at += self.wanted
        self._found = np.concatenate([self._found, sums / self.means.tokens])

    def narrow(self) -> None:
        """Want the β of the last pass."""
        self._first = len(self._at)
        a, b = self.means.bracket
        if self.loose:
            low, high = self._reach()
            edge = (high - low) / _FINER
            finer = np.clip(np.linspace(low - edge, high + edge, _FINER), NODES[0], NODES[-1])
            apart = abs(finer[:, None] - [*self._at, 1.0]).min(axis=1) > _APART
            self.wanted = sorted({*finer[apart].tolist()})
            return
        if a < b:
            self.best = least(self._at, self._found[:, 0].tolist(), a, b)
        # More β next to the best: only the bound from below needs them.
        self.wanted = [self.best, *(self.best * factor for factor in _NEAR if a < self.best * factor < b)]

    def result(self) -> Fit | Range:
        """After the last pass."""
        return self.range() if self.loose else self.fit()

    def fit(self) -> Fit:
        """After the last pass."""
        low, high = self._reach()
        most = self._high
        least_nll = min(self.means.least_above(self._points(2), self._points(3)), most)
        return Fit(
            temperature=1 / self.best,
            nll_before=self.means.nll[ONE],
            nll=float(np.clip(self._found[self._first, 0], least_nll, most)),
            low=least_nll,
            high=most,
            at_edge=self.best in {NODES[0], NODES[-1]},
            tokens=self.means.tokens,
            left_out=self.means.left_out,
            coolest=1 / max(high, self.best),
            hottest=1 / min(low, self.best),
            off=max(self.means.off),
        )

    def range(self) -> Range:
        """After the last pass, where `lse_beta` is missing."""
        low, high = self._reach()
        there = (piece for piece in self._pieces() if piece.right >= low and piece.left <= high)
        least_nll = min(piece.lowest for piece in there)
        means = self.means
        counts = (means.tokens, means.left_out, means.missing)
        least_nll = min(max(least_nll, 0.0), self._high)
        return Range(1 / high, 1 / low, means.nll[ONE], least_nll, self._high, *counts)

    @property
    def _rounding(self) -> float:
        return UNROUNDED if self.means.missing == self.means.tokens else ROUNDING

    @property
    def _high(self) -> float:
        """What the least mean cannot be above."""
        found = (y + self._rounding + self.means.off_at(x) for x, y in self._points(3))
        return max(0.0, min([self.means.most, *found]))

    def _points(self, part: int) -> list[tuple[float, float]]:
        return list(zip(self._at, self._found[:, part].tolist(), strict=True))

    def _pieces(self) -> list[Piece]:
        rounded = dict(zip(self._at, (self._found[:, 1] - self._found[:, 2]).tolist(), strict=True))

        def slack(left: float, right: float) -> float:
            return max(rounded.get(left, 0.0), rounded.get(right, 0.0))

        return self.means.pieces(self._points(1), self._points(3), self._rounding, slack)

    def _reach(self) -> tuple[float, float]:
        """Which β the best one lies between."""
        return reach(self._pieces(), self._high + SINGLE) or (self.best, self.best)


def _grid(slope: float) -> list[float]:
    """β from the slope's side of 1, and from both where it may have either sign."""
    inner = np.arange(_INNER + 1) / (_INNER + 1)
    places = [*(a + (b - a) * inner for a, b in pairwise(NODES)), np.array(NODES[-1:])]
    every: list[float] = np.concatenate(places).tolist()
    return [x for x in every if x != 1 and (slope * (1 - x) > 0 or abs(slope) < _FLAT)]


def _pass(read: Read, searches: Sequence[_Search | None], each: Each | None = None) -> None:
    """Take what the searches want; `each` gets the rows' nll at the first β of the first search."""
    alike: dict[tuple[float, ...], list[int]] = {}
    for i, search in enumerate(searches):
        if search is not None and search.wanted:
            alike.setdefault(tuple(search.wanted), []).append(i)
    if not alike:
        return
    sums = {i: np.zeros((len(betas), 4)) for betas, group in alike.items() for i in group}
    for columns in read(COLUMNS):
        rows, _ = finite(columns)
        first: list[Float] = []
        for block in blocks(rows):
            member = member_of(block, len(searches))
            first += [_add(sums, betas, group, block, member[:, group]) for betas, group in alike.items()]
        if each is not None and first:
            each(rows, np.concatenate(first))
    for i, found in sums.items():
        if (search := searches[i]) is not None:
            search.add(found)


def _add(
    sums: Mapping[int, Float],
    betas: Sequence[float],
    group: Sequence[int],
    block: Columns,
    member: NDArray[np.bool_],
) -> Float:
    """Add a block's rows to the sums of populations that want the same β; the rows' nll at the first of these."""
    inside = member.any(axis=1)
    part = block if inside.all() else {name: values[inside] for name, values in block.items()}
    found = bands(betas, part)
    weights = member[inside].astype(np.float64)
    for i, weight in zip(group, weights.T, strict=True):
        sums[i][...] += found @ weight
    return found[0, 0]
