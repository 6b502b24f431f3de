"""What trainers print: dicts in the lines of a console, whatever stands around them."""

from __future__ import annotations

from logitbox.analysis.logs.formats.dicts import dicts_in
from logitbox.analysis.logs.keys import is_metric
from logitbox.analysis.logs.precision import printed
from logitbox.analysis.logs.raw import Part, Raw, Row, plural


def logged_dicts(text: str) -> tuple[list[Row], int]:
    """Dicts of a text that are logged rows, and how many others there are.

    A logged row has a number under the name of a metric, and at least as many numbers as other values: settings and samples
    that are printed among the rows have not.
    """
    rows: list[Row] = []
    n_others = 0
    for row in dicts_in(text):
        numbers = [name for name, value in row.items() if printed(value) is not None]
        if any(is_metric(name) for name in numbers) and 2 * len(numbers) >= len(row):
            rows.append({name: None if value is ... else value for name, value in row.items()})
        else:
            n_others += 1
    return rows, n_others


def others_note(n_others: int) -> tuple[str, ...]:
    """What is told of dicts that are no rows."""
    return (f"{plural(n_others, 'dict')} without a metric left out",) if n_others else ()


def read_console(text: str) -> Raw:
    """The rows in a console's text; without any, its part is empty."""
    rows, n_others = logged_dicts(text)
    return Raw((Part(rows),), "console text", others_note(n_others))
