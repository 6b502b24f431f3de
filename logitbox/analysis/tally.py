"""One pass over a shard gives its tally: every sum that a metric can be made of.

Tallies add up: a dump's is that of its shards, merged in recording order. Sums are float64, made per shard in a
fixed order, so that results are the same to the bit whoever computed them. Memory is bounded by one shard and the
number of cells, never by the dump's size.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.histogram import COARSE, FINE, Grid
from logitbox.analysis.populations import Populations, needed_columns, quantities, usable
from logitbox.dumps.spec import RecordSpec
from logitbox.errors import DamagedDumpError

KEYS = ("phase", "dataset", "pass", "step", "epoch")
"""Columns of `tokens` that every tally is keyed by, beside the token type."""

HISTOGRAM_SUMS = ("n", "confidence", "correct")


@dataclass(frozen=True)
class ShardTask:
    """Everything a worker needs to tally one shard; picklable."""

    path: Path
    name: str
    sha256: str
    spec: RecordSpec
    hidden_from: int | None
    by: tuple[str, ...] = ()
    """Further key columns, of `tokens` or of `lookup`."""
    lookup: pl.DataFrame | None = None
    """(sample, dataset) to the `by` columns that come from the `samples` table."""


@dataclass(frozen=True)
class Tally:
    """Sums over tokens.

    Attributes:
        cells: one row per key and population (`type`): `n` tokens, `n_nonfinite` left out, `clusters` samples,
            `nn` = Σ nᵢ² over samples, and for every quantity x the columns `x` = Σx, `x:xx` = Σ xᵢ² and
            `x:xn` = Σ xᵢ nᵢ (xᵢ a sample's sum), from which clustered intervals follow.
        fine: confidence histogram per phase, dataset and type, sparse: `bin`, `n`, `confidence`, `correct`.
        coarse: the same per step, on the coarse grid.
    """

    cells: pl.DataFrame
    fine: pl.DataFrame
    coarse: pl.DataFrame


def tally_shard(task: ShardTask) -> Tally:
    """Tally one shard. Raises DamagedDumpError if its bytes are not those that were written."""
    frame = _read(task)
    keys = [*KEYS, *task.by]
    columns = {name: frame[name].to_numpy() for name in frame.columns if name not in keys}
    good, bad = usable(columns)
    cell_of_row, cells = codes(frame, keys)
    cluster_of_row, cell_of_cluster = _clusters(cell_of_row, columns["sample"])
    kept = {name: values[good] for name, values in columns.items()}
    values = quantities(kept, task.spec)
    parts: list[pl.DataFrame] = []
    fine: list[pl.DataFrame] = []
    coarse: list[pl.DataFrame] = []
    everywhere = dict(Populations(task.spec).masks(columns))
    for name, mask in Populations(task.spec).masks(kept):
        rows = np.flatnonzero(mask)
        sums = _sums(
            cluster_of_row[good][rows], cell_of_cluster, {n: v[rows] for n, v in values.items()}, len(cells)
        )
        lost = np.bincount(cell_of_row[bad & everywhere[name]], minlength=len(cells))
        columns_of_part = {"n_nonfinite": lost.astype(np.int64), **sums}
        parts.append(cells.with_columns(pl.lit(name).alias("type")).hstack(pl.DataFrame(columns_of_part)))
        counted = {"confidence": values["confidence"][rows], "correct": values["correct"][rows]}
        for grid, key_names, out in ((FINE, ["phase", "dataset"], fine), (COARSE, keys, coarse)):
            wide_code, wide = codes(cells, key_names)
            out.append(_histogram(grid, wide_code[cell_of_row[good][rows]], wide, name, counted))
    return Tally(
        pl.concat(parts).filter((pl.col("n") > 0) | (pl.col("n_nonfinite") > 0)),
        merge_frames(fine, HISTOGRAM_SUMS),
        merge_frames(coarse, HISTOGRAM_SUMS),
    )


def _read(task: ShardTask) -> pl.DataFrame:
    """The shard's needed columns, hidden rows dropped, sample columns joined, floats widened."""
    data = task.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != task.sha256:
        raise DamagedDumpError(
            f"shard {task.name} is altered: its checksum differs from the journal's. `logitbox verify` lists all such"
        )
    joined = (
        []
        if task.lookup is None
        else [name for name in task.lookup.columns if name not in ("sample", "dataset")]
    )
    needed = [*KEYS, *(name for name in task.by if name not in joined), "sample", *needed_columns(task.spec)]
    frame = pl.read_parquet(io.BytesIO(data), columns=list(dict.fromkeys(needed)))
    if task.hidden_from is not None:
        frame = frame.filter(~((pl.col("phase") == "train") & (pl.col("step") >= task.hidden_from)))
    if task.lookup is not None:
        frame = frame.join(task.lookup, on=["sample", "dataset"], how="left", maintain_order="left")
    frame = frame.with_columns(pl.col("top_ids").list.first().alias("top_1")).drop("top_ids")
    widened = [
        pl.col(n).cast(pl.Float64) for n, t in frame.schema.items() if t == pl.Float32 and n not in KEYS
    ]
    return frame.with_columns(
        *widened, pl.col("flags", "types").cast(pl.Int64), pl.col("n_gt", "n_eq_before").fill_null(-1)
    )


def codes(frame: pl.DataFrame, keys: Sequence[str]) -> tuple[NDArray[np.int64], pl.DataFrame]:
    """(number of each row's key, the distinct keys in order of first appearance); nulls are equal."""
    runs = frame.select(pl.struct(keys).rle_id()).to_series().to_numpy().astype(np.int64)
    first = frame.select(keys)[np.flatnonzero(np.diff(runs, prepend=-1)).tolist()]
    distinct = first.unique(maintain_order=True)
    numbered = distinct.with_row_index("code")
    of_run = first.join(numbered, on=list(keys), how="left", nulls_equal=True, maintain_order="left")["code"]
    return of_run.to_numpy().astype(np.int64)[runs], distinct


def _clusters(
    cell: NDArray[np.int64], sample: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(cluster of each row, cell of each cluster); a cluster is one sample within one cell."""
    if len(cell) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    start = np.ones(len(cell), dtype=bool)
    start[1:] = (cell[1:] != cell[:-1]) | (sample[1:] != sample[:-1])
    pairs = np.stack([cell[start], sample[start]])
    distinct, inverse = np.unique(pairs, axis=1, return_inverse=True)
    return inverse.reshape(-1)[np.cumsum(start) - 1].astype(np.int64), distinct[0]


def _sums(
    cluster: NDArray[np.int64],
    cell_of_cluster: NDArray[np.int64],
    values: dict[str, NDArray[np.float64]],
    n_cells: int,
) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """Per cell: n, clusters, Σnᵢ², and for every quantity Σx, Σxᵢ², Σxᵢnᵢ."""
    n_clusters = len(cell_of_cluster)
    n = np.bincount(cluster, minlength=n_clusters).astype(np.float64)

    def per_cell(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(cell_of_cluster, weights=x, minlength=n_cells).astype(np.float64)

    sums: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {
        "n": per_cell(n).astype(np.int64),
        "clusters": per_cell((n > 0).astype(np.float64)).astype(np.int64),
        "nn": per_cell(n * n),
    }
    for name, value in values.items():
        x = np.bincount(cluster, weights=value, minlength=n_clusters).astype(np.float64)
        sums |= {name: per_cell(x), f"{name}:xx": per_cell(x * x), f"{name}:xn": per_cell(x * n)}
    return sums


def _histogram(
    grid: Grid,
    wide_code: NDArray[np.int64],
    wide: pl.DataFrame,
    name: str,
    values: dict[str, NDArray[np.float64]],
) -> pl.DataFrame:
    """Sparse histogram of confidence over (the keys of `wide`, type = `name`, bin)."""
    code = wide_code * grid.n_bins + grid.locate(values["confidence"])
    distinct, inverse = np.unique(code, return_inverse=True)
    sums = {n: np.bincount(inverse, weights=value, minlength=len(distinct)) for n, value in values.items()}
    return wide[(distinct // grid.n_bins).tolist()].hstack(
        pl.DataFrame(
            {
                "type": pl.Series([name] * len(distinct), dtype=pl.String),
                "bin": distinct % grid.n_bins,
                "n": np.bincount(inverse, minlength=len(distinct)).astype(np.int64),
                **sums,
            }
        )
    )


def merge_frames(frames: Sequence[pl.DataFrame], sums: Sequence[str] | None = None) -> pl.DataFrame:
    """Add up rows with equal keys, in the order given.

    Args:
        frames: frames whose non-sum columns are the keys; columns a frame lacks count as 0.
        sums: columns to add up; by default every integer or float column that is no key of a tally.
    """
    whole = pl.concat(frames, how="diagonal_relaxed")
    if whole.is_empty():
        return whole
    names = list(sums) if sums is not None else [name for name in whole.columns if _is_sum(name, whole)]
    keys = [name for name in whole.columns if name not in names]
    code, distinct = codes(whole, keys)
    return distinct.hstack(pl.DataFrame({name: _add(whole[name], code) for name in names}))


def _is_sum(name: str, frame: pl.DataFrame) -> bool:
    return name not in KEYS and frame.columns.index(name) > frame.columns.index("type")


def _add(column: pl.Series, code: NDArray[np.int64]) -> NDArray[np.float64] | NDArray[np.int64]:
    """Sums per code, adding in row order (unlike a parallel group-by, the same to the bit every time)."""
    total = np.bincount(code, weights=column.fill_null(0).to_numpy().astype(np.float64))
    return total.astype(np.int64) if column.dtype.is_integer() else total


def merge(tallies: Sequence[Tally]) -> Tally:
    """The tally of all shards together; give them in recording order."""
    return Tally(
        merge_frames([tally.cells for tally in tallies]),
        merge_frames([tally.fine for tally in tallies], HISTOGRAM_SUMS),
        merge_frames([tally.coarse for tally in tallies], HISTOGRAM_SUMS),
    )
