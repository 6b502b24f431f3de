"""CSV and TSV: a column for each key, columns `key` and `value`, or what W&B's charts export."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from logitbox.analysis.logs.keys import EPOCHS, STEPS
from logitbox.analysis.logs.raw import Part, Raw, Row, parts_of, plural
from logitbox.errors import InputError

_BOUNDS = ("__MIN", "__MAX")
"""Columns that W&B adds to every curve of a chart."""
_BETWEEN = " - "
"""Between the name of a run and the key."""


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
    if any(head.endswith(_BOUNDS) for head in heads) and any(_BETWEEN in head for head in heads):
        return _of_chart(rows, heads)
    return Raw(parts_of(rows), "W&B history (CSV)" if {"_step", "_runtime"} <= set(heads) else "CSV", notes)


def _name(head: str) -> str:
    """The head of a column; that of steps and epochs in small letters."""
    return head.lower() if head.lower() in (*STEPS, *EPOCHS) else head


def _of_chart(rows: list[Row], heads: list[str]) -> Raw:
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
        (f"{plural(n_bounds, 'column')} of least and greatest values left out",),
    )
