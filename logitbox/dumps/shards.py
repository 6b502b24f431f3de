"""Writing one Parquet shard: temporary file, fsync, rename, checksum."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from logitbox.dumps.files import sha256_of, sync_directory
from logitbox.dumps.journal import ShardEntry

_LEVEL = 3
"""Of zstd. Levels 4 to 9 save up to 2 bytes more on `top_gap`, at half the speed or less."""

_SPLIT = (pa.float32(), pa.float64(), pa.int32(), pa.uint32(), pa.int64())
_REPETITIVE = (
    "phase",
    "dataset",
    "pass",
    "step",
    "epoch",
    "micro",
    "rank",
    "sample",
    "flags",
    "types",
    "weight",
)
"""Long runs of few values: dictionary encoding stores them in a few bits."""


def write_shard(table: pa.Table, folder: Path, name: str, number: int) -> ShardEntry:
    """Write `table` as shard `number` of the table called `name` and return its journal entry.

    Args:
        table: the rows.
        folder: the (session, rank) folder of that table; created if missing.
        name: name of the table.
        number: number of the shard in its folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:06d}.parquet"
    temporary = path.with_suffix(".parquet.tmp")
    try:
        with temporary.open("wb") as stream:
            _write(table, stream)
            stream.flush()
            os.fsync(stream.fileno())
        entry = ShardEntry(name, path.name, table.num_rows, temporary.stat().st_size, sha256_of(temporary))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(folder)
    return entry


def _write(table: pa.Table, stream: IO[bytes]) -> None:
    """Parquet with zstd; bytes of numbers are split into streams, which zstd then packs better."""
    split, dictionary = _encodings(table.schema)
    pq.write_table(
        table,
        stream,
        compression="zstd",
        compression_level=_LEVEL,
        use_dictionary=dictionary,  # pyright: ignore[reportArgumentType] (a list is documented; the stub says bool)
        column_encoding=split or None,
        write_page_checksum=True,
    )


def _encodings(schema: pa.Schema) -> tuple[dict[str, str], list[str]]:
    """(encoding of split columns, dictionary-encoded columns), by column path.

    float16 stays plain: DuckDB 2.0 cannot read BYTE_STREAM_SPLIT of it, and indices into a dictionary, of some
    11 bits each, hide from zstd that gaps repeat (28 bytes a row of 32 gaps instead of 21).
    """
    split: dict[str, str] = {}
    dictionary: list[str] = []
    for column in schema:
        is_list = isinstance(column.type, pa.ListType)
        leaf = column.type.value_type if is_list else column.type
        path = f"{column.name}.list.element" if is_list else column.name
        if leaf in _SPLIT and column.name not in _REPETITIVE:
            split[path] = "BYTE_STREAM_SPLIT"
        elif leaf == pa.float16():
            split[path] = "PLAIN"
        else:
            dictionary.append(path)
    return split, dictionary
