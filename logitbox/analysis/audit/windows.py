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
        covered: bool [lines]: it is known which steps the line is about, and all of them were recorded wholly.
    """

    line: Int
    micro: Int
    covered: Mask

    def only(self, numbers: Int) -> Windows:
        """The pairs of some lines."""
        kept = np.isin(self.line, numbers)
        return Windows(self.line[kept], self.micro[kept], self.covered)


def train_windows(
    steps: Int, micros: Micros, alignment: Alignment, more: int = 0, between: int | None = None
) -> Windows:
    """Windows of training lines.

    The first line is covered only where it begins with training, or where lines are one step apart: else a resumed run
    may have begun anywhere in its window.

    Args:
        steps: of the lines, ascending, int64 [L].
        micros: recorded.
        alignment: one of `TRAIN`.
        more: steps of the line before that count again (1: "line+1").
        between: steps between lines, where the log tells them.
    """
    start, is_known = _start(steps, micros, alignment, between)
    before = np.concatenate([[start], steps[:-1]]) if len(steps) else steps
    first, last = before + 1 + alignment.shift - more, steps + alignment.shift
    if len(first):
        first[0] += more  # nothing was logged before the first line
    recorded = micros.steps
    held = np.searchsorted(recorded, last, "right") - np.searchsorted(recorded, first, "left")
    covered = (held == last - first + 1) & (last >= first) & ~_any_within(first, last, micros.partial)
    covered[:1] &= is_known
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
    covered = np.isin(wanted, micros.steps) & ~np.isin(wanted, micros.partial)
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


def _start(steps: Int, micros: Micros, alignment: Alignment, between: int | None) -> tuple[int, bool]:
    """(the step before the first line's window, whether it is known to be)."""
    if not len(steps):
        return 0, False
    recorded, gaps = micros.steps, np.diff(steps)
    told, often = np.unique(gaps, return_counts=True)
    usual = between or (int(told[often.argmax()]) if len(gaps) else int(steps[0]))
    # Lines and recorded steps that are both counted from 0 begin with step 0, not with 1.
    earliest = min(0, int(recorded[0]) - 1 - alignment.shift) if len(recorded) else 0
    begin = max(int(steps[0]) - max(usual, 1), earliest)
    return begin, begin <= 0 or (len(gaps) > 1 and bool((gaps == 1).all()))


def lacks_lines(steps: Int, logged: Int, between: int | None = None) -> Mask:
    """Lines of a key before which one of its lines may be missing, bool [L].

    Their gap is not the key's usual one, and something else was logged inside it, or should have been: a value that was
    null, or a key that is logged now and then. Whether the line is about all of the gap cannot be known.

    Args:
        steps: of the key's lines, ascending, int64 [L].
        logged: steps of all lines of the phase, ascending.
        between: steps between lines, where the log tells them.
    """
    gaps = np.diff(steps)
    told, often = np.unique(gaps, return_counts=True)
    is_unusual = gaps != told[often.argmax()] if len(gaps) > 1 else np.zeros(len(gaps), dtype=np.bool_)
    is_doubtful = is_unusual & _any_within(steps[:-1] + 1, steps[1:] - 1, logged)
    if between is not None:
        is_doubtful |= gaps > between
    return np.concatenate([np.zeros(min(len(steps), 1), dtype=np.bool_), is_doubtful])


def _any_within(first: Int, last: Int, places: Int) -> Mask:
    """Whether any of some sorted places is from `first` to `last`."""
    return np.searchsorted(places, last, "right") > np.searchsorted(places, first, "left")


def _spans(begin: Int, end: Int) -> tuple[Int, Int]:
    """(number of the span, place) for every place of all spans [begin, end)."""
    length = end - begin
    line = np.repeat(np.arange(len(begin), dtype=np.int64), length)
    offset = np.arange(int(length.sum()), dtype=np.int64) - np.repeat(np.cumsum(length) - length, length)
    return line, begin[line] + offset


def ordered_alignments(is_train: bool) -> Sequence[Alignment]:
    """Alignments to try, the usual one first."""
    return TRAIN if is_train else EVAL
