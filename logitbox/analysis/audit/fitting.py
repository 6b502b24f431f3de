"""How well a candidate explains what was logged, and how often a wrong one would by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.audit.candidates import Candidate
from logitbox.analysis.audit.hypotheses.registry import TRANSFORMS
from logitbox.analysis.audit.predicting import Bounds, Lines

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

_INVERSES: Mapping[str, Callable[[Float], Float]] = {
    "identity": lambda values: values,
    "exp": lambda values: np.log(np.maximum(values, 1e-300)),
}
"""Transforms under which a parameter can be fitted."""

MOST_CHANCE = 0.01
"""Wrong hypotheses that may fit by chance before nothing is concluded from a fit."""

_FLAT = 1e-12
"""A slope this small says nothing about its parameter."""


@dataclass(frozen=True, eq=False)
class Values:
    """Logged values of the compared lines.

    Attributes:
        step: as logged, int64 [L].
        logged: float64 [L], finite.
        precision: half a unit of the last printed digit, [L].
        tolerance: how far a prediction may be off, [L].
    """

    step: NDArray[np.int64]
    logged: Float
    precision: Float
    tolerance: Float

    def only(self, numbers: NDArray[np.int64]) -> Values:
        """Those of some lines."""
        return Values(
            self.step[numbers], self.logged[numbers], self.precision[numbers], self.tolerance[numbers]
        )


@dataclass(frozen=True, eq=False)
class Tried:
    """A candidate beside the logged values.

    Attributes:
        candidate: which.
        predicted: its bounds, each [L].
        error: |logged − nearest value within the bounds|, [L]; NaN where nothing is predicted.
        misfit: largest error / tolerance; infinite where no line could be compared.
        worst: number of that line.
        parameter: (lowest, highest) that fits every line; (best, best) where none does.
    """

    candidate: Candidate
    predicted: Bounds
    error: Float
    misfit: float
    worst: int
    parameter: tuple[float, float] | None = None

    @property
    def fits(self) -> bool:
        """Whether every compared line is within tolerance."""
        return self.misfit <= 1.0


def try_candidate(candidate: Candidate, lines: Lines, at: NDArray[np.int64], values: Values) -> Tried | None:
    """Predict and compare; None where the recording does not have what the candidate needs.

    Args:
        candidate: to try.
        lines: all lines of the key.
        at: those that are compared, int64 [L].
        values: logged there.
    """
    transform = TRANSFORMS[candidate.transform]
    bounds = lines.reduced(candidate.terms, candidate.reduction, transform if transform.inside else None)
    if bounds is None:
        return None
    base = bounds[0][at], bounds[1][at]
    fitted: tuple[float, float] | None = None
    if candidate.parameter is not None:
        found = _with_parameter(candidate, lines, at, base, values)
        if found is None:
            return None
        base, fitted = found
    if not transform.inside:
        with np.errstate(over="ignore", invalid="ignore"):
            base = transform.low(base[0]), transform.high(base[1])
    return _compared(candidate, base, values, fitted)


def _compared(
    candidate: Candidate, predicted: Bounds, values: Values, parameter: tuple[float, float] | None
) -> Tried | None:
    low, high = predicted
    error = np.maximum(np.maximum(low - values.logged, values.logged - high), 0.0)
    known = np.isfinite(error)
    if not known.any():
        return None
    ratio = np.where(known, error / values.tolerance, -1.0)
    worst = int(ratio.argmax())
    return Tried(candidate, predicted, error, float(ratio[worst]), worst, parameter)


def _with_parameter(
    candidate: Candidate, lines: Lines, at: NDArray[np.int64], base: Bounds, values: Values
) -> tuple[Bounds, tuple[float, float]] | None:
    """(prediction with the parameter that fits best, the parameter's range); None where it cannot be fitted.

    Every line allows an interval of θ; all lines together allow their intersection.
    """
    parameter, inverse = candidate.parameter, _INVERSES.get(candidate.transform)
    slope = _slope(candidate, lines, at, base[0])
    if parameter is None or inverse is None or slope is None or not np.array_equal(base[0], base[1]):
        return None
    start = base[0]
    known = np.isfinite(start) & np.isfinite(slope) & (np.abs(slope) > _FLAT)
    if not known.any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack(
            [
                (inverse(values.logged + side * values.tolerance) - start)[known] / slope[known]
                for side in (-1, 1)
            ]
        )
    low, high = float(ends.min(axis=0).max()), float(ends.max(axis=0).min())
    low, high = max(low, parameter.low), min(high, parameter.high)
    best = float(np.clip((low + high) / 2, parameter.low, parameter.high))
    if abs(best) < parameter.least:
        return None  # as good as the definition itself
    theta = best if np.isfinite(best) else 0.0
    predicted = start + theta * slope
    return (predicted, predicted), ((low, high) if low <= high else (best, best))


def _slope(candidate: Candidate, lines: Lines, at: NDArray[np.int64], base: Float) -> Float | None:
    parameter = candidate.parameter
    if parameter is None:
        return None
    if parameter.slope == "1":
        return np.ones(len(at))
    if parameter.slope == "base":
        return base
    terms = tuple((parameter.slope, population) for _, population in candidate.terms)
    bounds = lines.reduced(terms, candidate.reduction)
    if bounds is None:
        return None
    return bounds[0][at] - (base if parameter.minus_base else 0.0)


def chance(tried: Tried, definition: Tried | None, values: Values, n_tried: int) -> float:
    """About how many wrong hypotheses of those tried would fit all lines by chance.

    A wrong one is taken to be off by as much as what was logged is off from the definition: it falls within the
    tolerance of a line with probability (tolerance + half the width of its bounds) / |logged − definition|. A fitted
    parameter uses up the most telling line.
    """
    if definition is None:
        return float("inf")
    known = np.isfinite(tried.error) & np.isfinite(definition.error)
    width = values.tolerance[known] + (tried.predicted[1] - tried.predicted[0])[known] / 2
    factors = np.sort(np.minimum(width / np.maximum(definition.error[known], values.tolerance[known]), 1.0))
    used = 0 if tried.parameter is None else 1
    return float(n_tried * np.prod(factors[used:])) if len(factors) > used else float("inf")
