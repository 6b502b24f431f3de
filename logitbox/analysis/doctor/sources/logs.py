"""Logs alone: rows of any format that `logitbox.analysis.logs` reads, as series."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from logitbox.analysis.logs.keys import EPOCHS, STEPS, SUMMARY
from logitbox.analysis.logs.raw import plural
from logitbox.analysis.logs.reading import read_raw
from logitbox.analysis.logs.records import Reading
from logitbox.analysis.logs.splitting import joined, split

Row = dict[str, Any]

_NOT_VALUES = re.compile(
    r"(?:^|_)(?:runtime|time|timestamp|_runtime|_timestamp|samples_per_second|steps_per_second|total_flos|percentage)$"
)
"""Numbers of the machine, not of the training."""
_MOST_STEPS = 2.0**53
"""Whole numbers are exact up to here; nothing beyond is a step."""


def read_log(path: Path) -> list[Row]:
    """The rows of a log, a file or a folder of TensorBoard: dicts of names to what was logged. Formats: see `logitbox.analysis.logs`.

    Raises:
        InputError: no such file, or nothing in it can be read as a log.
    """
    return [
        {name: float(given) if isinstance(given, np.floating) else given for name, given in row.items()}
        for row in read_raw(path).rows
    ]


def one_training(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Row], list[str]]:
    """Rows of one training, and what was left out of a log that holds repeated rows, resumes, or several runs.

    A later run counts instead of the rows that it replaces, so that of trainings one after the other the last is judged.
    """
    reading = Reading()
    given = [dict(row) for row in rows]
    records = reading.records(given)
    found = split(records)
    kept = {record.row for record in joined(found.runs)}
    left_out = {record.row for record in records} - kept
    if not left_out:
        return given, []
    notes = list(found.notes)
    if len(found.runs) > 1:
        n_replaced = sum(map(len, found.runs)) - len(kept)
        notes.append(
            f"of {len(found.runs)} runs the last is judged: "
            f"{plural(n_replaced, 'row')} of earlier ones that it replaces left out"
        )
    return [row for row, n in zip(given, reading.numbers, strict=True) if n not in left_out], notes


def series_rows(rows: Sequence[Mapping[str, Any]], aliases: Mapping[str, str]) -> list[Row]:
    """Rows of a series (see `series.SCHEMA`), under the keys that rules use.

    A value that is NaN or infinite stays in its row, but is no point; `nonfinite/KEY` counts them, with a row for each. A row that says
    neither step nor epoch is of the moment of the row before it.
    """
    found: list[Row] = []
    lost: Counter[str] = Counter()
    here: Row = {"step": None, "epoch": None}
    ends = {row.get("step") for row in rows if row.get("key") == SUMMARY}
    for row in rows:
        is_summary = row.get("key") == "train_loss" and row.get("step") in ends
        if is_summary or _number(row.get(SUMMARY)) is not None:
            continue
        step, epoch = _first(row, STEPS), _first(row, EPOCHS)
        if step is not None or epoch is not None:
            here = {"step": None if step is None else int(step), "epoch": epoch}
        for name, value in _values(row):
            key = aliases.get(name, name)
            is_lost = not math.isfinite(value)
            found.append({**here, "key": key, "value": value})
            if is_lost or key not in lost:
                lost[key] += is_lost
                n = float(lost[key])
                found.append({**here, "key": f"nonfinite/{key}", "value": n, "low": n, "high": n})
    return _in_moments(found)


def _values(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and numbers of a row; a row may itself be a name and a number (columns `key` and `value`)."""
    if isinstance(row.get("key"), str) and "value" in row:
        value = _number(row["value"])
        if value is not None and not _NOT_VALUES.search(row["key"]):
            yield row["key"], value
        return
    for name, given in row.items():
        if name in STEPS or name in EPOCHS or _NOT_VALUES.search(name):
            continue
        value = _number(given)
        if value is not None:
            yield name, value


def _number(given: Any) -> float | None:
    """A number, also as text; None for anything else."""
    if isinstance(given, bool) or given is None:
        return None
    if isinstance(given, str) and not given.strip():
        return None
    try:
        return float(given) if isinstance(given, (int, float, str)) else None
    except (ValueError, OverflowError):
        return None


def _first(row: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """The first of these names with a number; "10/438" counts as 10."""
    for name in names:
        given: Any = row.get(name)
        value = _number(given.partition("/")[0] if isinstance(given, str) else given)
        if value is not None and abs(value) < _MOST_STEPS:  # neither NaN nor infinite either
            return value
    return None


def _in_moments(rows: list[Row]) -> list[Row]:
    """Where neither steps nor epochs are logged, rows of a key are counted: their place stands for the step."""
    if any(row["step"] is not None or row["epoch"] is not None for row in rows):
        return rows
    seen: Counter[str] = Counter()
    for row in rows:
        row["step"] = seen[row["key"]]
        seen[row["key"]] += 1
    return rows
