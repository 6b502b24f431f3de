"""How much of a loss gap is miscalibration: each side at its own best temperature.

ΔTFCE = miscalibration + refinement, exactly. Refinement is the difference of mean nll with either side at the
temperature T of its least mean nll over the aligned tokens; miscalibration is the difference of what those take off.
Intervals take T as given: mean nll is flat at its least, so that fitting T moves it to second order only (the envelope
theorem).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.node_means import NoFit
from logitbox.analysis.pairs.align import Aligned, Pair
from logitbox.analysis.pairs.paired import Difference, differences
from logitbox.analysis.tail import Columns, Float
from logitbox.analysis.temperature import Fit, fit
from logitbox.errors import InputError

_CLUSTER = "cluster"
"""Name under which sample numbers travel with the rows."""


@dataclass(frozen=True)
class Temperature:
    """A loss gap A − B, split, or why it cannot be.

    Attributes:
        a, b: fits of both sides to the aligned tokens; None without `lse_beta`.
        miscalibration: difference of the nll that the best temperatures take off, nats per token; None with a reason.
        refinement: difference of mean nll at the best temperatures; None with a reason.
        reason: why there is no split; else "".
    """

    a: Fit | None
    b: Fit | None
    miscalibration: Difference | None
    refinement: Difference | None
    reason: str = ""

    @property
    def share(self) -> float | None:
        """Of ΔTFCE that is miscalibration: outside [0, 1] where the parts have opposite signs, None where Δ is 0."""
        if self.miscalibration is None or self.refinement is None:
            return None
        delta = self.miscalibration.value + self.refinement.value
        return self.miscalibration.value / delta if delta else None

    @property
    def refinement_bounds(self) -> tuple[float, float] | None:
        """What the difference of the least mean nll lies between, whatever the interpolation errs by."""
        if self.a is None or self.b is None or self.refinement is None:
            return None
        return self.a.low - self.b.high, self.a.high - self.b.low

    def __str__(self) -> str:
        if self.a is None or self.b is None or self.miscalibration is None or self.refinement is None:
            return f"How much of the loss gap is a matter of temperature is not known: {self.reason}."
        if self.share is None:
            return f"No loss gap; the best temperatures are {self.a.temperature:.2f} and {self.b.temperature:.2f}."
        a_is_worse = self.miscalibration.value + self.refinement.value > 0
        worse, other = ("A", "B") if a_is_worse else ("B", "A")
        own, others = (self.a, self.b) if a_is_worse else (self.b, self.a)
        left = _at_best(self.refinement, 1 if a_is_worse else -1)
        if self.share <= 0:
            told = f"None of {worse}'s worse loss is miscalibration (T = {own.temperature:.2f})"
        else:
            share = "All" if self.share >= 1 else f"{min(self.share, 0.99):.0%}"
            kind = "over-confidence" if own.temperature > 1 else "under-confidence"
            told = f"{share} of {worse}'s worse loss is {kind} (T = {own.temperature:.2f})"
        best = f"with each at its own best temperature ({other}'s is {others.temperature:.2f})"
        return f"{told}; {best} {worse} would {left}."


def _at_best(refinement: Difference, sign: int) -> str:
    """Where the worse side would stand: behind, ahead or undecided."""
    value = sign * refinement.value
    where = f"{'be ahead' if value < 0 else 'still be behind'} by {abs(value):.4f} nats"
    if refinement.low is None or refinement.high is None:
        return where
    low, high = sorted((sign * refinement.low, sign * refinement.high))
    if low <= 0 <= high:
        return f"be level within noise ({value:+.4f} nats of loss, 95 % {low:+.4f} to {high:+.4f})"
    ends = sorted((abs(low), abs(high)))
    return f"{where} (95 % {ends[0]:.4f} to {ends[1]:.4f})"


def temperature_of(pair: Pair) -> Temperature:
    """Fit both sides' temperatures to the aligned tokens, and split the loss gap by them; reads both sides again."""
    n = np.bincount(pair.cluster).astype(np.float64)
    fits: list[Fit] = []
    sums: list[Float] = []
    for name, side in (("A", pair.a), ("B", pair.b)):
        found = _Sums(side, pair.cluster, len(n))
        fitted = fit(found.read, found.add)
        if isinstance(fitted, NoFit):
            return Temperature(fits[0] if fits else None, None, None, None, f"{name} has {fitted.reason}")
        fits.append(fitted)
        sums.append(found.sums)
    a, b = fits
    for name, fitted in zip("AB", fits, strict=True):
        if fitted.left_out:
            return Temperature(a, b, None, None, f"{name} has {fitted.left_out:,} tokens of infinite nll")
        if fitted.at_edge:
            beyond = "0.5 or less" if fitted.temperature < 1 else "4 or more"
            reason = f"{name}'s best temperature is {beyond}, beyond what lse_beta tells"
            return Temperature(a, b, None, None, reason)
    (before_a, best_a), (before_b, best_b) = sums
    miscalibration, refinement = differences(
        np.stack([(before_a - best_a) - (before_b - best_b), best_a - best_b]), n
    )
    return Temperature(a, b, miscalibration, refinement)


class _Sums:
    """One side's aligned rows, chunk by chunk, and what they add up to by sample.

    Attributes:
        sums: [2, samples], Σ nll at T = 1 and at the best temperature.
    """

    def __init__(self, side: Aligned, cluster: NDArray[np.int64], samples: int) -> None:
        self._side = side
        # Of every row scanned, −1 where not aligned: the only array here that grows with the tokens.
        self._cluster = np.full(int(side.at.max(initial=-1)) + 1, -1, dtype=np.int32)
        self._cluster[side.at] = cluster
        self.sums = np.zeros((2, samples))

    def read(self, columns: Sequence[str]) -> Iterator[Columns]:
        """The aligned rows again, in the order of the scan."""
        start = aligned = 0
        for found in self._side.choice.scan(columns):
            rows = len(found["nll"])
            cluster = self._cluster[start : start + rows]
            keep = np.flatnonzero(cluster >= 0)
            start, aligned = start + rows, aligned + len(keep)
            if len(keep) == rows:
                yield {**found, _CLUSTER: cluster}
            elif len(keep):
                yield {name: values[keep] for name, values in found.items()} | {_CLUSTER: cluster[keep]}
        if aligned != len(self._side.at):
            raise InputError(
                f"{self._side.choice.dump.path} changed while it was read; compare again when it is complete"
            )

    def add(self, rows: Columns, nll: Float) -> None:
        """A chunk's nll at T = 1 and, given, at the best temperature."""
        for i, values in enumerate((rows["nll"].astype(np.float64), nll)):
            np.add.at(self.sums[i], rows[_CLUSTER], values)
