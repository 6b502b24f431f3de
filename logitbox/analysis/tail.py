"""The mass outside the recorded top k at any temperature, from what was recorded at a few.

With gaps g = m − x ≥ 0 below the best logit m and β = 1/T, softmax(βx) is e^{−βg} / e^{L(β)}, where
L(β) = ln Σ e^{−βg} = lse_β − βm is recorded at the β of `NODES`. The top k are summed from their gaps; the rest,
t(β) = e^{L(β)} − Σ_top e^{−βg}, is so known at the nodes, exactly at β = 1 (`tail_mass`) with its slope there
(`entropy`), and at β = 0, where it is a count. ln t is convex in β and falls by at least the k-th gap per unit of β.

Between these knots ln t is taken from the polynomial of degree 7 through all of them, cut to what convexity allows.
Gaps are float16: where the tail is small against their rounding the knots are cut to such bounds too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.moments import mixture, two_gaps
from logitbox.dumps.spec import BETAS

Float = NDArray[np.float64]
Single = NDArray[np.float32]
Columns = Mapping[str, NDArray[Any]]

NODES = tuple(sorted((*BETAS, 1.0)))
"""Inverse temperatures at which a dump holds ln Σ e^{βx}."""
KNOTS = (0.0, *NODES)
ONE = KNOTS.index(1.0)

FAR = np.float32(1e4)
"""Gaps of this size and above, and missing ones: e^{−βg} is exactly 0 at every node."""
_NOTHING = -1e4
"""ln of an empty tail, finite because it is multiplied by weights of either sign."""


def log_sums(columns: Columns) -> Float:
    """L(β) at `NODES`, [6, rows], to `log_sums_off`. NaN where `lse_beta` is."""
    top_nll = columns["top_nll"].astype(np.float64)
    m = columns["lse"] - top_nll
    given = {beta: columns["lse_beta"][:, i] - beta * m for i, beta in enumerate(BETAS)}
    return np.stack([(given | {1.0: top_nll})[beta] for beta in NODES])


def log_sums_off(columns: Columns) -> Float:
    """How far `log_sums` may be off because lse and lse_beta are float32, [6, rows]: the further from 0 the more.

    m = lse − top_nll errs by half a unit in the last place of lse, and lse_β by that of itself and of βm.
    """
    lse = abs(columns["lse"].astype(np.float32))
    m = lse + columns["top_nll"].astype(np.float32)  # no smaller than |m|
    unit = np.spacing(lse).astype(np.float64) / 2
    found = np.zeros((len(NODES), len(lse)))
    for i, beta in enumerate(BETAS):
        largest = np.fmax(abs(columns["lse_beta"][:, i].astype(np.float32)), np.float32(beta) * m)
        found[NODES.index(beta)] = beta * unit + np.spacing(largest)
    return found


@dataclass(frozen=True)
class Tail:
    """What the top k and the rest weigh, for some rows.

    Attributes:
        gaps: of the top k, [rows, k]; 1e4 where there is none.
        last: the largest gap of each row, [rows].
        logs: ln t at `KNOTS`, [7, rows].
        below, above: the same from the least and from the most that the recorded sums may be.
        slope: of ln t at β = 1, [rows].
        pair: (part, distance) of `moments.two_gaps` for the rest, [rows] each.
    """

    gaps: Single
    last: Float
    logs: Float
    below: Float
    above: Float
    slope: Float
    pair: tuple[Float, Float]

    def top(self, beta: float) -> Float:
        """Σ_top e^{−βg}, [rows], to 3e-7 of it."""
        weights = np.multiply(self.gaps, np.float32(-beta))
        np.exp(weights, out=weights)
        return (weights @ np.ones(weights.shape[1], np.float32)).astype(np.float64)

    def rest(self, beta: float) -> tuple[Float, Float, Float]:
        """(estimate, low, high) of t(β), [rows]: the polynomial; extended chords and tangent; chord and `moments`."""
        j = min(int(np.searchsorted(KNOTS, beta, side="right")) - 1, len(KNOTS) - 2)
        above, below = self.above, self.below
        high = np.minimum(_line(beta, (j, above), (j + 1, above)), above[j] - (beta - KNOTS[j]) * self.last)
        low = below[j + 1] + (KNOTS[j + 1] - beta) * self.last
        if j > 0:  # extended beyond the knot that counts with more than 1, and so the other with less than 0
            low = np.maximum(low, _line(beta, (j - 1, above), (j, below)))
        if j + 2 < len(KNOTS):
            low = np.maximum(low, _line(beta, (j + 1, below), (j + 2, above)))
        if ONE in {j, j + 1}:
            spread = (1 - beta) * self.last + np.log(mixture(*self.pair, beta))
            high = np.minimum(high, self.logs[ONE] + spread)
            low = np.maximum(low, self.logs[ONE] + (beta - 1) * self.slope)
        low = np.minimum(low, high)  # rounding can put them the wrong way round
        weights = _weights(beta)
        estimate = np.minimum(np.maximum(weights[:-1] @ self.logs + weights[-1] * self.slope, low), high)
        return np.exp(estimate), np.exp(low), np.exp(high)


def _line(beta: float, one: tuple[int, Float], other: tuple[int, Float]) -> Float:
    """At β, the line through the values of two arrays at two knots."""
    (i, first), (j, second) = one, other
    share = (beta - KNOTS[i]) / (KNOTS[j] - KNOTS[i])
    return (1 - share) * first[i] + share * second[j]


def tail_of(columns: Columns) -> Tail:
    """From top_nll, lse, entropy, n_finite, top_gap, tail_mass and lse_beta."""
    gaps = gaps_of(columns["top_gap"])
    top, top_slope = _top_at_nodes(gaps)
    top_nll, mass = (columns[name].astype(np.float64) for name in ("top_nll", "tail_mass"))
    count, last = ends_of(gaps)
    outside = columns["n_finite"] - count
    empty = ~((mass > 0) & (outside > 0))
    with np.errstate(all="ignore"):  # rounding can leave less than nothing of a tail: NaN, bounded below
        sums, off = log_sums(columns), log_sums_off(columns)
        knots = [
            np.log(np.concatenate([outside[None], np.exp(part) - top]))
            for part in (sums, sums - off, sums + off)
        ]
        for logs in knots:
            logs[ONE] = top_nll + np.log(mass)
        logs, below, above = knots
        whole_slope = np.exp(top_nll) * (columns["entropy"] - top_nll)  # Σ g e^{−g}: entropy = ln s + E[g]
        slope = (top_slope - whole_slope) / np.exp(logs[ONE])
    last = np.where(empty, 0.0, last)
    slope[empty] = 0.0
    for part in knots:
        part[:, empty] = _NOTHING
        _cut_below_one(part, last)
    slope = _cut(slope, (logs[ONE] - above[ONE - 1]) / (1 - KNOTS[ONE - 1]), -last)
    for part in knots:
        _cut_above_one(part, slope, last)
    excess = np.maximum(-slope - last, 0.0)
    pair = two_gaps(excess, np.maximum(logs[0] - logs[ONE] - last, excess))
    return Tail(gaps, last, logs, below, above, slope, pair)


def _cut_below_one(logs: Float, last: Float) -> None:
    """The knots that have rounding errors, cut to what those without allow: β = 0, β = 1 and the k-th gap."""
    zero, one = logs[0], logs[ONE]
    for j, beta in enumerate(KNOTS):
        if 0 < beta < 1:
            below_chord = np.minimum((1 - beta) * zero + beta * one, zero - beta * last)
            logs[j] = _cut(logs[j], one + (1 - beta) * last, below_chord)


def _cut_above_one(logs: Float, slope: Float, last: Float) -> None:
    """Likewise: the tail at 1.5 and 2 is smaller against the rounding than that of the slope."""
    for j, beta in enumerate(KNOTS):
        if beta > 1:
            logs[j] = _cut(logs[j], logs[ONE] + (beta - 1) * slope, logs[ONE] - (beta - 1) * last)


def _cut(values: Float, low: Float, high: Float) -> Float:
    """Into [low, high]; NaN to low, which also wins over a lower high."""
    return np.maximum(np.minimum(np.fmax(values, low), high), low)


def gaps_of(column: NDArray[Any]) -> Single:
    """Gaps as float32; `FAR` where there is none."""
    if column.dtype != np.float16:
        return np.fmin(column.astype(np.float32), FAR)
    bits = np.ascontiguousarray(column).view(np.uint16)
    found = np.empty(bits.shape, np.float32)
    return _float16_values().take(bits, out=found, mode="wrap")  # a third of the time of astype


@lru_cache(maxsize=1)
def _float16_values() -> Single:
    """The gap that each float16 bit pattern stands for; `FAR` for NaN and infinity."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return np.fmin(values, FAR)


def ends_of(gaps: Single) -> tuple[NDArray[np.int64], Float]:
    """(number of gaps, largest gap) of each row."""
    rows, k = gaps.shape
    if k and (gaps[:, -1] < FAR).all():  # gaps do not fall: all lists are full
        return np.full(rows, k), gaps[:, -1].astype(np.float64)
    there = gaps < FAR
    return there.sum(axis=1), np.max(gaps, axis=1, where=there, initial=0.0).astype(np.float64)


def _top_at_nodes(gaps: Single) -> tuple[Float, Float]:
    """(Σ_top e^{−βg} at `NODES`, [6, rows]; Σ_top g e^{−g}, [rows]) by powers 1, 2, 3, 4, 6, 8 of e^{−g/4}."""
    u = np.multiply(gaps, np.float32(-0.25))
    np.exp(u, out=u)
    squared = u * u
    cubed, fourth = squared * u, squared * squared
    ones = np.ones(u.shape[1], np.float32)
    pairs = [(u, u), (u, squared), (squared, squared), (cubed, cubed), (fourth, fourth), (gaps, fourth)]
    sums = np.stack([u @ ones, *(np.vecdot(x, y) for x, y in pairs)]).astype(np.float64)
    return sums[:-1], sums[-1]


@lru_cache(maxsize=256)
def _weights(beta: float) -> Float:
    """[8] weights of ln t at `KNOTS` and of its slope at 1: the value at β of the polynomial through them."""
    distance = np.array(KNOTS) - beta
    powers = np.arange(len(KNOTS) + 1)
    rows = distance[:, None] ** powers
    slope = powers * distance[ONE] ** np.maximum(powers - 1, 0)
    return np.linalg.inv(np.vstack([rows, slope]))[0]
