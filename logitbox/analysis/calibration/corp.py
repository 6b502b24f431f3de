"""CORP: scores split by isotonic regression (Dimitriadis, Gneiting & Jordan 2021, PNAS 118).

The best monotone recalibration of confidence (pool adjacent violators) splits a mean score S exactly:
S = miscalibration − discrimination + uncertainty, where miscalibration = S − S(recalibrated), discrimination =
S(base rate) − S(recalibrated), uncertainty = S(base rate), and neither of the first two is below 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import xlog1py, xlogy

from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.calibration.evidence import Evidence

SCORES = ("brier", "log")
PARTS = {
    "miscalibration": "what the best monotone recalibration takes off",
    "discrimination": "how much better than the base rate recalibrated confidence is",
    "uncertainty": "of the base rate",
}

_OF: dict[str, Callable[[Float], Float]] = {
    "brier": lambda p: p * (1 - p),
    "log": lambda p: 0.0 - (xlogy(p, p) + xlog1py(1 - p, -p)),
}
"""Mean score of the constant forecast p where the share p is right; its own recalibration."""


@dataclass(frozen=True, eq=False)
class _Fit:
    """An isotonic regression, as its blocks: [blocks] weight and right weight, [blocks + 1] first atom of each."""

    n: Float
    right: Float
    start: NDArray[np.int64]

    @property
    def value(self) -> Float:
        return self.right / self.n

    def score(self, name: str) -> float:
        return float((self.n * _OF[name](self.value)).sum() / self.n.sum())


_known: WeakKeyDictionary[Evidence, tuple[_Fit, _Fit | None]] = WeakKeyDictionary()


def part_of(score: str, part: str) -> Callable[[Evidence], float | None]:
    """The function that gives a part of a score; None where the score itself is not known.

    The log score is infinite where confidence was 1 and wrong, and so is then its miscalibration.
    """

    def value(evidence: Evidence) -> float | None:
        n, right = float(evidence.table.n.sum()), float(evidence.table.right.sum())
        base = float(_OF[score](np.array(min(1.0, right / n))))
        if part == "uncertainty":
            return base
        best = _recalibrated(evidence, score)
        if part == "discrimination":
            return max(0.0, base - best)
        given = evidence.mean(score)
        return None if given is None else max(0.0, given - best)

    return value


def error_of(score: str, part: str) -> Callable[[Evidence], float]:
    """The function that gives what a part may be off by at most, because atoms are bins; 0 where they are exact.

    Tokens of one atom get one value, so that the fit of atoms scores no better than that of tokens. It scores no worse than
    if within each atom all wrong tokens came before all right ones: swapping a right token with a wrong one after it, at the
    same fit, costs nothing, as the fit does not fall; and fitting anew only helps. That order is fitted too; the truth is between.
    """

    def error(evidence: Evidence) -> float:
        lowest = _fits(evidence)[1]
        if part == "uncertainty" or lowest is None:
            return 0.0
        if part == "miscalibration" and evidence.mean(score) == inf:
            return 0.0  # infinite whatever the fit
        return max(0.0, _recalibrated(evidence, score) - lowest.score(score))

    return error


def curve(evidence: Evidence) -> tuple[Float, Float]:
    """The recalibrated confidence: ends of every block, as confidence and accuracy; join them by lines."""
    fit, mean = _fits(evidence)[0], evidence.atoms.mean
    ends = np.stack([mean[fit.start[:-1]], mean[fit.start[1:] - 1]], axis=1)
    wide = np.stack([np.ones(len(ends), bool), ends[:, 0] < ends[:, 1]], axis=1)
    return ends[wide], np.repeat(fit.value, 2).reshape(-1, 2)[wide]


def _recalibrated(evidence: Evidence, score: str) -> float:
    """S(recalibrated). Confidence itself is one monotone recalibration: from bins, the better of both."""
    found, given = _fits(evidence)[0].score(score), evidence.mean(score)
    return found if given is None else min(found, given)


def _fits(evidence: Evidence) -> tuple[_Fit, _Fit | None]:
    """The fit of atoms; and where they are bins, the fit if each had its wrong tokens first."""
    if evidence not in _known:
        atoms = evidence.atoms
        _known[evidence] = (
            _fit(atoms.n, atoms.right),
            None if atoms.is_exact else _fit(*_wrong_first(atoms)),
        )
    return _known[evidence]


def _wrong_first(atoms: Atoms) -> tuple[Float, Float]:
    """Weight and right weight of parts of atoms: of bins all wrong ones, then all right ones; exact ones whole."""
    wide = atoms.high > atoms.low
    right = np.stack([np.where(wide, 0, atoms.right), np.where(wide, atoms.right, 0)], axis=1).ravel()
    n = np.stack([np.where(wide, atoms.wrong, atoms.n), np.where(wide, atoms.right, 0)], axis=1).ravel()
    return n[n > 0], right[n > 0]


def _fit(n: Float, right: Float) -> _Fit:
    start = isotonic_regression(np.clip(right / n, 0, 1), weights=n).blocks.astype(np.int64)
    weight, hits = (np.add.reduceat(part, start[:-1]) for part in (n, right))
    return _Fit(weight, np.clip(hits, 0, weight), start)
