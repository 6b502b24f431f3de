"""Whole predicted distributions at hand: what they say of the label, class-wise errors, and the best temperature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import entr

from logitbox.analysis.calibration.atoms import Float, Int
from logitbox.analysis.calibration.checking import Mask, blocks
from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.calibration.temperatures import Heat
from logitbox.analysis.calibration.vocabulary import Bounded
from logitbox.analysis.histogram import Grid

HOTTEST = 100.0
"""Temperatures are looked for in [1 / HOTTEST, HOTTEST]."""

_FLAT = 1e-12
"""A slope of mean nll, nats per unit of 1/T, that is rounding: any temperature is as good, so none is needed."""

_CELLS = 1 << 18
"""Bins of all classes counted together: bounds memory where there are many of both."""


@dataclass(frozen=True)
class Top:
    """Of every row, [rows] each.

    Attributes:
        confidence: the largest probability.
        right: whether the class that has it, the lowest among equals, is the label.
        nll: −ln p(label), nats.
        entropy: −Σ p ln p, nats.
    """

    confidence: Float
    right: Mask
    nll: Float
    entropy: Float


def likeliest(p: NDArray[Any], label: Int) -> Top:
    """What the distributions [rows, classes] say of themselves and of the label."""
    rows = len(p)
    top = Top(np.empty(rows), np.empty(rows, dtype=bool), np.empty(rows), np.empty(rows))
    for part in blocks(p):
        block, at = _unit(p[part]), np.arange(len(label[part]))
        best = block.argmax(axis=1)
        top.confidence[part] = block[at, best]
        top.right[part] = best == label[part]
        with np.errstate(divide="ignore"):  # a label of probability 0 is infinitely bad
            top.nll[part] = np.abs(np.log(block[at, label[part]]))  # abs: no −0
        top.entropy[part] = entr(block).sum(axis=1)
    return top


def _unit(block: NDArray[Any]) -> Float:
    """In float64, at most 1: half precision may round above."""
    return np.minimum(block, 1.0, dtype=np.float64)


def classes_of(p: NDArray[Any], label: Int, weight: Float | None, bins: int) -> tuple[Bounded, Bounded]:
    """(Full-ECE, class-wise ECE), equal-width bins, over all rows · classes pairs.

    Full-ECE is Σ_b |Σ_pairs in b (label is class − p)| per row (Liu et al. 2024, arXiv 2406.11345); class-wise ECE is the
    mean over classes of that sum over the class's own pairs (Kull et al. 2019, arXiv 1910.12656).
    """
    n_classes = p.shape[1]
    total = float(len(p) if weight is None else weight.sum())
    step = max(1, _CELLS // bins)
    full, by_class = np.zeros(bins), 0.0
    for start in range(0, n_classes, step):
        residual = _residuals(p[:, start : start + step], label - start, weight, bins)
        full += residual.sum(axis=0)
        by_class += float(np.abs(residual).sum()) / total / n_classes
    whole = float(np.abs(full).sum()) / total
    return Bounded(whole, whole, whole), Bounded(by_class, by_class, by_class)


def _residuals(p: NDArray[Any], label: Int, weight: Float | None, bins: int) -> Float:
    """Σ weight · (label is class − p), [classes, bins], of some classes; labels outside them are of another."""
    n_classes = p.shape[1]
    counter = Counter(Grid(bins), n_classes)
    each = np.arange(n_classes)
    for part in blocks(p):
        block = _unit(p[part])
        w = None if weight is None else np.repeat(weight[part], n_classes)
        hit = label[part][:, None] == each
        counter.add(block.reshape(-1), hit.reshape(-1), np.tile(each, len(block)), w)
    return counter.residuals()


def heat_of(p: NDArray[Any], label: Int, weight: Float | None) -> Heat:
    """The temperature of least mean nll of p^β / Σ p^β, β = 1/T, exactly: mean nll is convex in β."""
    before, slope = _at(p, label, weight, 1.0)
    if before == np.inf:
        reason = "a label has probability 0: nll is infinite at every temperature"
        return Heat(None, 1 / HOTTEST, HOTTEST, np.inf, None, np.inf, np.inf, reason=reason)
    beta = _root(lambda u: _at(p, label, weight, exp(u))[1], slope)
    after = before if beta == 1 else _at(p, label, weight, beta)[0]
    edge = beta in {1 / HOTTEST, HOTTEST}
    t = 1 / beta
    return Heat(t, t, t, before, after, after, after, at_edge=edge)


def _root(slope_at: Callable[[float], float], at_one: float) -> float:
    """β where the slope of mean nll, which rises in ln β, is 0; an end of the range where it is nowhere."""
    if abs(at_one) <= _FLAT:
        return 1.0
    known = cache(slope_at)  # once per place: the ends of a bracket must not change sign
    sign, end = 1.0 if at_one < 0 else -1.0, log(HOTTEST)
    before, at, step = 0.0, 0.0, 0.25
    while at < end:  # few steps: the best temperature is mostly near 1
        at, step = min(at + step, end), step * 2
        slope = known(sign * at) * sign
        if slope > 0:
            return exp(float(brentq(known, sign * before, sign * at, xtol=1e-12)))  # pyright: ignore[reportArgumentType] (one number)
        if slope < 0:  # where it is 0, nothing is left of the other classes, or the next step is beyond
            before = at
    return HOTTEST if sign > 0 else 1 / HOTTEST


def _at(p: NDArray[Any], label: Int, weight: Float | None, beta: float) -> tuple[float, float]:
    """(mean nll at 1/β, its slope in β): mean of ln Σ p^β − β ln p(label), and of E ln p − ln p(label).

    Logarithms are taken relative to the likeliest class, so that where it is the label no difference is rounded.
    """
    nll = slope = total = 0.0
    for part in blocks(p):
        block, at = _unit(p[part]), np.arange(len(label[part]))
        with np.errstate(divide="ignore"):
            logp = np.log(block)
        logp -= logp.max(axis=1, keepdims=True)
        gold = logp[at, label[part]]
        if (gold == -np.inf).any():
            return np.inf, 0.0
        power = np.exp(beta * logp)
        mass = power.sum(axis=1)
        mean = (power * np.where(power > 0, logp, 0.0)).sum(axis=1) / mass
        each = np.log(mass) - beta * gold
        w = np.ones(len(gold)) if weight is None else weight[part]
        nll, slope, total = nll + float(each @ w), slope + float((mean - gold) @ w), total + float(w.sum())
    return nll / total, slope / total
