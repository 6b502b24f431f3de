"""`Dump`: a recorded run, opened for reading. Frames are lazy; nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from logitbox.dumps.inventory import Damage, Inventory, Shard, take_inventory
from logitbox.dumps.manifest import Session, read_dump_file
from logitbox.dumps.schema import table_schema
from logitbox.dumps.spec import RecordSpec, TokenTypes
from logitbox.dumps.text import TokenText
from logitbox.errors import DamagedDumpError, InputError


@dataclass(frozen=True)
class Manifest:
    """What a dump says about itself."""

    format: str
    id: str
    created: str
    sessions: tuple[Session, ...]


@dataclass(frozen=True)
class Verification:
    """Outcome of `Dump.verify`."""

    path: str
    n_shards: int
    n_rows: int
    damage: tuple[Damage, ...]
    strays: tuple[str, ...]
    unfinished: tuple[str, ...]
    torn: tuple[str, ...]
    dropped_calls: int
    dropped_rows: int

    @property
    def ok(self) -> bool:
        """True if every journaled shard is as it was written."""
        return not self.damage

    def __str__(self) -> str:
        if not self.ok:
            lost = sum(damage.rows for damage in self.damage)
            return f"{len(self.damage)} of {self.n_shards} shards are damaged ({lost} of {self.n_rows} rows)"
        return f"{self.n_shards} shards, {self.n_rows} rows: all as written"


class Dump:
    """A dump opened for reading.

    Attributes:
        path: its folder.
        inventory: sessions, journals and shard files.
        skipped: damaged shards that are left out (only with `damaged="skip"`).
    """

    def __init__(self, path: Path, inventory: Inventory, skipped: Sequence[Damage]) -> None:
        self.path, self.inventory, self.skipped = path, inventory, tuple(skipped)
        self._bad = {damage.shard for damage in skipped}
        self._whole: set[str] = set()

    def __repr__(self) -> str:
        rows = sum(shard.entry.rows for shard in self.shards("tokens"))
        return f"Dump({str(self.path)!r}, {rows} token rows, {len(self.sessions)} sessions)"

    @cached_property
    def manifest(self) -> Manifest:
        """Format, identity and sessions."""
        data = read_dump_file(self.path)
        return Manifest(
            str(data["format"]), str(data.get("id", "")), str(data.get("created", "")), self.sessions
        )

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Every (session, rank), in recording order."""
        return self.inventory.sessions

    @cached_property
    def types(self) -> TokenTypes:
        """Token types of all sessions; bit i of `tokens.types` is `types.names[i]`."""
        names = tuple(dict.fromkeys(name for s in self.sessions for name in s.spec.types.names))
        return TokenTypes(names, all(s.spec.types.partition for s in self.sessions))

    @property
    def tokens(self) -> pl.LazyFrame:
        """One row per predicted token, in recording order."""
        return self._table("tokens")

    @property
    def batches(self) -> pl.LazyFrame:
        """One row per micro-batch."""
        return self._table("batches")

    @property
    def scalars(self) -> pl.LazyFrame:
        """What the trainer logged."""
        return self._table("scalars")

    @property
    def vocab(self) -> pl.LazyFrame:
        """Token id to bytes; empty if only the vocabulary's size was recorded."""
        return self._table("vocab").unique("id", keep="last").sort("id")

    @property
    def samples(self) -> pl.LazyFrame:
        """One row per (sample, dataset); where it was written several times, the latest values.

        A key that somebody chose goes before `str(sample)`, which another rank or session may have written later.
        """
        key = pl.col("key").drop_nulls()
        chosen = key.filter(key != pl.col("sample").filter(pl.col("key").is_not_null()).cast(pl.String))
        return (
            self._table("samples")
            .group_by("sample", "dataset", maintain_order=True)
            .agg(
                pl.coalesce(chosen.last(), key.last()).alias("key"),
                pl.all().exclude("key").drop_nulls().last(),
            )
            .select(pl.col("sample", "key", "dataset"), pl.all().exclude("sample", "key", "dataset"))
        )

    @cached_property
    def text(self) -> TokenText:
        """Token ids to text; ids outside the vocabulary, which a stranger's table may hold, are left out."""
        size = max((session.spec.vocab_size for session in self.sessions), default=0)
        known = pl.col("id").is_between(0, size - 1) & pl.col("bytes").is_not_null()
        return TokenText(dict(self.vocab.select("id", "bytes").filter(known).collect().iter_rows()))

    def shards(self, table: str) -> list[Shard]:
        """The readable shards of a table, in recording order."""
        return [s for s in self.inventory.shards if s.entry.table == table and s.name not in self._bad]

    def hidden_from(self, session: Session) -> int | None:
        """First training step of `session` that a later session replaced (`resume_from`), or None."""
        later = [
            s.resume_from for s in self.sessions if s.ordinal > session.ordinal and s.resume_from is not None
        ]
        return min(later, default=None)

    def visible(self, session: Session) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
        """A filter that drops the rows of `session` which a later session replaced."""
        start = self.hidden_from(session)
        if start is None:
            return lambda frame: frame
        return lambda frame: frame.filter(~((pl.col("phase") == "train") & (pl.col("step") >= start)))

    def verify(self) -> Verification:
        """Compare every journaled shard with its checksum; reads the whole dump once."""
        inventory = take_inventory(self.path)
        return Verification(
            path=str(self.path),
            n_shards=len(inventory.shards),
            n_rows=sum(shard.entry.rows for shard in inventory.shards),
            damage=tuple(inventory.damage(deep=True)),
            strays=inventory.strays,
            unfinished=tuple(inventory.unfinished()),
            torn=tuple(inventory.torn()),
            dropped_calls=inventory.dropped_calls,
            dropped_rows=inventory.dropped_rows,
        )

    def _table(self, table: str) -> pl.LazyFrame:
        frames = [
            frame for session in self.sessions if (frame := self._of_session(table, session)) is not None
        ]
        if not frames:
            specs = [session.spec for session in self.sessions] or [RecordSpec(1, 1)]
            return pl.concat([empty_frame(table, spec) for spec in specs], how="diagonal_relaxed").lazy()
        return frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")

    def check(self, shards: list[Shard]) -> None:
        """Compare checksums, once per shard. Raises DamagedDumpError."""
        for shard in shards:
            if shard.name in self._whole:
                continue
            if problem := shard.problem(deep=True):
                raise DamagedDumpError(
                    f"{self.path}: damaged shard {shard.name} ({problem}). open(path, damaged='skip'), or "
                    "--skip-damaged, reads the rest and says what is left out"
                )
            self._whole.add(shard.name)

    def _of_session(self, table: str, session: Session) -> pl.LazyFrame | None:
        shards = [shard for shard in self.shards(table) if shard.session is session]
        if not shards:
            return None
        if table != "tokens":  # small, and read without the tally, which would notice altered bytes
            self.check(shards)
        paths = [shard.path for shard in shards]
        if table == "samples":  # user columns come and go between calls
            frame = pl.concat([_scan([path]) for path in paths], how="diagonal_relaxed")
        else:
            frame = _scan(paths)
        if table == "tokens" and session.spec.types.names != self.types.names:
            frame = frame.with_columns(types=_moved_bits(session.spec.types.names, self.types.names))
        return self.visible(session)(frame) if table in ("tokens", "batches", "scalars") else frame


def _scan(paths: list[Path]) -> pl.LazyFrame:
    """Lazy rows of these files, in this order; a folder called "lr=[1e-4]" is no pattern and no partition."""
    return pl.scan_parquet(paths, glob=False, hive_partitioning=False)


def _moved_bits(names: Sequence[str], target: Sequence[str]) -> pl.Expr:
    """Type bits of a session that declared its types in another order than the dump as a whole."""
    bits = [
        pl.when((pl.col("types") & (1 << i)) != 0).then(1 << target.index(name)).otherwise(0)
        for i, name in enumerate(names)
    ]
    return pl.sum_horizontal(bits).cast(pl.UInt32) if bits else pl.lit(0, pl.UInt32)


def empty_frame(table: str, spec: RecordSpec) -> pl.DataFrame:
    """A frame of no rows with a table's columns."""
    schema: pa.Schema = table_schema(table, spec)
    frame: Any = pl.from_arrow(schema.empty_table())
    return frame


def open_dump(path: str | PathLike[str], damaged: Literal["error", "skip"] = "error") -> Dump:
    """Open a dump.

    Args:
        path: the folder a Recorder wrote.
        damaged: what to do about damaged shards. "error" refuses missing and truncated ones, and the tally
            refuses altered ones when it reads them; "skip" compares every checksum now, which reads the whole
            dump once, and leaves the damaged ones out (they are listed in `Dump.skipped`).

    Raises:
        NotADumpError, NewerFormatError, DamagedDumpError.
    """
    if damaged not in ("error", "skip"):
        raise InputError(f"damaged is {damaged!r}; allowed are 'error' and 'skip'")
    folder = Path(path)
    inventory = take_inventory(folder)
    damage = inventory.damage(deep=damaged == "skip")
    if damage and damaged == "error":
        first = f"{damage[0].shard} ({damage[0].problem})"
        more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
        raise DamagedDumpError(
            f"{folder}: damaged shard {first}{more}. `logitbox verify {folder}` lists them; "
            "open(path, damaged='skip'), or --skip-damaged, reads the rest and says what is left out"
        )
    return Dump(folder, inventory, damage)
