"""Bytes a token of each `tokens` column under other Parquet encodings, and who can read them.

    .venv/bin/python benchmarks/encodings.py [DUMP]     (default: the example dump)

The first row of each column is how the shard was written.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from logitbox.dumps.dump import open_dump
from logitbox.dumps.shards import write_shard

EXAMPLE = Path(__file__).resolve().parent.parent / "logitbox" / "data" / "smollm2"
ENCODINGS = ("PLAIN", "DICTIONARY", "BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED")
LEVELS = (1, 3, 9)
SHARE = 0.02
"""Columns below this share of the file are left out."""


def column_bytes(file: Path) -> dict[str, int]:
    """Compressed bytes of each top-level column."""
    metadata, sizes = pq.ParquetFile(file).metadata, dict[str, int]()
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            name = column.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    return sizes


def write(column: pa.Table, file: Path, encoding: str, level: int) -> None:
    """Write a one-column table with one encoding."""
    field = column.schema[0]
    path = f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
    options: dict[str, Any] = {"compression": "zstd", "compression_level": level}
    if encoding == "DICTIONARY":
        options["use_dictionary"] = [path]
    else:
        options |= {"use_dictionary": False, "column_encoding": {path: encoding}}
    pq.write_table(column, file, **options)


def readers(column: pa.Table, file: Path) -> str:
    """Which readers get the same values back."""
    want = column.column(0).to_pylist()
    name = column.column_names[0]
    able: list[str] = []
    with suppress(duckdb.Error):
        rows = duckdb.execute(f'select "{name}" from read_parquet(?)', [str(file)]).fetchall()
        able += ["duckdb"] * ([row[0] for row in rows] == want)
    with suppress(pl.exceptions.PolarsError):
        able += ["polars"] * (pl.read_parquet(file)[name].to_list() == want)
    return "+".join(able) or "none"


def compare(column: pa.Table, folder: Path) -> None:
    """Print a line for each encoding that can hold the column."""
    name, rows = column.column_names[0], column.num_rows
    for encoding in ENCODINGS:
        sizes: list[float] = []
        file = folder / f"{name}.parquet"
        try:
            for level in LEVELS:
                write(column, file, encoding, level)
                sizes.append(column_bytes(file)[name] / rows)
        except (pa.ArrowException, OSError):
            continue  # this encoding cannot hold this type
        levels = "".join(f"{size:>9.2f}" for size in sizes)
        print(f"  {encoding:<22}{levels}   {readers(column, file)}")


def main() -> None:
    """Print the table."""
    dump = open_dump(sys.argv[1] if len(sys.argv) > 1 else EXAMPLE)
    table = pa.concat_tables([pq.read_table(shard.path) for shard in dump.shards("tokens")])
    with tempfile.TemporaryDirectory() as folder:
        write_shard(table, Path(folder), "tokens", 0)
        sizes = column_bytes(Path(folder) / "000000.parquet")
        total = sum(sizes.values())
        print(f"{table.num_rows:,} tokens, {total / table.num_rows:.1f} bytes each; zstd levels {LEVELS}")
        for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
            if size >= SHARE * total:
                print(f"{name}: {size / table.num_rows:.2f} as written")
                compare(table.select([name]), Path(folder))


if __name__ == "__main__":
    main()
