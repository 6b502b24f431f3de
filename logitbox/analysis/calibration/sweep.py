"""ECE-sweep: as many equal-mass bins as keep accuracy from falling (Roelofs et al. 2022, arXiv 2012.08668)."""

from __future__ import annotations

from math import ceil

import numpy as np

from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.calibration.checking import Mask
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.placing import Open, Ranks, running

MOST = 2000
"""Bins that are tried at most. More would only be kept by data that confidence separates almost perfectly."""

_ROUNDING = 1e-12
"""Accuracies of weights are equal where they are nearer than this; of whole numbers, quotients are equal if and only if they are."""


def ece_sweep(evidence: Evidence) -> float:
    """Σ |residual| per token of b equal-mass bins: b grows from 1 while accuracy does not fall from any bin to the next."""
    return _value(evidence.atoms, _most_bins(evidence.atoms))


def _value(atoms: Atoms, bins: int) -> float:
    index = Ranks.of(atoms).places(atoms, bins).index
    value = float(abs(atoms.grouped(index).residual).sum()) / float(atoms.n.sum())
    return min(value, 1.0)  # sums of weights are rounded


def _most_bins(atoms: Atoms) -> int:
    """The last b before accuracy falls for the first time."""
    ranks = Ranks.of(atoms)
    n = np.append(0.0, ranks.through)
    right = np.append(0.0, running(atoms.right, atoms))
    rounding = 0.0 if atoms.squares is None else _ROUNDING
    most = _enough(ranks)
    for bins in range(2, most + 1):
        cut = np.searchsorted(ranks.at, ranks.cuts(bins), side="left")
        cut = np.concatenate([[0], cut, [len(atoms)]])
        cut = cut[np.diff(cut, prepend=-1) > 0]  # bins that have tokens
        share = np.diff(right[cut]) / np.diff(n[cut])
        if (np.diff(share) < -rounding).any():
            return bins - 1
    return most


def _enough(ranks: Ranks) -> int:
    """Bins from which on every atom has its own, so that more change nothing; `MOST` at most."""
    if len(ranks.at) < 2:
        return 1
    step = float(np.diff(ranks.at).min())
    return MOST if step * MOST <= ranks.total else ceil(ranks.total / step)


def ece_sweep_error(evidence: Evidence) -> float:
    """Every b that the tokens themselves may have stopped at counts, with what its own value may be off by."""
    atoms = evidence.atoms
    if atoms.is_exact:
        return 0.0
    ranks, at = Ranks.of(atoms), ece_sweep(evidence)
    most = MOST if atoms.squares is not None else min(MOST, int(ranks.total))  # then every token has its own
    error, before = 0.0, 0.0
    for bins in range(1, most + 2):
        places = ranks.places(atoms, bins)
        can_hold, can_fall = _possible(Open.of(atoms, places, bins))
        if can_fall or bins > most:  # then bins − 1 may be the last
            error = max(error, before)
        if not can_hold or bins > most:
            break
        value = float(abs(atoms.grouped(places.index).residual).sum())
        before = abs(value / ranks.total - at) + places.straddling(atoms) / ranks.total
    return error


def _possible(bins: Open) -> tuple[bool, bool]:
    """(whether accuracies may rise all along, whether they may fall somewhere)."""
    some = bins.n + bins.more > 0
    sure = bins.n[some] > 0
    n, right, more_right, more_wrong = (
        part[some] for part in (bins.n, bins.right, bins.more_right, bins.more_wrong)
    )
    high = _share(right + more_right, n + more_right, more_right > 0)
    low = _share(right, n + more_wrong, more_wrong <= 0)
    # A bin that may have no token forces nothing.
    forced = np.maximum.accumulate(np.where(sure, low, 0.0))
    highest = np.maximum.accumulate(high)
    can_hold = not bool((sure[1:] & (high[1:] < forced[:-1] - _ROUNDING)).any())
    can_fall = bool((low[1:] < highest[:-1]).any())
    return can_hold, can_fall


def _share(right: Float, n: Float, otherwise: Mask) -> Float:
    return np.divide(right, n, out=otherwise.astype(np.float64), where=n > 0)
