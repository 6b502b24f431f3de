"""One shard's part of an audit's evidence: one row per micro-batch and population, sums made in a fixed order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from logitbox.analysis.audit.evidence import MICRO, SAMPLE_MEANS
from logitbox.analysis.audit.hypotheses.populations import Line, Mask, Members, members
from logitbox.analysis.audit.hypotheses.values import (
    GOLD_BYTES,
    SAMPLE_PERPLEXITY,
    SEQUENCE_CORRECT,
    columns_of,
    evaluate,
)
from logitbox.analysis.reading import ShardTask, codes, read_rows
from logitbox.analysis.sums import Classes, Units
from logitbox.dumps.definitions.entries import ALL
from logitbox.dumps.definitions.rows import Rows

Array = NDArray[Any]
Float = NDArray[np.float64]
Int = NDArray[np.int64]

_MOST_NATS = 700.0
"""Of which float64 still has the exponential."""

_EVERY = ("pos", "gold", "flags", "types")


@dataclass(frozen=True, eq=False)
class EvidenceTask(ShardTask):
    """A shard, and what the vocabulary tells."""

    sizes: NDArray[np.int32] | None = None
    """Bytes of each token's text, −1 where unknown; None without a vocabulary."""

    @property
    def options(self) -> str:
        """Part of the name of the cached result."""
        return "" if self.sizes is None else hashlib.sha256(self.sizes.tobytes()).hexdigest()


@dataclass(frozen=True)
class Cells:
    """Sums of a shard, or of several.

    Attributes:
        cells: as `Evidence.cells`, with some rows more: where a population of `populations.OWN` differs from its base
            anywhere in a shard, it has a row for each of its micro-batches, also of no tokens; elsewhere it has none.
    """

    cells: pl.DataFrame


def cells_of_shard(task: EvidenceTask) -> Cells:
    """Sum up one shard. Raises DamagedDumpError if its bytes are not those that were written."""
    needed = list(dict.fromkeys([*_EVERY, *columns_of(task.spec)]))
    shard = read_rows(task, needed, supervised=False, width=task.spec.k)
    cell, cells = codes(shard.keys, MICRO)
    columns = shard.columns | {GOLD_BYTES: _sizes(shard.columns["gold"], task.sizes)}
    sample, pos = (columns[name].astype(np.int64) for name in ("sample", "pos"))
    found = members(Rows(columns, task.spec), Line.of(cell, sample, pos))
    used = np.any(list(found.masks.values()), axis=0)
    values = evaluate(Rows({name: column[used] for name, column in columns.items()}, task.spec))
    classes = Classes.of([mask[used] for mask in found.masks.values()])
    instance = _instances(cell[used], sample[used], pos[used])
    no_shares = np.zeros((len(classes), 0), dtype=np.bool_)
    units = Units.of(cell[used], instance, classes.of_row, no_shares, list(values.values()))
    nll, correct = (list(values).index(name) for name in ("nll", "correct"))
    sums = {
        name: _sums(units, classes.member[units.kind, place], nll, correct)
        for place, name in enumerate(found.masks)
    }
    return Cells(
        _frame(
            cells, sums, [*values, SEQUENCE_CORRECT, SAMPLE_PERPLEXITY], _Shown.of(cell, len(cells), found)
        )
    )


def _sizes(gold: Array, sizes: NDArray[np.int32] | None) -> Float:
    if sizes is None:
        return np.full(len(gold), np.nan)
    is_known = (gold >= 0) & (gold < len(sizes))
    size = sizes[np.where(is_known, gold, 0)]
    return np.where(is_known & (size >= 0), size, np.nan)


def _instances(cell: Int, sample: Int, pos: Int) -> Int:
    """A number for each sample of a micro-batch; one that comes twice in it, so that `pos` starts anew, is two."""
    order = np.lexsort((sample, cell))
    goes_on = (np.diff(cell[order]) == 0) & (np.diff(sample[order]) == 0) & (np.diff(pos[order]) > 0)
    number = np.empty(len(cell), dtype=np.int64)
    number[order] = np.cumsum(np.r_[True, ~goes_on][: len(cell)]) - 1
    return number


def _sums(units: Units, chosen: Mask, nll: int, correct: int) -> tuple[Int, Float]:
    """One population: (cells that have tokens, [cells, 2 + 2 × values] of n, samples, every Σ x, every Σᵢ xᵢ/nᵢ)."""
    first = _starts(units.cluster[chosen])
    n, x = _added(units.n[chosen], first), _added(units.x[chosen], first)
    right = x[:, correct]
    all_right = np.where(np.isnan(right), np.nan, right == n)
    perplexity = np.exp(np.minimum(x[:, nll] / n, _MOST_NATS))
    x = np.column_stack([x, n * all_right, n * perplexity])
    cell = units.cell[chosen][first]
    start = _starts(cell)
    each = np.column_stack([n, np.ones(len(n)), x, x / n[:, None]])
    return cell[start], _added(each, start)


def _starts(ascending: Int) -> Int:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.diff(ascending, prepend=-1))


def _added(values: Float, start: Int) -> Float:
    return np.add.reduceat(values, start, axis=0) if len(start) else values[:0]


@dataclass(frozen=True, eq=False)
class _Shown:
    """Which rows there are beside those of cells with tokens.

    Attributes:
        base: population of `OWN` to the one without its suffix, in whose cells it is shown.
        unknown: population to cells [cells] where tokens may belong to it or not, so that all is null.
        lost: tokens of "" that are not finite, [cells].
    """

    base: Mapping[str, str]
    unknown: Mapping[str, Mask]
    lost: Int

    @classmethod
    def of(cls, cell: Int, count: int, found: Members) -> _Shown:
        unknown = {name: np.bincount(cell[rows], minlength=count) > 0 for name, rows in found.unknown.items()}
        return cls(found.base, unknown, np.bincount(cell[found.lost], minlength=count))

    def also(self, name: str, sums: Mapping[str, tuple[Int, Float]]) -> Mask:
        """Cells of a population beside those with tokens, [cells]."""
        shown = self.unknown.get(name, np.zeros(len(self.lost), dtype=np.bool_)).copy()
        if name == ALL:
            shown |= self.lost > 0
        if name in self.base:
            shown[sums[self.base[name]][0]] = True
        return shown


def _frame(
    cells: pl.DataFrame, sums: Mapping[str, tuple[Int, Float]], values: Sequence[str], shown: _Shown
) -> pl.DataFrame:
    """Rows of all populations, one population after the other. Values that no row has are no columns."""
    at: list[Int] = []
    blocks: list[Float] = []
    for name, (cell, block) in sums.items():
        also = shown.also(name, sums)
        also[cell] = True
        at.append(np.flatnonzero(also))
        filled = np.zeros((len(at[-1]), block.shape[1]))
        filled[np.searchsorted(at[-1], cell)] = block
        if name in shown.unknown:
            filled[shown.unknown[name][at[-1]]] = np.nan
        blocks.append(filled)
    place, whole = np.concatenate(at), np.ascontiguousarray(np.concatenate(blocks).T)
    lengths = [len(block) for block in blocks]
    is_all = np.repeat([name == ALL for name in sums], lengths)
    made = pa.table(dict(_columns(whole, values, np.where(is_all, shown.lost[place], -1))))
    population = pl.Series("population", list(sums), dtype=pl.String).gather(
        np.repeat(np.arange(len(sums)), lengths)
    )
    # By way of Arrow: polars takes ten times as long to make a hundred short columns.
    columns: Any = pl.from_arrow(made)
    return cells[place.tolist()].with_columns(population).hstack(columns)


def _columns(whole: Float, values: Sequence[str], lost: Int) -> Iterator[tuple[str, Any]]:
    for name, column in zip(("n", "samples"), whole, strict=False):
        yield name, pa.array(column, from_pandas=True).cast(pa.int64())  # NaN becomes null
    yield "n_nonfinite", pa.array(lost, mask=lost < 0)
    names = [*values, *(f"{name}{SAMPLE_MEANS}" for name in values)]
    for name, column in zip(names, whole[2:], strict=True):
        if not np.isnan(column).all():
            yield name, pa.array(column, from_pandas=True)
