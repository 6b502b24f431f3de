"""Bootstrap over clusters, linear in sums by cluster: one product of matrices gives all replicates.

Draws depend on the number of units only. Analyses of the same units are therefore drawn alike, and the difference of
two of them, or the largest of many, is as correlated as it is in the data.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from weakref import WeakKeyDictionary
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.calibration.atoms import Float
from logitbox.analysis.calibration.evidence import Clusters, Evidence

REPLICATES = 1000

_SEED = 20_260_101
_ROWS = 100
"""Replicates drawn at a time: bounds what drawing needs beside its result."""
_MOST_KEPT = 16
"""Noise is kept for so many analyses at most; each is some megabytes."""

_noise: WeakKeyDictionary[Evidence, Float | None] = WeakKeyDictionary()


@lru_cache(maxsize=4)
def weights(universe: int) -> NDArray[np.float32]:
    """How often each unit was drawn, with replacement, in each replicate: [replicates, universe], read-only.

    The same for the same number of units, always.
    """
    rng = np.random.default_rng([_SEED, universe])
    drawn = np.empty((REPLICATES, universe), dtype=np.float32)
    for start in range(0, REPLICATES, _ROWS):
        rows = drawn[start : start + _ROWS]
        unit = rng.integers(0, universe, size=rows.shape)
        unit += np.arange(len(rows))[:, None] * universe
        rows[:] = np.bincount(unit.ravel(), minlength=rows.size).reshape(rows.shape)
    drawn.flags.writeable = False
    return drawn


def resampled(clusters: Clusters, deviations: Float) -> Float:
    """What resampling clusters adds to sums of deviations, [replicates, columns].

    Args:
        clusters: two or more.
        deviations: [clusters, columns]; every column sums to 0, so that Σ_c (W_rc − 1) d_c = Σ_c W_rc d_c.
    """
    g = len(clusters)
    drawn = weights(clusters.universe)
    if g != clusters.universe:
        drawn = drawn[:, clusters.unit]
    # float32 halves time and memory; a quantile of noise needs no more digits.
    found = (drawn @ deviations.astype(np.float32)).astype(np.float64)
    found *= sqrt(g / (g - 1))
    return found


def noise(evidence: Evidence) -> Float | None:
    """What resampling clusters does to the mean residual of every bin of their grid: [replicates, bins], centred.

    Row r, bin b: Σ_c (W_rc − 1)(residual_cb − mean residual_b · n_c) / N · √(G/(G − 1)), where W_rc is how often
    cluster c was drawn, n_c its tokens and N all tokens: the linearised bootstrap of a ratio.

    Where nearly all tokens are right, or nearly all wrong, too few differ for resampling to show what chance could have
    done. Variances then add up to less than Σ confidence (1 − confidence) / N², that of a calibrated model with
    independent tokens; normal noise makes up for what is missing.

    None with fewer than two clusters. Read-only: kept, and shared.
    """
    if evidence not in _noise:
        while len(_noise) >= _MOST_KEPT:
            _noise.pop(next(iter(_noise)), None)
        _noise[evidence] = _noise_of(evidence)
    return _noise[evidence]


def _noise_of(evidence: Evidence) -> Float | None:
    clusters = evidence.clusters
    if clusters is None or len(clusters) < 2:
        return None
    n = clusters.n.sum(axis=1)
    total = float(n.sum())
    at = np.flatnonzero(clusters.n.any(axis=0))
    residual = clusters.residual[:, at]
    deviations = residual / total - np.outer(n / total, residual.sum(axis=0) / total)
    part = resampled(clusters, deviations)
    part += _missing(evidence, clusters, at, float((part * part).sum()) / REPLICATES)
    found = np.zeros((REPLICATES, clusters.residual.shape[1]))
    found[:, at] = part
    found.flags.writeable = False
    return found


def _missing(evidence: Evidence, clusters: Clusters, at: NDArray[np.int64], variance: float) -> Float | float:
    """Normal noise of bins `at` that lifts the sum of their variances to that of calibrated, independent tokens."""
    missing = least_variance(evidence) - variance
    if missing <= 0:
        return 0.0
    edges = clusters.grid.edges
    centre = (edges[at] + edges[at + 1]) / 2
    share = clusters.n[:, at].sum(axis=0) * centre * (1 - centre)
    # Always the same of the same residuals, and independent of anything else's.
    seed = crc32(clusters.residual.tobytes())
    rng = np.random.default_rng([_SEED, seed])
    return rng.standard_normal((REPLICATES, len(at))) * np.sqrt(missing * share / share.sum())


def least_variance(evidence: Evidence) -> float:
    """Σ_b variance of mean residuals of narrow bins, were the model calibrated and tokens independent.

    Σ w c(1 − c) / N², times the mean weight since Σ w² is not known (it is at least that). Σ w c² comes from the Brier
    score, (c − y)² = c² − 2cy + y, if that is known; else from the means of bins, a little too much.
    """
    table, brier = evidence.table, evidence.sums.get("brier")
    if brier is None:
        spread = float((table.confidence * (1 - table.mean)).sum())
    else:
        squares = brier + float((2 * table.right_confidence - table.right).sum())
        spread = max(float(table.confidence.sum()) - squares, 0.0)
    return spread / (evidence.n * evidence.count)
