"""How many bytes of a dump each column of `tokens` takes. Reads the ends of the shards only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from logitbox.dumps.dump import Dump
from logitbox.errors import DamagedDumpError

STRUCTURE = "(structure)"
"""Bytes of no column: schema, places of the pages, and what marks the file."""


def column_sizes(dump: Dump) -> pl.DataFrame:
    """A row per column of `tokens`, the largest first.

    Returns:
        `column`, `bytes` on disk, `bytes_per_token` over all recorded tokens (also those of sessions without the
        column, and hidden ones), `share` of the table's files in [0, 1]. The last row is `(structure)`.

    Raises:
        DamagedDumpError: a shard is no Parquet file.
    """
    sizes: Counter[str] = Counter()
    rows = total = 0
    for shard in dump.shards("tokens"):
        sizes.update(_columns_of(shard.path, shard.name))
        rows, total = rows + shard.entry.rows, total + shard.entry.bytes
    listed = [*sizes.most_common(), (STRUCTURE, total - sizes.total())] if total else []
    return pl.DataFrame(
        [(name, size, size / max(rows, 1), size / total) for name, size in listed],
        schema={
            "column": pl.String,
            "bytes": pl.Int64,
            "bytes_per_token": pl.Float64,
            "share": pl.Float64,
        },
        orient="row",
    )


def _columns_of(path: Path, name: str) -> Counter[str]:
    """Compressed bytes of each column of one file; a list is one column."""
    try:
        metadata: Any = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise DamagedDumpError(
            f"shard {name} cannot be read ({error}). `logitbox verify` lists all such"
        ) from error
    sizes: Counter[str] = Counter()
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            sizes[chunk.path_in_schema.split(".")[0]] += chunk.total_compressed_size
    return sizes
