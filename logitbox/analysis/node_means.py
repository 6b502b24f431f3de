"""What a dump knows exactly of mean nll at other temperatures, and what that bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.convex import Known, Piece, Point, pieces
from logitbox.analysis.scaling import COLUMNS, has_sums
from logitbox.analysis.tail import NODES, Columns, Float, log_sums, log_sums_off

Read = Callable[[Sequence[str]], Iterable[Columns]]
"""Column names to chunks of rows with those of them that are there: `Choice.scan`, for one."""

MEMBER = "member"
"""Name under which membership of populations may travel with the rows: bool [rows, populations]."""

ROUNDING = 1e-4
"""What float16 gaps may do to a bound of mean nll, in nats; measured: 2e-5."""

SINGLE = 1e-6
"""What float32 may do to an exact mean."""

NO_TOKENS = "no token with a finite nll"

_FOR_MEANS = COLUMNS[:6]
ONE = NODES.index(1.0)

_EXTENDED = 5
"""A line through two of `NODES`, extended to the next one, is off there by up to so many times what its points are off by."""


@dataclass(frozen=True)
class NoFit:
    """Why there is no temperature."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Means:
    """Exact means of a population: `nll` at `NODES`, `uniform` at β = 0, and d nll/dβ = nll − entropy at β = 1.

    `off` is how far float32 may have put each `nll` off: little, unless logits lie far from 0.
    Where `missing` tokens have no `lse_beta`, `nll` is right at β = 1 only.
    """

    nll: list[float]
    uniform: float
    slope: float
    tokens: int
    left_out: int
    missing: int = 0
    off: tuple[float, ...] = (0.0,) * len(NODES)

    @property
    def bracket(self) -> tuple[float, float]:
        """Where the least mean is, by convexity; twice 1 if there, as for a model that is always sure and right."""
        j = int(np.argmin(self.nll))
        if self.nll[ONE] > self.nll[j] + 1e-12:
            return NODES[max(j - 1, 0)], NODES[min(j + 1, len(NODES) - 1)]
        if self.slope == 0:
            return 1.0, 1.0
        return (NODES[ONE - 1], 1.0) if self.slope > 0 else (1.0, NODES[ONE + 1])

    @property
    def _around(self) -> tuple[float, float]:
        """Where the least mean may be, given what `nll` may be off by."""
        most = min(y + off for y, off in zip(self.nll, self.off, strict=True))
        near = [j for j, (y, off) in enumerate(zip(self.nll, self.off, strict=True)) if y - off <= most]
        if near == [ONE]:
            return self.bracket
        return NODES[max(near[0] - 1, 0)], NODES[min(near[-1] + 1, len(NODES) - 1)]

    @property
    def most(self) -> float:
        """What the least mean is not above."""
        exact = (
            [self.nll[ONE]] if self.missing else [y + off for y, off in zip(self.nll, self.off, strict=True)]
        )
        return max(0.0, min(exact))

    def off_at(self, beta: float) -> float:
        """What float32 may add to a mean that was taken right at one of `NODES`."""
        return self.off[NODES.index(beta)] if beta in NODES else 0.0

    @property
    def no_fit(self) -> NoFit | None:
        """Why no temperature can be fitted; None if one can."""
        if not self.tokens:
            return NoFit(NO_TOKENS)
        if self.missing:
            return NoFit(
                f"no lse_beta for {self.missing:,} of {self.tokens:,} tokens; "
                'record with lse_beta="always", or in another phase than train'
            )
        return None

    def least_above(self, below: Sequence[Point], above: Sequence[Point]) -> float:
        """What the least mean cannot be under, given the means of every token's bounds at some β.

        Between two nodes the lower bound, the logarithm of sums of e^{linear in β}, is convex as well.
        """
        first, last = self._around
        inside = [
            piece
            for piece in self.pieces(below, above, ROUNDING)
            if first <= piece.left and piece.right <= last
        ]
        return max(0.0, min([self.nll[ONE] - SINGLE, *(piece.lowest for piece in inside)]))

    def pieces(
        self,
        below: Sequence[Point],
        above: Sequence[Point],
        rounding: float,
        slack: Callable[[float, float], float] | None = None,
    ) -> list[Piece]:
        """Bounds of mean nll from below at every β of [0.25, 2].

        Args:
            below: as for `least_above`.
            above: likewise.
            rounding: what both may err by.
            slack: what `below` may be above mean nll by beyond that, between two places.
        """
        of_mean = self._known(above, rounding)
        off = 0.0 if self.missing else max(self.off)
        found: list[Piece] = []
        for a, b in pairwise(NODES):
            # At a node the most, because lines from there are used beyond their other point only.
            inside = {x: y + self.off_at(x) for x, y in (*below, *self._exact) if a <= x <= b}
            found += pieces(of_mean, [(x, y - rounding) for x, y in inside.items()], a, b, slack)
        return [_lowered(piece, _EXTENDED * off) for piece in found] if off else found

    @property
    def _exact(self) -> list[Point]:
        if self.missing:
            return [(0.0, self.uniform), (1.0, self.nll[ONE])]
        return [(0.0, self.uniform), *zip(NODES, self.nll, strict=True)]

    def _known(self, above: Sequence[Point], rounding: float) -> Known:
        slope = (1.0, self.nll[ONE], self.slope)
        off = 0.0 if self.missing else max(self.off)
        return Known(self._exact, slope, [(x, y + rounding + max(off, self.off_at(x))) for x, y in above])


def _lowered(piece: Piece, off: float) -> Piece:
    """All lines but the first, the tangent at β = 1, which is exact."""
    lines = piece.lines.copy()
    lines[1:, 1] -= off
    return Piece(piece.left, piece.right, lines)


def means_of(read: Read, populations: int = 1) -> list[Means]:
    """Of every population, in one pass, which needs no gaps. Rows without `MEMBER` are of all of them."""
    sums = np.zeros((2 * len(NODES) + 2, populations))
    tokens, left_out, missing = np.zeros((3, populations), dtype=np.int64)
    for columns in read(_FOR_MEANS):
        rows, dropped = finite(columns)
        if dropped:
            left_out += member_of(columns, populations).sum(axis=0) - member_of(rows, populations).sum(axis=0)
        member = member_of(rows, populations)
        known = has_sums(rows)
        tokens += member.sum(axis=0)
        missing += (~known[:, None] & member).sum(axis=0)
        nll = rows["nll"].astype(np.float64)
        at_nodes, off = np.zeros((2, len(NODES), len(nll)))
        if known.any():
            beyond = np.array(NODES)[:, None] * (nll - rows["top_nll"])
            at_nodes = np.where(known, log_sums(rows) + beyond, 0.0)
            off = np.where(known, log_sums_off(rows), 0.0)
        at_nodes[ONE] = nll
        others: Float = np.stack([np.log(rows["n_finite"]), nll - rows["entropy"]])
        values, weights = np.concatenate([off, at_nodes, others]), member.astype(np.float64)
        # One population after the other, so that none depends on which others there are.
        sums += np.stack([values @ weights[:, i] for i in range(populations)], axis=1)
    means, size = (sums / np.maximum(tokens, 1)).T.tolist(), len(NODES)
    counts = zip(tokens.tolist(), left_out.tolist(), missing.tolist(), strict=True)
    return [
        Means(found[size:-2], found[-2], found[-1], *count, tuple(found[:size]))
        for found, count in zip(means, counts, strict=True)
    ]


def member_of(columns: Columns, populations: int) -> NDArray[np.bool_]:
    """[rows, populations], whether a row is of a population."""
    return columns[MEMBER] if MEMBER in columns else np.ones((len(columns["nll"]), populations), dtype=bool)


def finite(columns: Columns) -> tuple[Columns, int]:
    """(the rows of finite nll, how many others)."""
    keep: NDArray[Any] = np.isfinite(columns["nll"]) & np.isfinite(columns["top_nll"])
    dropped = len(keep) - int(keep.sum())
    return ({name: values[keep] for name, values in columns.items()} if dropped else columns), dropped
