"""What the reader of one format gives: rows as they stand in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_SHOWN = 5
Row = dict[str, Any]
"""Names to what was logged. Numbers are text as printed, or numbers if they were given in memory."""


@dataclass(frozen=True)
class Part:
    """Rows that a file keeps apart from others: of one column of runs, of one folder.

    Attributes:
        rows: in the order of the file.
        name: of the run, "" if it has none.
    """

    rows: list[Row]
    name: str = ""


@dataclass(frozen=True)
class Raw:
    """A log as read.

    Attributes:
        parts: what the file itself keeps apart; within one, runs may still have to be told apart.
        format: of the file, in words.
        notes: what was left out or put together while reading, with counts.
        facts: names to what stands beside the rows, such as `max_steps`.
    """

    parts: tuple[Part, ...]
    format: str
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def rows(self) -> list[Row]:
        """Rows of all parts."""
        return [row for part in self.parts for row in part.rows]


def parts_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """Parts of rows that may tell their run in a column `run`."""
    names = dict.fromkeys(_run_of(row) for row in rows)
    if len(names) < 2 or "" in names:
        return (Part([dict(row) for row in rows]),)
    return tuple(Part([dict(row) for row in rows if _run_of(row) == name], name) for name in names)


def _run_of(row: Mapping[str, Any]) -> str:
    run = row.get("run")
    return str(run) if isinstance(run, (str, int)) and not isinstance(run, bool) else ""


def plural(n: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def named(counts: Counter[str]) -> str:
    """The most frequent names, `loss, acc, …`."""
    names = [name for name, _ in counts.most_common(_SHOWN)]
    return ", ".join([*names, *(["…"] if len(counts) > _SHOWN else [])])
