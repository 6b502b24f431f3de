"""What `classification` was asked for, checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any, Literal, get_args

from logitbox.dumps.checks import as_integer
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

By = Literal["epoch", "step"]
Batch = Literal["micro", "step"]
Names = Sequence[str] | Mapping[int, str] | None
Pairs = Sequence[tuple[str | int, str | int]]

_USUAL = ("val", "validation", "eval", "dev")
"""Evaluation phases, the first of which is taken where there are several."""


@dataclass(frozen=True)
class Settings:
    """See the arguments of `classification`.

    Attributes:
        expected: pairs of class ids, both ways round.
        name: class id to its name.
        unit: of lengths, "" if unknown.
        classes: how many there are.
    """

    phase: str | None
    phases: tuple[str, ...]
    by: By
    buckets: tuple[float, ...]
    window: int
    ddof: int
    batch: Batch
    confusion_rate: float
    expected: frozenset[tuple[int, int]]
    name: Callable[[int], str]
    unit: str
    classes: int

    @property
    def told_as(self) -> str:
        """What the evaluation phase is called in messages."""
        return self.phase or "evaluation"


def choose_phase(wanted: str | None, phases: Collection[str]) -> str | None:
    """The evaluation phase: the one wanted, a usual one, or the only one; None where there is train alone.

    Raises:
        InputError: no such phase, or several and none of the usual names.
    """
    if wanted is not None:
        if wanted not in phases:
            known = ", ".join(sorted(phases)) or "no token rows"
            raise InputError(f"phase is {wanted!r}; the dump has {known}")
        return wanted
    others = sorted(name for name in phases if name != "train")
    usual = [name for name in _USUAL if name in others]
    if usual:
        return usual[0]
    if len(others) > 1:
        raise InputError(f"the dump has the phases {', '.join(others)}; choose one of them with phase=")
    return others[0] if others else None


def one_of(name: str, value: Any, allowed: Any) -> Any:
    """`value`, if the Literal `allowed` has it. Raises InputError otherwise."""
    if value not in get_args(allowed):
        raise InputError(f"{name} is {value!r}; allowed are {', '.join(get_args(allowed))}")
    return value


def share(name: str, value: Any) -> float:
    """`value` as a share. Raises InputError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}; give a share between 0 and 1")
    return float(value)


def edges(buckets: Any) -> tuple[float, ...]:
    """Lower ends of the buckets of length, ascending. Raises InputError."""
    found = tuple(buckets) if isinstance(buckets, Sequence) and not isinstance(buckets, str) else ()
    numbers = [
        float(x) for x in found if isinstance(x, int | float) and not isinstance(x, bool) and isfinite(x)
    ]
    if not found or len(numbers) != len(found) or sorted(set(numbers)) != numbers:
        raise InputError(f"buckets are {buckets!r}; give their lower ends, ascending, such as (0, 5, 10, 15)")
    return tuple(numbers)


def bucket_names(lower: Sequence[float], unit: str) -> list[str]:
    """Names as the seed has them: 0-5s, 5-10s, …, 15+s."""
    ends = [f"{value:g}" for value in lower]
    inner = [f"{low}-{high}{unit}" for low, high in pairwise(ends)]
    return [*inner, f"{ends[-1]}+{unit}"]


def namer(names: Names, dump: Dump) -> Callable[[int], str]:
    """Class id to name: those given, else the vocabulary's, else the number. Raises InputError."""
    if names is None:
        known = dump.text
        return lambda index: known.piece(index) if index in known.tokens else str(index)
    if isinstance(names, str) or not isinstance(names, Sequence | Mapping):
        raise InputError(f"names are {names!r}; give a list of class names, or a dict of id to name")
    given: dict[int, str] = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    return lambda index: str(given.get(index, index))


def pairs(expected: Any, name: Callable[[int], str], classes: int) -> frozenset[tuple[int, int]]:
    """Pairs of class ids, both ways round, from pairs of names or ids.

    Raises:
        InputError: no pair, or a class that is not there.
    """
    by_name = {name(index): index for index in range(classes)}

    def of(one: Any) -> int:
        index = by_name.get(one) if isinstance(one, str) else as_integer(one)
        if index is None or not 0 <= index < classes:
            known = ", ".join(list(by_name)[:20])
            raise InputError(f"expected names the class {one!r}; classes are 0 to {classes - 1}: {known}")
        return index

    found: set[tuple[int, int]] = set()
    for pair in expected:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"expected holds {pair!r}; give pairs of classes: [('a', 'b')]")
        one, other = of(pair[0]), of(pair[1])
        found |= {(one, other), (other, one)}
    return frozenset(found)
