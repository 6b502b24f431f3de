"""How the command line speaks: tables on stdout, progress and errors on stderr, or one JSON document."""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
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

_KEYS = 4
"""Metrics named for each reason why values are null."""


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


def json_text(document: Mapping[str, Any], indent: int | None = None) -> str:
    """A JSON document, on one line unless indented; what could steer a terminal is escaped."""
    text = json.dumps(plain(document), ensure_ascii=False, allow_nan=False, indent=indent)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json_text(document, indent=1) + "\n")


def rows_of(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A frame as a list of JSON objects."""
    return frame.to_dicts()


def print_verdict(verdict: str) -> None:
    """The one line a result comes down to."""
    stdout_console().print(Text(printable(verdict), style="bold"))


def _table(columns: Mapping[str, bool], title: str | None = None) -> Table:
    """An empty table; True for columns of numbers, which stand to the right."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name, is_number in columns.items():
        table.add_column(Text(_lines(name)), justify="right" if is_number else "left", overflow="fold")
    return table


def print_table(frame: pl.DataFrame, title: str | None = None) -> None:
    """A frame as a table; numbers to the right, null as –."""
    table = _table({name: dtype.is_numeric() for name, dtype in frame.schema.items()}, title)
    if frame.schema.get("type") == pl.String:
        frame = frame.with_columns(pl.col("type").replace("", "(all)"))
    for row in frame.iter_rows():
        table.add_row(*(Text(plain_cell(value)) for value in row))
    stdout_console().print(table)


Cell = str | tuple[str, str]
"""A value, or a value and what belongs to it: beside it, or below it where there is no room."""


def print_cells(
    columns: Mapping[str, bool],
    rows: Sequence[Sequence[Cell]],
    title: str | None = None,
    spare: Sequence[str] = (),
    last: Sequence[str] = (),
) -> Sequence[str]:
    """A table of texts that stays readable in a narrow terminal: headings wrap, pairs stand on two lines.

    Args:
        columns: heading, and whether it stands over numbers (to the right).
        rows: cells as they are shown, one per column.
        title: above the table.
        spare: headings of columns that are left out first where there is no room.
        last: those that are left out where nothing else helps.

    Returns:
        Headings that are shown.
    """
    console = stdout_console()
    least = (*spare, *last)
    # (columns left out, between the parts of a pair, spaces between columns), the roomiest first.
    ways = [
        ((), " ", 2),
        (spare, " ", 2),
        (spare, "\n", 2),
        (spare, "\n", 1),
        (least, "\n", 2),
        (least, "\n", 1),
    ]
    left_out, between, gap = next(
        (way for way in ways if _room(columns, rows, *way) <= console.width), ways[-1]
    )
    shown, told = _laid_out(columns, rows, left_out, between)
    headings = [
        "\n".join(textwrap.wrap(name, width)) for name, width in zip(shown, _widths(shown, told), strict=True)
    ]
    table = _table(dict(zip(headings, shown.values(), strict=True)), title)
    table.padding = (0, 1, 0, 0) if gap == 1 else (0, 1)
    for column, is_number in zip(table.columns, shown.values(), strict=True):
        column.no_wrap = is_number  # a number is never broken
    for row in told:
        table.add_row(*(Text(_lines(cell)) for cell in row))
    console.print(table)
    return list(shown)


def _laid_out(
    columns: Mapping[str, bool], rows: Sequence[Sequence[Cell]], left_out: Sequence[str], between: str
) -> tuple[dict[str, bool], list[list[str]]]:
    """Columns and cells without some columns, pairs put together."""
    kept = [i for i, name in enumerate(columns) if name not in left_out]
    told = [[_joined(row[i], between) for i in kept] for row in rows]
    return {name: is_number for name, is_number in columns.items() if name not in left_out}, told


def _joined(cell: Cell, between: str) -> str:
    return cell if isinstance(cell, str) else between.join(cell).rstrip()


def _room(
    columns: Mapping[str, bool],
    rows: Sequence[Sequence[Cell]],
    left_out: Sequence[str],
    between: str,
    gap: int,
) -> int:
    """Width of the whole table."""
    widths = _widths(*_laid_out(columns, rows, left_out, between))
    return sum(widths) + gap * (len(widths) - 1)


def _widths(columns: Mapping[str, bool], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column: its longest line, or the longest word of its heading."""
    found = [max(map(len, name.split()), default=1) for name in columns]
    for row in rows:
        found = [max([width, *map(len, cell.split("\n"))]) for width, cell in zip(found, row, strict=True)]
    return found


def _lines(text: str) -> str:
    """Printable text that keeps its own line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def print_small(text: str, style: str = "dim") -> None:
    """A line below a table that tells how to read it, wrapped to the terminal."""
    console = stdout_console()
    console.print(Text(printable(text), style=style), width=min(console.width, 120))


def print_metrics(frame: pl.DataFrame, headings: Mapping[str, str]) -> None:
    """A long frame of metrics: intervals in one column, and below it why values are null.

    Args:
        frame: as of `metrics`.
        headings: key to the heading it stands under, where nothing is split.
    """
    by = frame.columns[: frame.columns.index("key")]
    is_mixed = "step_mean" in frame["reduction"]
    if "type" in by:
        frame = frame.with_columns(pl.col("type").replace("", "(all)"))
    columns = {name: frame.schema[name].is_numeric() for name in by} | {"metric": False, "value": True}
    columns |= {"95 % interval": True, "n": True} | ({"mean over": False} if is_mixed else {})
    table, last = _table(columns), ""
    for row in frame.iter_rows(named=True):
        heading = "" if by else headings.get(row["key"], "")
        if heading != last:
            if table.row_count:
                table.add_row()
            table.add_row(Text(printable(heading), style="italic"))
            last = heading
        over = ["steps" if row["reduction"] == "step_mean" else "tokens"] if is_mixed else []
        cells = [*(plain_cell(row[name]) for name in by), printable(row["key"]), *_estimate(row), *over]
        table.add_row(*map(Text, cells))
    stdout_console().print(table)
    _print_reasons(frame)


def print_paragraph(text: str) -> None:
    """Sentences, wrapped to the terminal."""
    stdout_console().print(Text(printable(text)), width=min(stdout_console().width, 100))


def _estimate(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Value, interval and n of a metric; of a count the value alone."""
    if row["reduction"] == "count" and row["value"] is not None:
        return f"{row['value']:,.0f}", "", ""
    low, high = row["low"], row["high"]
    interval = "" if low is None or high is None else f"{plain_cell(low)} – {plain_cell(high)}"
    return plain_cell(row["value"]), interval, plain_cell(row["n"])


def _print_reasons(frame: pl.DataFrame) -> None:
    """Below the table: why values are null, each reason once with its metrics."""
    null = frame.filter(pl.col("value").is_null() & pl.col("reason").is_not_null())
    console = stdout_console()
    for (reason,), rows in null.group_by("reason", maintain_order=True):
        keys = rows["key"].unique(maintain_order=True).to_list()
        more = f" and {len(keys) - _KEYS} more" if len(keys) > _KEYS else ""
        told = f"– {reason}: {', '.join(keys[:_KEYS])}{more}"
        console.print(Text(printable(told), style="dim"))


def plain_cell(value: Any) -> str:
    """A value as it stands in a table; null as –."""
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


def print_note(message: str) -> None:
    """One line on stderr beside data on stdout."""
    sys.stderr.write(f"{printable(message)}\n")


def print_warning(message: str) -> None:
    """One line on stderr about something that does not stop the command."""
    sys.stderr.write(f"warning: {printable(message)}\n")


def print_error(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"error: {printable(message)}\n")
