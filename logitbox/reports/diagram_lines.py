"""Lines of a diagram in few points: what a page shows need not hold thousands."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

MAX_POINTS = 60
"""Points of one line of a diagram."""

_LEAST = 2e-3
"""A point that lies closer to the line without it is left out: a third of a stroke in a page's diagram."""


def simplified(
    x: ArrayLike, y: ArrayLike, most: int = MAX_POINTS, least: float = _LEAST
) -> tuple[Float, Float]:
    """The points that a line needs: both ends, then always the one farthest above or below the line so far.

    Args:
        x: [points], ascending.
        y: [points].
        most: how many points are kept at most, two or more.
        least: distance in y below which points are left out.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) <= 2:
        return x, y
    kept = [0, len(x) - 1]
    pieces = [_farthest(x, y, 0, len(x) - 1)]
    while len(kept) < most:
        best = max(range(len(pieces)), key=lambda i: pieces[i][0])
        distance, middle, start, end = pieces.pop(best)
        if distance < least:
            break
        kept.append(middle)
        pieces += [_farthest(x, y, start, middle), _farthest(x, y, middle, end)]
    kept.sort()
    return x[kept], y[kept]


def _farthest(x: Float, y: Float, start: int, end: int) -> tuple[float, int, int, int]:
    """How far the farthest point between two is from their line, which it is, and the two."""
    if end - start < 2:
        return 0.0, start, start, end
    inner = slice(start + 1, end)
    run = x[end] - x[start]
    share = (x[inner] - x[start]) / run if run > 0 else np.zeros(end - start - 1)
    distance = np.abs(y[inner] - y[start] - share * (y[end] - y[start]))
    at = int(distance.argmax())
    return float(distance[at]), start + 1 + at, start, end
