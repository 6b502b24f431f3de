"""Which micro-batches a logged line is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.audit.micros import Micros

Int = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Alignment:
    """How logged steps and recorded steps are counted against each other.

    Attributes:
        shift: recorded step − logged step of the same moment.
        about: in words.
    """

    shift: int
    about: str


TRAIN = (
    Alignment(0, "a line at step L with the one before at P is about the recorded steps P+1 to L"),
    Alignment(
        -1, "a line at step L with the one before at P is about the recorded steps P to L−1 (counted from 0)"
    ),
)
EVAL = (
    Alignment(0, "a line at step L is about the evaluation recorded at L"),
    Alignment(-1, "a line at step L is about the evaluation recorded at L−1"),
    Alignment(1, "a line at step L is about the evaluation recorded at L+1"),
)


@dataclass(frozen=True, eq=False)
class Windows:
    """Pairs of a line and a micro-batch that it is about.

    Attributes:
        line, micro: int64 [J], numbers of both.
        covered: bool [lines]: every step of the line was recorded.
    """

    line: Int
    micro: Int
    covered: Mask

    def only(self, numbers: Int) -> Windows:
        """The pairs of some lines."""
        kept = np.isin(self.line, numbers)
        return Windows(self.line[kept], self.micro[kept], self.covered)


def train_windows(steps: Int, micros: Micros, alignment: Alignment, more: int = 0) -> Windows:
    """Windows of training lines.

    Args:
        steps: of the lines, ascending, int64 [L].
        micros: recorded.
        alignment: one of `TRAIN`.
        more: steps of the line before that count again (1: "line+1").
    """
    before = np.concatenate([[_start(steps, micros, alignment)], steps[:-1]]) if len(steps) else steps
    first, last = before + 1 + alignment.shift - more, steps + alignment.shift
    if len(first):
        first[0] += more  # nothing was logged before the first line
    recorded = micros.steps
    held = np.searchsorted(recorded, last, "right") - np.searchsorted(recorded, first, "left")
    covered = (held == last - first + 1) & (last >= first)
    order = np.argsort(micros.where["step"], kind="stable")
    sorted_steps = micros.where["step"][order]
    begin, end = np.searchsorted(sorted_steps, first, "left"), np.searchsorted(sorted_steps, last, "right")
    line, place = _spans(begin, np.where(covered, end, begin))
    return Windows(line, order[place], covered)


def eval_windows(steps: Int, micros: Micros, alignment: Alignment) -> Windows:
    """Windows of evaluation lines: the last pass over the set at that step."""
    wanted = steps + alignment.shift
    last_pass = {
        int(step): int(micros.where["pass"][micros.where["step"] == step].max()) for step in micros.steps
    }
    line: list[Int] = []
    micro: list[Int] = []
    for number, step in enumerate(wanted.tolist()):
        if step not in last_pass:
            continue
        found = np.flatnonzero((micros.where["step"] == step) & (micros.where["pass"] == last_pass[step]))
        line.append(np.full(len(found), number))
        micro.append(found)
    nothing = np.zeros(0, dtype=np.int64)
    covered = np.isin(wanted, micros.steps)
    return Windows(np.concatenate([nothing, *line]), np.concatenate([nothing, *micro]), covered)


def guess_steps(count: int, recorded: Int, logging_steps: float | None, *, is_train: bool) -> Int:
    """Steps of lines that tell none: evaluations in their order, training lines evenly spaced.

    Args:
        count: of lines.
        recorded: steps, ascending.
        logging_steps: steps between lines, where the log tells them.
        is_train: of which phase.
    """
    if not len(recorded) or not count:
        return np.zeros(0, dtype=np.int64)
    if not is_train:
        return recorded[:count] if len(recorded) == count else recorded[:0]
    between = int(logging_steps) if logging_steps else max(1, len(recorded) // count)
    return np.arange(1, count + 1, dtype=np.int64) * between


def _start(steps: Int, micros: Micros, alignment: Alignment) -> int:
    """The step before the first line's window: one interval earlier, but not before training began."""
    usual = int(np.median(np.diff(steps))) if len(steps) > 1 else int(steps[0])
    begin = max(int(steps[0]) - usual, 0)
    # A run that was resumed between two lines begins with a shorter window.
    recorded = micros.steps
    inside = recorded[(recorded > begin + alignment.shift) & (recorded <= steps[0] + alignment.shift)]
    if len(inside) and inside[0] == recorded[0]:
        return int(inside[0]) - 1 - alignment.shift
    return begin


def _spans(begin: Int, end: Int) -> tuple[Int, Int]:
    """(number of the span, place) for every place of all spans [begin, end)."""
    length = end - begin
    line = np.repeat(np.arange(len(begin), dtype=np.int64), length)
    offset = np.arange(int(length.sum()), dtype=np.int64) - np.repeat(np.cumsum(length) - length, length)
    return line, begin[line] + offset


def ordered_alignments(is_train: bool) -> Sequence[Alignment]:
    """Alignments to try, the usual one first."""
    return TRAIN if is_train else EVAL
