"""Which rows of a shard a metric is about, and the per-token quantities that are summed over them.

Names of populations: "" is every supervised position; a token type by its name; a vocabulary group by its name
(gold is in the group); and the rest of a group: `text` for the group `coord` (seed 000), else `non_<group>`.
Where a type and a group share a name, gold's membership of the group decides (seed 000: a coord token is one of the
coord vocabulary), so that a group and its rest always partition the tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.classes import DEFAULT, NEEDS, Evidence, Thresholds, class_sums
from logitbox.dumps.definitions.entries import ALL
from logitbox.dumps.definitions.registry import populations_of, quantities_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.definitions.tokens import type_names
from logitbox.dumps.spec import RecordSpec

Array = NDArray[Any]
Mask = NDArray[np.bool_]


def is_internal(population: str) -> bool:
    """Whether a population only serves some metrics, and is not listed. No type or group has a dot."""
    return "." in population


def masks(rows: Rows) -> dict[str, Mask]:
    """Name to the rows that belong to it, for rows that are supervised already; internal ones last."""
    return {population.name: population.mask(rows) for population in populations_of(rows.spec)}


def quantities(rows: Rows, thresholds: Thresholds = DEFAULT) -> dict[str, Array]:
    """Every per-token quantity that is summed, numbers or booleans, [rows]; 0 where it is not defined."""
    found = ((entry.name, entry.value(rows)) for entry in quantities_of(rows.spec))
    values: dict[str, Array] = {name: value for name, value in found if value is not None}
    evidence = Evidence(**{name: rows[name] for name in NEEDS}, kept=rows["kept"])
    return values | class_sums(evidence, thresholds)


def quantity_names(spec: RecordSpec) -> set[str]:
    """Names of all columns of sums that a session brings."""
    names = {f"is_{name}" for name in type_names(spec)}
    return names | {entry.name for entry in quantities_of(spec)}


__all__ = ["ALL", "is_internal", "masks", "quantities", "quantity_names"]
