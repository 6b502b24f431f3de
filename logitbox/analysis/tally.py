"""One pass over a shard gives its tally: every sum that a metric can be made of.

Tallies add up: a dump's is that of its shards, merged in recording order. Sums are float64, made per shard in a
fixed order, so that results are the same to the bit whoever computed them. Memory is bounded by one shard and the
number of cells, never by the number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from logitbox.analysis.meanings import fingerprint
from logitbox.analysis.populations import masks, quantities
from logitbox.analysis.reading import ShardTask, codes, read_rows, tally_columns
from logitbox.analysis.sums import CellSums, Classes, Units
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.definitions.tokens import duplicate, finite, type_names
from logitbox.dumps.spec import RecordSpec

Int = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Sums over tokens.

    Attributes:
        cells: one row per key, fingerprint of the session's definitions (`spec`) and population (`type`): `n` tokens,
            `n_nonfinite` and `n_duplicate` left out (a duplicate counts there only), `clusters` samples, `nn` = Σ nᵢ² over samples, and for every quantity x the
            columns `x` = Σx, `x:xx` = Σ xᵢ² and `x:xn` = Σ xᵢ nᵢ (xᵢ a sample's sum), from which clustered
            intervals follow. Null where the session did not record the quantity.
    """

    cells: pl.DataFrame


def tally_shard(task: ShardTask) -> Tally:
    """Tally one shard. Raises DamagedDumpError if its bytes are not those that were written."""
    shard = read_rows(task, tally_columns(task.spec))
    cell, cells = codes(shard.keys, task.keys)
    rows = Rows(shard.columns, task.spec)
    member = masks(rows)
    classes = Classes.of(list(member.values()))
    repeated = duplicate(rows)
    good = finite(rows) & ~repeated
    lost = {
        name: _lost(cell[left_out], len(cells), classes, classes.of_row[left_out])
        for name, left_out in (("n_nonfinite", ~good & ~repeated), ("n_duplicate", repeated))
    }
    columns, kind = shard.columns, classes.of_row
    if not good.all():
        columns = {name: values[good] for name, values in columns.items()}
        cell, kind = cell[good], kind[good]
    values = quantities(Rows(columns, task.spec), task.thresholds)
    types = type_names(task.spec)
    is_type = classes.member[:, [list(member).index(name) for name in types]]
    units = Units.of(cell, columns["sample"], kind, is_type, list(values.values()))
    names = [*values, *(f"is_{name}" for name in types)]
    sums = [units.over(classes.member[units.kind, p]) for p in range(len(member))]
    return Tally(_cells_frame(cells, task.spec, list(member), names, sums, lost))


def _lost(cell: Int, n_cells: int, classes: Classes, kind: Int) -> Int:
    """Tokens left out per cell and population, [cells, populations]."""
    of_class = np.bincount(cell * len(classes) + kind, minlength=n_cells * len(classes))
    return of_class.reshape(n_cells, len(classes)) @ classes.member.astype(np.int64)


def _cells_frame(
    cells: pl.DataFrame,
    session: RecordSpec,
    populations: Sequence[str],
    names: Sequence[str],
    sums: Sequence[CellSums],
    lost: Mapping[str, Int],
) -> pl.DataFrame:
    """The cells that have tokens, left out or not, population by population."""
    n_of = np.zeros((len(cells), len(populations)), dtype=np.int64)
    for p, part in enumerate(sums):
        n_of[part.cell, p] = part.n
    any_of = n_of + sum(lost.values())
    place = [np.flatnonzero(any_of[:, p] > 0) for p in range(len(populations))]
    cell, population = np.concatenate(place), np.repeat(np.arange(len(place)), [len(one) for one in place])
    at = np.flatnonzero(n_of[cell, population] > 0)

    def spread(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        whole = np.concatenate(parts)
        filled = np.zeros((len(cell), *whole.shape[1:]), dtype=whole.dtype)
        filled[at] = whole
        return np.ascontiguousarray(filled.T)

    columns: dict[str, NDArray[Any]] = {
        **{name: count[cell, population] for name, count in lost.items()},
        "n": spread([part.n for part in sums]),
        "clusters": spread([part.clusters for part in sums]),
        "nn": spread([part.nn for part in sums]),
    }
    moments = (spread([getattr(part, of) for part in sums]) for of in ("x", "xx", "xn"))
    for name, x, xx, xn in zip(names, *moments, strict=True):
        columns |= {name: x, f"{name}:xx": xx, f"{name}:xn": xn}
    # By way of Arrow: polars takes ten times as long to make a hundred short columns.
    values: Any = pl.from_arrow(pa.table({name: pa.array(column) for name, column in columns.items()}))
    types = pl.Series("type", list(populations), dtype=pl.String).gather(population)
    spec = pl.lit(fingerprint(session)).alias("spec")
    return cells[cell.tolist()].with_columns(spec, types).hstack(values)


def merge_frames(frames: Sequence[pl.DataFrame], sums: Sequence[str] | None = None) -> pl.DataFrame:
    """Add up rows with equal keys, in the order given.

    Args:
        frames: frames whose non-sum columns are the keys. A sum that is null in any row of a key, or that a
            frame lacks, is null for that key: unknown, not 0.
        sums: columns to add up; by default all that come after `type`.
    """
    whole = pl.concat(frames, how="diagonal_relaxed")
    names = list(sums) if sums is not None else whole.columns[whole.columns.index("type") + 1 :]
    keys = [name for name in whole.columns if name not in names]
    code, distinct = codes(whole, keys)
    return distinct.hstack([_add(whole[name], code, len(distinct)) for name in names])


def _add(column: pl.Series, code: Int, count: int) -> pl.Series:
    """Sums per code, adding in row order (unlike a parallel group-by, the same to the bit every time)."""
    weights = column.fill_null(0).to_numpy().astype(np.float64)
    total = np.bincount(code, weights=weights, minlength=count)
    series = pl.Series(column.name, total.astype(np.int64) if column.dtype.is_integer() else total)
    if column.null_count() == 0:
        return series
    unknown = np.bincount(code, weights=column.is_null().to_numpy(), minlength=count) > 0
    return series.set(pl.Series(unknown), None)


def merge(tallies: Sequence[Tally]) -> Tally:
    """The tally of all shards together; give them in recording order."""
    return Tally(merge_frames([tally.cells for tally in tallies]))
