"""How sure a paired difference is: intervals clustered by sample, and a permutation test that flips whole samples.

Tokens of a sample are correlated, samples are not: a sample's differences of both metrics stay together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.intervals import Z95

Float = NDArray[np.float64]

FLIPS = 9_999
_MOST_SIGNS = 200_000_000
"""With many samples fewer flips are tried; their distribution is then close to normal."""
_EXACT = 13
"""Up to this many samples all 2ⁿ flips are enumerated."""
_AT_ONCE = 1 << 22
"""Signs held at a time."""


@dataclass(frozen=True)
class Difference:
    """A mean difference A − B per token.

    Attributes:
        value: Σ difference / tokens.
        low, high: 95 % interval clustered by sample; None with fewer than two samples.
        p: two-sided p-value of the sign-flip test; the smallest that it can give is 1 / (flips + 1).
    """

    value: float
    low: float | None
    high: float | None
    p: float

    @property
    def sign(self) -> int:
        """−1, 0 or 1."""
        return (self.value > 0) - (self.value < 0)

    def is_sure(self, level: float) -> bool:
        """Whether it is told from 0: by the test, and by the interval."""
        if self.low is None or self.high is None:
            return False
        return self.p <= level and (self.low > 0 or self.high < 0)


def by_cluster(values: NDArray[Any], cluster: NDArray[np.int64]) -> Float:
    """Σ values of each cluster, in row order."""
    return np.bincount(cluster, weights=values).astype(np.float64)


def differences(sums: Float, n: Float, seed: int = 0) -> list[Difference]:
    """Differences from per-sample sums.

    Args:
        sums: [metrics, samples], Σ difference of each sample.
        n: [samples], tokens of each.
        seed: of the random flips; the same flips serve all metrics.
    """
    total = float(n.sum())
    ps = _flip_test(sums, seed)
    found: list[Difference] = []
    for row, p in zip(sums, ps, strict=True):
        mean = float(row.sum()) / total
        error = clustered_error(row, n)
        low, high = (None, None) if error is None else (mean - Z95 * error, mean + Z95 * error)
        found.append(Difference(mean, low, high, p))
    return found


def clustered_error(sums: Float, n: Float) -> float | None:
    """Standard error of Σ sums / Σ n over independent samples (ratio linearisation); None with fewer than two."""
    g = len(n)
    if g < 2:
        return None
    residual = sums - sums.sum() / n.sum() * n
    return sqrt(g / (g - 1) * float(residual @ residual)) / float(n.sum())


def _flip_test(sums: Float, seed: int) -> list[float]:
    """Two-sided p-values under the hypothesis that A and B could be exchanged in any sample."""
    metrics, samples = sums.shape
    # A rounding of the observed sum itself must count as reached.
    observed = np.abs(sums.sum(axis=1)) * (1 - 1e-12)
    if samples <= _EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2**samples)[:, None] >> np.arange(samples)) & 1)
        return [float(p) for p in (np.abs(signs @ sums.T) >= observed).mean(axis=0)]
    rng = np.random.default_rng(seed)
    reached = np.ones(metrics)  # the observed signs are one of the flips
    flips = left = max(999, min(FLIPS, _MOST_SIGNS // samples))
    step = max(1, _AT_ONCE // samples)
    while left > 0:
        rows = min(step, left)
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-samples // 8)), dtype=np.uint8), axis=1)[
            :, :samples
        ]
        flipped = sums.sum(axis=1) - 2.0 * (bits @ sums.T)
        reached += (np.abs(flipped) >= observed).sum(axis=0)
        left -= rows
    return [float(count) / (flips + 1) for count in reached]
