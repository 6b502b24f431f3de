"""The smooth calibration error (Błasiok & Nakkiran 2023, arXiv 2309.12236), in cosines.

The kernel is the Gaussian reflected at 0 and 1, so that the smoothed residual is a cosine series:
r̂_σ(t) = a_0 + 2 Σ_k a_k e^{−(πkσ)²/2} cos(πkt), with a_k = Σ_i w_i (y_i − f_i) cos(πk f_i) / Σ w. Tokens are put on a mesh once;
smECE_σ = ∫ |r̂_σ| then costs two short cosine transforms for any σ. The value is the σ at which smECE_σ = σ.

Mass at 0 and at 1 counts in full, as the limit of mass nearby does. (A reflection that leaves out the mirror image of the
end points halves it; models are sure of most tokens, so that there it matters.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil, e, floor, inf, log2, pi, sqrt
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.optimize import brentq

from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.histogram import Grid
from logitbox.errors import InputError

Pieces = Iterator[tuple[Float, Float]]
"""Confidence and mass of tokens or atoms, block by block, in any order."""

MOST_POINTS = 10_000

_NODES = (1 << 13, 1 << 18, 1 << 22)
"""Meshes tried in turn until one is fine enough; the last is for errors below 1e-4 only."""
_MANY = 1 << 17
"""Atoms from which the first mesh is not worth a try."""
_FINE, _LEAST = 32, 8
"""Nodes per σ; on the last mesh fewer will do, since all values left are tiny."""
_NO_WIDTH = 1e-100
"""Bandwidths below, whose square would underflow, smooth nothing."""
_SMALLEST = _LEAST / _NODES[-1]
_SAME = 1e-10
_CHUNK = 1 << 18
_BLOCK = 512
_FAINT = 1e-9
"""Density below which rounding decides what the smoothed accuracy is."""

_SLOPE = 2 / sqrt(2 * pi)
"""σ ∫ |K'_σ|; reflection only makes it smaller."""
_BEND = 4 / sqrt(2 * pi * e)
"""σ² ∫ |K''_σ|."""

_known: WeakKeyDictionary[Evidence, float] = WeakKeyDictionary()


def smooth_ece(evidence: Evidence) -> float:
    """∫ |smoothed residual| at the bandwidth that equals it: to 1e-7, or to 2e-6 where it is below 2e-6."""
    return min(bandwidth(evidence), 1.0)  # residuals of 1 can add up to a rounding more


def bandwidth(evidence: Evidence) -> float:
    """The σ at which smECE_σ = σ, in confidence."""
    if evidence not in _known:
        atoms = evidence.atoms
        _known[evidence] = _fixed_point(partial(_residual, atoms), _NODES[len(atoms) >= _MANY :])
    return _known[evidence]


def smooth_ece_error(evidence: Evidence) -> float:
    """What `smooth_ece` may be off by at most, because atoms are bins; 0 where they are exact.

    Neither F(σ) = smECE_σ of the tokens nor F̂ of the atoms rises with σ, since smoothing further averages. Let s = F(s),
    ŝ = F̂(ŝ) and |F̂ − F| ≤ B. For e = B(ŝ + e): F(ŝ + e) ≤ F̂(ŝ + e) + B(ŝ + e) ≤ ŝ + e, so that F meets σ no later: s ≤ ŝ + e.
    For e ≥ B(ŝ − e): F(ŝ − e) ≥ F̂(ŝ − e) − B(ŝ − e) ≥ ŝ − e, so that F meets σ no earlier: s ≥ ŝ − e.
    """
    atoms = evidence.atoms
    if atoms.is_exact:
        return 0.0
    at = bandwidth(evidence)
    above = _root(lambda size: _shift(atoms, at + size) - size, 0.0, 3.0)
    below = _shift(atoms, at)
    for _ in range(60):
        if below >= at or _shift(atoms, at - below) <= below:
            break
        below = _shift(atoms, at - below) * 1.001
    else:
        below = at
    # Whatever σ is, smECE_σ is at least |Σ residual| and at most Σ |residual|, of tokens: both are known.
    total = float(atoms.n.sum())
    above = min(above, max(0.0, float(atoms.variation.sum()) / total - at))
    below = min(below, max(0.0, at - abs(float(atoms.residual.sum())) / total))
    # Values below what the last mesh resolves are only known to lie below it.
    return max(above, below) + (_SMALLEST if at < _SMALLEST else 0.0)


def _shift(atoms: Atoms, sigma: float) -> float:
    """Bound on what putting tokens of an atom at their mean does to smECE_σ.

    The right (and the wrong) tokens of an atom in [l, h] are at their own mean m, with φ(f) = (y − f) K_σ(t − f). By Taylor
    around m, the first order vanishing, Σ w (φ(f_i) − φ(m)) is at most ½ Σ w (f_i − m)² · sup ∫ |φ''| dt, where
    φ'' = 2K' + (y − f) K'', and Σ w (f_i − m)² ≤ w (m − l)(h − m) (Bhatia & Davis 2000). To first order it is at most
    Σ w |f_i − m| · sup ∫ |φ'| dt, with a mean |f_i − m| ≤ 2 (m − l)(h − m)/(h − l). In any case it is at most 2 Σ w |y − f_i|.
    """
    is_smooth = sigma > _NO_WIDTH
    slope, bend = (_SLOPE / sigma, _BEND / sigma**2) if is_smooth else (inf, inf)
    wide = atoms.high > atoms.low
    low, high = atoms.low[wide], atoms.high[wide]
    right, sum_right = atoms.right[wide], atoms.right_confidence[wide]
    sides = (
        (right, sum_right, right - sum_right, 1 - low),
        (atoms.wrong[wide], atoms.confidence[wide] - sum_right, atoms.confidence[wide] - sum_right, high),
    )
    total = 0.0
    for n, confidence, mass, farthest in sides:
        some = n > 0
        lo, hi, far = low[some], high[some], farthest[some]
        mean = np.clip(confidence[some] / n[some], lo, hi)
        spread = n[some] * (mean - lo) * (hi - mean)
        bound = 2 * np.maximum(mass[some], 0)
        if is_smooth:
            bound = np.minimum(bound, 2 * spread / (hi - lo) * (1 + far * slope))
            bound = np.minimum(bound, spread / 2 * (2 * slope + far * bend))
        total += float(bound.sum())
    return total / float(atoms.n.sum())


def smooth_curve(evidence: Evidence, points: int = 400) -> tuple[Float, Float, Float]:
    """Accuracy as a smooth function of confidence (Nadaraya & Watson), with the kernel and bandwidth of `smooth_ece`.

    The bandwidth is at least the distance between points.

    Args:
        evidence: has tokens.
        points: how many, from 0 to 1; 2 to 10,000.

    Returns:
        [points] each: confidence; accuracy there, NaN where there are no tokens near; density of confidence, whose integral is 1.

    Raises:
        InputError: not a number of points.
    """
    if isinstance(points, bool) or not isinstance(points, int) or not 2 <= points <= MOST_POINTS:
        raise InputError(f"points is {points!r}; give a whole number from 2 to {MOST_POINTS:,}")
    sigma = max(bandwidth(evidence), 1 / (points - 1))
    atoms, every = evidence.atoms, ceil(_FINE / sigma / (points - 1))
    total, hits = float(atoms.n.sum()), np.zeros(points)
    density = np.zeros(points)
    for n, at, right in _sides(atoms):
        waves, _ = _cosines(_chunks(at, n / total), _NODES[1])
        smoothed = _smoothed(waves, sigma, every * (points - 1))[::every]
        density += smoothed
        hits += smoothed * right
    seen = density > _FAINT
    accuracy = np.full(points, np.nan)
    accuracy[seen] = np.clip(hits[seen] / density[seen], 0, 1)
    return np.linspace(0, 1, points), accuracy, np.maximum(density, 0)


def smoothed_norm(residual: Float, grid: Grid, sigma: float) -> Float:
    """∫ |smoothed residual|, of many residuals at once: [rows].

    A residual per bin knows nothing of what lies inside bins: for σ well below a bin the norm is that of residuals that are
    all at centres, not that of tokens.

    Args:
        residual: [rows, bins], put at the centres of bins.
        grid: of the bins.
        sigma: bandwidth, in confidence.
    """
    at = (grid.edges[:-1] + grid.edges[1:]) / 2
    between = np.concatenate([[inf], np.diff(at), [inf]])
    alone = np.minimum(between[:-1], between[1:]) > 18 * sigma  # meets no other bin, and keeps its sign
    found = abs(residual[:, alone]).sum(axis=1)
    if alone.all():
        return found
    at, residual = at[~alone], residual[:, ~alone]
    nodes = ceil(_LEAST / sigma)
    first, last = max(0, floor((at[0] - 9 * sigma) * nodes)), min(nodes, ceil((at[-1] + 9 * sigma) * nodes))
    for start in range(first, last, _BLOCK):
        t = (np.arange(start, min(start + _BLOCK, last)) + 0.5) / nodes  # the midpoint rule
        near = (at > t[0] - 9 * sigma) & (at < t[-1] + 9 * sigma)
        if near.any():
            found += abs(residual[:, near] @ _kernel(at[near], t, sigma)).sum(axis=1) / nodes
    return found


def _kernel(at: Float, t: Float, sigma: float) -> Float:
    """[at, t], the reflected Gaussian."""
    turns = 2.0 * np.arange(-ceil(4.5 * sigma), ceil(4.5 * sigma) + 1)
    found = np.zeros((len(at), len(t)))
    for image in (turn + side * at for turn in turns for side in (1, -1)):
        found += np.exp(-0.5 * ((t - image[:, None]) / sigma) ** 2)
    return found / (sigma * sqrt(2 * pi))


def _fixed_point(pieces: Callable[[], Pieces], meshes: Sequence[int]) -> float:
    size = 0.0
    for nodes in meshes:
        waves, most = _cosines(pieces(), nodes)
        least = (_LEAST if nodes == meshes[-1] else _FINE) / nodes
        size = _norm(waves, least)
        if size >= least:  # so the fixed point lies above
            return _root(partial(_excess, waves), least, 1.5)
        if most - size < _SAME:  # for smaller σ it lies between them
            break
    return size


def _excess(waves: Float, sigma: float) -> float:
    return _norm(waves, sigma) - sigma


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    return cast("float", brentq(falling, low, high, xtol=1e-12))


def _norm(waves: Float, sigma: float) -> float:
    """∫ |r̂_σ| by the trapezoid rule, which is all but exact for smooth even functions.

    Where r̂ changes sign, |r̂| has a corner; the Euler–Maclaurin term of a corner at the fraction x of a step h is
    h² |r̂'| (x² − x + 1/6).
    """
    nodes = min(len(waves) - 1, max(256, 1 << ceil(log2(_FINE / sigma))))
    r = _smoothed(waves, sigma, nodes)
    size = abs(r)
    whole = size.sum() - (size[0] + size[-1]) / 2
    cut = np.flatnonzero((r[1:] < 0) != (r[:-1] < 0))
    step = size[cut] + size[cut + 1]
    x = size[cut] / np.where(step > 0, step, 1)
    return float(whole + (step * (x * x - x + 1 / 6)).sum()) / nodes


def _smoothed(waves: Float, sigma: float, nodes: int) -> Float:
    """r̂_σ at the nodes i/nodes: [nodes + 1]."""
    k = np.arange(min(len(waves), nodes, ceil(2.9 / sigma) + 1))  # beyond, less than 1e-18 is left
    damped = np.zeros(nodes + 1)
    damped[: len(k)] = waves[: len(k)] * np.exp(-0.5 * (pi * sigma * k) ** 2)
    return _dct(damped)


def _cosines(pieces: Pieces, nodes: int) -> tuple[Float, float]:
    """Σ mass · cos(πk at) for k = 0 … nodes, from (at, mass), right to third order in πk/nodes; and Σ |mass|.

    A mass at the fraction x of a step h goes to both nodes beside, (1 − x) : x. The cosine itself differs from the line between
    nodes by ½ x(1 − x) h² (πk)² cos(πk at), which a second mesh adds.
    """
    sums, most = np.zeros((3, nodes)), 0.0
    for at, mass in pieces:
        most += float(abs(mass).sum())
        x = at * nodes
        cell: NDArray[np.int64] = np.minimum(x.astype(np.int64), nodes - 1)
        x -= cell
        for power in range(3):
            sums[power] += np.bincount(cell, mass, nodes)
            mass = mass * x  # noqa: PLW2901 (moments, one after the other)
    bend = (sums[1] - sums[2]) / 4  # half for the formula, half for each of two nodes
    lines, bends = _mesh(sums[0] - sums[1], sums[1]), _mesh(bend, bend)
    return _dct(lines) + _dct(bends) * (pi / nodes * np.arange(nodes + 1)) ** 2, most


def _dct(values: Float) -> Float:
    """x_0 + (−1)^k x_M + 2 Σ x_j cos(πjk/M), k = 0 … M."""
    return cast("Float", dct(values, type=1))


def _mesh(left: Float, right: Float) -> Float:
    """Nodes from what cells give to theirs on the left and on the right, as the cosine transform wants it: inner ones halved."""
    found = np.zeros(len(left) + 1)
    found[:-1] += left
    found[1:] += right
    found[1:-1] /= 2
    return found


def _residual(atoms: Atoms) -> Pieces:
    total = float(atoms.n.sum())
    if atoms.is_exact:
        yield from _chunks(atoms.low, atoms.residual / total)
        return
    for n, at, right in _sides(atoms):
        yield from _chunks(at, n * (right - at) / total)


def _sides(atoms: Atoms) -> Iterator[tuple[Float, Float, int]]:
    """The right and the wrong tokens of atoms, each at their mean: weight, confidence, and whether they are right."""
    sides = (
        (atoms.right, atoms.right_confidence, 1),
        (atoms.wrong, atoms.confidence - atoms.right_confidence, 0),
    )
    for n, confidence, right in sides:
        some = n > 0
        yield n[some], np.clip(confidence[some] / n[some], atoms.low[some], atoms.high[some]), right


def _chunks(at: Float, mass: Float) -> Pieces:
    for start in range(0, len(at), _CHUNK):
        yield at[start : start + _CHUNK], mass[start : start + _CHUNK]
