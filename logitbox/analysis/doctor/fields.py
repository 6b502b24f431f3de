"""What each key of a profile may hold. Readers take what TOML gave and return what the engine uses, or raise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from logitbox.analysis.doctor.expressions import Bound, bound
from logitbox.analysis.doctor.profile import Stage
from logitbox.analysis.doctor.quantities import Quantity, quantity
from logitbox.errors import InputError


@dataclass(frozen=True)
class Known:
    """What the rest of the profile defines, for keys that refer to it."""

    constants: Mapping[str, float]
    stages: Mapping[str, Stage]
    actions: Mapping[str, tuple[str, ...]]

    def bound(self, given: object) -> Bound:
        """A number or an expression."""
        found = bound(given, frozenset(self.constants))
        # Of some numbers of classes there may be none (1/(C - 2)); where there is one for none of these, it is a slip.
        _try(found, [{"C": classes, **self.constants} for classes in _CLASSES])
        return found

    def stage(self, given: object) -> Stage:
        """A stage by its name."""
        if not isinstance(given, str) or given not in self.stages:
            raise InputError(
                f"is {given!r}; stages are {', '.join(self.stages) or 'none; add them under [stages]'}"
            )
        return self.stages[given]

    def to_do(self, given: object) -> tuple[str, ...]:
        """Actions: a list of texts, or the name of one under [actions]."""
        if isinstance(given, str):
            if given not in self.actions:
                raise InputError(
                    f"is {given!r}; lists under [actions] are {', '.join(self.actions) or 'none'}"
                )
            return self.actions[given]
        return texts(given)


_CLASSES = (2.0, 8.0, 9.0, 1000.0)


def _try(found: Bound, cases: Sequence[Mapping[str, float]]) -> None:
    """Raises InputError where a bound has no value in any of the cases."""
    for i, known in enumerate(cases):
        try:
            found.value(known)
        except InputError as error:
            if i == len(cases) - 1:
                raise InputError(f"is {found.text!r}, which comes to no number") from error
            continue
        return


Reader = Callable[[Known, object], Any]


def text(given: object) -> str:
    """Words."""
    if not isinstance(given, str) or not given.strip():
        raise InputError(f"is {given!r}; give a text")
    return given


def texts(given: object) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(given, list):
        raise InputError(f"is {given!r}; give a list of texts")
    items: list[object] = given
    return tuple(text(item) for item in items)


def number(given: object) -> float:
    """A finite number."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
        raise InputError(f"is {given!r}; give a number")
    return float(given)


def one_of(*allowed: str) -> Reader:
    """One of a few words."""

    def read(_: Known, given: object) -> str:
        if not isinstance(given, str) or given not in allowed:
            raise InputError(f"is {given!r}; allowed are {', '.join(map(repr, allowed))}")
        return given

    return read


def whole(least: int) -> Reader:
    """A whole number from `least` on."""

    def read(_: Known, given: object) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise InputError(f"is {given!r}; give a whole number from {least} on")
        return given

    return read


def _points(known: Known, given: object) -> int | str:
    return "all" if given == "all" else whole(1)(known, given)


def _at(_: Known, given: object) -> float | str:
    return (
        given if isinstance(given, str) and given in ("last", "first", "highest", "lowest") else _epoch(given)
    )


def _epoch(given: object) -> float:
    try:
        return number(given)
    except InputError:
        raise InputError(f"is {given!r}; give 'last', 'first', 'highest', 'lowest' or an epoch") from None


def _flag(_: Known, given: object) -> bool:
    if not isinstance(given, bool):
        raise InputError(f"is {given!r}; give true or false")
    return given


def _ratio(_: Known, given: object) -> float:
    if (found := number(given)) <= 1:
        raise InputError(f"is {given!r}; give a number above 1")
    return found


def _quantity(_: Known, given: object) -> Quantity:
    return quantity(given)


def _bound(known: Known, given: object) -> Bound:
    return known.bound(given)


_VALUE: dict[str, Reader] = {"value": _quantity}
KINDS: dict[str, dict[str, Reader]] = {
    "range": _VALUE
    | {
        "low": _bound,
        "high": _bound,
        "better": one_of("higher", "lower", "inside"),
        "at": _at,
        "stage": lambda known, given: known.stage(given),
    },
    "sustained": _VALUE
    | {
        "above": _bound,
        "below": _bound,
        "points": _points,
        "least": whole(1),
        "from_epoch": lambda _, given: number(given),
    },
    "spike": _VALUE | {"ratio": _ratio, "above": _bound, "before": whole(1)},
    "trend": _VALUE
    | {
        "direction": one_of("rising", "falling", "flat"),
        "points": whole(1),
        "by": _bound,
        "relative": _flag,
        "each": _flag,
        "per_epoch": _flag,
    },
    "pattern": {"least": whole(1)},
}
"""Of each kind the keys of its own; `bands`, `condition` and `need` are tables and read apart."""

REQUIRED: dict[str, tuple[str, ...]] = {
    "range": ("value",),
    "sustained": ("value",),
    "spike": ("value", "ratio"),
    "trend": ("value", "direction"),
    "pattern": ("condition",),
}

RULE: dict[str, Reader] = {
    "name": lambda _, given: text(given),
    "title": lambda _, given: text(given),
    "heading": lambda _, given: text(given),
    "severity": one_of("warn", "fail"),
    "why": lambda _, given: text(given),
    "actions": lambda known, given: known.to_do(given),
    "wanted": _flag,
    "classes": whole(2),
    "only": lambda _, given: texts(given),
    "leave_out": lambda _, given: texts(given),
}
BAND: dict[str, Reader] = {
    "name": lambda _, given: text(given),
    "status": one_of("pass", "warn", "fail"),
    "stage": lambda known, given: known.stage(given),
    "low": _bound,
    "high": _bound,
}
TOP = (
    "name",
    "about",
    "extends",
    "drop",
    "constants",
    "stages",
    "actions",
    "aliases",
    "needs",
    "dashboard",
    "rule",
)
