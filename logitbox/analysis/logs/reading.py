"""`read_logged`: any log, in one frame."""

from __future__ import annotations

import codecs
from collections import defaultdict
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import polars as pl

from logitbox.analysis.logs.formats.console import read_console
from logitbox.analysis.logs.formats.json_text import read_json
from logitbox.analysis.logs.formats.memory import of_memory
from logitbox.analysis.logs.formats.notebook import read_notebook
from logitbox.analysis.logs.formats.recorded import DUMP, of_dump
from logitbox.analysis.logs.formats.tables import read_table
from logitbox.analysis.logs.formats.tensorboard import event_files, is_event_file, read_events
from logitbox.analysis.logs.frame import SCHEMA, Logged
from logitbox.analysis.logs.frameworks import framework_of
from logitbox.analysis.logs.keys import phase_of_key
from logitbox.analysis.logs.precision import Printed, precisions, printed
from logitbox.analysis.logs.raw import Raw, plural
from logitbox.analysis.logs.records import Name, Reading, Record
from logitbox.analysis.logs.splitting import split
from logitbox.dumps.dump import Dump, open_dump
from logitbox.errors import InputError

FORMATS = (
    "a trainer_state.json, JSON, JSON lines, CSV, a console's text, a notebook or TensorBoard event files"
)
_LARGEST = 200_000_000
"""Bytes of a log; a file beyond it is no log of scalars."""
_BEGIN = 64
"""Bytes of which a file's code is told."""
_MOST_BAD = 0.01
"""Share of characters of a text that may be unknown."""
_USUAL_FILES = (
    "trainer_state.json",
    "trainer_log.jsonl",
    "logging.jsonl",
    "all_results.json",
    "*_results.json",
)
_SHOWN = 8
_SHOWN_PATH = 60


def read_logged(
    logged: Any,
    *,
    step_key: str | None = None,
) -> Logged:
    """Read what was logged.

    Args:
        logged: a file of any format told in `FORMATS`, a folder of TensorBoard event files, a dump or its folder (its
            `scalars`), a polars or pandas frame, a list of dicts, a dict with a `log_history`, or what this returned.
        step_key: the column that tells the step, where it is none of the usual ones (`keys.STEPS`).

    Returns:
        One frame of runs, steps, keys and values, with what was printed of them. See `Logged`.

    Raises:
        InputError: nothing can be read, or no row has the `step_key`.
        DumpError: a dump cannot be read.
    """
    if isinstance(logged, Logged):
        return logged
    if isinstance(logged, (str, PathLike)):
        raw, source = read_raw(Path(logged)), str(logged)
    else:
        raw = of_dump(logged) if isinstance(logged, Dump) else of_memory(logged)
        source = raw.format
    found = _logged(raw, source, "" if step_key is None else _name_of_step(raw, step_key, source))
    if found.frame.is_empty():
        raise InputError(f"{source} holds no logged numbers; give {FORMATS}")
    return found


def read_raw(path: Path) -> Raw:
    """The rows of a file or folder, as they stand there.

    Raises:
        InputError: there is no such file, or nothing can be read in it.
    """
    if _is_folder(path):
        return _of_folder(path)
    if not path.is_file():
        raise InputError(f"{path} is neither a dump (a folder with dump.json) nor a log; give {FORMATS}")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} has more than {_LARGEST:,} bytes, too many for a log of scalars")
    raw = read_events(path) if is_event_file(path) else _of_text(path)
    if not raw.rows:
        raise InputError(
            f"{path} holds no logged rows; expected are dicts with a loss or another metric (JSON, or as a console prints them), "
            "or a CSV with a header"
        )
    return raw


def is_log(path: Path) -> bool:
    """Whether a path is to be read as a log: it is no folder, or one without a dump, but with event files of TensorBoard."""
    return not _is_folder(path) or (not _is_dump(path) and bool(event_files(path)))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a log's own text, say
        raise InputError(
            f"{str(path)[:_SHOWN_PATH]!r} is no path ({error.strerror}); give {FORMATS}"
        ) from error


def _is_dump(folder: Path) -> bool:
    return (folder / "dump.json").is_file()


def _of_folder(path: Path) -> Raw:
    if _is_dump(path):
        return of_dump(open_dump(path))
    if event_files(path):
        raw = read_events(path)
        if raw.rows:
            return raw
    there = sorted({file.name for name in _USUAL_FILES for file in path.glob(name)})
    advice = f"give one of its files: {', '.join(there)}" if there else f"give a file: {FORMATS}"
    raise InputError(f"{path} is a folder without a dump or TensorBoard scalars; {advice}")


def _of_text(path: Path) -> Raw:
    text, n_bad = _decoded(path)
    raw = _parsed(text, path)
    note = f"{plural(n_bad, 'character')} in no UTF-8 read as unknown"
    return replace(raw, notes=(note, *raw.notes)) if n_bad else raw


def _decoded(path: Path) -> tuple[str, int]:
    """The text of a file, and how many characters of it are unknown: a console's text may be cut within one."""
    data = path.read_bytes()
    try:
        if code := _utf16(data):
            return data.decode(code), 0
        return data.decode("utf-8-sig"), 0
    except UnicodeDecodeError as error:
        text = data.decode("utf-8", errors="replace")
        n_bad = text.count("\ufffd")
        if n_bad > _MOST_BAD * len(text):
            raise InputError(f"{path} is no text ({error}); give a log in UTF-8") from error
        return text, n_bad


def _utf16(data: bytes) -> str:
    """Which UTF-16 it is, as PowerShell redirects; "" if none. Without a mark, every second byte of ASCII is 0."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    begin = data[:_BEGIN]
    for code, zeros, others in (
        ("utf-16-le", begin[1::2], begin[::2]),
        ("utf-16-be", begin[::2], begin[1::2]),
    ):
        if zeros and not any(zeros) and all(others):
            return code
    return ""


def _parsed(text: str, path: Path) -> Raw:
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        return read_table(text, path)
    if kind == ".ipynb":
        return read_notebook(text, path)
    if kind in (".json", ".jsonl", ".ndjson") or text.lstrip().startswith(("{", "[")):
        return read_json(text, path)
    return read_console(text)


def _name_of_step(raw: Raw, step_key: str, source: str) -> str:
    """The column of steps, as it is written. Raises InputError."""
    names = dict.fromkeys(str(name) for row in raw.rows for name in row)
    found = [name for name in names if name == step_key] or [
        n for n in names if n.lower() == str(step_key).lower()
    ]
    if not found:
        some = ", ".join([*list(names)[:_SHOWN], *(["…"] if len(names) > _SHOWN else [])])
        raise InputError(f"step_key is {step_key!r}, which no row of {source} has; it has {some}")
    return found[0]


def _logged(raw: Raw, source: str, step_key: str) -> Logged:
    reading = Reading(step_key)
    runs: list[list[Record]] = []
    told: list[str] = []
    for part in raw.parts:
        found = split(reading.records(part.rows), len(runs) + 1)
        if len(raw.parts) > 1:
            told.append(f"run {len(runs) + 1} is {part.name or 'the first folder'}")
        told += found.notes
        runs += [run for run in found.runs if run]
    names = {str(name) for row in raw.rows for name in row} | {
        key for run in runs for r in run for key in r.cells
    }
    facts = {name: number.value for name, given in raw.facts.items() if (number := printed(given))}
    return Logged(
        _frame(runs),
        source,
        raw.format,
        framework_of(names, is_sure=raw.format == DUMP),
        (*raw.notes, *told, *reading.notes()),
        reading.meta | facts,
    )


def _frame(runs: list[list[Record]]) -> pl.DataFrame:
    phases = frozenset(record.phase for run in runs for record in run if record.phase)
    rows: list[tuple[Any, ...]] = []
    for number, run in enumerate(runs):
        room = _precision(run)
        rows += [
            (
                number,
                one.row,
                one.step,
                one.epoch,
                phase_of_key(key, one.phase, phases),
                key,
                cell.value,
                room[one.row, key],
            )
            for one in run
            for key, cell in one.cells.items()
        ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").sort("row", maintain_order=True)


def _precision(run: list[Record]) -> dict[tuple[int, str], float]:
    """Half-width of every value of a run, by row and key."""
    of_key: defaultdict[Name, list[tuple[int, Printed]]] = defaultdict(list)
    for record in run:
        for key, cell in record.cells.items():
            of_key[record.phase, key].append((record.row, cell))
    return {
        (row, key): half
        for (_, key), cells in of_key.items()
        for (row, _), half in zip(cells, precisions([cell for _, cell in cells]), strict=True)
    }
