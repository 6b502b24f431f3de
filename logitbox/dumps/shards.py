"""Writing one Parquet shard: temporary file, fsync, rename, checksum."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from logitbox.dumps.files import sha256_of, sync_directory
from logitbox.dumps.journal import ShardEntry

_SPLIT = (pa.float32(), pa.float64(), pa.int32(), pa.uint32(), pa.int64())
_REPETITIVE = ("phase", "dataset", "pass", "step", "epoch", "micro", "rank", "sample", "flags", "types", "weight")
"""Long runs of few values: dictionary encoding stores them in a few bits."""


def write_shard(table: pa.Table, folder: Path, name: str, number: int) -> ShardEntry:
    """Write `table` as shard `number` of the table called `name` and return its journal entry.

    Args:
        folder: the (session, rank) folder of that table; created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number:06d}.parquet"
    temporary = path.with_suffix(".parquet.tmp")
    try:
        with temporary.open("wb") as stream:
            pq.write_table(table, stream, **_options(table.schema))
            stream.flush()
            os.fsync(stream.fileno())
        entry = ShardEntry(name, path.name, table.num_rows, temporary.stat().st_size, sha256_of(temporary))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(folder)
    return entry


def _options(schema: pa.Schema) -> dict[str, object]:
    """zstd 1; bytes of numbers split into streams, which zstd then packs better.

    float16 is left plain: DuckDB 2.0 cannot read BYTE_STREAM_SPLIT of it.
    """
    encodings: dict[str, str] = {}
    dictionary: list[str] = []
    for column in schema:
        is_list = pa.types.is_list(column.type)
        leaf = column.type.value_type if is_list else column.type
        path = f"{column.name}.list.element" if is_list else column.name
        if leaf in _SPLIT and column.name not in _REPETITIVE:
            encodings[path] = "BYTE_STREAM_SPLIT"
        else:
            dictionary.append(path)
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": dictionary,
        "column_encoding": encodings or None,
        "write_page_checksum": True,
        "store_schema": True,
    }
