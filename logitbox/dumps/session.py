"""A session: one run's stay in a dump, from opening its folders to its manifest."""

from __future__ import annotations

import platform
import re
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from logitbox.dumps.files import write_json
from logitbox.dumps.journal import read_journal
from logitbox.dumps.locks import RankLock
from logitbox.dumps.manifest import DUMP_FILE, SESSION_FILE, Session, read_dump_file, read_sessions
from logitbox.dumps.schema import FORMAT_NAME, FORMAT_VERSION
from logitbox.errors import DumpError, InputError, LogitboxError, NotADumpError

_SESSION_ID = re.compile(r"[0-9]{4,18}-[0-9a-z]+")


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
        raise InputError(
            f"session is {session!r}; use a number of at least four digits, a dash and letters: 0007-abc"
        )
    if _is_distributed():
        rank = torch.distributed.get_rank() if rank is None else rank
        world = torch.distributed.get_world_size() if world is None else world
    elif rank and session is None:
        raise InputError(f"rank is {rank} without torch.distributed; pass session=, the same on all ranks")
    place = Place(rank or 0, world or 1, session)
    if place.rank < 0 or (world is not None and place.rank >= world):
        raise InputError(f"rank is {place.rank} of {place.world}; ranks are 0 to {place.world - 1}")
    return place


def open_session(path: Path, place: Place, draft: Session) -> tuple[Session, RankLock]:
    """Create or enter the dump, lock it for this rank, agree on a session id and write `session.json`.

    Args:
        path: the dump's folder.
        place: this process among the ranks.
        draft: the session but for its id, rank and versions.

    Raises:
        NotADumpError, NewerFormatError, LockedError, InputError: nothing was opened.
    """
    failure: Exception | None = None
    lock: RankLock | None = None
    try:
        create_dump(path)
        check_vocabulary(path, draft)
        if place.session is not None:
            check_ordinal(path, place.session)
        lock = RankLock(path, place.rank)
    except (LogitboxError, OSError) as error:
        failure = error  # told after the agreement: other ranks must not wait for this one forever
    session_id = agree_on_session(path, place, failed=failure is not None)
    if lock is None or failure is not None:
        raise failure or LogitboxError(f"{path} could not be opened")
    if session_id is None:
        lock.release()
        raise DumpError(f"{path}: rank 0 could not open the dump; its own message says why")
    try:
        session = replace(
            draft,
            session=session_id,
            rank=place.rank,
            world=place.world,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
        )
        write_session(path, session)
    except BaseException:
        lock.release()
        raise
    return session, lock


def agree_on_session(path: Path, place: Place, *, failed: bool = False) -> str | None:
    """The session id: given, or made by rank 0 and handed to the others; None if rank 0 failed."""
    if place.session is not None:
        return place.session
    made: list[Any] = [_new_session_id(path) if place.rank == 0 and not failed else None]
    if place.world > 1 and _is_distributed():
        torch.distributed.broadcast_object_list(made, src=0)
    return None if made[0] is None else str(made[0])


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _sessions_present(path: Path) -> set[str]:
    """Ids of the sessions that have a folder, finished or not."""
    folders = (path / "sessions").glob("[0-9]*-*-r*")
    return {name for folder in folders if _SESSION_ID.fullmatch(name := folder.name.rpartition("-r")[0])}


def _ordinal(session: str) -> int:
    return int(session.partition("-")[0])


def _new_session_id(path: Path) -> str:
    highest = max(map(_ordinal, _sessions_present(path)), default=0)
    return f"{highest + 1:04d}-{uuid.uuid4().hex[:8]}"


def check_ordinal(path: Path, session: str) -> None:
    """Refuse a session id that would sort before what was recorded already; another rank's own id is none such.

    Raises:
        InputError: a session with this ordinal or a higher one is there.
    """
    present = _sessions_present(path)
    highest = max(present, key=_ordinal, default=None)
    if highest is None or session in present or _ordinal(session) > _ordinal(highest):
        return
    raise InputError(
        f"{path}: session is {session!r}, but {highest!r} is there already; "
        f"its number must be above {_ordinal(highest)}, or leave session= out"
    )


def create_dump(path: Path) -> None:
    """Make `path` a dump if it is none yet; refuse a folder that holds something else.

    Raises:
        NotADumpError: a file, or a folder with other contents.
        NewerFormatError: a dump of a newer format.
    """
    if path.is_file():
        raise NotADumpError(f"{path} is a file; give a new folder, or an existing dump to append to")
    marker = path / DUMP_FILE
    strange = path.is_dir() and any(not _is_ours(entry) for entry in path.iterdir())
    if strange and not marker.exists():  # in this order: another rank may be filling the same new dump
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
    """Whether an entry may be there before `dump.json` is."""
    return entry.name.startswith(DUMP_FILE) or entry.name in ("locks", "sessions")


def write_session(path: Path, session: Session) -> None:
    """Write `session.json`, exclusively.

    Raises:
        InputError: this (session, rank) was recorded already.
    """
    folder = path / "sessions" / session.owner
    folder.mkdir(parents=True, exist_ok=True)
    if not write_json(folder / SESSION_FILE, session.to_json(), exclusive=True):
        raise InputError(
            f"{folder}: this session was recorded already; sessions are not reopened, leave session= out"
        )


def check_vocabulary(path: Path, draft: Session) -> None:
    """Refuse to mix vocabularies: token ids of one dump must mean the same in all its sessions.

    Raises:
        InputError: an earlier session had another size, or other tokens.
    """
    for earlier in read_sessions(path):
        both = earlier.has_token_text and draft.has_token_text
        if earlier.spec.vocab_size != draft.spec.vocab_size:
            differs = f"{earlier.spec.vocab_size} tokens, not {draft.spec.vocab_size}"
        elif both and earlier.vocabulary_fingerprint != draft.vocabulary_fingerprint:
            differs = "other tokens"
        else:
            continue
        raise InputError(
            f"{path} was recorded with another vocabulary ({differs}, in session {earlier.session}); "
            "give another folder"
        )


def holds_vocabulary(path: Path, fingerprint: str) -> bool:
    """Whether the tokens of this vocabulary are in a finished shard already."""
    same = (s for s in read_sessions(path) if s.has_token_text and s.vocabulary_fingerprint == fingerprint)
    return any(
        entry.table == "vocab" for s in same for entry in read_journal(path / "sessions" / s.owner).shards
    )


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
