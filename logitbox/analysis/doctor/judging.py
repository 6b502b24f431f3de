"""Whether a check holds on a run: ranges, patterns, and which kind is judged where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from logitbox.analysis.doctor.expressions import UnknownName
from logitbox.analysis.doctor.movements import judge_spike, judge_sustained, judge_trend
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
from logitbox.analysis.doctor.profile import Check, Leaf, Pattern, Range, Spike, Status, Sustained, Trend
from logitbox.analysis.doctor.ranges import judge_range, number
from logitbox.analysis.doctor.series import Point


def judge(check: Check, context: Context, *, wanted: bool = False) -> Outcome:
    """Judge a check; for all kinds but ranges a complaint is that the sign is there."""
    if isinstance(check, Pattern):
        return _pattern(check, context, wanted=wanted)
    return _leaf(check, context)


def holds(check: Leaf, context: Context) -> tuple[bool | None, Outcome]:
    """Whether a condition holds: a range where the value is inside, any other sign where it is there."""
    outcome = _leaf(check, context)
    if outcome.status == "not enough data":
        return None, outcome
    return (outcome.status == "pass") == isinstance(check, Range), outcome


def _leaf(check: Leaf, context: Context) -> Outcome:
    points, why = context.points(check.value)
    if not points:
        return unknown(why)
    try:
        match check:
            case Range():
                return _range(check, points, context)
            case Sustained():
                return judge_sustained(check, points, context)
            case Spike():
                return judge_spike(check, points, context)
            case Trend():
                return judge_trend(check, points, context)
    except UnknownName as error:
        return unknown(
            "the number of classes is not known; give classes="
            if error.name == "C"
            else f"{error.name} is not known"
        )


def _range(check: Range, points: Sequence[Point], context: Context) -> Outcome:
    point = _at(check.at, points)
    if isinstance(point, str):
        return unknown(point)
    if point.epoch is None and any(band.stage for band in check.bands):
        return unknown(NO_EPOCHS)
    found = judge_range(check, point, context.known, context.severity)
    if found is None:
        return unknown(f"nothing is said about epoch {point.epoch:g}")
    told = _lost(point, points, context) if point.key.startswith(_LOST) else found.told
    evidence = Evidence(point, found.bound, found.off_by, found.status == "pass", told)
    return Outcome(found.status, found.sure, told, (evidence,))


def _lost(point: Point, points: Sequence[Point], context: Context) -> str:
    """Which key was NaN or infinite, when first, and how often."""
    key = point.key.removeprefix(_LOST)
    if not point.value:
        return "every value is finite"
    first = next(other for other in points if other.key == point.key and other.value)
    more = (
        f", and {count(int(point.value) - 1, 'more time')} up to {moment(point)}" if point.value > 1 else ""
    )
    return f"{spoken(key)} at {moment(first)}: {context.series.nonfinite(key)}{more}"


def _at(at: str | float, points: Sequence[Point]) -> Point | str:
    """The evaluation that is judged, or why there is none."""
    if at in ("highest", "lowest"):
        return (max if at == "highest" else min)(points, key=lambda point: point.value)
    if isinstance(at, str):
        return points[-1] if at == "last" else points[0]
    near = [point for point in points if point.epoch is not None and abs(point.epoch - at) <= _NEAR]
    if not near:
        return (
            NO_EPOCHS if all(point.epoch is None for point in points) else f"no evaluation near epoch {at:g}"
        )
    return min(near, key=lambda point: abs((point.epoch or 0.0) - at))


def _pattern(check: Pattern, context: Context, *, wanted: bool) -> Outcome:
    judged = [holds(condition.check, context) for condition in check.conditions]
    signs = zip(check.conditions, judged, strict=True)
    evidence = tuple(_sign(condition.check, state, outcome) for condition, (state, outcome) in signs)
    states = [state for state, _ in judged]
    found = _is_there(check, states)
    if found is None:
        missing = "; ".join(dict.fromkeys(outcome.told for state, outcome in judged if state is None))
        told = f"{states.count(True)} of {len(states)} signs, and {states.count(None)} cannot be told ({missing})"
        return replace(unknown(told), evidence=evidence)
    # Would it come out the same if all that is not sure were unknown, and where intervals are not known?
    surely = [state if outcome.sure == "sure" else None for state, outcome in judged]
    probably = [state if outcome.sure in ("sure", "likely") else None for state, outcome in judged]
    sure: Sure = "no interval known"
    if _is_there(check, probably) is not None:
        sure = "likely" if _is_there(check, surely) is None else "sure"
    told = f"{states.count(True)} of {len(states)} signs"
    if not found and 0 < states.count(True) < check.least:
        there = [e.point.key for e in evidence if e.holds and e.point is not None]
        told += f" ({there[0]}); {check.least} needed" if len(there) == 1 else f"; {check.least} needed"
    told += f", {states.count(None)} unknown" if None in states else ""
    if not found and states.count(True) >= check.least:
        lacking = [
            e for c, s, e in zip(check.conditions, states, evidence, strict=True) if c.must and s is False
        ]
        told += f"; {lacking[0].told} decides"
    status: Status = "pass" if found == wanted else context.severity
    return Outcome(status, sure, told, evidence)


def _is_there(check: Pattern, states: Sequence[bool | None]) -> bool | None:
    """Whether a pattern is there; None where the signs that cannot be told decide it."""
    musts = [state for condition, state in zip(check.conditions, states, strict=True) if condition.must]
    if False in musts or states.count(True) + states.count(None) < check.least:
        return False
    return None if None in musts or states.count(True) < check.least else True


def _sign(check: Leaf, state: bool | None, outcome: Outcome) -> Evidence:
    is_range = isinstance(check, Range)
    if outcome.evidence:
        first = outcome.evidence[0]
        # As a sign a range is there or not; nothing "should be" so.
        told = (
            f"{first.point.key} {number(first.point.value)} ({first.bound})"
            if first.point and is_range
            else first.told
        )
        return replace(first, holds=state, told=told)
    return Evidence(None, "", None, state, outcome.told)


_LOST = "nonfinite/"
_NEAR = 2.0
"""Epochs that an evaluation may lie from the one a rule names."""
