"""How a value moved: whether it stays beyond a bound, jumps, rises, falls or rests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import hypot
from statistics import median

from logitbox.analysis.doctor.outcomes import (
    NO_EPOCHS,
    Context,
    Evidence,
    Outcome,
    Sure,
    count,
    moment,
    spoken,
    unknown,
)
from logitbox.analysis.doctor.profile import Spike, Status, Sustained, Trend
from logitbox.analysis.doctor.ranges import number
from logitbox.analysis.doctor.series import Point


def judge_sustained(check: Sustained, points: Sequence[Point], context: Context) -> Outcome:
    """Whether a value is beyond a bound at each of the last evaluations, or at all."""
    if check.from_epoch:
        if all(point.epoch is None for point in points):
            return unknown(NO_EPOCHS)
        points = [point for point in points if (point.epoch or 0.0) > check.from_epoch]
    least = check.least if check.points == "all" else check.points
    if len(points) < least:
        after = f" after epoch {check.from_epoch:g}" if check.from_epoch else ""
        return _too_few(len(points), "evaluation", f"{after} of {check.value.text}", least)
    side = "above" if check.above is not None else "below"
    bound = context.bound(check.above or check.below) or 0.0
    chosen = points if check.points == "all" else points[-check.points :]
    found = all(_is_beyond(point.value, bound, side) for point in chosen)
    # Where it holds every one must be beyond; where not, one that surely is not settles it.
    sides = [_side(point, bound, side) for point in chosen]
    certain = all(s is True for s in sides) if found else any(s is False for s in sides)
    last = points[-1]
    told = f"{last.key} {number(last.value)}"
    if found and side == "below" and not any(point.value for point in chosen):
        zeros = sum(not point.value for point in points)
        told = f"{spoken(last.key)} is 0 at {zeros:,} of {count(len(points), 'step')}"
    elif found:
        times = "all" if check.points == "all" else "the last"
        times = "the last evaluation" if len(chosen) == 1 else f"{times} {len(chosen)} evaluations"
        told += f": {side} {number(bound)} at {times}, since {moment(_since(points, bound, side))}"
    else:
        told += f"; not {side} {number(bound)} throughout"
    point = last if found else _nearest(chosen, bound, side)
    off = abs(point.value - bound) if found else 0.0
    evidence = Evidence(point, f"{side} {number(bound)} ×{len(chosen)}", off, found, told)
    return Outcome(_status(context, found=found), _sure(chosen, certain=certain), told, (evidence,))


def _too_few(n: int, unit: str, of: str, least: int) -> Outcome:
    return unknown(f"{count(n, unit)}{of}; at least {least} needed")


def _since(points: Sequence[Point], bound: float, side: str) -> Point:
    """The first evaluation of the unbroken run beyond the bound that the last one ends."""
    beyond = [_is_beyond(point.value, bound, side) for point in points]
    return points[0] if all(beyond) else points[-beyond[::-1].index(False)]


def _nearest(points: Sequence[Point], bound: float, side: str) -> Point:
    """The evaluation that speaks most against the sign."""
    return (min if side == "above" else max)(points, key=lambda point: point.value - bound)


def _is_beyond(value: float, bound: float, side: str) -> bool:
    return value > bound if side == "above" else value < bound


def _side(point: Point, bound: float, side: str) -> bool | None:
    """Whether the interval lies wholly beyond the bound (True), wholly within (False), or across it."""
    if point.low is None or point.high is None:
        return None
    ends = [_is_beyond(end, bound, side) for end in (point.low, point.high)]
    return ends[0] if ends[0] == ends[1] else None


def judge_spike(check: Spike, points: Sequence[Point], context: Context) -> Outcome:
    """Whether a value jumps far above those before it; the highest jump is told."""
    if len(points) <= check.before:
        return _too_few(len(points), "evaluation", f" of {check.value.text}", check.before + 1)
    above = context.bound(check.above)
    worst: tuple[float, int, float] = (-math.inf, 0, 0.0)
    for i in range(check.before, len(points)):
        base = median(point.value for point in points[i - check.before : i])
        bound = max(check.ratio * base, -math.inf if above is None else above)
        worst = max(worst, (points[i].value - bound, i, base))
    off, i, base = worst
    point, found = points[i], off >= 0
    bound = point.value - off
    told = f"{point.key} {number(base)} → {number(point.value)} at {moment(point)}"
    told += "" if found else f"; a spike would be {number(bound)} or more"
    side = _side(point, bound, "above")
    evidence = Evidence(point, f"below {number(bound)}", max(off, 0.0), found, told)
    return Outcome(_status(context, found=found), _sure([point], certain=side is found), told, (evidence,))


def judge_trend(check: Trend, points: Sequence[Point], context: Context) -> Outcome:
    """Whether a value rises, falls or rests over the last evaluations (or epochs)."""
    if check.per_epoch:
        if all(point.epoch is None for point in points):
            return unknown(NO_EPOCHS)
        # A thousandth less: epochs are recorded as float32.
        points = list({math.ceil(p.epoch - 1e-3): p for p in points if p.epoch is not None}.values())
    if len(points) <= check.points:
        unit = "epoch" if check.per_epoch else "evaluation"
        return _too_few(len(points), unit, f" of {check.value.text}", check.points + 1)
    window = points[-check.points - 1 :]
    by = context.bound(check.by) or 0.0
    if check.relative:
        by *= abs(window[0].value)
    found, off, bound = _rests(check, window, by) if check.direction == "flat" else _moves(check, window, by)
    first, last = window[0], window[-1]
    told = f"{last.key} {number(first.value)} → {number(last.value)} from {moment(first)} to {moment(last)}"
    told += f" ({bound}: {'yes' if found else 'no'})"
    evidence = Evidence(last, bound, off if found else 0.0, found, told)
    certain = _is_certain(check, window, by, found=found)
    return Outcome(_status(context, found=found), _sure(window, certain=certain), told, (evidence,))


def _changes(window: Sequence[Point]) -> list[float]:
    return [window[i + 1].value - window[i].value for i in range(len(window) - 1)]


def _rests(check: Trend, window: Sequence[Point], by: float) -> tuple[bool, float, str]:
    """Whether it rests, how much less than allowed it moved, and the bound in words."""
    values = [point.value for point in window]
    moved = max(map(abs, _changes(window))) if check.each else max(values) - min(values)
    each = " each time" if check.each else ""
    return moved < by, by - moved, f"change below {number(by)}{each}"


def _moves(check: Trend, window: Sequence[Point], by: float) -> tuple[bool, float | None, str]:
    """Whether it moves that way, how much further than need be, and the bound in words."""
    sign = _sign(check)
    if not check.each:
        moved = sign * _fitted_change(window)
        return moved >= by > 0, moved - by, f"{check.direction} by {number(by)}"
    moved = sign * (window[-1].value - window[0].value)
    found = all(sign * change > 0 for change in _changes(window)) and moved >= by
    told = f"{check.direction} {check.points} times in a row"
    return found, moved - by if by else None, told + (f", by {number(by)}" if by else "")


def _sign(check: Trend) -> float:
    return -1.0 if check.direction == "falling" else 1.0


def _fitted_change(window: Sequence[Point]) -> float:
    """How far the least-squares line moves over the window, evaluations taken as equally spaced."""
    n = len(window)
    centre = (n - 1) / 2
    slope = sum((i - centre) * point.value for i, point in enumerate(window)) / sum(
        (i - centre) ** 2 for i in range(n)
    )
    return slope * (n - 1)


def _is_certain(check: Trend, window: Sequence[Point], by: float, *, found: bool) -> bool:
    """Whether the intervals say the same.

    Of a move, the interval of last − first (parts taken as independent); of rest, from the lowest to the highest end.
    """
    first, last = window[0], window[-1]
    lows, highs = [point.low for point in window], [point.high for point in window]
    if None in lows or None in highs or first.half is None or last.half is None:
        return False
    if check.direction == "flat":
        low, high = [x for x in lows if x is not None], [x for x in highs if x is not None]
        return max(high) - min(low) < by if found else max(low) - min(high) >= by
    moved, half = _sign(check) * (last.value - first.value), hypot(first.half, last.half)
    return moved - half >= by if found else moved + half < by


def _status(context: Context, *, found: bool) -> Status:
    return context.severity if found else "pass"


def _sure(points: Sequence[Point], *, certain: bool) -> Sure:
    if any(point.low is None or point.high is None for point in points):
        return "no interval known"
    return "sure" if certain else "likely"
