"""How the command line speaks: tables on stdout, progress and errors on stderr, or one JSON document."""

from __future__ import annotations

import json
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_STEERING = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters that JSON itself leaves as they are, and those that turn the direction of text."""

_WIDE = 200
"""Columns where the output is no terminal: values must not be cut short in a pipe."""


class _Console(Console):
    """A console that leaves it to the caller what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def stdout_console() -> Console:
    """A console on stdout; as wide as the terminal, or wide where there is none."""
    return _Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, soft_wrap=False)


def printable(text: str) -> str:
    r"""Text safe for a terminal: control characters (a dump's tokens may hold escape codes) become \xNN."""
    return "".join(c if not unicodedata.category(c).startswith("C") else f"\\x{ord(c):02x}" for c in text)


def plain(value: Any) -> Any:
    """JSON data without NaN or infinities, which JSON does not have: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout; what could steer a terminal is escaped."""
    text = json.dumps(plain(document), ensure_ascii=False, allow_nan=False, indent=1)
    sys.stdout.write(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def rows_of(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A frame as a list of JSON objects."""
    return frame.to_dicts()


def print_verdict(verdict: str) -> None:
    """The one line a result comes down to."""
    stdout_console().print(Text(printable(verdict), style="bold"))


def print_table(frame: pl.DataFrame, title: str | None = None) -> None:
    """A frame as a table; numbers to the right, null as –."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name, dtype in frame.schema.items():
        table.add_column(
            Text(printable(name)), justify="right" if dtype.is_numeric() else "left", overflow="fold"
        )
    if frame.schema.get("type") == pl.String:
        frame = frame.with_columns(pl.col("type").replace("", "(all)"))
    for row in frame.iter_rows():
        table.add_row(*(Text(_cell(value)) for value in row))
    stdout_console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


@contextmanager
def progress_bar(what: str) -> Generator[Callable[[int, int], None]]:
    """A progress bar on stderr, only where stderr is a terminal; yields a (done, total) callback."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_warning(message: str) -> None:
    """One line on stderr about something that does not stop the command."""
    sys.stderr.write(f"warning: {printable(message)}\n")


def print_error(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"error: {printable(message)}\n")
