"""What a worker reads of one shard: the columns an analysis needs, of visible rows, as a rule supervised ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitbox.analysis.classes import DEFAULT, NEEDS, Thresholds
from logitbox.dumps.definitions.agent import gaps_needed
from logitbox.dumps.definitions.registry import needed_columns
from logitbox.dumps.flags import Flag
from logitbox.dumps.spec import BETAS, RecordSpec
from logitbox.errors import DamagedDumpError

Array = NDArray[Any]
Int = NDArray[np.int64]

KEYS = ("phase", "dataset", "pass", "step", "epoch")
"""Columns of `tokens` that every tally is keyed by, beside the token type."""

_LISTS = ("top_ids", "top_gap", "lse_beta")
_RANKS = ("n_gt", "n_eq", "n_eq_before")
KEPT = "kept"
"""How many of the best ids a row has: no column, but told like one."""


@dataclass(frozen=True)
class ShardTask:
    """Everything a worker needs to sum up one shard; picklable."""

    path: Path
    name: str
    sha256: str
    spec: RecordSpec
    hidden_from: int | None
    by: tuple[str, ...] = ()
    """Further key columns, of `tokens` or of `lookup`."""
    lookup: pl.DataFrame | None = None
    """(sample, dataset) to the `by` columns that come from the `samples` table."""
    thresholds: Thresholds = DEFAULT
    """Of the token classes."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Key columns, without the token type."""
        return (*KEYS, *self.by)

    @property
    def options(self) -> str:
        """What else the sums depend on, in words; "" by default. Part of the name of the cached result."""
        return "" if self.thresholds == DEFAULT else repr(self.thresholds)


@dataclass(frozen=True)
class ShardRows:
    """Visible rows of a shard, in recording order.

    Attributes:
        keys: the key columns.
        columns: as `definitions.rows.Rows` takes them, and `kept`, how many of the best ids were recorded, if it was
            asked for.
    """

    keys: pl.DataFrame
    columns: dict[str, Array]


def tally_columns(spec: RecordSpec) -> list[str]:
    """Columns that a tally reads."""
    return list(dict.fromkeys([*needed_columns(spec), *NEEDS, KEPT]))


def read_rows(
    task: ShardTask, needed: Sequence[str], *, supervised: bool = True, width: int | None = None
) -> ShardRows:
    """Read one shard.

    Args:
        task: which, and its keys.
        needed: columns of `tokens` beside keys and `sample`; `KEPT` counts the recorded ids of every row.
        supervised: only such rows; else prompts, padding and edges are read too, as far as they were recorded.
        width: how many of the best tokens' distances; by default as many as the definitions look at.

    Raises:
        DamagedDumpError: the file is gone, its bytes are not those that were written, or it lacks a column.
    """
    table = _table(task, needed)
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise DamagedDumpError(
            f"shard {task.name} has no column {missing[0]!r}, which its session.json says was recorded; "
            "restore that file from a copy"
        )
    frame = _frame(table)
    if "top_ids" in table.column_names:
        frame = frame.with_columns(top_1=_first_ids(table["top_ids"]))
    widths = {"top_gap": (width or gaps_needed(task.spec), np.inf), "lse_beta": (len(BETAS), np.nan)}
    lists = {name: _dense(table[name], *of) for name, of in widths.items() if name in table.column_names}
    keep = (pl.col("flags") & int(Flag.SUPERVISED)) != 0 if supervised else pl.lit(value=True)
    if task.hidden_from is not None:
        keep &= ~((pl.col("phase") == "train") & (pl.col("step") >= task.hidden_from))
    kept = frame.with_columns(keep.alias("keep"))["keep"]
    if not kept.all():  # else every column would be copied
        frame = frame.filter(kept)
        lists = {name: values[kept.to_numpy()] for name, values in lists.items()}
    if task.lookup is not None:
        frame = frame.join(task.lookup, on=["sample", "dataset"], how="left", maintain_order="left")
    absent = [pl.lit(None).alias(name) for name in task.keys if name not in frame.columns]
    frame = frame.with_columns(absent)
    measured = ["sample", "top_1", *needed]
    columns = {name: _values(frame[name]) for name in measured if name in frame.columns}
    return ShardRows(frame.select(task.keys), columns | lists)


def _table(task: ShardTask, needed: Sequence[str]) -> pa.Table:
    """The wanted columns, after a check of all bytes.

    pyarrow, because polars takes three times as long for the one column of lists.
    """
    try:
        data = task.path.read_bytes()
    except OSError as error:
        raise DamagedDumpError(
            f"shard {task.name} cannot be read ({error.strerror}). `logitbox verify` lists all such"
        ) from error
    if hashlib.sha256(data).hexdigest() != task.sha256:
        raise DamagedDumpError(
            f"shard {task.name} is altered: its checksum differs from the journal's. `logitbox verify` lists all such"
        )
    file = pq.ParquetFile(pa.BufferReader(data))
    wanted = dict.fromkeys([*task.keys, "sample", "flags", *needed])
    if task.hidden_from is not None:
        wanted |= dict.fromkeys(("phase", "step"))
    if task.lookup is not None:
        wanted |= {"dataset": None}
    # A by-column may be one that only other sessions recorded.
    table = file.read([name for name in wanted if name in file.schema_arrow.names], use_threads=False)
    return table.append_column(KEPT, pa.array(_kept(file, task.spec.k))) if KEPT in needed else table


def _kept(file: pq.ParquetFile, k: int) -> Int:
    """How many of the best ids every row has: all k unless lists were cut, which the file's counts tell.

    So the column is seldom read: that would take as long as all the rest.
    """
    meta: Any = file.metadata
    if "top_ids" not in file.schema_arrow.names:
        return np.zeros(meta.num_rows, dtype=np.int64)
    paths = [file.schema.column(i).path for i in range(meta.num_columns)]
    at = next(i for i, path in enumerate(paths) if path.split(".")[0] == "top_ids")
    values = sum(meta.row_group(group).column(at).num_values for group in range(meta.num_row_groups))
    if k > 1 and values == k * meta.num_rows:  # no list is longer, and an empty one counts 1
        return np.full(meta.num_rows, k, dtype=np.int64)
    lists = file.read(["top_ids"], use_threads=False)["top_ids"]
    lengths = pl.Series(pl.from_arrow(pc.list_value_length(lists)))
    return lengths.fill_null(0).to_numpy().astype(np.int64)


def _frame(table: pa.Table) -> pl.DataFrame:
    """Every column but the lists, as polars."""
    frame: Any = pl.from_arrow(table.select([name for name in table.column_names if name not in _LISTS]))
    return frame


def _first_ids(lists: pa.ChunkedArray[Any]) -> Int:
    """The first id of every list, −1 where a list is empty."""
    parts: list[Int] = [np.zeros(0, dtype=np.int64)]
    for chunk in lists.chunks:
        array: Any = chunk
        offsets, ids = array.offsets.to_numpy(), array.values.to_numpy(zero_copy_only=False)
        start, has_any = offsets[:-1], offsets[1:] > offsets[:-1]
        first = np.full(len(start), -1, dtype=np.int64)
        first[has_any] = ids[start[has_any]]
        parts.append(first)
    return np.concatenate(parts)


def _dense(lists: pa.ChunkedArray[Any], width: int, filling: float) -> Array:
    """The first numbers of every list, float64 [rows, width]; `filling` where a list is shorter, or null."""
    parts: list[Array] = []
    for chunk in lists.chunks:
        array: Any = chunk
        offsets, numbers = array.offsets.to_numpy(), array.values.to_numpy(zero_copy_only=False)
        lengths = np.diff(offsets)
        if len(lengths) and lengths.min() == lengths.max() >= width:
            # Column by column: exponentials and sums over so few columns are then several times faster.
            whole = numbers[offsets[0] : offsets[-1]].reshape(len(lengths), -1)
            parts.append(whole[:, :width].astype(np.float64, order="F"))
            continue
        place = offsets[:-1, None] + np.arange(width)
        inside = place < offsets[1:, None]
        found = numbers[np.where(inside, place, 0)] if len(numbers) else np.zeros(place.shape)
        parts.append(np.where(inside, found.astype(np.float64), filling))
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros((0, width)), *parts])


def _values(column: pl.Series) -> Array:
    if column.name in _RANKS:
        column = column.fill_null(-1)
    if column.name in ("flags", "types"):
        column = column.cast(pl.Int64)
    values = column.to_numpy()
    return values.astype(np.float64) if values.dtype == np.float32 else values


def codes(frame: pl.DataFrame, keys: Sequence[str]) -> tuple[Int, pl.DataFrame]:
    """(number of each row's key, the distinct keys in order of first appearance); nulls are equal."""
    keyed = frame.select(keys)
    runs = keyed.select(pl.struct(keys).rle_id()).to_series().to_numpy().astype(np.int64)
    first = keyed[np.flatnonzero(np.diff(runs, prepend=-1)).tolist()]
    distinct = first.unique(maintain_order=True)
    numbered = distinct.with_row_index("_code")
    joined = first.join(numbered, on=list(keys), how="left", nulls_equal=True, maintain_order="left")
    return joined["_code"].to_numpy().astype(np.int64)[runs], distinct
