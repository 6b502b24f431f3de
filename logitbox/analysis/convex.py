"""The least value of a convex function that is known at a few places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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


def lowest(known: Known, below: Sequence[Point], a: float, b: float) -> float:
    """The least that f can be over [a, b]: lines through two points, extended beyond the one on f, lie below it.

    Args:
        known: of f.
        below: places in [a, b] and values there of another convex function, which is nowhere above f.
        a: lower end.
        b: upper end.
    """
    place, value, slope = known.slope
    places = sorted({a, b, *(x for x, _ in (*known.exact, *below) if a < x < b)})
    bounds: list[float] = []
    for left, right in pairwise(places):
        lines = [(slope, value - slope * place)]
        for points in (known.exact, below):
            lines += _through(sorted(point for point in points if point[0] <= left)[-2:])
            lines += _through(sorted(point for point in points if point[0] >= right)[:2])
        for x, f in known.exact:
            beyond = (point for point in known.above if point[0] < x <= left or right <= x < point[0])
            lines += [line for point in beyond for line in _through([(x, f), point])]
        bounds.append(_lowest_of(np.array(lines), left, right))
    return min(bounds)


def _through(points: Sequence[Point]) -> list[tuple[float, float]]:
    """(slope, intercept) of the line through two points; none if there are fewer."""
    if len(points) < 2:
        return []
    (x, f), (y, g) = points
    slope = (g - f) / (y - x)
    return [(slope, f - slope * x)]


def _lowest_of(lines: Float, a: float, b: float) -> float:
    """Least over [a, b] of the largest of the lines, which is convex: by thirds."""
    slope, intercept = lines[:, 0], lines[:, 1]
    for _ in range(100):
        c, d = a + (b - a) / 3, b - (b - a) / 3
        at_c, at_d = (float((slope * x + intercept).max()) for x in (c, d))
        a, b = (a, d) if at_c <= at_d else (c, b)
    return float((slope * a + intercept).max())
