"""What softmax(βx) can be where only T = 1 was recorded: bounds from the top k and the rest's mass and mean gap.

As in `logitbox.analysis.tail`, g = m − x and L(β) = ln Σ e^{−βg}. Of the rest outside the top k are known how many they
are, t(1) = Σ e^{−g} (`tail_mass`), Σ g e^{−g} (`entropy`, less what the top k have of it), and that every g is at least the
k-th gap: what that leaves open of t(β) is in `logitbox.analysis.moments`.

Recorded gaps are off by up to 2⁻¹¹ of themselves. The sums of the top k are scaled to what they are at β = 1, where they
are known, and widened by what rounding can do to the rest to first order (the second is below `UNROUNDED`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from logitbox.analysis.moments import mixture, two_gaps
from logitbox.analysis.tail import FAR, Columns, Float, Single, ends_of, gaps_of

UNROUNDED = 2e-5
"""What float32, and float16 to second order, may do to these bounds of mean nll, in nats."""

_F16, _F32 = 2.0**-11, 16 * 2.0**-23
_TINY16 = 2.0**-25
_MORE = 1.05
"""First order to all of it, for changes of a hundredth."""


@dataclass(frozen=True)
class Loose:
    """The top k and what is known of the rest, for some rows; [rows] unless told otherwise.

    Attributes:
        gaps: of the top k, [rows, k]; 1e4 where there is none.
        share: e^{−g} over their sum, [rows, k].
        recorded: Σ e^{−g} of the top k, from the recorded gaps; 1 where there are none.
        top, tail: Σ e^{−g} of both, as it is.
        nearest: no gap of the rest is smaller.
        mean: of the rest's gaps, weighed by e^{−g}; its bounds are `mean_low` and `mean_high`.
        most: ln R, which the mean cannot exceed.
    """

    gaps: Single
    share: Single
    recorded: Float
    top: Float
    tail: Float
    nearest: Float
    mean: Float
    mean_low: Float
    mean_high: Float
    most: Float

    def at(self, beta: float) -> tuple[Float, Float, Float]:
        """(floor, low, high) of L(β); `low` is `floor`, which is convex in β, less what rounding can do."""
        weights = np.exp(self.gaps * np.float32(-beta))
        total = weights.sum(axis=1)
        there = total > 0
        weights /= np.where(there, total, 1)[:, None]
        off = _MORE * np.vecdot(abs(np.float32(beta) * weights - self.share), _rounding(self.gaps)).astype(
            float
        )
        top = self.top * np.where(there, total.astype(float) / self.recorded, 0.0)
        least, most = (self.mean_low, self.mean_high) if beta < 1 else (self.mean_high, self.mean_low)
        floor = np.log(top + self.tail * np.exp((1 - beta) * self.mean))
        low = np.log(top * np.exp(-off) + self.tail * np.exp((1 - beta) * least))
        high = np.log(top * np.exp(off) + self.tail * self._spread(most, beta))
        return floor, np.minimum(low, floor), np.maximum(high, floor)

    def _spread(self, mean: Float, beta: float) -> Float:
        """The most that t(β)/t(1) can be with this mean gap."""
        part, distance = two_gaps(mean - self.nearest, self.most - self.nearest)
        return np.exp((1 - beta) * self.nearest) * mixture(part, distance, beta)


def loose_of(columns: Columns) -> Loose:
    """From top_nll, entropy, n_finite, top_gap and tail_mass."""
    gaps = gaps_of(columns["top_gap"])
    count, last = ends_of(gaps)
    weights = np.exp(-gaps)
    recorded = np.where(count > 0, weights.sum(axis=1), 1).astype(np.float32)
    share: Single = (weights / recorded[:, None]).astype(np.float32, copy=False)
    top_nll, mass, entropy = (
        columns[name].astype(np.float64) for name in ("top_nll", "tail_mass", "entropy")
    )
    outside = columns["n_finite"] - count
    whole = np.exp(top_nll)
    empty = ~((mass > 0) & (outside > 0)) & (count > 0)
    tail = np.where(empty, 0.0, np.where(count > 0, whole * mass, whole))
    top = np.where(count > 0, np.maximum(whole - tail, 1.0), 0.0)
    # Rows without a tail get a harmless one, that weighs nothing.
    weight = np.where(empty, 1.0, tail)
    most = np.log(np.maximum(np.where(empty, 1, outside), 1) / weight)
    nearest = np.clip(np.minimum(last * (1 - _F16) - _TINY16, most), 0.0, None)
    most = np.maximum(most, nearest)
    of_top = np.vecdot(share, np.minimum(gaps, FAR)).astype(np.float64)
    moved = _MORE * np.vecdot(share * abs(1 - gaps + of_top[:, None].astype(np.float32)), _rounding(gaps))
    mean = np.where(empty, 0.0, (whole * (entropy - top_nll) - top * of_top) / weight)
    off = (top * moved + whole * _F32 * (1 + entropy + top_nll)) / weight + _F32 * (1 + abs(mean))
    mean_low, middle, mean_high = (np.clip(part, nearest, most) for part in (mean - off, mean, mean + off))
    return Loose(
        gaps, share, recorded.astype(np.float64), top, tail, nearest, middle, mean_low, mean_high, most
    )


def _rounding(gaps: Single) -> Single:
    """How far a recorded gap may be off."""
    return gaps * np.float32(_F16) + np.float32(_TINY16)
