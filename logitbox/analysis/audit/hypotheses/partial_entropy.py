"""Entropies of the K best tokens alone, as bounds: `top_gap` is the distance from the best logit rounded to float16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.definitions.rows import Rows

Float = NDArray[np.float64]
Bounds = tuple[Float, Float]

_FAR = 700.0
"""Distance at which e^−gap is next to nothing."""

_EXACT = 1e-6
"""What columns other than `top_gap` may be off by, relative or absolute."""


def partial_entropy(rows: Rows, count: int) -> Bounds:
    """−Σ p ln p over the `count` best tokens, nats: (least, most), each [rows]; NaN where a list is shorter.

    Summed from the best tokens; and as the entropy less what all others add to it, where that is the tighter bound.
    """
    width = min(count, rows.spec.vocab_size)
    terms = rows.once("terms", lambda: _terms(rows))
    low, high = (part[:, :width].sum(1) for part in terms)
    tail = rows.once("tail", lambda: _tail(rows))
    rest_low, rest_high = (part[:, width:].sum(1) + end for part, end in zip(terms, tail, strict=True))
    entropy = rows["entropy"]
    low, high = np.maximum(low, entropy - rest_high), np.minimum(high, entropy - rest_low)
    return _widened(low, high, rows["kept"] >= width)


def renormalised_entropy(rows: Rows, count: int) -> Bounds:
    """−Σ q ln q, q = p over the `count` best tokens divided by its sum, nats: as `partial_entropy`.

    It moves by at most Σ qᵢ |ln qᵢ + H| dᵢ for logits that move by dᵢ each; q, ln q and H are taken where they are largest
    on the way.
    """
    width = min(count, rows.spec.vocab_size)
    gap, off = (part[:, :width] for part in rows.once("gaps", lambda: _gaps(rows)))
    weight = np.exp(-gap)
    total = weight.sum(1, keepdims=True)
    q, log_q = weight / total, -gap - np.log(total)
    entropy = -(q * log_q).sum(1, keepdims=True)
    distance = abs(log_q + entropy)
    shift = (q * np.expm1(off)).sum(1, keepdims=True)  # of ln Σ e^x
    moved = q * np.exp(off + shift) * off
    first = (q * distance * off).sum(1, keepdims=True)
    reach = (moved * (distance + off + 3 * shift + 2 * first)).sum(1)
    return _widened(entropy[:, 0] - reach, entropy[:, 0] + reach, rows["kept"] >= width)


def _gaps(rows: Rows) -> Bounds:
    """(gaps, how far rounding may have moved each), [rows, k]."""
    gap = np.minimum(rows["top_gap"], _FAR)
    return gap, gap * 2.0**-11 + (gap > 0) * 2.0**-25


def _terms(rows: Rows) -> Bounds:
    """−p ln p of the best tokens: (least, most), [rows, k]."""
    gap, off = rows.once("gaps", lambda: _gaps(rows))
    nearest = rows["top_nll"][:, None] + np.maximum(gap - off, 0.0)
    farthest = rows["top_nll"][:, None] + gap + off
    one, other = nearest * np.exp(-nearest), farthest * np.exp(-farthest)
    most = np.maximum(one, other)
    # u e^−u rises up to u = 1 and falls from there.
    return np.minimum(one, other), np.where((nearest < 1) & (farthest > 1), np.exp(-1.0), most)


def _tail(rows: Rows) -> Bounds:
    """−Σ p ln p over all tokens outside the list: (least, most), [rows].

    Each has at most the probability of the list's last, so the sum is at least that of as many alike; it is at most that of
    an even tail.
    """
    gap, off = rows.once("gaps", lambda: _gaps(rows))
    mass, outside = rows["tail_mass"], rows["n_finite"] - rows["kept"]
    is_whole = rows["kept"] == gap.shape[1]
    last = rows["top_nll"] + np.maximum(gap[:, -1] - off[:, -1], 0.0)
    log_mass = np.log(np.where(mass > 0, mass, 1.0))
    low = np.where(is_whole, mass * np.maximum(last, -log_mass), 0.0)
    high = mass * (np.log(np.maximum(outside, 1)) - log_mass)
    return low, np.where(is_whole, np.maximum(high, low), np.inf)


def _widened(low: Float, high: Float, known: NDArray[np.bool_]) -> Bounds:
    slack = _EXACT * np.maximum(1.0, abs(high))
    return np.where(known, low - slack, np.nan), np.where(known, high + slack, np.nan)
