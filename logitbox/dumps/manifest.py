"""Reading and writing `dump.json` and `session.json`. Needs neither torch nor polars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from logitbox.dumps.schema import FORMAT_NAME, FORMAT_VERSION
from logitbox.dumps.spec import RecordSpec
from logitbox.errors import DamagedDumpError, InputError, NewerFormatError, NotADumpError

DUMP_FILE = "dump.json"
SESSION_FILE = "session.json"


@dataclass(frozen=True)
class Session:
    """One rank's `session.json`."""

    session: str
    rank: int
    world: int
    spec: RecordSpec
    every: int = 1
    accumulation: int | None = None
    resume_from: int | None = None
    vocabulary_fingerprint: str = ""
    has_token_text: bool = False
    bos: int | None = None
    eos: int | None = None
    length_unit: str | None = None
    started: str = ""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def owner(self) -> str:
        """Folder name of this (session, rank)."""
        return f"{self.session}-r{self.rank}"

    @property
    def ordinal(self) -> int:
        """Place of the session in the dump's order."""
        return int(self.session.split("-")[0])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, inverse of `from_json`."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "spec"}
        for name, value in plain.items():
            _check_field(name, value)
        return {"format": f"{FORMAT_NAME}/{FORMAT_VERSION}", **plain, "record": self.spec.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Session:
        """Read what `to_json` wrote; unknown keys are ignored."""
        plain = {name: data[name] for name in cls.__dataclass_fields__ if name != "spec" and name in data}
        for name, value in plain.items():
            _check_field(name, value)
        session = cls(spec=RecordSpec.from_json(data["record"]), **plain)
        if not 0 <= session.ordinal <= _LARGEST or session.rank >= session.world:
            raise ValueError(f"session {session.session!r}, rank {session.rank} of {session.world}")
        return session


_LARGEST = 2**63 - 1
_ANY = -_LARGEST
_WHOLE = {"rank": 0, "world": 1, "every": 1, "accumulation": 0, "resume_from": _ANY, "bos": _ANY, "eos": _ANY}
"""Whole numbers of a session and the least value of each."""
_MAY_BE_NULL = ("accumulation", "resume_from", "bos", "eos", "length_unit")


def _check_field(name: str, value: object) -> None:
    """Raise InputError for a value that no writer may write: it decides what readers open and hide."""
    if value is None and name in _MAY_BE_NULL:
        return
    if name in _WHOLE:
        right = isinstance(value, int) and not isinstance(value, bool) and _WHOLE[name] <= value <= _LARGEST
    elif name == "versions":
        right = isinstance(value, Mapping)
    else:
        right = isinstance(value, bool if name == "has_token_text" else str)
    if not right:
        raise InputError(f"{name} is {str(value)[:80]!r}, which session.json cannot hold")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises DamagedDumpError if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, 5000 digits; nested too deeply
        raise DamagedDumpError(
            f"{path} is not readable JSON ({error}); restore it from a copy of the dump"
        ) from error
    if not isinstance(data, dict):
        raise DamagedDumpError(f"{path} does not hold a JSON object; restore it from a copy of the dump")
    return data


def read_dump_file(path: Path) -> dict[str, Any]:
    """`dump.json` of a dump.

    Raises:
        NotADumpError: `path` is no dump.
        NewerFormatError: written by a newer version.
    """
    if not path.exists():
        raise NotADumpError(f"{path} does not exist; give the folder that a Recorder wrote")
    marker = path / DUMP_FILE
    if not marker.is_file():
        raise NotADumpError(
            f"{path} is not a dump (it has no {DUMP_FILE}); give the folder that a Recorder wrote"
        )
    data = read_json(marker)
    check_format(str(data.get("format")), marker)
    return data


def check_format(name: str, where: Path) -> None:
    """Refuse formats this version does not know."""
    family, _, number = name.partition("/")
    if family != FORMAT_NAME or not number.isdecimal() or not number.strip("0"):
        raise NotADumpError(
            f"{where} has format {name!r}; this version reads {FORMAT_NAME}/1 to /{FORMAT_VERSION}"
        )
    if len(number) > 9 or int(number) > FORMAT_VERSION:
        raise NewerFormatError(
            f"{where} has format {name[:40]}; this version reads up to {FORMAT_NAME}/{FORMAT_VERSION}. Upgrade logitbox"
        )


def read_sessions(path: Path) -> list[Session]:
    """Every (session, rank) of a dump, in recording order."""
    sessions: list[Session] = []
    for file in sorted((path / "sessions").glob(f"*/{SESSION_FILE}")):
        data = read_json(file)
        check_format(str(data.get("format")), file)
        try:
            session = Session.from_json(data)
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise DamagedDumpError(
                f"{file} lacks or garbles something ({error!r}); restore it from a copy of the dump"
            ) from error
        if session.owner != file.parent.name:  # the name leads to its files; it must not lead elsewhere
            raise DamagedDumpError(f"{file} says it is {session.owner!r}; restore it from a copy of the dump")
        sessions.append(session)
    return sorted(sessions, key=lambda session: (session.ordinal, session.session, session.rank))
