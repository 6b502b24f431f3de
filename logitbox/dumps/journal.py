"""The journal of one (session, rank): an append-only list of what was written for good.

One JSON object a line. A shard exists for readers once its line is complete; what a crash left behind
without a line does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from logitbox.errors import DamagedDumpError

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class ShardEntry:
    """One finished shard file: where, how large, and its checksum."""

    table: str
    name: str
    rows: int
    bytes: int
    sha256: str


class JournalWriter:
    """Appends lines; each is on disk before `append` returns."""

    def __init__(self, folder: Path) -> None:
        self._stream: IO[str] = (folder / JOURNAL).open("a", encoding="utf-8")

    def append(self, line: Mapping[str, Any]) -> None:
        """Append one JSON object and fsync."""
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def shard(self, entry: ShardEntry) -> None:
        """Declare a shard finished."""
        self.append({"event": "shard", **asdict(entry)})

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


@dataclass(frozen=True)
class Journal:
    """A journal as read: its shards in order, counts of what was left out, and how it ended."""

    shards: tuple[ShardEntry, ...] = ()
    dropped_calls: int = 0
    dropped_rows: int = 0
    closed: bool = False
    torn: bool = False
    """The last line is incomplete (the writer was killed while appending); it was ignored."""


def read_journal(folder: Path) -> Journal:
    """Read a journal; an incomplete last line is ignored and told in `torn`.

    Raises:
        DamagedDumpError: a line before the last cannot be understood (the file was edited or damaged).
    """
    path = folder / JOURNAL
    if not path.exists():
        return Journal()
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    torn = lines[-1] != ""
    shards: list[ShardEntry] = []
    calls = rows = 0
    closed = False
    for number, line in enumerate(lines[:-1], start=1):
        try:
            event = _parse(line)
            kind = event.get("event")
            if kind == "shard":
                shards.append(_shard_entry(event))
            elif kind == "dropped":
                calls, rows = calls + _count(event["calls"]), rows + _count(event["rows"])
            elif kind == "close":
                closed = True
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedDumpError(
                f"{path}, line {number} is damaged ({error!r}); restore it from a copy of the dump"
            ) from error
    return Journal(tuple(shards), calls, rows, closed, torn)


def _parse(line: str) -> dict[str, Any]:
    event = json.loads(line)
    if not isinstance(event, dict):
        raise TypeError("not a JSON object")
    return event


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{str(value)[:40]} is no count")
    return value


def _shard_entry(event: Mapping[str, Any]) -> ShardEntry:
    return ShardEntry(
        table=str(event["table"]),
        name=str(event["name"]),
        rows=_count(event["rows"]),
        bytes=_count(event["bytes"]),
        sha256=str(event["sha256"]),
    )
