"""The least value of a convex function that is known at a few places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray

Float = NDArray[np.float64]
Point = tuple[float, float]
"""A place and the value there."""


def least(x: Sequence[float], values: Sequence[float], a: float, b: float) -> float:
    """Where in [a, b] the polynomial through the values is least."""
    through = Chebyshev.fit(x, values, len(x) - 1, domain=[a, b])
    roots = np.asarray(through.deriv().roots())
    inside = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > a) & (roots.real < b)]
    places = np.array([a, b, *inside])
    return float(places[np.argmin(through(places))])


@dataclass(frozen=True)
class Known:
    """What is known of a convex f.

    Attributes:
        exact: places and values of f.
        slope: place, value and slope of f.
        above: places, and values not below f.
    """

    exact: Sequence[Point]
    slope: tuple[float, float, float]
    above: Sequence[Point]


@dataclass(frozen=True)
class Piece:
    """An interval, and lines [lines, 2] of (slope, intercept), none of which is above f on it."""

    left: float
    right: float
    lines: Float

    @property
    def lowest(self) -> float:
        """The least over the interval of the largest of the lines, which is convex: by thirds."""
        slope, intercept = self.lines[:, 0], self.lines[:, 1]
        a, b = self.left, self.right
        for _ in range(100):
            c, d = a + (b - a) / 3, b - (b - a) / 3
            at_c, at_d = (float((slope * x + intercept).max()) for x in (c, d))
            a, b = (a, d) if at_c <= at_d else (c, b)
        return float((slope * a + intercept).max())


def pieces(
    known: Known,
    below: Sequence[Point],
    a: float,
    b: float,
    slack: Callable[[float, float], float] | None = None,
) -> list[Piece]:
    """Bounds of f from below over [a, b]: lines through two points, extended beyond the one on f, lie below it.

    Args:
        known: of f.
        below: places in [a, b] and values there of another convex function, which is nowhere above f.
        a: lower end.
        b: upper end.
        slack: what that function may be above f by after all, between two places.
    """
    place, value, slope = known.slope
    places = sorted({a, b, *(x for x, _ in (*known.exact, *below) if a < x < b)})
    found: list[Piece] = []
    for left, right in pairwise(places):
        lines = [(slope, value - slope * place)]
        for points, off in ((known.exact, 0.0), (below, 0.0 if slack is None else slack(left, right))):
            through = _through(sorted(point for point in points if point[0] <= left)[-2:])
            through += _through(sorted(point for point in points if point[0] >= right)[:2])
            lines += [(steep, at - off) for steep, at in through]
        for x, f in known.exact:
            beyond = (point for point in known.above if point[0] < x <= left or right <= x < point[0])
            lines += [line for point in beyond for line in _through([(x, f), point])]
        found.append(Piece(left, right, np.array(lines)))
    return found


def lowest(known: Known, below: Sequence[Point], a: float, b: float) -> float:
    """The least that f can be over [a, b]; arguments as for `pieces`."""
    return min(piece.lowest for piece in pieces(known, below, a, b))


def reach(found: Sequence[Piece], level: float) -> tuple[float, float] | None:
    """The ends of where f may be at `level` or below; None where it nowhere can."""
    inside: list[tuple[float, float]] = []
    for piece in found:
        low, high = piece.left, piece.right
        for slope, intercept in piece.lines.tolist():
            if slope > 0:
                high = min(high, (level - intercept) / slope)
            elif slope < 0:
                low = max(low, (level - intercept) / slope)
            elif intercept > level:
                high = -inf
        if low <= high:
            inside.append((low, high))
    return (min(low for low, _ in inside), max(high for _, high in inside)) if inside else None


def _through(points: Sequence[Point]) -> list[tuple[float, float]]:
    """(slope, intercept) of the line through two points; none if there are fewer."""
    if len(points) < 2:
        return []
    (x, f), (y, g) = points
    slope = (g - f) / (y - x)
    return [(slope, f - slope * x)]
