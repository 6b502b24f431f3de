"""Logs alone: a `trainer_state.json`, JSON or JSON lines of dicts, or a CSV of scalars."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from logitbox.errors import InputError

Row = dict[str, Any]

_STEPS = ("step", "global_step", "_step", "current_steps", "global_step/max_steps", "iteration", "steps")
_EPOCHS = ("epoch", "epochs")
_NOT_VALUES = re.compile(
    r"(?:^|_)(?:runtime|time|timestamp|_runtime|_timestamp|samples_per_second|steps_per_second|total_flos|percentage)$"
)
"""Numbers of the machine, not of the training."""
_LARGEST = 200_000_000
"""Bytes of a log; a file beyond it is no log of scalars."""
_MOST_STEPS = 2.0**53
"""Whole numbers are exact up to here; nothing beyond is a step."""
_SUMMARY = "train_runtime"
"""In the row that transformers' Trainer writes at the end; its `train_loss` is the mean of the whole run."""


def read_log(path: Path) -> list[Row]:
    """The rows of a log: dicts of names to what was logged.

    Raises:
        InputError: no such file, or nothing in it can be read as a log.
    """
    if not path.is_file():
        raise InputError(
            f"{path} is neither a dump (a folder with dump.json) nor a log file (.json, .jsonl, .csv)"
        )
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} has more than {_LARGEST:,} bytes, too many for a log of scalars")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text ({error}); give JSON, JSON lines or CSV in UTF-8") from error
    try:
        rows = _rows_of_csv(text) if path.suffix.lower() in (".csv", ".tsv") else _rows_of_json(text, path)
    except csv.Error as error:
        raise InputError(f"{path} is no CSV ({error}); give a header and one row for each time") from error
    if not rows:
        raise InputError(
            f"{path} holds no logged rows; expected are dicts of numbers, or a CSV with a header"
        )
    return rows


def _rows_of_csv(text: str) -> list[Row]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    return [
        {k: v for k, v in row.items() if k} for row in csv.DictReader(io.StringIO(text), delimiter=delimiter)
    ]


def _rows_of_json(text: str, path: Path) -> list[Row]:
    try:
        return list(_dicts(json.loads(text)))
    except (ValueError, RecursionError):
        pass
    found: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found += _dicts(json.loads(line))
        except (ValueError, RecursionError) as error:
            # The last line of a run that was stopped may be cut short.
            if found and number == len(text.splitlines()):
                break
            raise InputError(f"{path}, line {number}: {_no_json(line, error)}") from error
    return found


def _no_json(line: str, error: Exception) -> str:
    """What is wrong with a line, and what to give."""
    if line.lstrip().startswith(("{", "[")) and not line.lstrip().startswith("{'"):
        return f"no JSON ({error}); give JSON, JSON lines or CSV"
    return (
        "no JSON; console lines are not read yet: give trainer_state.json, JSON lines (.jsonl) or CSV (.csv)"
    )


def _dicts(data: Any) -> Iterator[Row]:
    """Rows in what was read: a list of dicts, a dict with a `log_history`, or one dict of numbers."""
    if isinstance(data, list):
        for item in data:
            yield from _dicts(item)
    elif isinstance(data, dict):
        history: Any = data.get("log_history")
        if isinstance(history, list):
            yield from _dicts(history)
        elif any(_number(value) is not None for value in data.values()):
            yield data


def series_rows(rows: Sequence[Mapping[str, Any]], aliases: Mapping[str, str]) -> list[Row]:
    """Rows of a series (see `series.SCHEMA`), under the keys that rules use.

    A value that is NaN or infinite stays in its row, but is no point; `nonfinite/KEY` counts them, with a row for each. A row that says
    neither step nor epoch is of the moment of the row before it.
    """
    found: list[Row] = []
    lost: Counter[str] = Counter()
    here: Row = {"step": None, "epoch": None}
    ends = {row.get("step") for row in rows if row.get("key") == _SUMMARY}
    for row in rows:
        is_summary = row.get("key") == "train_loss" and row.get("step") in ends
        if is_summary or _number(row.get(_SUMMARY)) is not None:
            continue
        step, epoch = _first(row, _STEPS), _first(row, _EPOCHS)
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
        if name in _STEPS or name in _EPOCHS or _NOT_VALUES.search(name):
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
