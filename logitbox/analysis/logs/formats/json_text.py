"""JSON and JSON lines: trainer states, results, logs of ms-swift and LLaMA-Factory, W&B histories."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from logitbox.analysis.logs.formats.console import read_console
from logitbox.analysis.logs.formats.retold import put_together
from logitbox.analysis.logs.precision import printed
from logitbox.analysis.logs.raw import Part, Raw, Row, named, parts_of, plural
from logitbox.errors import InputError

_WRAPPER = "log_history"
_DEEPEST = 3


def read_json(text: str, path: Path) -> Raw:
    """A file of JSON or JSON lines.

    Raises:
        InputError: it is neither.
    """
    twice: Counter[str] = Counter()
    try:
        raw = raw_of(parsed(text, twice), path.name)
    except (ValueError, RecursionError):
        twice.clear()
        raw = _of_lines(text, path, twice)
    n_twice = plural(twice.total(), "value")
    note = f"{n_twice} under a key that the same object has again ({named(twice)}): the last one counts"
    return replace(raw, notes=(*raw.notes, note)) if twice else raw


def parsed(text: str, twice: Counter[str] | None = None) -> Any:
    """JSON, its numbers as they are printed; `twice` counts keys that one object has twice. Raises ValueError or RecursionError."""

    def as_dict(pairs: list[tuple[str, Any]]) -> Row:
        found = dict(pairs)
        if twice is not None and len(found) < len(pairs):
            twice.update(Counter(name for name, _ in pairs) - Counter(found.keys()))
        return found

    return json.loads(text, parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=as_dict)


def raw_of(data: Any, name: str = "") -> Raw:
    """Rows in what was parsed: a list of dicts, a dict with a `log_history`, a dict of lists, or one dict of numbers."""
    history, facts = history_of(data)
    if history is not None:
        kind = (
            "transformers trainer_state.json"
            if "best_model_checkpoint" in facts
            else "JSON with a log_history"
        )
        return Raw((Part(list(_rows(history))),), kind, facts=facts)
    columns = _columns(data)
    if columns:
        return Raw((Part(columns),), "JSON of columns")
    rows = list(_rows(data))
    return Raw(parts_of(rows), _format(rows, isinstance(data, Mapping), name))


def history_of(data: Any, depth: int = 0) -> tuple[list[Any] | None, dict[str, Any]]:
    """The `log_history` of a wrapper, at most three dicts deep, and what stands beside it."""
    if not isinstance(data, Mapping) or depth > _DEEPEST:
        return None, {}
    wrapper = cast("Mapping[str, Any]", data)
    history = wrapper.get(_WRAPPER)
    if isinstance(history, list):
        return history, {name: value for name, value in wrapper.items() if name != _WRAPPER}
    for inner in wrapper.values():
        found, facts = history_of(inner, depth + 1)
        if found is not None:
            return found, facts
    return None, {}


def _rows(data: Any) -> Iterator[Row]:
    """Dicts with a number, of lists in lists too."""
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(reversed(item))
        elif isinstance(item, dict) and _has_number(item):
            yield item


def _has_number(item: Mapping[str, Any], depth: int = 0) -> bool:
    return any(
        printed(value) is not None
        or (isinstance(value, Mapping) and depth < _DEEPEST and _has_number(value, depth + 1))
        for value in item.values()
    )


def _columns(data: Any) -> list[Row]:
    """Rows of a dict of equally long lists of numbers, as Keras' History has them."""
    if not isinstance(data, Mapping) or any(printed(value) is not None for value in data.values()):
        return []
    lists = {name: values for name, values in data.items() if isinstance(values, list) and values}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) != 1 or any(
        printed(value) is None and value is not None for values in lists.values() for value in values
    ):
        return []
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _format(rows: list[Row], is_one: bool, name: str) -> str:
    names = {key for row in rows[:100] for key in row}
    if {"_step", "_runtime"} <= names or "_wandb" in names:
        return "W&B summary" if is_one else "W&B history"
    if is_one:
        return "results JSON" if "results" in name else "JSON of one row"
    return "JSON list"


def _of_lines(text: str, path: Path, twice: Counter[str]) -> Raw:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows: list[Row] = []
    notes: list[str] = []
    facts: dict[str, Any] = {}
    for number, line in lines:
        try:
            data = parsed(line, twice)
        except (ValueError, RecursionError) as error:
            if rows and number == lines[-1][0]:
                notes.append("the last line is cut short and left out")  # of a run that was stopped
                break
            return _console_instead(text, path, number, line, error)
        history, beside = history_of(data)
        if history is None:
            rows += _rows(data)
            continue
        facts |= beside
        retold = list(_rows(history))
        n_same = put_together(rows, retold)
        if n_same:
            notes.append(
                f"{plural(n_same, 'row')} told again in a log_history: put together, its digits kept"
            )
    return Raw(parts_of(rows), _format_of_lines(rows), tuple(notes), facts)


def _console_instead(text: str, path: Path, number: int, line: str, error: Exception) -> Raw:
    """Rows of a console, unless the file was to be JSON. Raises InputError."""
    is_json = line.lstrip().startswith(("{", "[")) and not line.lstrip().startswith("{'")
    if is_json and path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        raise InputError(
            f"{path}, line {number}: no JSON ({error}); give JSON, JSON lines, CSV or a console's text"
        )
    return read_console(text)


def _format_of_lines(rows: list[Row]) -> str:
    names = {key for row in rows[:100] for key in row}
    if "global_step/max_steps" in names:
        return "ms-swift logging.jsonl"
    if "current_steps" in names:
        return "LLaMA-Factory trainer_log.jsonl"
    return _format(rows, is_one=False, name="").replace("JSON list", "JSON lines")
