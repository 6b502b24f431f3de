"""Rows of any format as records: a moment, a phase, and numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from logitbox.analysis.logs.keys import EPOCHS, STEPS, TOTALS, is_of_machine, is_value
from logitbox.analysis.logs.precision import Printed, printed
from logitbox.analysis.logs.raw import Row, named, plural

_MOST_STEPS = 2.0**53
"""Whole numbers are exact up to here; nothing beyond is a step."""
_DEEPEST = 4
Name = tuple[str | None, str]
"""Phase of a row, and key."""
Moment = tuple[int | None, float | None, str | None]
"""Step, epoch and phase of a row, as far as it tells."""


@dataclass(frozen=True)
class Record:
    """Values that were logged together.

    Attributes:
        row: number in the file.
        step, epoch: None where the row does not tell.
        phase: as the row tells, None where it does not.
        cells: key to number.
    """

    row: int
    step: int | None
    epoch: float | None
    phase: str | None
    cells: dict[str, Printed]

    @cached_property
    def names(self) -> list[Name]:
        """Its keys that are about the training, not the machine; all of them where it has no others."""
        keys = [key for key in self.cells if not is_of_machine(key)] or self.cells
        return [(self.phase, key) for key in keys]


@dataclass
class Reading:
    """Turns rows into records, and counts what is left out.

    Attributes:
        step_key: the name of the step, "" for the usual ones.
        meta: numbers that rows repeat, such as the steps that a run was to have.
        epoch_of: the last moment of rows of `key` and `value` that had an epoch, to that.
        numbers: of each row that was given, in order, the number (`Record.row`) of the record that it went into.
    """

    step_key: str = ""
    meta: dict[str, float] = field(default_factory=dict[str, float])
    numbers: list[int] = field(default_factory=list[int])
    epoch_of: dict[tuple[Any, ...], float] = field(default_factory=dict[tuple[Any, ...], float])
    n_rows: int = 0
    n_null: int = 0
    n_bad_steps: int = 0
    without_numbers: Counter[str] = field(default_factory=Counter[str])

    def records(self, rows: Iterable[Row]) -> list[Record]:
        """Records of the rows of one part; rows of columns `key` and `value` that belong together become one."""
        found: list[Record] = []
        before: tuple[Any, ...] | None = None
        for row in rows:
            here = self._moment(row)
            if is_long(row):
                before = self._add_long(found, row, here, before)
            else:
                before = None
                self._add(found, here, dict(self._cells(row)))
            self.numbers.append(self.n_rows - 1)
        return found

    def _add_long(
        self, found: list[Record], row: Row, here: Moment, before: tuple[Any, ...] | None
    ) -> tuple[Any, ...] | None:
        """Adds a name and a number, to the last record if that is of the same moment; gives what the next must be equal to."""
        together = (*here, row.get("time"))
        number = printed(row["value"])
        if row["key"].lower() in EPOCHS and number:
            self.epoch_of = {together: number.value}
            if together == before:
                found[-1] = replace(found[-1], epoch=number.value)
                return before
        cells = dict(self._cells({row["key"]: row["value"]}))
        if together == before and not cells.keys() & found[-1].cells.keys():
            found[-1].cells.update(cells)
            return before
        step, epoch, phase = here
        return (
            together if self._add(found, (step, self.epoch_of.get(together, epoch), phase), cells) else None
        )

    def notes(self) -> list[str]:
        """What was left out."""
        found: list[str] = []
        if self.without_numbers:
            n = plural(self.without_numbers.total(), "value")
            found.append(f"{n} without a number left out ({named(self.without_numbers)})")
        if self.n_null:
            found.append(f"{plural(self.n_null, 'null value')} left out")
        if self.n_bad_steps:
            found.append(
                f"{plural(self.n_bad_steps, 'row')} with a step that is no whole number: read as without step"
            )
        return found

    def _add(
        self,
        found: list[Record],
        here: Moment,
        cells: dict[str, Printed],
    ) -> bool:
        step, epoch, phase = here
        if cells:
            found.append(Record(self.n_rows, step, epoch, phase, cells))
        self.n_rows += 1
        return bool(cells)

    def _moment(self, row: Row) -> Moment:
        lower = {name.lower(): value for name, value in row.items() if isinstance(name, str)}
        for name in TOTALS:
            self._note_total(printed(lower.get(name)))
        phase = lower.get("phase", lower.get("split"))
        given = [row.get(self.step_key)] if self.step_key else [lower.get(name) for name in STEPS]
        epochs = (printed(lower.get(name)) for name in EPOCHS)
        epoch = next((one.value for one in epochs if one and abs(one.value) < _MOST_STEPS), None)
        return self._step(given), epoch, phase if isinstance(phase, str) and phase else None

    def _step(self, given: list[Any]) -> int | None:
        is_bad = False
        for one in given:
            text, _, total = one.partition("/") if isinstance(one, str) else (one, "", "")
            number = printed(text)
            if number is None:
                continue
            if abs(number.value) < _MOST_STEPS and number.value == int(number.value):
                self._note_total(printed(total))
                return int(number.value)
            is_bad = True
        self.n_bad_steps += is_bad
        return None

    def _note_total(self, total: Printed | None) -> None:
        if total:
            self.meta["max_steps"] = total.value

    def _cells(
        self, row: Mapping[Any, Any], prefix: str = "", depth: int = 0
    ) -> Iterator[tuple[str, Printed]]:
        for name, given in row.items():
            key = f"{prefix}{name}"
            if not is_value(key) or key == self.step_key:
                continue
            number = printed(given)
            if number is not None:
                yield key, number
            elif isinstance(given, Mapping) and depth < _DEEPEST:
                yield from self._cells(given, f"{key}/", depth + 1)
            elif given is None:
                self.n_null += 1
            elif not isinstance(given, str) or given.strip():
                self.without_numbers[key] += 1


def is_long(row: Mapping[str, Any]) -> bool:
    """Whether a row is a name and a number, in columns `key` and `value`."""
    return isinstance(row.get("key"), str) and "value" in row
