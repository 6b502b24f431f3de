"""What holds: the inequalities that the logged keys keep, and how near the nearest row comes to breaking each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from logitbox.analysis.audit.inequalities.checking import Compared, compared
from logitbox.analysis.audit.inequalities.entries import Held
from logitbox.analysis.audit.inequalities.table import Table
from logitbox.analysis.audit.inequalities.whole_run import whole_run_held
from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.logs.frame import Logged


def held(
    logged: Logged, run: int, meanings: Mapping[str, Meaning], vocab_size: int | None = None
) -> list[Held]:
    """What the keys of a run imply of each other and keep to, in every row.

    Args:
        logged: the log.
        run: which of its runs.
        meanings: key to what it promises, as `find_meanings` gives them.
        vocab_size: V, where it is known.

    Returns:
        One for each inequality and choice of keys; those of several keys first, then the ranges of single ones.
    """
    table = Table(logged, run, meanings, vocab_size)
    kept = {(one.entry.id, frozenset(one.keys)): one for one in compared(table) if not (one.gap > 0).any()}
    converses = {(one.entry.converse, keys) for (_, keys), one in kept.items()}
    found = [
        told
        for (name, keys), one in kept.items()
        if (one.entry.converse, keys) not in kept
        and (told := _nearest(one, table, is_equal=(name, keys) in converses)) is not None
    ]
    return sorted([*found, *whole_run_held(table)], key=lambda one: len(one.keys) == 1)


def _nearest(one: Compared, table: Table, *, is_equal: bool) -> Held | None:
    """The row that comes nearest to breaking it; None where no row has both sides."""
    left, right = one.left.value, one.right.value
    known = np.isfinite(left) & np.isfinite(right)
    if not known.any():
        return None
    is_equal = is_equal or one.entry.relation == "="
    with np.errstate(invalid="ignore", divide="ignore"):
        far = -np.abs(left - right) if is_equal else np.where(right > 0, left / right, np.inf)
    if not is_equal and not np.isfinite(far[known]).any():
        far = left - right
    nearest = int(np.argmin(np.where(known, far, np.inf)))
    formula = one.entry.formula.replace(" ≥ ", " = ") if is_equal else one.entry.formula
    lhs, rhs = float(left[nearest]), float(right[nearest])
    step, rows = table.steps[nearest], int(known.sum())
    return Held(one.entry.id, table.run, step, one.keys, lhs, rhs, formula, rows)
