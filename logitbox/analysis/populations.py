"""Which rows a metric is about, and the extra per-token quantities that groups and types bring.

Names of populations: "" is every supervised position; a token type by its name; a vocabulary group by its name
(gold is in the group); and the rest of a group: `text` for the group `coord` (seed 000), else `non_<group>`.
Where a type and a group share a name, gold's membership of the group decides (seed 000: a coord token is one of the
coord vocabulary), so that a group and its rest always partition the tokens.
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

ORDERED_PARTS = ("gate", "soft_ce", "w1", "bin", "mean")
"""Suffixes of an ordered group's columns."""

_ORDERED_QUANTITIES = (
    "gate",
    "soft_ce",
    "w1",
    "loss",
    "gate_mass",
    "bin_error",
    "top_bin_error",
    "nonfinite",
)

INTERNAL = ".finite"
"""Ends the names of populations that only means of an ordered group are taken over. No type or group has a dot."""

CELLS = ("right_likely", "right_unlikely", "wrong_likely", "wrong_unlikely")


def rest_of(group: str) -> str:
    """Name of the population whose gold token is outside a group."""
    return "text" if group == "coord" else f"non_{group}"


def finite_of(ordered: str) -> str:
    """Name of the population whose gold is in an ordered group and whose loss there is finite."""
    return f"{ordered}{INTERNAL}"


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
        """All population names, each once, but for the internal ones."""
        return (ALL, *self.types, *(self.rest(group.name) for group in self.spec.groups))

    def rest(self, group: str) -> str:
        """Name of the population whose gold is outside a group; a declared type of that name keeps it."""
        candidates = (rest_of(group), f"non_{group}", f"outside_{group}")
        return next((name for name in candidates if name not in self.types), f"not_in_{group}_group")

    def masks(self, columns: Columns) -> Iterator[tuple[str, Mask]]:
        """(name, rows that belong to it) for rows that are supervised already."""
        everywhere = np.ones(len(columns["gold"]), dtype=bool)
        groups = {group.name: group.contains(columns["gold"]) for group in self.spec.groups}
        yield ALL, everywhere
        for name in self.types:
            yield name, groups[name] if name in groups else self._of_type(name, columns)
        for name, inside in groups.items():
            yield self.rest(name), ~inside
        for name in self.spec.ordered:
            yield finite_of(name), groups[name] & _loss_is_finite(columns, self.spec, name)

    def _of_type(self, name: str, columns: Columns) -> Mask:
        bit = self.spec.types.names.index(name)
        return (columns["types"] >> bit) & 1 != 0


def needed_columns(spec: RecordSpec) -> list[str]:
    """Columns of `tokens` that `quantities` and `Populations.masks` read."""
    needed = ["gold", "flags", "types", *(name for m in TOKEN_MEASURES for name in m.needs)]
    needed += ["top_ids"] if spec.groups else []
    needed += [f"logmass_{group.name}" for group in spec.groups]
    needed += [f"{name}_{part}" for name in spec.ordered for part in ORDERED_PARTS]
    return list(dict.fromkeys(needed))


def finite(columns: Columns) -> Mask:
    """Rows with finite values; the others are left out of every sum, and counted."""
    return (columns["flags"] & int(Flag.NONFINITE)) == 0


def duplicate(columns: Columns) -> Mask:
    """Rows that a distributed sampler repeated to fill its last batch: left out of every sum, and counted."""
    return (columns["flags"] & int(Flag.DUPLICATE)) != 0


def quantities(columns: Columns, spec: RecordSpec) -> dict[str, Array]:
    """Every per-token quantity that is summed, numbers or booleans, [rows]; 0 where it is not defined.

    For a group G: `mass_G` its probability; `top_in_G` arg-max in G though gold is not; `top_out_G` gold in G
    though the arg-max is not.
    """
    values: dict[str, Array] = {measure.name: measure.value(columns) for measure in TOKEN_MEASURES}
    values |= _table_cells(values)
    for group in spec.groups:
        gold, top = group.contains(columns["gold"]), group.contains(columns["top_1"])
        values[f"mass_{group.name}"] = np.exp(columns[f"logmass_{group.name}"])
        values[f"top_in_{group.name}"] = top & ~gold
        values[f"top_out_{group.name}"] = gold & ~top
    for name, options in spec.ordered.items():
        known = _loss_is_finite(columns, spec, name)
        values |= _ordered_values(columns, spec.group(name), options, known)
    return values


def quantity_names(spec: RecordSpec) -> set[str]:
    """Names of the quantities that groups and types bring."""
    names = {f"is_{name}" for name in Populations(spec).types}
    names |= {f"{of}_{group.name}" for group in spec.groups for of in ("mass", "top_in", "top_out")}
    return names | {f"{name}.{part}" for name in spec.ordered for part in _ORDERED_QUANTITIES}


def _table_cells(values: Mapping[str, Array]) -> dict[str, Array]:
    """Indicator and nll of each cell of the table right/wrong × likely/unlikely."""
    right = np.asarray(values["correct"], dtype=bool)
    likely = np.asarray(values["confidence"] >= LIKELY)
    masks = (right & likely, right & ~likely, ~right & likely, ~right & ~likely)
    cells: dict[str, Array] = dict(zip(CELLS, masks, strict=True))
    return cells | {f"nll_{name}": np.where(mask, values["nll"], 0.0) for name, mask in cells.items()}


def _weighted(options: OrderedSpec) -> dict[str, float]:
    """The parts of an ordered group's loss. One may be infinite where logits are masked; with weight 0 it is none."""
    weights = {"soft_ce": options.soft_ce_weight, "w1": options.w1_weight, "gate": options.gate_weight}
    return {part: weight for part, weight in weights.items() if weight != 0}


def _loss_is_finite(columns: Columns, spec: RecordSpec, name: str) -> Mask:
    """Rows whose ordered loss and expected bin are numbers; meaningless where gold is outside the group."""
    parts = [columns[f"{name}_{part}"] for part in ("mean", *_weighted(spec.ordered[name]))]
    return np.logical_and.reduce([np.isfinite(part) for part in parts])


def _ordered_values(columns: Columns, group: Group, options: OrderedSpec, known: Mask) -> dict[str, Array]:
    """Parts of the ordered loss, their weighted total, the mass at the gate, errors in bins; 0 unless known."""
    name = group.name
    inside = group.contains(columns["gold"])
    lost, inside = inside & ~known, inside & known
    part = {p: np.where(inside, columns[f"{name}_{p}"], 0.0) for p in ORDERED_PARTS}
    gold_bin = np.where(inside, _bin_of(group, columns["gold"]), 0)
    weighted = _weighted(options).items()
    total = sum((weight * part[p] for p, weight in weighted), start=np.zeros(len(inside)))
    return {
        f"{name}.nonfinite": lost,
        f"{name}.gate": part["gate"],
        f"{name}.soft_ce": part["soft_ce"],
        f"{name}.w1": part["w1"],
        f"{name}.loss": total,
        f"{name}.gate_mass": np.where(inside, np.exp(-part["gate"]), 0.0),
        f"{name}.bin_error": np.abs(part["mean"] - gold_bin),
        f"{name}.top_bin_error": np.abs(part["bin"] - gold_bin),
    }


def _bin_of(group: Group, gold: Array) -> Array:
    """Bin of each gold id; meaningless where gold is outside the group."""
    if isinstance(group.ids, range):
        return gold - group.ids.start
    ids = np.asarray(group.ids)
    order = np.argsort(ids)
    return order[np.minimum(np.searchsorted(ids[order], gold), len(ids) - 1)]
