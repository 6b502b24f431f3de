"""What files a dump consists of, and whether they are all there. Needs neither torch nor polars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from logitbox.dumps.files import sha256_of
from logitbox.dumps.journal import Journal, ShardEntry, read_journal
from logitbox.dumps.manifest import Session, read_dump_file, read_sessions
from logitbox.dumps.schema import TABLES


@dataclass(frozen=True)
class Shard:
    """One journaled shard file."""

    session: Session
    entry: ShardEntry
    path: Path

    @property
    def name(self) -> str:
        """`table/session-rank/number`, the order of recording within a table."""
        return f"{self.entry.table}/{self.session.owner}/{self.entry.name}"

    def problem(self, *, deep: bool = False) -> str | None:
        """What is wrong with the file, None if nothing; `deep` also compares the checksum."""
        if not self.path.is_file():
            return "missing"
        size, expected = self.path.stat().st_size, self.entry.bytes
        if size < expected:
            return f"truncated: {size} of {expected} bytes"
        if size > expected:
            return f"altered: {size} bytes, {expected} in the journal"
        if deep and sha256_of(self.path) != self.entry.sha256:
            return "altered: the checksum differs from the journal's"
        return None


@dataclass(frozen=True)
class Damage:
    """A shard that cannot be trusted."""

    shard: str
    problem: str
    rows: int


@dataclass(frozen=True)
class Inventory:
    """The sessions, journals and shards of a dump, in recording order."""

    path: Path
    sessions: tuple[Session, ...]
    journals: tuple[Journal, ...]
    shards: tuple[Shard, ...]
    strays: tuple[str, ...]
    """Shard files without a journal line: what a killed writer left behind; never read."""

    @property
    def dropped_rows(self) -> int:
        """Rows left out because the writer was behind (`on_full="drop"`)."""
        return sum(journal.dropped_rows for journal in self.journals)

    @property
    def dropped_calls(self) -> int:
        """Micro-batches left out because the writer was behind."""
        return sum(journal.dropped_calls for journal in self.journals)

    def unfinished(self) -> list[str]:
        """Sessions without a closing line: killed, or still being recorded."""
        pairs = zip(self.sessions, self.journals, strict=True)
        return [session.owner for session, journal in pairs if not journal.closed]

    def torn(self) -> list[str]:
        """Sessions whose journal ends in half a line, which was ignored."""
        pairs = zip(self.sessions, self.journals, strict=True)
        return [session.owner for session, journal in pairs if journal.torn]

    def damage(self, *, deep: bool = False) -> list[Damage]:
        """Shards that are missing, truncated, or (`deep`) altered."""
        found = ((shard, shard.problem(deep=deep)) for shard in self.shards)
        return [Damage(shard.name, problem, shard.entry.rows) for shard, problem in found if problem]


def take_inventory(path: Path) -> Inventory:
    """Read a dump's manifests and journals (no shard is opened).

    Raises:
        NotADumpError, NewerFormatError, DamagedDumpError.
    """
    read_dump_file(path)
    sessions = read_sessions(path)
    journals = [read_journal(path / "sessions" / session.owner) for session in sessions]
    shards = [
        Shard(session, entry, path / entry.table / session.owner / Path(entry.name).name)
        for session, journal in zip(sessions, journals, strict=True)
        for entry in journal.shards
        if entry.table in TABLES
    ]
    listed = {shard.path for shard in shards}
    files = (file for table in TABLES for file in sorted((path / table).glob("*/*")))
    strays = [str(file.relative_to(path)) for file in files if file not in listed]
    return Inventory(path, tuple(sessions), tuple(journals), tuple(shards), tuple(strays))
