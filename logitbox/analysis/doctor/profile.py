"""A profile: rules as data. What the TOML files of `profiles/` are read into (see docs/doctor.md for the format)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from logitbox.analysis.doctor.expressions import Bound
from logitbox.analysis.doctor.quantities import Quantity

Status = Literal["pass", "warn", "fail", "not enough data"]
Severity = Literal["warn", "fail"]
Better = Literal["higher", "lower", "inside"]
Direction = Literal["rising", "falling", "flat"]


@dataclass(frozen=True)
class Stage:
    """A part of the training in epochs, ends included; epoch 5 belongs to "1–5" and to "5–15"."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Band:
    """A named range of values, ends included; None is open.

    Attributes:
        name: such as "good".
        status: of a run whose value lies in it.
        stage: the stage it is of, or None for any.
        low: lower end.
        high: upper end.
    """

    name: str
    status: Status = "pass"
    stage: Stage | None = None
    low: Bound | None = None
    high: Bound | None = None


@dataclass(frozen=True)
class Range:
    """A value within bands.

    With `better` "higher" the band with the greatest low end reached counts (what lies above it is fine), with
    "lower" the one with the least high end kept, with "inside" a band the value lies in. Outside all is the rule's
    severity. As a condition it holds where the status is a pass.
    """

    value: Quantity
    bands: tuple[Band, ...]
    better: Better = "inside"
    at: Literal["last", "first", "highest", "lowest"] | float = "last"


@dataclass(frozen=True)
class Sustained:
    """A value beyond a bound at each of the last `points` evaluations, or at all of them (at least `least`)."""

    value: Quantity
    above: Bound | None = None
    below: Bound | None = None
    points: int | Literal["all"] = 3
    least: int = 3
    from_epoch: float = 0.0


@dataclass(frozen=True)
class Spike:
    """A value `ratio` times the median of the `before` values ahead of it, and at least `above`."""

    value: Quantity
    ratio: float
    above: Bound | None = None
    before: int = 3


@dataclass(frozen=True)
class Trend:
    """How a value moved over the last `points` changes.

    "rising" and "falling": its least-squares line moved by at least `by` (`relative`: times its value at the start of
    the window). With `each` every single change went that way, and all together by at least `by`, if that is given.
    "flat": highest − lowest is below `by`; with `each` every single change is.
    """

    value: Quantity
    direction: Direction
    points: int = 3
    by: Bound | None = None
    relative: bool = False
    each: bool = False
    per_epoch: bool = False


@dataclass(frozen=True)
class Condition:
    """One sign of a pattern.

    Attributes:
        check: what must hold.
        seed: the value that the guide gives as an example of the pattern, or None.
        must: whether the pattern cannot be there without it.
    """

    check: Leaf
    seed: Bound | None = None
    must: bool = False


@dataclass(frozen=True)
class Pattern:
    """Several signs at once: at least `least` of them, among these all that `must` be there."""

    conditions: tuple[Condition, ...]
    least: int


Leaf = Range | Sustained | Spike | Trend
Check = Leaf | Pattern


def keys_of(check: Check) -> tuple[str, ...]:
    """The keys (and families) that a check looks at."""
    if isinstance(check, Pattern):
        return tuple(key for condition in check.conditions for key in condition.check.value.keys)
    return check.value.keys


@dataclass(frozen=True)
class Need:
    """A condition, and words: of a need what is told where it fails, of an excuse where it holds."""

    check: Leaf
    told: str
    unless_set: str = ""


@dataclass(frozen=True)
class Rule:
    """One check.

    Attributes:
        name: short and unique: "macro-f1-gap".
        title: what is looked at, or what is wrong where it fails.
        heading: the heading of the guide it is from; "" for rules of our own.
        check: what is judged.
        severity: status of a finding that is no pass and whose band has no status of its own.
        why: what it means.
        actions: what to do about it.
        wanted: True for a pattern that should be there.
        needs: without which nothing is said.
    excuses: with any of which a complaint is a pass.
        classes: least number of classes the rule makes sense for.
        only: members of families that it is about, if any are named.
        leave_out: members of families that it is not about.
    """

    name: str
    title: str
    check: Check
    heading: str = ""
    severity: Severity = "warn"
    why: str = ""
    actions: tuple[str, ...] = ()
    wanted: bool = False
    needs: tuple[Need, ...] = ()
    excuses: tuple[Need, ...] = ()
    classes: int = 0
    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """A metric worth watching, and what for."""

    key: str
    role: str


@dataclass(frozen=True)
class Profile:
    """Rules for one sort of run.

    Attributes:
        name: "classification", "language-model", or the file's.
        about: one line.
        rules: in the order they are told.
        constants: numbers that bounds may name; a user may set them.
        stages: by name.
        actions: named lists of things to do.
        aliases: names in other people's logs, to the keys that rules use.
        needs: key to what it takes to have it.
        dashboard: the metrics to watch.
    """

    name: str
    about: str
    rules: tuple[Rule, ...]
    constants: Mapping[str, float]
    stages: Mapping[str, Stage]
    actions: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, str]
    needs: Mapping[str, str]
    dashboard: tuple[Shown, ...]
