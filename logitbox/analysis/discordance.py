"""Discordance: how often a right token costs more than a wrong one, the part of TFCE that accuracy cannot see.

θ = P(nll of a random right token > nll of a random wrong one) + ½ P(equal): the Mann–Whitney U of both groups over
their pairs, exact by sorting. 0: the loss alone tells right from wrong; ½: it tells nothing about it.

Interval: linearisation of the two-sample U-statistic with samples as clusters (Obuchowski, Biometrics 53, 1997).
With V(i) the share of wrong tokens that the right token i costs more than, and W(j) the share of right tokens that
cost more than the wrong token j, sample c has influence

    u(c) = Σ_{right i in c} (V(i) − θ)/R + Σ_{wrong j in c} (W(j) − θ)/W,    Var θ = G/(G−1) Σ u(c)²,

taken on the scale of ln(θ/(1−θ)), so that it stays inside (0, 1). Where θ is 0 or 1, or no sample has both kinds and
all influences are 0, there is no spread to estimate from; Wilson's interval over the number of samples stands instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.intervals import Z95
from logitbox.analysis.pairs.choice import Choice
from logitbox.dumps.flags import Flag

Float = NDArray[np.float64]
Int = NDArray[np.int64]

_ROUNDING = 1e-12
_COLUMNS = ("sample", "flags", "nll", "n_gt", "n_eq_before")


@dataclass(frozen=True)
class Discordance:
    """How often a right token costs more than a wrong one.

    Attributes:
        value: θ; None where all tokens are right, or all wrong.
        low, high: 95 % interval clustered by sample; None with fewer than two samples.
        n_right, n_wrong: finite tokens of both kinds.
        told: which tokens, in words.
    """

    value: float | None
    low: float | None
    high: float | None
    n_right: int
    n_wrong: int
    told: str = ""

    def __str__(self) -> str:
        where = f"{self.told}: " if self.told else ""
        if self.value is None:
            alike = "wrong" if self.n_wrong else "right"
            return f"{where}no pairs to compare, all {max(self.n_right, self.n_wrong):,} tokens are {alike}"
        spread = "" if self.low is None else f" (95 % {self.low:.2%} to {self.high:.2%})"
        return (
            f"{where}a random right token costs more than a random wrong one in {self.value:.2%} of pairs{spread}; "
            f"{self.n_right:,} right, {self.n_wrong:,} wrong"
        )


def discordance(nll: NDArray[Any], right: NDArray[np.bool_], cluster: Int, told: str = "") -> Discordance:
    """θ with its interval.

    Args:
        nll: finite, [n].
        right: whether the arg-max is gold, [n].
        cluster: number of each token's sample, whole numbers, [n].
        told: which tokens, for the result.
    """
    of_right, of_wrong = nll[right], nll[~right]
    n_right, n_wrong = len(of_right), len(of_wrong)
    if not n_right or not n_wrong:
        return Discordance(None, None, None, n_right, n_wrong, told)
    above_wrong = _share_below(of_right, of_wrong)
    value = float(above_wrong.mean())
    influence = np.zeros(len(nll))
    influence[right] = (above_wrong - value) / n_right
    influence[~right] = (1.0 - _share_below(of_wrong, of_right) - value) / n_wrong
    samples, number = np.unique(cluster, return_inverse=True)
    of_sample = np.bincount(number.reshape(-1), weights=influence).astype(np.float64, copy=False)
    low, high = _interval(value, of_sample, len(samples))
    return Discordance(value, low, high, n_right, n_wrong, told)


def _share_below(values: NDArray[Any], others: NDArray[Any]) -> Float:
    """Of each value: the share of the others below it, equal ones counting half."""
    ordered = np.sort(others)
    twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return twice / (2.0 * len(ordered))


def _interval(value: float, influence: Float, samples: int) -> tuple[float | None, float | None]:
    if samples < 2:
        return None, None
    spread = sqrt(samples / (samples - 1) * float(influence @ influence))
    if value in (0.0, 1.0) or spread < _ROUNDING:
        z2 = Z95 * Z95 / samples
        half = sqrt(z2 * (value * (1 - value) + z2 / 4))
        low, high = ((value + z2 / 2 + side * half) / (1 + z2) for side in (-1, 1))
    else:
        error, centre = spread / (value * (1 - value)), log(value / (1 - value))
        low, high = (_inverse_logit(centre + side * Z95 * error) for side in (-1, 1))
    return max(min(low, value), 0.0), min(max(high, value), 1.0)


def _inverse_logit(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def discordance_of(choice: Choice) -> Discordance:
    """`discordance` of the chosen tokens; NaN and infinite ones are left out. A sample counts once per data set."""
    nll, right, sample, dataset = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, int)], [np.zeros(0, int)]
    of_place = choice.places["dataset"].rank("dense").to_numpy()
    for found in choice.scan(_COLUMNS):
        good = (found["flags"] & int(Flag.NONFINITE)) == 0
        nll.append(found["nll"][good])
        right.append((found["n_gt"] + found["n_eq_before"])[good] == 0)
        sample.append(found["sample"][good])
        dataset.append(of_place[found["place"][good]])
    pairs = pl.DataFrame({"sample": np.concatenate(sample), "dataset": np.concatenate(dataset)})
    cluster = (
        pairs.select(pl.struct("dataset", "sample").rank("dense")).to_series().to_numpy().astype(np.int64)
    )
    return discordance(np.concatenate(nll), np.concatenate(right), cluster, choice.told)
