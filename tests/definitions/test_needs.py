"""What definitions say they read is what they read: docs/metrics.md lists it, and only that is read from a shard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from logitbox.dumps.definitions.entries import Population, Quantity
from logitbox.dumps.definitions.registry import populations_of, quantities_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.spec import RecordSpec, build_spec

V, N = 30, 7
UNIFORM = dict.fromkeys(("soft_ce_weight", "w1_weight", "gate_weight"), 0.0)


def spec_of(**options: Any) -> RecordSpec:
    given: dict[str, Any] = {
        "groups": {"coord": range(10, 20), "low": [3, 1]},
        "ordered": {"coord": {}},
        "types": ["coord", "desc", "reasoning", "tool_call"],
        "answers": {"yes": [1], "no": [2, 4], "perhaps": [5]},
    } | options
    return build_spec(V, given.pop("k", 12), probes=False, lse_beta="eval", scope="supervised", **given)


SPECS = {
    "exact": spec_of(),
    "from gaps": spec_of(types=["coord", "desc"]),
    "gate only": spec_of(ordered={"coord": UNIFORM | {"gate_weight": 1.0}}),
    "w1 only": spec_of(ordered={"coord": UNIFORM | {"w1_weight": -2.0}}),
    "no loss": spec_of(ordered={"coord": UNIFORM}),
    "two ordered": spec_of(ordered={"coord": {"gate_weight": 0.0}, "low": {}}),
    "plain": spec_of(groups={}, ordered={}, types=[], answers=None),
}


class Watched(Rows):
    """Rows that remember the columns they were asked for; what only takes their kind or length is no reading."""

    def __init__(self, spec: RecordSpec) -> None:
        super().__init__({}, spec)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add("top_ids" if name == "top_1" else name)
        if name == "top_gap":
            return np.zeros((N, 12))
        whole = name in ("gold", "flags", "types", "top_1", "n_gt", "n_eq_before")
        return np.arange(N) if whole else np.linspace(0.1, 2.0, N)

    def __contains__(self, name: str) -> bool:
        assert name == "kept", f"whether there is a column {name!r} is the session's to say"
        return False  # no list is trimmed

    @property
    def xp(self) -> Any:
        return np

    @property
    def everywhere(self) -> Any:
        return np.ones(N, dtype=bool)


def entries() -> list[Any]:
    return [
        pytest.param(spec, entry, id=f"{name}: {kind} {entry.name or 'all'}")
        for name, spec in SPECS.items()
        for kind, found in (("over", populations_of(spec)), ("of", quantities_of(spec)))
        for entry in found
    ]


@pytest.mark.parametrize(("spec", "entry"), entries())
def test_a_definition_reads_what_it_says(spec: RecordSpec, entry: Population | Quantity) -> None:
    rows = Watched(spec)
    found = entry.mask(rows) if isinstance(entry, Population) else entry.value(rows)
    assert np.shape(found) == (N,)
    assert len(set(entry.needs)) == len(entry.needs)
    assert rows.read == set(entry.needs)


def test_examples() -> None:
    """By hand, so that the above is not about nothing."""
    needs = {entry.name: set(entry.needs) for entry in quantities_of(SPECS["exact"])}
    assert needs["coord.gate"] == {"gold", "coord_gate", "coord_soft_ce", "coord_w1", "coord_mean"}
    assert needs["coord.top_bin_error"] == needs["coord.gate"] | {"coord_bin"}
    assert needs["decision_confidence"] == {"logmass_yes", "logmass_no", "logmass_perhaps"}
    over = {entry.name: set(entry.needs) for entry in populations_of(SPECS["exact"])}
    assert over[".plain"] == {"flags"}
    assert over["tool_call.plain"] == {"flags", "types"}
    assert over["coord"] == {"gold"}
