"""Cross-entropy of logits that were clamped to ±50 first (seed 001's public code), as bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.definitions.rows import Rows

Float = NDArray[np.float64]
Bounds = tuple[Float, Float]

LIMIT = 50.0

_EXACT = 1e-6
"""What float32 columns may be off by, relative or absolute."""


def nll_clamped(rows: Rows) -> Bounds:
    """−ln p(gold) after the clamp, nats: (least, most), each [rows]; NaN where gold is not known.

    Exact to rounding while no logit is above 50 and the best is not far below −20. Else the best tokens tell most of what the
    clamp cuts off, and the others lie between bounds.
    """
    nll, lse = rows["nll"], rows["lse"]
    gold = lse - nll
    moved = gold - np.clip(gold, -LIMIT, LIMIT)
    low, high = np.zeros(len(nll)), np.zeros(len(nll))  # of ln Σ e^min(x, 50), less lse
    best = lse - rows["top_nll"]
    cut = np.flatnonzero(best > LIMIT - _EXACT * LIMIT)
    if len(cut):
        low[cut], high[cut] = (np.log(part) + LIMIT - lse[cut] for part in _capped(rows, cut))
    # Logits below −50 are raised to it, also those of −inf: each adds at most e^−50.
    high = np.logaddexp(high, np.log(rows.spec.vocab_size) - LIMIT - lse)
    slack = _EXACT * np.maximum(1.0, np.maximum(abs(lse), nll))
    return nll + low + moved - slack, nll + high + moved + slack


def _capped(rows: Rows, at: NDArray[np.int64]) -> Bounds:
    """Σ e^(min(x, 50) − 50) over the vocabulary: (least, most), [at]."""
    lse, mass, kept = (rows[name][at] for name in ("lse", "tail_mass", "kept"))
    gap = rows["top_gap"][at]
    off = np.where(np.isfinite(gap), gap, 0.0) * 2.0**-11 + 2.0**-25
    x = (lse - rows["top_nll"][at])[:, None] - gap
    low, high = (np.exp(np.minimum(x + by, LIMIT) - LIMIT).sum(1) for by in (-off, off))
    last = np.take_along_axis(x + off, np.maximum(kept - 1, 0)[:, None], axis=1)[:, 0]
    # Outside the list none is above `last`: a cap takes no larger part of any of them than of that one.
    least = np.maximum(mass - _TINY, 0.0) * np.exp(np.minimum(lse - np.maximum(last, LIMIT), _HUGE))
    most = (mass + _TINY) * np.exp(np.minimum(lse - LIMIT, _HUGE))
    alike = np.maximum(rows["n_finite"][at] - kept, 0) * np.exp(np.minimum(last, LIMIT) - LIMIT)
    return low + least, high + np.minimum(most, alike)


_TINY = 1e-37
"""What a float32 mass may be off by beside its rounding: below this it loses digits, or all."""

_HUGE = 700.0
"""Exponents above this overflow."""
