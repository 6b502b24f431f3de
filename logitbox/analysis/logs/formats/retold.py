"""Rows that a file tells twice: lines as they came, and the whole history again at its end (ms-swift)."""

from __future__ import annotations

from logitbox.analysis.logs.keys import STEPS, is_value
from logitbox.analysis.logs.precision import Printed, precisions, printed
from logitbox.analysis.logs.raw import Row


def put_together(rows: list[Row], again: list[Row]) -> int:
    """Put rows that are told again into the rows at hand.

    A row is told again if one of the same step has some of its keys, all with the same numbers as far as those were
    printed. It keeps its other values and takes the new ones, which have all digits. Other rows are put behind.

    Returns:
        How many rows were told again.
    """
    at: dict[str, list[Row]] = {}
    for row in rows:
        at.setdefault(_step(row), []).append(row)
    n_same = 0
    for new in again:
        same = next((row for row in at.get(_step(new), []) if _is_same(row, new)), None)
        if same is None:
            rows.append(new)
            continue
        same.update({name: value for name, value in new.items() if is_value(name)})
        n_same += 1
    return n_same


def _step(row: Row) -> str:
    given = next((row[name] for name in STEPS if name in row), "")
    return str(given).partition("/")[0]


def _is_same(row: Row, new: Row) -> bool:
    shared = [(printed(row[name]), printed(new[name])) for name in new if name in row and is_value(name)]
    both = [(one, other) for one, other in shared if one and other]
    return bool(both) and all(_agree(one, other) for one, other in both)


def _agree(one: Printed, other: Printed) -> bool:
    if one.value != one.value or other.value != other.value:
        return one.value != one.value and other.value != other.value
    [room] = precisions([one])
    return abs(one.value - other.value) <= 1.0001 * room
