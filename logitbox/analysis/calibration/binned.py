"""Measures over bins, and means.

Each `…_error` bounds what its measure may differ by from the one of the tokens themselves, where a histogram's bins lay
across edges; see `placing`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.placing import Open, Ranks, equal_width_places


def accuracy(evidence: Evidence) -> float:
    """Share of right tokens."""
    return _share(float(evidence.table.right.sum()) / evidence.n)


def confidence(evidence: Evidence) -> float:
    """Mean confidence."""
    return _share(float(evidence.table.confidence.sum()) / evidence.n)


def overconfidence(evidence: Evidence) -> float:
    """Confidence − accuracy."""
    return max(-1.0, min(-float(evidence.table.residual.sum()) / evidence.n, 1.0))


def _share(value: float) -> float:
    """What cannot leave [0, 1] but by the rounding of sums of weights."""
    return max(0.0, min(value, 1.0))


def ece(evidence: Evidence) -> float:
    """Σ |residual| of equal-width bins, per token."""
    return _share(float(abs(evidence.table.residual).sum()) / evidence.n)


def ece_error(evidence: Evidence) -> float:
    """Where finer bins lay across edges."""
    return evidence.straddling / evidence.n


def equal_mass(atoms: Atoms, bins: int) -> Atoms:
    """Atoms put together into at most so many bins of about equal weight, ties never split.

    An atom is in bin ⌊r · bins / Σ weight⌋, r being the weight below its last token. So bins are closed on the left, at
    order statistics; where many tokens are alike, some bins have none and are left out.
    """
    return atoms.grouped(Ranks.of(atoms).places(atoms, bins).index) if len(atoms) else atoms


def ece_equal_mass(evidence: Evidence) -> float:
    """Σ |residual| of equal-mass bins, per token."""
    return _share(float(abs(equal_mass(evidence.atoms, evidence.bins).residual).sum()) / evidence.n)


def ece_equal_mass_error(evidence: Evidence) -> float:
    """Where finer bins lay across the cuts."""
    atoms = evidence.atoms
    return Ranks.of(atoms).places(atoms, evidence.bins).straddling(atoms) / evidence.n


def mce(evidence: Evidence) -> float:
    """Largest gap of a bin."""
    return _share(float((abs(evidence.table.residual) / evidence.table.n).max()))


def l2(evidence: Evidence) -> float:
    """Root of the mean squared gap of a token's bin."""
    table = evidence.table
    return _share(sqrt(float((table.residual**2 / table.n).sum()) / evidence.n))


def l2_debiased(evidence: Evidence) -> float:
    """The same, less the sampling variance of each bin's accuracy, a(1 − a)/(m − 1); 0 where that leaves less than nothing.

    m is the number of the bin's tokens, with weights the effective one, (Σ weight)² / Σ weight². A bin of one token tells
    nothing of its variance and counts as 0 (both as Kumar et al. 2019, arXiv 1909.10155, and their library).
    """
    table = evidence.table
    m, share = table.effective, table.right / table.n
    several = table.count > 1
    variance = np.divide(share * (1 - share), m - 1, out=np.zeros(len(m)), where=several & (m > 1))
    squares = np.where(several, table.n * ((table.residual / table.n) ** 2 - variance), 0.0)
    return sqrt(max(0.0, float(squares.sum()) / evidence.n))


def _opened(
    bounds: Callable[[Open, float], tuple[float, float]], value: Callable[[Evidence], float]
) -> Callable[[Evidence], float]:
    """The error of a value that is known to lie within `bounds`."""

    def error(evidence: Evidence) -> float:
        if not evidence.straddling:
            return 0.0
        atoms = evidence.atoms
        low, high = bounds(
            Open.of(atoms, equal_width_places(atoms, evidence.bins), evidence.bins), evidence.n
        )
        at = value(evidence)
        return max(high - at, at - low, 0.0)

    return error


def _gaps(bins: Open) -> tuple[Float, Float]:
    """Least and largest gap of each bin; where no token is sure to be in it, from 0 to 1."""
    sure = bins.n > 0
    size = abs(bins.residual)
    low = np.divide(
        np.maximum(size - bins.variation, 0.0), bins.n + bins.more, out=np.zeros(len(size)), where=sure
    )
    most = np.where(bins.more > 0, 1.0, 0.0)
    return low, np.minimum(np.divide(size + bins.variation, bins.n, out=most, where=sure), 1.0)


def _mce_bounds(bins: Open, n: float) -> tuple[float, float]:
    del n
    low, high = _gaps(bins)
    return float(low.max()), float(high.max())


def _squares(bins: Open) -> tuple[Float, Float]:
    """Bounds of every bin's residual² / n: |residual| times the gap."""
    low, high = _gaps(bins)
    size = abs(bins.residual)
    return np.maximum(size - bins.variation, 0.0) * low, (size + bins.variation) * high


def _l2_bounds(bins: Open, n: float) -> tuple[float, float]:
    low, high = _squares(bins)
    return sqrt(float(low.sum()) / n), sqrt(float(high.sum()) / n)


def _l2_debiased_bounds(bins: Open, n: float) -> tuple[float, float]:
    """With right·wrong/(m(m − 1)) taken off a bin of m tokens: at most 1/2, as for one right and one wrong.

    Of tokens of weight 1, as histograms are.
    """
    low, high = _squares(bins)
    m, most = bins.n, bins.n + bins.more
    product = (bins.right + bins.more_right) * (bins.wrong + bins.more_wrong)
    half, none = np.full(len(m), 0.5), np.zeros(len(m))
    largest = np.minimum(np.divide(product, m * (m - 1), out=half, where=m > 1), 0.5)
    least = np.divide(bins.right * bins.wrong, most * (most - 1), out=none, where=m > 1)
    low = np.where(most > 1, low - largest, 0.0)
    low = np.where(m > 1, low, np.minimum(low, 0.0))  # one token counts as 0
    high = np.where(most > 1, high - least, 0.0)
    return sqrt(max(0.0, float(low.sum()) / n)), sqrt(max(0.0, float(high.sum()) / n))


mce_error = _opened(_mce_bounds, mce)
l2_error = _opened(_l2_bounds, l2)
l2_debiased_error = _opened(_l2_debiased_bounds, l2_debiased)


def brier(evidence: Evidence) -> float | None:
    """Mean (confidence − correct)²."""
    mean = evidence.mean("brier")
    return None if mean is None else _share(mean)


def log_score(evidence: Evidence) -> float | None:
    """Mean −ln of the probability given to what happened."""
    return evidence.mean("log")


def nll(evidence: Evidence) -> float | None:
    """Mean nll, nats."""
    return evidence.mean("nll")


def entropy(evidence: Evidence) -> float | None:
    """Mean entropy, nats."""
    return evidence.mean("entropy")


def entropy_gap(evidence: Evidence) -> float | None:
    """Mean nll − mean entropy, nats."""
    nll, entropy = evidence.mean("nll"), evidence.mean("entropy")
    return None if nll is None or entropy is None else nll - entropy
