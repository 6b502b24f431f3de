"""The cumulative residual: its range is a calibration error without bins, with a known distribution under calibration.

C_k = Σ (correct − confidence)/N over all tokens up to a confidence, ties together. Its range (Kuiper's statistic, ECCE-R of
Arrieta-Ibarra et al., JMLR 2022) is the largest |Σ residual|/N of any interval of confidences.
"""

from __future__ import annotations

from math import inf, pi, sqrt

import numpy as np
from scipy.special import erfc

from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.resampling import flipped, reached

_TERMS = 20
_SPLIT = 2.0
"""Where the series are exchanged: the first terms left out of either are below 1e-300 there."""


def kuiper(evidence: Evidence) -> float:
    """Range of the cumulative residual: max − min, 0 included."""
    return float(np.ptp(_path(evidence.atoms)))


def kuiper_error(evidence: Evidence) -> float:
    """What `kuiper` may be too small by, because atoms are bins; 0 where they are exact.

    Within an atom the path rises by no more than Σ (1 − confidence) of its right tokens, which is when they come first, and falls
    by no more than Σ confidence of its wrong ones; both sums are known. The range is the largest rise or fall from any point of
    the path to a later one: at most from the lowest point of an atom to the highest of a later one, or all within one atom.
    """
    atoms = evidence.atoms
    if atoms.is_exact:
        return 0.0
    path, total = _path(atoms), float(atoms.n.sum())
    start, wide = path[:-1], atoms.high > atoms.low
    up = np.where(wide, atoms.right - atoms.right_confidence, np.maximum(atoms.residual, 0)) / total
    down = np.where(wide, atoms.confidence - atoms.right_confidence, np.maximum(-atoms.residual, 0)) / total
    lowest = np.minimum(start, _before(np.minimum.accumulate(start - down), inf))
    highest = np.maximum(start, _before(np.maximum.accumulate(start + up), -inf))
    most = max((start + up - lowest).max(), (highest - (start - down)).max())
    return max(0.0, float(most - np.ptp(path)))


def _before(values: Float, first: float) -> Float:
    """Of each atom, the value of the one before it."""
    return np.concatenate([[first], values[:-1]])


def kuiper_p(evidence: Evidence) -> float | None:
    """Probability of so large a range if the model were calibrated; None where nothing is known of how tokens hang together.

    Independent tokens (no clusters, or each of one token): the path is a random walk, in the limit a Brownian motion of
    variance Σ w² c(1 − c)/N², and a walk's range is below its limit's, so that p is a little too large for few tokens. Where atoms
    are bins, c(1 − c) is the most that it can be in each: at the mean without weights, else at the confidence nearest to 1/2.

    Clustered tokens: the share of replicates with the signs of clusters' residuals turned at random whose range reaches that of the
    data, (1 + how many)/(1 + replicates), both over the bins of the replicates. No less than 1/1001 can be told, and with few
    clusters none below 2/2^clusters, which is when all of them lean the same way.
    """
    clusters = evidence.clusters
    if clusters is not None and clusters.total != evidence.count:
        turned = flipped(evidence)
        if turned is None:
            return None
        seen = cumulative_range(clusters.residual.sum(axis=0)[None] / clusters.n.sum())
        return float(reached(seen, cumulative_range(turned)[None])[0])
    atoms = evidence.atoms
    at = atoms.mean if atoms.squares is None else np.clip(0.5, atoms.low, atoms.high)
    squares = atoms.n if atoms.squares is None else atoms.squares
    deviation = sqrt(float((squares * at * (1 - at)).sum())) / float(atoms.n.sum())
    size = kuiper(evidence)
    if deviation == 0:
        return 0.0 if size > 0 else 1.0
    return range_p(size / deviation)


def range_p(size: float) -> float:
    """Probability that the range of a Brownian motion on [0, 1] is at least `size`.

    Feller (1951, Ann. Math. Stat. 22) has the density 8 Σ_k (−1)^{k−1} k² φ(k r); integrated, 4 Σ_k (−1)^{k−1} k erfc(k r/√2), which
    is quick for large r. For small r the same from the eigenfunctions of an interval of length r:
    1 − 8 Σ_{k odd} (1/(πk)² + 1/r²) e^{−(πk/r)²/2}.
    """
    if not size > 0:
        return 1.0
    if size == inf:
        return 0.0
    k = np.arange(1, _TERMS + 1)
    if size > _SPLIT:
        found = 4 * float(((-1.0) ** (k - 1) * k * erfc(k * size / sqrt(2))).sum())
    else:
        odd = pi * (2 * k - 1)
        found = 1 - 8 * float(((odd**-2.0 + size**-2.0) * np.exp(-0.5 * (odd / size) ** 2)).sum())
    return min(1.0, max(0.0, found))


def cumulative_range(residual: Float) -> Float:
    """Range of the cumulative sum of each row, 0 included: [rows] from [rows, bins]."""
    path = np.cumsum(residual, axis=1)
    return np.maximum(path.max(axis=1), 0) - np.minimum(path.min(axis=1), 0)


def curve(evidence: Evidence, points: int = 4000) -> tuple[Float, Float]:
    """The cumulative residual, from (0, 0): share of tokens (weight) up to each confidence, and the sum of their residuals per token.

    Of more atoms than `points` only the lowest and the highest of each run are kept, so that the range stays.
    """
    atoms = evidence.atoms
    share = np.concatenate([[0.0], np.cumsum(atoms.n) / atoms.n.sum()])
    path = _path(atoms)
    if len(path) <= points:
        return share, path
    kept = {0, len(path) - 1}
    for run in np.array_split(np.arange(len(path)), max(1, points // 2)):
        kept |= {int(run[0] + path[run].argmin()), int(run[0] + path[run].argmax())}
    index = sorted(kept)
    return share[index], path[index]


def _path(atoms: Atoms) -> Float:
    """[atoms + 1], from 0."""
    return np.concatenate([[0.0], np.cumsum(atoms.residual) / atoms.n.sum()])
