"""A session: one run's stay in a dump, from opening its folders to its manifest."""

from __future__ import annotations

import platform
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from logitbox.dumps.files import write_json
from logitbox.dumps.manifest import DUMP_FILE, SESSION_FILE, Session, read_dump_file, read_sessions
from logitbox.dumps.schema import FORMAT_NAME, FORMAT_VERSION
from logitbox.errors import InputError, NotADumpError

_SESSION_ID = re.compile(r"\d{4,}-[0-9a-z]+")


@dataclass(frozen=True)
class Place:
    """This process among the ranks."""

    rank: int
    world: int
    session: str | None
    """The session id, if somebody decided on one already."""


def find_place(rank: int | None, world: int | None, session: str | None) -> Place:
    """Rank and world size: as given, else from torch.distributed, else 0 of 1."""
    if session is not None and not _SESSION_ID.fullmatch(session):
        raise InputError(f"session is {session!r}; use a number of at least four digits, a dash and letters: 0007-abc")
    if rank is None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return Place(torch.distributed.get_rank(), torch.distributed.get_world_size(), session)
    if rank and session is None:
        raise InputError(f"rank is {rank} without torch.distributed; pass session=, the same on all ranks")
    return Place(rank or 0, world or 1, session)


def agree_on_session(path: Path, place: Place) -> str:
    """The session id: given, or made by rank 0 and handed to the others. Clocks order nothing."""
    if place.session is not None:
        return place.session
    distributed = place.world > 1 and torch.distributed.is_available() and torch.distributed.is_initialized()
    made: list[Any] = [_new_session_id(path) if place.rank == 0 else None]
    if distributed:
        torch.distributed.broadcast_object_list(made, src=0)
    return str(made[0])


def _new_session_id(path: Path) -> str:
    taken = [int(folder.name.split("-")[0]) for folder in (path / "sessions").glob("[0-9]*-*-r*")]
    return f"{max(taken, default=0) + 1:04d}-{uuid.uuid4().hex[:8]}"


def create_dump(path: Path) -> None:
    """Make `path` a dump if it is none yet; refuse a folder that holds something else.

    Raises:
        NotADumpError: a file, or a folder with other contents.
        NewerFormatError: a dump of a newer format.
    """
    if path.is_file():
        raise NotADumpError(f"{path} is a file; give a new folder, or an existing dump to append to")
    marker = path / DUMP_FILE
    if not marker.exists() and path.is_dir() and any(not _is_ours(entry) for entry in path.iterdir()):
        raise NotADumpError(f"{path} holds other files and no {DUMP_FILE}; give a new or empty folder")
    path.mkdir(parents=True, exist_ok=True)
    write_json(
        marker,
        {
            "format": f"{FORMAT_NAME}/{FORMAT_VERSION}",
            "id": uuid.uuid4().hex,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": f"logitbox {package_version('logitbox')}",
        },
        exclusive=True,
    )
    read_dump_file(path)


def _is_ours(entry: Path) -> bool:
    """Another rank may be creating the same dump at this moment."""
    return entry.name.startswith(DUMP_FILE) or entry.name in ("locks", "sessions")


def write_session(path: Path, session: Session) -> None:
    """Write `session.json`, exclusively.

    Raises:
        InputError: this (session, rank) was recorded already.
    """
    folder = path / "sessions" / session.owner
    folder.mkdir(parents=True, exist_ok=True)
    if not write_json(folder / SESSION_FILE, session.to_json(), exclusive=True):
        raise InputError(f"{folder}: this session was recorded already; sessions are not reopened, leave session= out")


def known_vocabularies(path: Path) -> set[str]:
    """Fingerprints of the vocabularies whose tokens the dump holds already."""
    return {session.vocabulary_fingerprint for session in read_sessions(path) if session.has_token_text}


def versions() -> dict[str, str]:
    """Versions that a reader may want to know when numbers differ."""
    names = ("logitbox", "torch", "numpy", "pyarrow", "transformers")
    return {"python": platform.python_version()} | {name: v for name in names if (v := package_version(name))}


def package_version(name: str) -> str:
    """Installed version of a package, "" if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
