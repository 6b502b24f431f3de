"""The micro-batches of one phase and dataset as arrays, one number for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.audit.evidence import MICRO, Evidence

Float = NDArray[np.float64]
Int = NDArray[np.int64]

_BATCH = ("rows", "positions", "predicted", "n_supervised")


@dataclass(frozen=True, eq=False)
class Micros:
    """M micro-batches, by pass, step, micro, rank; those without any label are among them.

    Attributes:
        where: pass, step, micro, rank, each int64 [M].
        batches: rows, positions, predicted, n_supervised, each float64 [M]; NaN where it was not recorded.
        cells: population to its frame, with the column `at`, the number of the micro-batch.
    """

    where: dict[str, Int]
    batches: dict[str, Float]
    cells: dict[str, pl.DataFrame]
    _known: dict[tuple[str, str], Float | None] = field(default_factory=dict[tuple[str, str], Float | None])

    @property
    def count(self) -> int:
        """M."""
        return len(self.where["step"])

    @property
    def steps(self) -> Int:
        """Recorded steps, ascending, each once."""
        return np.unique(self.where["step"])

    def column(self, population: str, name: str) -> Float | None:
        """A sum of every micro-batch, float64 [M]: 0 where the population has no tokens, NaN where it is not known.

        None where no micro-batch has it.
        """
        key = (population, name)
        if key not in self._known:
            self._known[key] = self._made(population, name)
        return self._known[key]

    def _made(self, population: str, name: str) -> Float | None:
        cells = self.cells.get(population)
        if cells is None or name not in cells.columns or cells[name].null_count() == cells.height:
            return None
        values = np.zeros(self.count)
        values[cells["at"].to_numpy()] = cells[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        return values


def micros_of(evidence: Evidence, phase: str, dataset: str) -> Micros:
    """The micro-batches of a phase and dataset."""
    here = (pl.col("phase") == phase) & (pl.col("dataset") == dataset)
    cells, batches = evidence.cells.filter(here), evidence.batches.filter(here)
    keys = [name for name in MICRO if name not in ("phase", "dataset")]
    order = ["pass", "step", "micro", "rank"]
    every = pl.concat([batches.select(keys), cells.select(keys)]).unique().sort(order).with_row_index("at")
    known = every.join(batches.unique(keys, keep="last"), on=keys, how="left", maintain_order="left")
    placed = cells.join(every, on=keys, how="left", maintain_order="left")
    parts = placed.partition_by("population", as_dict=True, maintain_order=True)
    return Micros(
        where={name: every[name].cast(pl.Int64).to_numpy() for name in order},
        batches={name: _floats(known, name) for name in _BATCH},
        cells={str(name[0]): part for name, part in parts.items()},
    )


def streams_of(evidence: Evidence) -> Sequence[tuple[str, str]]:
    """(phase, dataset) pairs that were recorded, in order."""
    both = pl.concat([frame.select("phase", "dataset") for frame in (evidence.batches, evidence.cells)])
    return [(str(phase), str(dataset)) for phase, dataset in both.unique(maintain_order=True).rows()]


def _floats(frame: pl.DataFrame, name: str) -> Float:
    if name not in frame.columns:
        return np.full(frame.height, np.nan)
    return frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
