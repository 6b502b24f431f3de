"""How the micro-batches of the lines are grouped, for one way of averaging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.audit.hypotheses.entries import Reduction
from logitbox.analysis.audit.micros import Micros
from logitbox.analysis.audit.windows import Windows

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Plan:
    """Pairs of line and micro-batch, in groups of groups.

    Attributes:
        micro: number of the micro-batch of every pair that counts, int64 [J].
        codes: from the finest to the coarsest level, the group that each member of the finer one is in: pairs at first,
            then groups; int64.
        sizes: groups of every level.
        line: line of every group of the last level, int64.
        pair_line: line of every pair, [J].
    """

    micro: Int
    codes: tuple[Int, ...]
    sizes: tuple[int, ...]
    line: Int
    pair_line: Int

    def summed(self, level: int, values: Float) -> Float:
        """Σ over the members of every group of a level."""
        found: Any = np.bincount(self.codes[level], values, self.sizes[level])
        return found


def plan_of(micros: Micros, windows: Windows, reduction: Reduction) -> Plan:
    """The groups of a reduction: its own levels, and the lines themselves."""
    kept = _kept(micros, windows, reduction)
    micro, line = windows.micro[kept], windows.line[kept]
    codes: list[Int] = []
    sizes: list[int] = []
    member = np.arange(len(micro), dtype=np.int64)  # a pair that stands for each member
    for by in (*(level.by for level in reduction.levels), ()):
        _, first, code = np.unique(
            _numbered(micros, micro[member], line[member], by), return_index=True, return_inverse=True
        )
        codes.append(code.astype(np.int64))
        sizes.append(len(first))
        member = member[first]
    return Plan(micro, tuple(codes), tuple(sizes), line[member], line)


def _numbered(micros: Micros, micro: Int, line: Int, by: tuple[str, ...]) -> Int:
    """A number for each pair, the same for pairs of one line that agree in `by`."""
    code = line
    for name in by:
        column = micros.where[name]
        low, high = int(column.min(initial=0)), int(column.max(initial=0))
        code = code * (high - low + 1) + (column[micro] - low)
    return code


def _kept(micros: Micros, windows: Windows, reduction: Reduction) -> Int:
    """Pairs that count at all."""
    micro, step = micros.where["micro"][windows.micro], micros.where["step"][windows.micro]
    kept = np.ones(len(micro), dtype=np.bool_)
    if reduction.keep == "rank_0":
        kept = micros.where["rank"][windows.micro] == 0
    if reduction.keep == "first_ranks_at_end":
        kept = ~micros.cut[windows.micro]
    if reduction.keep == "finite":
        kept = ~micros.lossy[windows.micro]
    if reduction.keep in ("last_step", "last_micro_of_last_step"):
        kept &= step == _greatest(step, windows.line)
    if reduction.keep in ("last_micro", "last_micro_of_last_step"):
        _, moment = np.unique(np.stack([windows.line, step]), axis=1, return_inverse=True)
        kept &= micro == _greatest(micro, moment.astype(np.int64))
    return np.flatnonzero(kept)


def _greatest(values: Int, group: Int) -> Int:
    """The greatest value of each element's group, for each element."""
    most = np.full(int(group.max(initial=0)) + 1, np.iinfo(np.int64).min)
    np.maximum.at(most, group, values)
    return most[group]
