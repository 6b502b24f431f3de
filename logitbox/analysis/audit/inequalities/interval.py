"""Logged numbers as intervals: printing rounds them, and a conviction must hold whatever was rounded away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Interval:
    """One number for each moment of a run, NaN where it was not logged.

    Attributes:
        value: as logged, or made of logged values, [moments].
        low, high: the least and the most it can have been before it was printed.
    """

    value: Float
    low: Float
    high: Float

    @classmethod
    def around(cls, value: Float, precision: Float) -> Interval:
        """What lies within value ± precision; unknown where the value is not finite."""
        value = np.where(np.isfinite(value), value, np.nan)
        return cls(value, value - precision, value + precision)

    def __add__(self, other: Interval | float) -> Interval:
        if isinstance(other, Interval):
            return Interval(self.value + other.value, self.low + other.low, self.high + other.high)
        return self.rising(lambda x: x + other)

    def __radd__(self, other: float) -> Interval:
        return self + other

    def __neg__(self) -> Interval:
        return self.falling(np.negative)

    def __sub__(self, other: Interval | float) -> Interval:
        return self + -other

    def __rsub__(self, other: float) -> Interval:
        return -self + other

    def __mul__(self, other: Interval | float) -> Interval:
        if not isinstance(other, Interval):
            return self.rising(lambda x: x * other) if other >= 0 else self.falling(lambda x: x * other)
        ends = np.stack([a * b for a in (self.low, self.high) for b in (other.low, other.high)])
        return Interval(self.value * other.value, ends.min(0), ends.max(0))

    def __rmul__(self, other: float) -> Interval:
        return self * other

    def rising(self, function: Callable[[Float], Float]) -> Interval:
        """A function that never falls."""
        return Interval(function(self.value), function(self.low), function(self.high))

    def falling(self, function: Callable[[Float], Float]) -> Interval:
        """A function that never rises."""
        return Interval(function(self.value), function(self.high), function(self.low))

    def clipped(self, low: float, high: float = float("inf")) -> Interval:
        """Within what is possible."""
        return self.rising(lambda x: np.clip(x, low, high))

    def exp(self) -> Interval:
        """Its exponential."""
        return self.rising(np.exp)

    def minus_log(self) -> Interval:
        """−ln of it, infinite from 0 on down."""
        return self.clipped(0.0).falling(lambda x: -np.log(x))


def least(one: Interval, other: Interval) -> Interval:
    """The smaller of two, moment by moment."""
    return Interval(
        np.minimum(one.value, other.value), np.minimum(one.low, other.low), np.minimum(one.high, other.high)
    )


def greatest(one: Interval, other: Interval) -> Interval:
    """The greater of two, moment by moment."""
    return -least(-one, -other)
