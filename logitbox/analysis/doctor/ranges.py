"""A value among bands: which one counts, how far outside it is, and whether its interval says the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from logitbox.analysis.doctor.profile import Band, Better, Range, Severity, Status
from logitbox.analysis.doctor.series import Point


@dataclass(frozen=True)
class Placed:
    """A value among bands; see `outcomes.Outcome`."""

    status: Status
    sure: Literal["sure", "likely", "no interval known"]
    bound: str
    off_by: float
    told: str


@dataclass(frozen=True)
class _Ends:
    """A band with its ends as numbers."""

    band: Band
    low: float
    high: float


def judge_range(
    check: Range, point: Point, known: Mapping[str, float | None], severity: Severity
) -> Placed | None:
    """Place a value among the bands of its stage; None where no band is about that stage.

    Raises:
        UnknownName: a bound needs a number that is not known.
    """
    bands = [_ends(band, known) for band in check.bands if _is_about(band, point)]
    if not any(ends.band.status == "pass" for ends in bands):
        return None
    chosen = _choose(bands, check.better, point.value)
    status = severity if chosen is None else chosen.band.status
    off_by, bound = _distance(bands, check.better, point.value)
    return Placed(
        status=status,
        sure=_sure(bands, check.better, point, is_pass=status == "pass"),
        bound=bound,
        off_by=0.0 if status == "pass" else off_by,
        told=_told(point, chosen, status, bound),
    )


def _ends(band: Band, known: Mapping[str, float | None]) -> _Ends:
    low = -math.inf if band.low is None else band.low.value(known)
    high = math.inf if band.high is None else band.high.value(known)
    return _Ends(band, low, high)


def _is_about(band: Band, point: Point) -> bool:
    """Whether a band is about the stage of a point; what comes before the first epoch belongs to the first stage."""
    if band.stage is None:
        return True
    epoch = point.epoch if point.epoch is not None else 0.0
    return (band.stage.low <= epoch or band.stage.low <= 1) and epoch <= band.stage.high


def _choose(bands: Sequence[_Ends], better: Better, value: float) -> _Ends | None:
    """The band that counts; of equals the first."""

    def is_pass(ends: _Ends) -> bool:
        return ends.band.status == "pass"

    if better == "higher":
        return max((e for e in bands if e.low <= value), key=lambda e: (e.low, is_pass(e)), default=None)
    if better == "lower":
        return min(
            (e for e in bands if value <= e.high), key=lambda e: (e.high, not is_pass(e)), default=None
        )
    inside = [ends for ends in bands if ends.low <= value <= ends.high]
    return next((ends for ends in inside if is_pass(ends)), inside[0] if inside else None)


def _sure(
    bands: Sequence[_Ends], better: Better, point: Point, *, is_pass: bool
) -> Literal["sure", "likely", "no interval known"]:
    """Tried at both ends of the interval and at (and just beside) every edge inside it."""
    if point.low is None or point.high is None:
        return "no interval known"
    tried = [point.low, point.high]
    for edge in (edge for ends in bands for edge in (ends.low, ends.high)):
        if point.low < edge < point.high:
            tried += [math.nextafter(edge, -math.inf), edge, math.nextafter(edge, math.inf)]
    for value in tried:
        chosen = _choose(bands, better, value)
        if (chosen is not None and chosen.band.status == "pass") != is_pass:
            return "likely"
    return "sure"


def _distance(bands: Sequence[_Ends], better: Better, value: float) -> tuple[float, str]:
    """How far it is to the nearest band that passes, and that bound in words."""
    passing = [ends for ends in bands if ends.band.status == "pass"]
    if better == "higher":
        low = min((ends.low for ends in passing), key=lambda low: abs(low - value))
        return max(0.0, low - value), f"at least {number(low)}"
    if better == "lower":
        high = min((ends.high for ends in passing), key=lambda high: abs(high - value))
        return max(0.0, value - high), f"at most {number(high)}"
    near = min(passing, key=lambda ends: max(ends.low - value, value - ends.high, 0.0))
    return max(near.low - value, value - near.high, 0.0), _span(near)


def _span(ends: _Ends) -> str:
    if math.isinf(ends.low):
        return f"at most {number(ends.high)}"
    return (
        f"at least {number(ends.low)}"
        if math.isinf(ends.high)
        else f"{number(ends.low)} to {number(ends.high)}"
    )


def _told(point: Point, chosen: _Ends | None, status: Status, bound: str) -> str:
    name = "out of range" if chosen is None else chosen.band.name
    value = f"{point.key} {number(point.value)}"
    if status == "pass":
        return f"{value}: {name}" + (f" ({bound})" if name == "in range" else "")
    return f"{value}: {name}; should be {bound}"


def number(value: float) -> str:
    """A number in few characters."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:.4f}".rstrip("0").rstrip(".")
