"""CSV and TSV: a column for each key, columns `key` and `value`, or what W&B's charts export."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from logitbox.analysis.logs.keys import EPOCHS, STEPS
from logitbox.analysis.logs.raw import Part, Raw, Row, parts_of, plural
from logitbox.errors import InputError

_BOUNDS = ("__MIN", "__MAX")
"""Columns that W&B adds to every curve of a chart."""
_BETWEEN = " - "
"""Between the name of a run and the key."""
_MOMENTS = frozenset({*STEPS, *EPOCHS, "Relative Time (Process)", "Relative Time (Wall)", "Wall Time"})
_COMMA = re.compile(r"\s*[+-]?\d{1,400},\d{1,400}(?:[eE][+-]?\d{1,4})?\s*")
_POINT = re.compile(r"\s*[+-]?\d{0,400}\.\d{1,400}(?:[eE][+-]?\d{1,4})?\s*")


def read_table(text: str, path: Path) -> Raw:
    """A table with a header.

    Raises:
        InputError: it is no CSV.
    """
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        read = list(reader)
    except csv.Error as error:
        raise InputError(f"{path} is no CSV ({error}); give a header and one row for each time") from error
    rows: list[Row] = [
        {_name(head): cell for head, cell in row.items() if head and cell is not None} for row in read
    ]
    n_long = sum(None in row for row in read)
    notes = (f"{plural(n_long, 'row')} with more cells than the header: the rest left out",) if n_long else ()
    heads = [_name(head) for head in reader.fieldnames or []]
    n_same = len(heads) - len(set(heads))
    if n_same:
        notes += (f"{plural(n_same, 'column')} of the same name as another: the last one counts",)
    if delimiter != ",":
        notes += _with_points(rows)
    if _is_chart(heads):
        return _of_chart(rows, heads, notes)
    return Raw(parts_of(rows), "W&B history (CSV)" if {"_step", "_runtime"} <= set(heads) else "CSV", notes)


def _name(head: str) -> str:
    """The head of a column; that of steps and epochs in small letters."""
    return head.lower() if head.lower() in (*STEPS, *EPOCHS) else head


def _with_points(rows: list[Row]) -> tuple[str, ...]:
    """Turns decimal commas into points, unless points are in use too, so that commas may group thousands."""
    cells = [cell for row in rows for cell in row.values()]
    with_comma = {cell: cell.replace(",", ".") for cell in cells if _COMMA.fullmatch(cell)}
    if not with_comma or any(_POINT.fullmatch(cell) for cell in cells):
        return ()
    for row in rows:
        row.update({head: with_comma.get(cell, cell) for head, cell in row.items()})
    return (f"{plural(sum(cell in with_comma for cell in cells), 'number')} with a decimal comma",)


def _is_chart(heads: list[str]) -> bool:
    """Whether all columns but the moments are named for a run and a key, or some have their bounds beside them."""
    if any(head.endswith(_BOUNDS) for head in heads) and any(_BETWEEN in head for head in heads):
        return True
    others = [head for head in heads if head not in _MOMENTS]
    return bool(others) and all(_BETWEEN in head for head in others)


def _of_chart(rows: list[Row], heads: list[str], notes: tuple[str, ...]) -> Raw:
    """Every run of a chart is a part of its own."""
    curves = [head for head in heads if _BETWEEN in head and not head.endswith(_BOUNDS)]
    moments = [head for head in heads if _BETWEEN not in head]
    names = dict.fromkeys(head.rpartition(_BETWEEN)[0] for head in curves)
    parts: list[Part] = []
    for name in names:
        mine = {head: head.rpartition(_BETWEEN)[2] for head in curves if head.rpartition(_BETWEEN)[0] == name}
        found = [
            {head: row.get(head) for head in moments} | {key: row.get(head) for head, key in mine.items()}
            for row in rows
            if any(row.get(head) for head in mine)
        ]
        parts.append(Part(found, name))
    n_bounds = sum(head.endswith(_BOUNDS) for head in heads)
    return Raw(
        tuple(parts),
        "W&B chart (CSV)",
        (
            *notes,
            *([f"{plural(n_bounds, 'column')} of least and greatest values left out"] if n_bounds else []),
        ),
    )
