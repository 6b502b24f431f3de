"""The most and the least that Σ e^{−βg} over some g can be, when Σ e^{−g}, Σ g e^{−g} and their number are known.

Weighed by e^{−g}/Σ e^{−g} the g have a known mean μ and a known mean R of e^g, and lie in [a, ∞). The mean of e^{(1−β)g}
over all such measures is least and most for two of them (Markov and Krein: 1, g, e^g and e^{(1−β)g} are a Chebyshev
system). Least: all weight at μ, and a vanishing part far away, which is the tangent of the logarithm at β = 1. Most:
weight 1 − q at a and q at a + d, with q·d = μ − a and q·(e^d − 1) = R e^{−a} − 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def two_gaps(excess: Float, reach: Float) -> tuple[Float, Float]:
    """(q, d) with q·d = excess and q·(e^d − 1) = e^reach − 1.

    Args:
        excess: μ − a, at least 0, [rows].
        reach: ln R − a, at least `excess`, [rows].

    (e^d − 1)/d = κ has one root above 0. From above it is come near by d ← ln(1 + κd), and reached by Newton's steps,
    which stay above it: what is left of the way only widens the bound.
    """
    excess = np.maximum(excess, 1e-12)
    ratio = np.maximum(np.expm1(reach) / excess, 1.0)
    distance = 2 * np.log(ratio) + 1
    for _ in range(3):
        distance = np.log1p(ratio * distance)
    for _ in range(8):
        grown = np.expm1(distance)
        slope = np.maximum(grown + 1 - ratio, 1e-300)
        distance = np.maximum(distance - np.maximum(grown - ratio * distance, 0.0) / slope, excess)
    return np.minimum(excess / distance, 1.0), distance


def mixture(part: Float, distance: Float, beta: float) -> Float:
    """Mean of e^{(1−β)(g − a)} of these two, [rows]."""
    return 1 - part + part * np.exp((1 - beta) * distance)
