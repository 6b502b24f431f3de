"""95 % intervals of calibration measures, over clusters.

Means are ratios of sums over clusters, linearised (Cochran, Sampling Techniques, 1977, §6), with jackknife variance and
Student's t of as many degrees of freedom as clusters of one size that would be worth as much, less one; see `few`. Where
nearly all tokens are right or wrong, so that chance left too few of the others to show what it can do, the error is at
least that of a calibrated model with independent tokens: of accuracy, overconfidence, brier and log_score. That of nll
and entropy is not known from confidence, and their intervals are too narrow there.

Errors of calibration are seminorms of the residuals: by the triangle inequality estimate and truth differ by the
seminorm of the noise at most, and noise over clusters tells how large that is. A percentile bootstrap of the value
itself does not work: noise adds to a norm whatever its sign, so that replicates, noisy twice, lie above an estimate
that lies above the truth. Here the truth 0 of a calibrated model lies in the interval as often as promised; elsewhere
intervals of l2, mce, smooth_ece and kuiper are wider than need be. That of ECE narrows to the normal one where signs of
gaps are sure. docs/calibration-coverage.md has simulated coverage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import numpy as np
from scipy.special import stdtrit

from logitbox.analysis.calibration import binned, cumulative, smooth
from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.calibration.evidence import Clusters, Evidence
from logitbox.analysis.calibration.few import degrees, influences, widened
from logitbox.analysis.calibration.resampling import flipped, least_variance, middles, noise, spreads
from logitbox.analysis.intervals import Z95

Interval = tuple[float, float]

Deviations = tuple[Float, Float]
"""[replicates] each: at most, and at least, what noise adds to an estimate."""

_SURE = 3.0
"""Standard errors from which on the sign of a bin's gap is taken for known. At 2, selection among bins shows."""

_Z99 = 2.5758293035489004

_ROUNDING = 1e-12
"""Errors below this share of their terms are what float64 sums leave of an exact 0."""


def sums_of(clusters: Clusters, name: str) -> Float | None:
    """[clusters], Σ weight · x of a mean by its name in `measures`; None where unknown or infinite."""
    if name == "overconfidence":
        return -clusters.residual.sum(axis=1)
    if name == "entropy_gap":
        nll, entropy = sums_of(clusters, "nll"), sums_of(clusters, "entropy")
        return None if nll is None or entropy is None else nll - entropy
    sums = clusters.sums.get({"accuracy": "correct", "log_score": "log"}.get(name, name))
    return None if sums is None or not np.isfinite(sums).all() else sums


_POSSIBLE = {
    "accuracy": (0.0, 1.0),
    "confidence": (0.0, 1.0),
    "overconfidence": (-1.0, 1.0),
    "brier": (0.0, 1.0),
    "entropy_gap": (-inf, inf),
}
"""Least and most of means; of the others, 0 and infinity."""


def _of_mean(name: str, value: Callable[[Evidence], float | None]) -> Callable[[Evidence], Interval | None]:
    least, most = _POSSIBLE.get(name, (0.0, inf))

    def interval(evidence: Evidence) -> Interval | None:
        clusters, mean = evidence.clusters, value(evidence)
        if clusters is None or len(clusters) < 2 or mean is None or not isfinite(mean):
            return None
        sums, n = sums_of(clusters, name), clusters.n.sum(axis=1)
        if sums is None:
            return None
        each = influences(sums, n)
        error = sqrt(float(each @ each))
        is_alike = error <= _ROUNDING * float(abs(sums).sum()) / evidence.n
        half = float(stdtrit(degrees(n), 0.975)) * max(0.0 if is_alike else error, _floor(evidence, name))
        low, high = mean - half, mean + half
        if is_alike and name == "accuracy":
            ends = _wilson(mean, len(clusters))
            low, high = min(low, ends[0]), max(high, ends[1])
        # A mean may miss what is possible by a rounding.
        return min(max(low, least), mean), max(min(high, most), mean)

    return interval


def _floor(evidence: Evidence, name: str) -> float:
    """Standard error of a mean, were the model calibrated and tokens independent; 0 where that is not known."""
    clusters = evidence.clusters
    if name in ("accuracy", "overconfidence"):
        return sqrt(least_variance(evidence))
    if clusters is None or name not in ("brier", "log_score"):
        return 0.0
    c = middles(clusters.grid)
    # By what a right token and a wrong one of that confidence differ.
    step = 1 - 2 * c if name == "brier" else np.log(c / (1 - c))
    return sqrt(float((spreads(evidence, clusters) * step * step).sum()))


def _wilson(share: float, n: int) -> Interval:
    """Of a share over n independent units (Wilson 1927)."""
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * sqrt(max(share * (1 - share), 0.0) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At a share of exactly 0 or 1 the ends may miss it by a rounding.
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


of_accuracy = _of_mean("accuracy", binned.accuracy)
of_confidence = _of_mean("confidence", binned.confidence)
of_overconfidence = _of_mean("overconfidence", binned.overconfidence)
of_brier = _of_mean("brier", binned.brier)
of_log_score = _of_mean("log_score", binned.log_score)
of_nll = _of_mean("nll", binned.nll)
of_entropy = _of_mean("entropy", binned.entropy)
of_entropy_gap = _of_mean("entropy_gap", binned.entropy_gap)


@dataclass(frozen=True)
class _Bins:
    """What clusters tell of bins, [m].

    Attributes:
        noise: [replicates, m], of the mean residual.
        estimate: mean residual, Σ residual / N.
        share: of tokens.
        error: standard error of the mean residual; at least that of a calibrated model with independent tokens.
        times: what noise was taken times.
    """

    noise: Float
    estimate: Float
    share: Float
    error: Float
    times: Float


def _in_bins(evidence: Evidence, bins: Atoms, noisy: Float | None) -> _Bins | None:
    """Noise of bins, from that of the bins by cluster, `noisy`.

    Those lie in the bin that holds their centre; where bins nest, that is exact. Where k bins share what the clusters
    cannot tell apart, there is one for all of them, and its noise is taken √k times: what k independent parts of it
    add up to.
    """
    clusters = evidence.clusters
    if clusters is None or noisy is None:
        return None
    of_cell = np.maximum(np.searchsorted(bins.low, middles(clusters.grid), side="right") - 1, 0)
    cells = np.flatnonzero(clusters.n.any(axis=0))
    told, start = np.unique(of_cell[cells], return_index=True)
    lost = np.setdiff1d(np.arange(len(bins)), told, assume_unique=True)
    # A lost bin's tokens lie in cells that belong to a neighbour.
    heir = np.searchsorted(told, of_cell[clusters.grid.locate(bins.mean[lost])])
    times = 1.0 + np.bincount(np.minimum(heir, len(told) - 1), minlength=len(told))
    share = clusters.n[:, cells].sum(axis=0) / evidence.n
    part = np.add.reduceat(noisy[:, cells], start, axis=1)
    variance = np.maximum(
        (part * part).mean(axis=0), np.add.reduceat(spreads(evidence, clusters)[cells], start)
    )
    return _Bins(
        noise=part * np.sqrt(times),
        times=np.sqrt(times),
        estimate=np.add.reduceat(clusters.residual[:, cells].sum(axis=0), start) / evidence.n,
        share=np.add.reduceat(share, start),
        error=np.sqrt(variance * times),
    )


def _of_l1(bins: Callable[[Evidence], Atoms]) -> Callable[[Evidence], Deviations | None]:
    """Σ_b |residual_b|: a bin whose gap is sure keeps its sign, any other adds its noise to either end."""

    def deviations(evidence: Evidence) -> Deviations | None:
        clusters, found = evidence.clusters, _in_bins(evidence, bins(evidence), noise(evidence))
        if clusters is None or found is None:
            return None
        sure = abs(found.estimate) > _SURE * found.error
        signed = found.noise[:, sure] @ np.sign(found.estimate[sure])
        either = abs(found.noise[:, ~sure]).sum(axis=1)
        freedom = degrees(clusters.n.sum(axis=1))
        return widened(signed + either, freedom), -widened(either - signed, freedom)

    return deviations


def _of_norm(norm: Callable[[Evidence], Float | None]) -> Callable[[Evidence], Deviations | None]:
    def deviations(evidence: Evidence) -> Deviations | None:
        clusters, size = evidence.clusters, norm(evidence)
        if clusters is None or size is None:
            return None
        size = widened(size, degrees(clusters.n.sum(axis=1)))
        return size, -size

    return deviations


def _mce(evidence: Evidence) -> Float | None:
    found = _in_bins(evidence, evidence.table, noise(evidence))
    return None if found is None else (abs(found.noise) / found.share).max(axis=1)


def _l2(evidence: Evidence) -> Float | None:
    found = _in_bins(evidence, evidence.table, noise(evidence))
    return None if found is None else np.sqrt((found.noise**2 / found.share).sum(axis=1))


def _smooth_ece(evidence: Evidence) -> Float | None:
    """At the estimate's bandwidth σ: smECE_σ falls as σ grows, so where it meets σ moves by no more than it does."""
    clusters, noisy = evidence.clusters, noise(evidence)
    if clusters is None or noisy is None:
        return None
    return smooth.smoothed_norm(noisy, clusters.grid, smooth.bandwidth(evidence))


def _kuiper(evidence: Evidence) -> Float | None:
    noisy = noise(evidence)
    return None if noisy is None else cumulative.cumulative_range(noisy)


DEVIATIONS: dict[str, tuple[Callable[[Evidence], float], Callable[[Evidence], Deviations | None]]] = {
    "ece": (binned.ece, _of_l1(lambda evidence: evidence.table)),
    "ece_equal_mass": (
        binned.ece_equal_mass,
        _of_l1(lambda evidence: binned.equal_mass(evidence.atoms, evidence.bins)),
    ),
    "l2": (binned.l2, _of_norm(_l2)),
    "mce": (binned.mce, _of_norm(_mce)),
    "smooth_ece": (smooth.smooth_ece, _of_norm(_smooth_ece)),
    "kuiper": (cumulative.kuiper, _of_norm(_kuiper)),
}
"""Errors: their value, and what noise may have added to it."""


def ends(estimate: float, deviations: Deviations) -> Interval:
    """95 % interval of what an estimate is of."""
    upper, lower = deviations
    return estimate - float(np.quantile(upper, 0.975)), estimate - float(np.quantile(lower, 0.025))


def _least(evidence: Evidence) -> float:
    """What every error is at least, but for 1 % of cases: none is below |mean residual|, which has less noise than they."""
    clusters, noisy = evidence.clusters, noise(evidence)
    if clusters is None or noisy is None:
        return 0.0
    times = float(stdtrit(degrees(clusters.n.sum(axis=1)), 0.995)) / _Z99
    return abs(binned.overconfidence(evidence)) - times * float(np.quantile(abs(noisy.sum(axis=1)), 0.99))


def _of_error(name: str) -> Callable[[Evidence], Interval | None]:
    value, deviations = DEVIATIONS[name]

    def interval(evidence: Evidence) -> Interval | None:
        found = deviations(evidence)
        if found is None:
            return None
        estimate = value(evidence)
        low, high = ends(estimate, found)
        # No rounding takes an end across the estimate.
        return min(max(low, _least(evidence), 0.0), estimate), max(min(high, 1.0), estimate)

    return interval


of_ece = _of_error("ece")
of_ece_equal_mass = _of_error("ece_equal_mass")
of_mce = _of_error("mce")
of_l2 = _of_error("l2")


def of_l2_debiased(evidence: Evidence) -> Interval | None:
    """That of L2, of which the debiased value is another estimate, and which may lie beyond it."""
    found, estimate = of_l2(evidence), binned.l2_debiased(evidence)
    return None if found is None else (min(found[0], estimate), max(found[1], estimate))


of_smooth_ece = _of_error("smooth_ece")
of_kuiper = _of_error("kuiper")


def ece_noise(evidence: Evidence) -> float | None:
    """Mean Σ_b |noise_b|: the ECE that a calibrated model would show in the mean, clustered alike."""
    found = _in_bins(evidence, evidence.table, noise(evidence))
    return None if found is None else float(abs(found.noise).sum(axis=1).mean())


def ece_flips(evidence: Evidence) -> tuple[float, Float] | None:
    """(ECE, its [replicates] with signs of clusters turned at random), both over bins of the bins by cluster."""
    found = _in_bins(evidence, evidence.table, flipped(evidence))
    if found is None:
        return None
    return float(abs(found.estimate * found.times).sum()), abs(found.noise).sum(axis=1)
