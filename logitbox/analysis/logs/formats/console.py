"""What trainers print: dicts in the lines of a console, whatever stands around them."""

from __future__ import annotations

from dataclasses import dataclass, field

from logitbox.analysis.logs.formats.dicts import dicts_in
from logitbox.analysis.logs.keys import is_metric
from logitbox.analysis.logs.precision import printed
from logitbox.analysis.logs.raw import Part, Raw, Row, plural


@dataclass
class Found:
    """What was found in texts.

    Attributes:
        rows: logged rows, in order.
        n_others: dicts that are none.
        n_broken: rows that break off.
    """

    rows: list[Row] = field(default_factory=list[Row])
    n_others: int = 0
    n_broken: int = 0

    def add(self, text: str) -> None:
        """Add the dicts of a text."""
        broken: list[Row] = []
        for row in dicts_in(text, broken):
            if _is_logged(row):
                self.rows.append({name: None if value is ... else value for name, value in row.items()})
            else:
                self.n_others += 1
        self.n_broken += sum(map(_is_logged, broken))

    def notes(self) -> tuple[str, ...]:
        """What was left out."""
        found: list[str] = []
        if self.n_others:
            found.append(f"{plural(self.n_others, 'dict')} without a metric left out")
        if self.n_broken:
            found.append(f"{plural(self.n_broken, 'row that breaks', 'rows that break')} off left out")
        return tuple(found)


def _is_logged(row: Row) -> bool:
    """Whether it has a number under the name of a metric, and at least as many numbers as other values.

    Settings and samples that are printed among the rows have not.
    """
    numbers = [name for name, value in row.items() if printed(value) is not None]
    return any(is_metric(name) for name in numbers) and 2 * len(numbers) >= len(row)


def read_console(text: str) -> Raw:
    """The rows in a console's text; without any, its part is empty."""
    found = Found()
    found.add(text)
    return Raw((Part(found.rows),), "console text", found.notes())
