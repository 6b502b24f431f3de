"""Which rows of a shard a metric is about, and the per-token quantities that are summed over them.

Names of populations: "" is every supervised position; a token type by its name; a vocabulary group by its name
(gold is in the group); and the rest of a group: `text` for the group `coord` (seed 000), else `non_<group>`.
Where a type and a group share a name, gold's membership of the group decides (seed 000: a coord token is one of the
coord vocabulary), so that a group and its rest always partition the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.definitions.entries import ALL
from logitbox.dumps.definitions.registry import populations_of, quantities_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.definitions.tokens import type_names
from logitbox.dumps.spec import RecordSpec

Array = NDArray[Any]
Mask = NDArray[np.bool_]

LIKELY = 0.5
"""A top-1 probability from here on counts as likely in the TFA/TFCE table."""

CELLS = ("right_likely", "right_unlikely", "wrong_likely", "wrong_unlikely")


def is_internal(population: str) -> bool:
    """Whether a population only serves some metrics, and is not listed. No type or group has a dot."""
    return "." in population


def masks(rows: Rows) -> dict[str, Mask]:
    """Name to the rows that belong to it, for rows that are supervised already; internal ones last."""
    return {population.name: population.mask(rows) for population in populations_of(rows.spec)}


def quantities(rows: Rows) -> dict[str, Array]:
    """Every per-token quantity that is summed, numbers or booleans, [rows]; 0 where it is not defined."""
    values: dict[str, Array] = {entry.name: entry.value(rows) for entry in quantities_of(rows.spec)}
    return values | _table_cells(values)


def quantity_names(spec: RecordSpec) -> set[str]:
    """Names of all columns of sums that a session brings."""
    names = {f"is_{name}" for name in type_names(spec)}
    return names | {entry.name for entry in quantities_of(spec)}


def _table_cells(values: Mapping[str, Array]) -> dict[str, Array]:
    """Indicator and nll of each cell of the table right/wrong × likely/unlikely."""
    right = np.asarray(values["correct"], dtype=bool)
    likely = np.asarray(values["confidence"] >= LIKELY)
    cell_masks = (right & likely, right & ~likely, ~right & likely, ~right & ~likely)
    cells: dict[str, Array] = dict(zip(CELLS, cell_masks, strict=True))
    return cells | {f"nll_{name}": np.where(mask, values["nll"], 0.0) for name, mask in cells.items()}


__all__ = ["ALL", "CELLS", "LIKELY", "is_internal", "masks", "quantities", "quantity_names"]
