"""The micro-batches of one phase and dataset as arrays, one number for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.audit.ends import Mask, cut_ranks
from logitbox.analysis.audit.evidence import MICRO, Evidence
from logitbox.analysis.audit.hypotheses.populations import DUPLICATES

Float = NDArray[np.float64]
Int = NDArray[np.int64]

_BATCH = ("epoch", "rows", "positions", "predicted", "n_supervised")


@dataclass(frozen=True, eq=False)
class Micros:
    """M micro-batches, by pass, step, micro, rank; those without any label are among them.

    Attributes:
        where: pass, step, micro, rank, each int64 [M].
        batches: epoch, rows, positions, predicted, n_supervised, each float64 [M]; NaN where it was not recorded.
            `unrepeated` are the rows but those that were flagged as a sampler's repeats.
        cells: population to its frame, with the column `at`, the number of the micro-batch.
        is_train: whether the stream is of the phase "train".
        world: ranks that take part in every step; 1 where that is not known.
    """

    where: dict[str, Int]
    batches: dict[str, Float]
    cells: dict[str, pl.DataFrame]
    is_train: bool = True
    world: int = 1
    _known: dict[tuple[str, str], Float | None] = field(default_factory=dict[tuple[str, str], Float | None])

    @property
    def count(self) -> int:
        """M."""
        return len(self.where["step"])

    @property
    def steps(self) -> Int:
        """Recorded steps, ascending, each once."""
        return np.unique(self.where["step"])

    @cached_property
    def cut(self) -> Mask:
        """Those that a trainer leaves out which cuts ranks as if they were samples, bool [M]; see `cut_ranks`."""
        columns = {name: self.batches[name] for name in ("epoch", "unrepeated")}
        frame = pl.DataFrame(self.where | columns).with_columns(pl.col("epoch").fill_nan(None))
        return cut_ranks(frame, is_train=self.is_train, has_repeats=bool(self.repeats.any()))

    @property
    def repeats(self) -> Mask:
        """Those with rows that were flagged as a sampler's repeats, bool [M]."""
        return self.batches["unrepeated"] < self.batches["rows"]

    @cached_property
    def lossy(self) -> Mask:
        """Those with a supervised token that is infinite or NaN, bool [M]."""
        lost = self.column("", "n_nonfinite")
        return np.zeros(self.count, dtype=np.bool_) if lost is None else lost > 0

    @cached_property
    def partial(self) -> Int:
        """Steps of which something was not recorded, ascending: a rank is missing, or tokens are, in a damaged shard."""
        step, _ = np.unique(np.stack([self.where["step"], self.where["rank"]]), axis=1)
        steps, ranks = np.unique(step, return_counts=True)
        held = np.zeros(self.count, dtype=np.bool_)
        for cells in self.cells.values():
            held[cells["at"].to_numpy()] = True
        lost = (self.batches.get("n_supervised", np.zeros(self.count)) > 0) & ~held
        few = steps[ranks < max(self.world, int(ranks.max(initial=0)))]
        return np.union1d(few, self.where["step"][lost])

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
    micros = Micros(
        where={name: every[name].cast(pl.Int64).to_numpy() for name in order},
        batches={name: _floats(known, name) for name in _BATCH},
        cells={str(name[0]): part for name, part in parts.items()},
        is_train=phase == "train",
        world=evidence.setup.world if phase == "train" else 1,
    )
    unique, all_ = (micros.column(population, "samples") for population in ("", DUPLICATES))
    repeated = 0.0 if unique is None or all_ is None else all_ - unique
    micros.batches["unrepeated"] = micros.batches["rows"] - repeated
    return micros


def streams_of(evidence: Evidence) -> Sequence[tuple[str, str]]:
    """(phase, dataset) pairs that were recorded, in order."""
    both = pl.concat([frame.select("phase", "dataset") for frame in (evidence.batches, evidence.cells)])
    return [(str(phase), str(dataset)) for phase, dataset in both.unique(maintain_order=True).rows()]


def _floats(frame: pl.DataFrame, name: str) -> Float:
    if name not in frame.columns:
        return np.full(frame.height, np.nan)
    return frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
