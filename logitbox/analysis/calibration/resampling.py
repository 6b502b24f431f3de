"""Chance over clusters, linear in sums by cluster: one product of matrices gives all replicates.

`noise` multiplies what clusters deviate by with normal numbers: how far estimates scatter. Counts of draws, as in the
plain bootstrap, take few values where clusters are few, and two clusters then show no noise half of the time.
`flipped` turns the signs of clusters' residuals: what a calibrated model, for which either sign is as likely, might have
shown; a test by it is right however few or unequal the clusters.

Draws depend on the number of units only. Analyses of the same units are therefore drawn alike, and the difference of
two of them, or the largest of many, is as correlated as it is in the data.
"""

from __future__ import annotations

from functools import lru_cache
from weakref import WeakKeyDictionary
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.calibration.atoms import Float
from logitbox.analysis.calibration.evidence import Clusters, Evidence
from logitbox.analysis.calibration.few import rest
from logitbox.analysis.histogram import Grid

REPLICATES = 1000

ROUNDING = 1e-5
"""Replicates, which are float32, that differ by this share are alike."""

_SEED = 20_260_101
_ROWS = 100
"""Replicates drawn at a time: bounds what drawing needs beside its result."""
_MOST_ALONE = 4096
"""Tokens of one cluster each that are made right at random; more are told by signs of sums."""
_GOLDEN = 0.6180339887498949
_MOST_KEPT = 16
"""Noise is kept for so many analyses at most; each is some megabytes."""

_noise: WeakKeyDictionary[Evidence, Float | None] = WeakKeyDictionary()

Draws = NDArray[np.float32]
"""[replicates, units], read-only."""


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


@lru_cache(maxsize=4)
def normals(universe: int) -> Draws:
    """A standard normal number for each unit in each replicate; the same for the same number of units, always."""
    drawn = np.random.default_rng([_SEED, universe, 1]).standard_normal((REPLICATES, universe), np.float32)
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=4)
def signs(universe: int) -> Draws:
    """−1 or 1 for each unit in each replicate; the same for the same number of units, always."""
    drawn = np.random.default_rng([_SEED, universe, 2]).integers(0, 2, (REPLICATES, universe), np.int8)
    drawn = drawn.astype(np.float32) * 2 - 1
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=4)
def uniforms(universe: int) -> Draws:
    """A number from [0, 1) for each unit in each replicate; the same for the same number of units, always."""
    drawn = np.random.default_rng([_SEED, universe, 3]).random((REPLICATES, universe), np.float32)
    drawn.flags.writeable = False
    return drawn


def noise(evidence: Evidence) -> Float | None:
    """What chance does to the mean residual of every bin of the clusters' grid: [replicates, bins], of mean 0.

    Row r, bin b: Σ_c ξ_rc (residual_cb − mean residual_b · n_c) / N / √(1 − n_c/N), with ξ standard normal, n_c the tokens
    of cluster c and N all tokens: the linearised wild bootstrap of a ratio. The root makes up for the pull of a cluster
    on the mean; for clusters of one size it is the usual √((G − 1)/G).

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
    deviations /= np.sqrt(rest(n))[:, None]
    found = _combined(evidence, clusters, at, normals(clusters.universe), deviations)
    found.flags.writeable = False
    return found


def flipped(evidence: Evidence) -> Float | None:
    """Mean residual of every bin of the clusters' grid with signs of clusters turned at random: [replicates, bins].

    Row r, bin b: Σ_c s_rc residual_cb / N, s being −1 or 1 as often; all of a cluster turns together. As in `noise`,
    there is no less of it than a calibrated model with independent tokens has.

    Clusters of one token each are no more likely to be off one way than the other only together with many others. Unless
    there are so many, their tokens are made right at random, as often as their confidence says.

    None with fewer than two clusters.
    """
    clusters = evidence.clusters
    if clusters is None or len(clusters) < 2:
        return None
    at = np.flatnonzero(clusters.n.any(axis=0))
    if clusters.total == evidence.count and np.count_nonzero(clusters.n) <= _MOST_ALONE:
        return _guessed(evidence, clusters)
    parts = clusters.residual[:, at] / float(clusters.n.sum())
    return _combined(evidence, clusters, at, signs(clusters.universe), parts)


def _guessed(evidence: Evidence, clusters: Clusters) -> Float:
    """Mean residual of every bin were each token right with its confidence, that of its bin: [replicates, bins]."""
    place, cell = np.nonzero(clusters.n)
    weight = clusters.n[place, cell]
    if len(clusters) != evidence.count:
        # Some units are put together of several tokens, whose squares add up.
        weight = np.sqrt(weight * mean_weight(evidence, clusters.grid)[cell])
    # Of a unit's bins each has a number of its own, that is the same in all analyses.
    drawn = (uniforms(clusters.universe)[:, clusters.unit[place]] + cell * _GOLDEN) % 1.0
    right = middles(clusters.grid)[cell]
    parts = ((drawn < right) - right) * (weight / evidence.n)
    found = np.zeros((REPLICATES, clusters.n.shape[1]))
    order = np.argsort(cell, kind="stable")
    at, start = np.unique(cell[order], return_index=True)
    found[:, at] = np.add.reduceat(parts[:, order], start, axis=1)
    return found


def _combined(
    evidence: Evidence, clusters: Clusters, at: NDArray[np.int64], drawn: Draws, parts: Float
) -> Float:
    """Draws times parts, with what is missing, in bins `at` of all: [replicates, bins]. `parts` is [clusters, at]."""
    if len(clusters) != clusters.universe:
        drawn = drawn[:, clusters.unit]
    # float32 halves time and memory; a quantile of noise needs no more digits.
    part = (drawn @ parts.astype(np.float32)).astype(np.float64)
    part += _missing(evidence, clusters, at, float((part * part).sum()) / REPLICATES)
    found = np.zeros((REPLICATES, clusters.residual.shape[1]))
    found[:, at] = part
    return found


def _missing(evidence: Evidence, clusters: Clusters, at: NDArray[np.int64], variance: float) -> Float | float:
    """Normal noise of bins `at` that lifts the sum of their variances to that of calibrated, independent tokens."""
    missing = least_variance(evidence) - variance
    if missing <= 0:
        return 0.0
    share = spreads(evidence, clusters)[at]
    # Always the same of the same residuals, and independent of anything else's.
    seed = crc32(clusters.residual.tobytes())
    rng = np.random.default_rng([_SEED, seed])
    return rng.standard_normal((REPLICATES, len(at))) * np.sqrt(missing * share / share.sum())


def least_variance(evidence: Evidence) -> float:
    """Variance of the mean residual, were the model calibrated and tokens independent: Σ w² c(1 − c) / N².

    Σ w c² comes from the Brier score, (c − y)² = c² − 2cy + y, if that is known; else from the means of bins, a little
    too much. Squares of weights are known by bin, and taken to be independent of c(1 − c) within.
    """
    table, brier = evidence.table, evidence.sums.get("brier")
    each = table.confidence * (1 - table.mean)
    spread = float(each.sum())
    squares = spread if table.squares is None else float((each * (table.squares / table.n)).sum())
    if brier is not None and spread > 0:
        known = (
            float(table.confidence.sum()) - brier - float((2 * table.right_confidence - table.right).sum())
        )
        squares *= max(known, 0.0) / spread
    return squares / evidence.n / evidence.n


def spreads(evidence: Evidence, clusters: Clusters) -> Float:
    """Of each bin of the clusters' grid its part of that, from the middle of the bin; [bins]."""
    c = middles(clusters.grid)
    spread = clusters.n.sum(axis=0) * c * (1 - c) * mean_weight(evidence, clusters.grid)
    return spread / evidence.n / evidence.n


def mean_weight(evidence: Evidence, grid: Grid) -> Float:
    """Σ weight² / Σ weight of the tokens of the equal-width bin about each bin of a grid; [bins]."""
    table = evidence.table
    if table.squares is None:
        return np.ones(grid.n_bins)
    place = np.maximum(np.searchsorted(table.low, middles(grid), side="right") - 1, 0)
    return (table.squares / table.n)[place]


def middles(grid: Grid) -> Float:
    """Of bins."""
    return (grid.edges[:-1] + grid.edges[1:]) / 2


def reached(values: Float, replicates: Float) -> Float:
    """Share of replicates that reach each value, the value itself among them. [groups] from [groups, replicates]."""
    # As large but for the rounding of float32 is as large: where clusters are few, many replicates are the data itself.
    least = np.minimum(values * (1 - ROUNDING), values * (1 + ROUNDING))
    return (1 + (replicates >= least[:, None]).sum(axis=1)) / (1 + replicates.shape[1])
