"""All checks of one run that need no dump."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from logitbox.analysis.audit.inequalities.entries import At, Inequality
from logitbox.analysis.audit.inequalities.interval import Float, Interval
from logitbox.analysis.audit.inequalities.levels import level_shifts
from logitbox.analysis.audit.inequalities.odd import nonfinite, nothing_trained, out_of_order, repeated
from logitbox.analysis.audit.inequalities.registry import INEQUALITIES
from logitbox.analysis.audit.inequalities.table import FLOAT, Table
from logitbox.analysis.audit.inequalities.unusual import (
    capped,
    granularity,
    loss_by_accuracy,
    loss_by_entropy,
    start,
)
from logitbox.analysis.audit.inequalities.weights import why_differing
from logitbox.analysis.audit.inequalities.whole_run import whole_run
from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.audit.result import Notice, Violation
from logitbox.analysis.logs.frame import Logged

CHECKS = (
    nonfinite,
    nothing_trained,
    out_of_order,
    repeated,
    whole_run,
    loss_by_accuracy,
    loss_by_entropy,
    start,
    capped,
    granularity,
    level_shifts,
)
"""Everything but inequalities: a table to what it finds."""


def check(
    logged: Logged, run: int, meanings: Mapping[str, Meaning], vocab_size: int | None = None
) -> tuple[list[Violation], list[Notice]]:
    """What the keys of a run imply of each other, and what else is odd.

    Args:
        logged: the log.
        run: which of its runs.
        meanings: key to what it promises, as `find_meanings` gives them.
        vocab_size: V, where it is known.

    Returns:
        (inequalities that are broken whatever was rounded away, one for each choice of keys with its worst row;
        oddities that convict nobody).
    """
    table = Table(logged, run, meanings, vocab_size)
    broken = (_told(one, table) for one in compared(table) if (one.gap > 0).any())
    found = [*broken, *(one for examine in CHECKS for one in examine(table))]
    return (
        [one for one in found if isinstance(one, Violation)],
        [one for one in found if isinstance(one, Notice)],
    )


@dataclass(frozen=True, eq=False)
class Compared:
    """An inequality on one choice of keys.

    Attributes:
        entry: the inequality.
        at: the keys.
        left, right: both sides, [moments].
        gap: by how much the left must be below the right, beyond rounding; not above 0 where it need not be, [moments].
    """

    entry: Inequality
    at: At
    left: Interval
    right: Interval
    gap: Float

    @property
    def keys(self) -> tuple[str, ...]:
        """The logged keys, each once."""
        return tuple(dict.fromkeys(known.key for known in self.at.known.values()))


def compared(table: Table) -> Iterator[Compared]:
    """Every inequality on every choice of keys that it speaks about."""
    for known in table.streams.values():
        for entry in INEQUALITIES:
            for at in entry.uses(known, table.facts):
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                    left, right = entry.left(at), entry.right(at)
                    yield Compared(entry, at, left, right, _gap(entry, left, right))


def _gap(entry: Inequality, left: Interval, right: Interval) -> Float:
    """By how much the left must be below the right, beyond rounding; not above 0 where it need not be."""
    gap = _below(left, right)
    return np.fmax(gap, _below(right, left)) if entry.relation == "=" else gap


def _below(left: Interval, right: Interval) -> Float:
    sides = np.stack([left.high, right.low])
    floor = FLOAT * (1 + np.where(np.isfinite(sides), np.abs(sides), 0.0).sum(0))
    return right.low - left.high - floor


def _told(found: Compared, table: Table) -> Violation | Notice:
    """The worst row."""
    entry, left, right, gap, keys = found.entry, found.left, found.right, found.gap, found.keys
    worst = int(np.nanargmax(gap / (1 + np.abs(np.where(np.isfinite(right.value), right.value, 0.0)))))
    lhs, rhs = float(left.value[worst]), float(right.value[worst])
    most, needed = left.high[worst], right.low[worst]
    if entry.relation == "=" and left.low[worst] > right.high[worst]:
        lhs, rhs, most, needed = rhs, lhs, right.high[worst], left.low[worst]
    ratio = float(most / needed) if needed > 0 and most > 0 else 0.0
    count = int((gap > 0).sum())
    why = why_differing(table.logged.framework, {known.value for known in found.at.known.values()}, ratio)
    if why or not entry.convicts:
        told = f"{entry.formula} does not hold: {lhs:.6g} against {rhs:.6g}. {entry.about}"
        told += (
            f" {why}: weights that differ by a factor of {1 / ratio:.3g} would explain it."
            if why and ratio
            else ""
        )
        told += f" {why}." if why and not ratio else ""
        return table.notice(entry.id, worst, keys, f"{told} {entry.repair}", count)
    about = entry.about
    if len(keys) > 1 and 0 < ratio < 1:
        about += f" If the keys are averaged with different weights, these would have to differ by a factor of {1 / ratio:.3g}."
    about += table.place(worst, keys)
    repair = _repair(entry, table)
    return Violation(
        entry.id, table.run, table.steps[worst], keys, lhs, rhs, entry.formula, about, repair, count
    )


def _repair(entry: Inequality, table: Table) -> str:
    """What to look at first; a NaN loss nearby tells."""
    losses = [
        key for key, meaning in table.meanings.items() if meaning.value == "nll" and key in table.columns
    ]
    odd = [key for key in losses if table.columns[key].is_odd.any()]
    if not odd or not entry.id.startswith("ce-"):
        return entry.repair
    return f"{entry.repair} Here {', '.join(odd)} is NaN or infinite, which points to micro-batches without any label."
