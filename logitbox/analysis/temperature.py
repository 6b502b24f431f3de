"""The temperature that minimises mean nll, fitted to a dump's columns, without logits.

With p_T(gold) ∝ e^{x/T} and β = 1/T, mean nll is convex in β. It is exact (to 1e-6 nats) at the six β of `lse_beta` and
`lse`, and so is its slope at β = 1, mean(nll − entropy); between them see `logitbox.analysis.scaling`. Measured on
SmolLM2, also with its logits times 1.5 and 0.6, and on random logits: T errs by 0.1 % at most, and mean nll at any T
in [0.5, 2] by 4e-4 nats with k = 32, 1e-3 with k = 8; from T = 2 to 4 by 2e-3 and 8e-3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from logitbox.analysis.convex import least
from logitbox.analysis.node_means import ONE, ROUNDING, NoFit, Read, finite, means_of
from logitbox.analysis.scaling import COLUMNS, band, blocks
from logitbox.analysis.tail import NODES, Columns, Float, tail_of

Each = Callable[[Columns, Float], None]

_POINTS = 6
_NEAR = (0.97, 0.99, 1.01, 1.03)


@dataclass(frozen=True)
class Fit:
    """The temperature of least mean nll.

    Attributes:
        temperature: in [0.5, 4].
        nll_before: mean at T = 1, nats, exact.
        nll: mean at `temperature`, nats, interpolated.
        low, high: the least mean nll over [0.5, 4] lies between them, because mean nll and every token's tail are
            convex in β; widened by `ROUNDING`.
        at_edge: the best temperature is 0.5 or less, or 4 or more.
        tokens: fitted on.
        left_out: NaN or infinite nll.
    """

    temperature: float
    nll_before: float
    nll: float
    low: float
    high: float
    at_edge: bool
    tokens: int
    left_out: int

    @property
    def gain(self) -> float:
        """Mean nll that the temperature takes off, nats."""
        return self.nll_before - self.nll

    def __str__(self) -> str:
        beyond = (" or less" if self.temperature < 1 else " or more") if self.at_edge else ""
        told = f"T = {self.temperature:.3g}{beyond} takes mean nll from {self.nll_before:.4f} to {self.nll:.4f} nats"
        left_out = f"; left out: {self.left_out:,} NaN or infinite" if self.left_out else ""
        return f"{told} ({self.low:.4f} to {self.high:.4f}) over {self.tokens:,} tokens{left_out}"


def fit(read: Read, each: Each | None = None) -> Fit | NoFit:
    """The temperature of least mean nll, in three passes: exact means, six β around the least, the best one.

    Args:
        read: called once a pass.
        each: called in the last pass with the rows of finite nll of every chunk, and their nll at the temperature.
    """
    means = means_of(read)
    if isinstance(means, NoFit):
        return means
    (a, b), best = means.bracket, 1.0
    betas: list[float] = []
    found = np.zeros((0, 3))
    if a < b:
        around = (a + b) / 2 + (b - a) / 2 * np.cos(np.pi * (np.arange(_POINTS) + 0.5) / _POINTS)
        betas = around.tolist()
        found = _pass(read, betas, means.tokens)
        best = least(betas, found[:, 0].tolist(), a, b)
    # More β next to the best: only the bound from below needs them.
    last = [best, *(best * factor for factor in _NEAR if a < best * factor < b)]
    found = np.concatenate([found, _pass(read, last, means.tokens, each)])
    at, (_, lows, highs) = [*betas, *last], found.T.tolist()
    return Fit(
        temperature=1 / best,
        nll_before=means.nll[ONE],
        nll=float(found[len(betas), 0]),
        low=means.least_above(list(zip(at, lows, strict=True)), list(zip(at, highs, strict=True))),
        high=min(*means.nll, min(highs) + ROUNDING),
        at_edge=best in {NODES[0], NODES[-1]},
        tokens=means.tokens,
        left_out=means.left_out,
    )


def _pass(read: Read, betas: Sequence[float], tokens: int, each: Each | None = None) -> Float:
    """Means of `band` at every β, [betas, 3]; `each` gets the rows' nll at the first."""
    sums = np.zeros((len(betas), 3))
    for columns in read(COLUMNS):
        rows, _ = finite(columns)
        first: list[Float] = []
        for block in blocks(rows):
            tail = tail_of(block)
            bands = [band(beta, block, tail) for beta in betas]
            sums += np.array([[part.sum() for part in parts] for parts in bands])
            first.append(bands[0][0])
        if each is not None and first:
            each(rows, np.concatenate(first))
    return sums / tokens
