"""What a rule looks at: a key, a difference or ratio of two, or one number of a family of keys.

    val/accuracy
    val/top2_accuracy - val/accuracy        (spaces around - and /)
    |val/macro_f1 - val/accuracy|
    lowest_gap(val/per_dataset_accuracy/*)

Intervals of differences, ratios and families combine those of their parts as if these were independent. Parts that rise and fall together (two
accuracies of the same samples) really differ by less, so such an interval is too wide rather than too narrow.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, isfinite

from logitbox.analysis.doctor.series import Point, Series
from logitbox.errors import InputError

_TERM = re.compile(r"^(?:(?P<function>[a-z_]+)\((?P<family>[^()|]+)\)|(?P<key>[^()|]+))$")
_OPERATOR = re.compile(r"\s+([-/])\s+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Term:
    """A key, or a family of keys and what is taken of it ("" for a key)."""

    key: str
    function: str = ""


@dataclass(frozen=True)
class Quantity:
    """Parsed from the text of a rule's `value`.

    Attributes:
        text: as the profile has it.
        terms: one, or two with `operator` between them.
        operator: "", "-" or "/".
        absolute: whether the sign is dropped.
    """

    text: str
    terms: tuple[Term, ...]
    operator: str = ""
    absolute: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys and families it is made of."""
        return tuple(term.key for term in self.terms)


def quantity(text: object) -> Quantity:
    """A quantity from its text.

    Raises:
        InputError: it cannot be read as one.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"is {text!r}; give a key such as 'val/accuracy'")
    inner = text.strip()
    absolute = len(inner) > 1 and inner.startswith("|") and inner.endswith("|")
    parts = _OPERATOR.split(inner[1:-1].strip() if absolute else inner)
    if len(parts) not in (1, 3):
        raise InputError(f"is {text!r}; at most two keys can be put together, with ' - ' or ' / '")
    terms = tuple(_term(part.strip(), text) for part in parts[::2])
    return Quantity(inner, terms, parts[1] if len(parts) == 3 else "", absolute)


def _term(part: str, text: str) -> Term:
    found = _TERM.match(part)
    if found is None:
        raise InputError(f"is {text!r}, where {part!r} is no key; {_FORMS}")
    if found["key"] is not None:
        if part.endswith("*"):
            raise InputError(f"is {text!r}; a family of keys needs a function: {', '.join(REDUCTIONS)}")
        return Term(part)
    if found["function"] not in REDUCTIONS:
        raise InputError(f"is {text!r}; there is no function {found['function']!r}: {', '.join(REDUCTIONS)}")
    family = found["family"].strip()
    if not family.endswith("/*"):
        raise InputError(
            f"is {text!r}; {found['function']}(…) is of a family, such as val/per_dataset_accuracy/*"
        )
    return Term(family, found["function"])


def values_of(
    wanted: Quantity, series: Series, only: Sequence[str] = (), leave_out: Sequence[str] = ()
) -> tuple[list[Point], str]:
    """The quantity over the run, and why it is not known ("" where it is).

    Args:
        wanted: the quantity.
        series: the run.
        only: if any are named, only these members of families.
        leave_out: members that are left out.
    """
    found: list[list[Point]] = []
    families = {term.key if term.function else term.key.rsplit("/", 1)[0] + "/*" for term in wanted.terms}
    is_within = len(wanted.terms) > 1 and len(families) == 1 and any(term.function for term in wanted.terms)
    if is_within and len(series.members(*families)) == 1:
        return [], f"1 in {families.pop()}, which is compared with nothing; at least 2 needed"
    for term in wanted.terms:
        points, why = _values_of_term(term, series, only, leave_out)
        if not points:
            return [], why
        found.append(points)
    points = found[0] if len(found) == 1 else _together(found[0], found[1], wanted)
    points = [known for point in points if (known := _finite(point)) is not None]
    if not points:
        return [], f"{' and '.join(wanted.keys)} were never measured together"
    return [_absolute(point) for point in points] if wanted.absolute else points, ""


def _values_of_term(
    term: Term, series: Series, only: Sequence[str], leave_out: Sequence[str]
) -> tuple[list[Point], str]:
    if not term.function:
        points = series.points(term.key)
        return points, "" if points else series.why_missing(term.key)
    members = series.members(term.key)
    if not members:
        return [], series.why_missing(term.key)
    chosen = {
        name: points
        for name, points in members.items()
        if (not only or _is_among(name, only)) and not _is_among(name, leave_out)
    }
    least = REDUCTIONS[term.function].members
    if len(chosen) < least:
        if only:
            return [], f"{term.key} has none of {', '.join(only)}"
        others = " but those left out" if leave_out else ""
        return [], f"{len(chosen)} in {term.key}{others}; at least {least} needed"
    points = _reduced(term, chosen)
    return points, "" if points else f"no {least} of {term.key} were ever measured together"


def _is_among(member: str, names: Sequence[str]) -> bool:
    """Whether a member is named, "A ↔ B" naming "A → B" and "B → A"; case does not matter."""
    for name in names:
        ends = [end.strip().casefold() for end in name.split("↔")]
        if member.casefold() in {" → ".join(ends), " → ".join(reversed(ends))}:
            return True
    return False


def _reduced(term: Term, members: Mapping[str, list[Point]]) -> list[Point]:
    """One number of a family at each moment that enough of its members were measured."""
    moments: dict[float, dict[str, Point]] = {}
    for name in sorted(members, key=_place):
        for point in members[name]:
            moments.setdefault(point.when, {})[name] = point
    reduction = REDUCTIONS[term.function]
    return [reduction.of(here) for _, here in sorted(moments.items()) if len(here) >= reduction.members]


def _place(name: str) -> tuple[float, str]:
    """Members in the order of the first number in their names ("5-10s" before "10-15s"), else of the alphabet."""
    number = _NUMBER.search(name)
    return (float(number[0]) if number else 0.0, name)


def _together(left: list[Point], right: list[Point], wanted: Quantity) -> list[Point]:
    """Each point of the left with the latest of the right that is no later; by epoch where one has no steps."""
    by_epoch = any(point.step is None for point in (*left, *right))
    if by_epoch:
        right = sorted((p for p in right if p.epoch is not None), key=lambda p: p.epoch or 0.0)
    moments = [_moment(point, by_epoch=by_epoch) for point in right]
    found: list[Point] = []
    for point in left:
        if by_epoch and point.epoch is None:
            continue
        at = bisect_right(moments, _moment(point, by_epoch=by_epoch)) - 1
        if at < 0 or (wanted.operator == "/" and right[at].value == 0):
            continue
        found.append(
            replace(_combined(point, right[at], wanted.operator), key=_named(wanted, point, right[at]))
        )
    return found


def _moment(point: Point, *, by_epoch: bool) -> float:
    return (point.epoch or 0.0) if by_epoch else point.when


def _finite(point: Point) -> Point | None:
    """None where two numbers of a log, put together, are beyond float64; without an interval where its ends are."""
    if not isfinite(point.value):
        return None
    has_ends = point.low is None or point.high is None or (isfinite(point.low) and isfinite(point.high))
    return point if has_ends else replace(point, low=None, high=None)


def _named(wanted: Quantity, left: Point, right: Point) -> str:
    """The quantity in words; of families the members that it came to."""
    if not any(term.function for term in wanted.terms):
        return wanted.text.strip("|")
    if left.key == right.key:
        return f"{left.key} (the {' and the '.join(term.function for term in wanted.terms if term.function)})"
    return f"{left.key} {wanted.operator} {_last(right.key)}".replace(" - ", " − ")


def _combined(left: Point, right: Point, operator: str) -> Point:
    sides = (left.half, right.half)
    if operator == "-":
        value, halves = left.value - right.value, sides
    else:
        value = left.value / right.value
        # First order: relative errors add in squares.
        halves = (
            None if sides[0] is None else sides[0] / abs(right.value),
            None if sides[1] is None else abs(value) * sides[1] / abs(right.value),
        )
    n = None if left.n is None or right.n is None else min(left.n, right.n)
    return replace(_around(left, value, halves), n=n)


def _around(like: Point, value: float, halves: Sequence[float | None]) -> Point:
    """A point with an interval of the halves, put together as independent."""
    if any(half is None for half in halves):
        return replace(like, value=value, low=None, high=None)
    half = hypot(*(half for half in halves if half is not None))
    return replace(like, value=value, low=value - half, high=value + half)


def _absolute(point: Point) -> Point:
    ends = None if point.low is None or point.high is None else sorted((abs(point.low), abs(point.high)))
    crosses = point.low is not None and point.high is not None and point.low < 0 < point.high
    return replace(
        point,
        key=f"|{point.key}|",
        value=abs(point.value),
        low=None if ends is None else (0.0 if crosses else ends[0]),
        high=None if ends is None else ends[1],
    )


@dataclass(frozen=True)
class Reduction:
    """What can be taken of a family: from how many members on, and how."""

    members: int
    of: Callable[[Mapping[str, Point]], Point]


def _extreme(pick: Callable[..., str]) -> Callable[[Mapping[str, Point]], Point]:
    return lambda here: here[pick(here, key=lambda name: here[name].value)]


def _spread(here: Mapping[str, Point]) -> Point:
    low, high = (_extreme(pick)(here) for pick in (min, max))
    return replace(_combined(high, low, "-"), key=f"{high.key} − {_last(low.key)}")


def _lowest_gap(here: Mapping[str, Point]) -> Point:
    worst = min(here, key=lambda name: here[name].value)
    others = [point for name, point in here.items() if name != worst]
    mean = sum(point.value for point in others) / len(others)
    halves = [None if point.half is None else point.half / len(others) for point in others]
    value = mean - here[worst].value
    return replace(
        _around(here[worst], value, [here[worst].half, *halves]), key=f"mean of others − {here[worst].key}"
    )


def _last_minus_first(here: Mapping[str, Point]) -> Point:
    points = list(here.values())
    return replace(_combined(points[-1], points[0], "-"), key=f"{points[-1].key} − {_last(points[0].key)}")


def _at(place: int) -> Callable[[Mapping[str, Point]], Point]:
    return lambda here: list(here.values())[place]


def _largest_step(here: Mapping[str, Point]) -> Point:
    points = list(here.values())
    pairs = [(points[i], points[i + 1]) for i in range(len(points) - 1)]
    a, b = max(pairs, key=lambda pair: abs(pair[1].value - pair[0].value))
    return replace(_absolute(_combined(b, a, "-")), key=f"|{b.key} − {_last(a.key)}|")


def _last(key: str) -> str:
    return key.rsplit("/", 1)[-1]


REDUCTIONS: dict[str, Reduction] = {
    "highest": Reduction(1, _extreme(max)),
    "lowest": Reduction(1, _extreme(min)),
    "spread": Reduction(2, _spread),
    "lowest_gap": Reduction(2, _lowest_gap),
    "first": Reduction(2, _at(0)),
    "second": Reduction(2, _at(1)),
    "last": Reduction(2, _at(-1)),
    "before_last": Reduction(2, _at(-2)),
    "last_minus_first": Reduction(2, _last_minus_first),
    "largest_step": Reduction(2, _largest_step),
}
"""Of a family at one moment: its highest or lowest member, highest − lowest, mean of the others − lowest; and in the
order of the numbers in its names: the first, the second, the last, the one before it, last − first, the largest step
between neighbours."""

_FORMS = (
    "give a key, 'a - b', 'a / b', or a function of a family such as lowest_gap(val/per_dataset_accuracy/*)"
)
