"""Which rows a metric is about, and the extra per-token quantities that groups and types bring.

Names of populations: "" is every supervised position; a token type by its name; a vocabulary group by its name
(gold is in the group); and the rest of a group: `text` for the group `coord` (seed 000), else `non_<group>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.flags import Flag
from logitbox.dumps.measures import TOKEN_MEASURES
from logitbox.dumps.spec import Group, OrderedSpec, RecordSpec

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Columns = Mapping[str, Array]

ALL = ""

LIKELY = 0.5
"""A top-1 probability from here on counts as likely in the TFA/TFCE table."""

CELLS = ("right_likely", "right_unlikely", "wrong_likely", "wrong_unlikely")


def rest_of(group: str) -> str:
    """Name of the population whose gold token is outside a group."""
    return "text" if group == "coord" else f"non_{group}"


@dataclass(frozen=True)
class Populations:
    """The populations of one session's rows."""

    spec: RecordSpec

    @property
    def types(self) -> tuple[str, ...]:
        """Token types and groups, without repetition, in the order they were declared."""
        return tuple(dict.fromkeys([*self.spec.types.names, *(group.name for group in self.spec.groups)]))

    @property
    def names(self) -> tuple[str, ...]:
        """All population names."""
        return (ALL, *self.types, *(rest_of(group.name) for group in self.spec.groups))

    def masks(self, columns: Columns) -> Iterator[tuple[str, Mask]]:
        """(name, rows that belong to it) for rows that are supervised already."""
        everywhere = np.ones(len(columns["gold"]), dtype=bool)
        groups = {group.name: group.contains(columns["gold"]) for group in self.spec.groups}
        yield ALL, everywhere
        for name in self.types:
            yield name, groups[name] if name in groups else self._of_type(name, columns)
        for name, inside in groups.items():
            yield rest_of(name), ~inside

    def _of_type(self, name: str, columns: Columns) -> Mask:
        bit = self.spec.types.names.index(name)
        return (columns["types"] >> bit) & 1 != 0


def needed_columns(spec: RecordSpec) -> list[str]:
    """Columns of `tokens` that `quantities` and `Populations.masks` read."""
    needed = ["gold", "flags", "types", "top_ids", *(name for m in TOKEN_MEASURES for name in m.needs)]
    needed += [f"logmass_{group.name}" for group in spec.groups]
    needed += [f"{name}_{part}" for name in spec.ordered for part in ("gate", "soft_ce", "w1", "bin", "mean")]
    return list(dict.fromkeys(needed))


def usable(columns: Columns) -> tuple[Mask, Mask]:
    """(supervised and finite, supervised but not finite); the second are left out and counted."""
    flags = columns["flags"]
    supervised = (flags & int(Flag.SUPERVISED)) != 0
    finite = (flags & int(Flag.NONFINITE)) == 0
    return supervised & finite, supervised & ~finite


def quantities(columns: Columns, spec: RecordSpec) -> dict[str, NDArray[np.float64]]:
    """Every per-token quantity that is summed, float64, shape [rows]; 0 where it is not defined."""
    values: dict[str, Array] = {measure.name: measure.value(columns) for measure in TOKEN_MEASURES}
    values |= _table_cells(values)
    populations = Populations(spec)
    values |= {f"is_{name}": mask for name, mask in populations.masks(columns) if name in populations.types}
    for group in spec.groups:
        values[f"mass_{group.name}"] = np.exp(columns[f"logmass_{group.name}"])
        values[f"top_in_{group.name}"] = group.contains(columns["top_1"])
    for name, options in spec.ordered.items():
        values |= _ordered_values(columns, spec.group(name), options)
    return {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}


def _table_cells(values: Mapping[str, Array]) -> dict[str, Array]:
    """Indicator and nll of each cell of the table right/wrong × likely/unlikely."""
    right = np.asarray(values["correct"], dtype=bool)
    likely = np.asarray(values["confidence"] >= LIKELY)
    masks = (right & likely, right & ~likely, ~right & likely, ~right & ~likely)
    cells: dict[str, Array] = dict(zip(CELLS, masks, strict=True))
    return cells | {f"nll_{name}": np.where(mask, values["nll"], 0.0) for name, mask in cells.items()}


def _ordered_values(columns: Columns, group: Group, options: OrderedSpec) -> dict[str, Array]:
    """Parts of the ordered loss, their weighted total, the mass at the gate, and errors in bins."""
    name = group.name
    inside = group.contains(columns["gold"])
    part = {
        p: np.where(inside, columns[f"{name}_{p}"], 0.0) for p in ("gate", "soft_ce", "w1", "bin", "mean")
    }
    ids = np.asarray(group.ids)
    order = np.argsort(ids)
    gold_bin = order[np.minimum(np.searchsorted(ids[order], columns["gold"]), len(ids) - 1)]
    return {
        f"{name}_gate": part["gate"],
        f"{name}_soft_ce": part["soft_ce"],
        f"{name}_w1": part["w1"],
        f"{name}_ordered_loss": options.soft_ce_weight * part["soft_ce"]
        + options.w1_weight * part["w1"]
        + options.gate_weight * part["gate"],
        f"{name}_gate_mass": np.where(inside, np.exp(-part["gate"]), 0.0),
        f"{name}_bin_error": np.where(inside, np.abs(part["mean"] - gold_bin), 0.0),
        f"{name}_top_bin_error": np.where(inside, np.abs(part["bin"] - gold_bin), 0.0),
    }
