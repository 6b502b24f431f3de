"""What a metric takes from a session's definitions: ids of groups, options of ordered ones, the answers.

Sessions of one dump may define these differently under one name. Their tokens are then no one population, or their
values no one quantity: such a metric has a value only where a row is of sessions that agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import polars as pl

from logitbox.analysis.populations import ALL, quantity_names
from logitbox.dumps.definitions.decisions import ACCURACY
from logitbox.dumps.definitions.entries import Metric
from logitbox.dumps.definitions.groups import rest_of
from logitbox.dumps.definitions.registry import metrics_of
from logitbox.dumps.dump import Dump
from logitbox.dumps.spec import DECISION, Group, OrderedSpec, RecordSpec

Meaning = Mapping[str, object]
"""What is defined, in words, to how."""

_TARGET = ("sigma", "truncate", "temperature")
_READS = {
    "gate": ("gate_temperature",),
    "gate_mass": ("gate_temperature",),
    "soft_ce": _TARGET,
    "w1": (*_TARGET, "normalize_w1"),
    "bin_error": ("temperature",),
    "top_bin_error": (),
    "nonfinite": (),
}
"""Options that a quantity of an ordered group depends on; one that is not here depends on all of them."""


def fingerprint(spec: RecordSpec) -> str:
    """Tells sessions apart that recorded different quantities, or mean different things by them."""
    data = spec.to_json()
    told = {
        "quantities": sorted(quantity_names(spec)),
        "types": data["types"]["names"],
        "groups": {group.name: _ids(group, in_order=group.name in spec.ordered) for group in spec.groups},
        "ordered": data["ordered"],
        "answers": data["answers"],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def meaning_of(metric: Metric, spec: RecordSpec) -> Meaning:
    """What this metric takes from a session's definitions."""
    population = metric.population.partition(".")[0]
    counted = metric.quantity.removeprefix("is_") if metric.quantity.startswith("is_") else ""
    found: dict[str, object] = {}
    if spec.answers and DECISION in (population, counted):
        answers = [(name, _ids(spec.group(name))) for name in spec.answers]
        # Among equals the first declared is chosen; nothing else depends on their order.
        found["the answers"] = answers if metric.quantity == ACCURACY else sorted(answers)
    rest = ""
    for group in spec.groups:
        name = group.name
        if population == rest_of(spec, name):
            rest = name
        ordered, _, part = metric.quantity.rpartition(".")
        if ordered == name:
            found |= {f"{option} of {name}": value for option, value in _options(part, spec.ordered[name])}
        looked_at = (f"mass_{name}", f"top_in_{name}", f"top_out_{name}")
        if name in (population, counted, rest, ordered) or metric.quantity in looked_at:
            found[f"the ids of {name}"] = _ids(group, in_order=ordered == name)
    # A name may be a type's here, and that of the rest of a group there.
    return found | {"which tokens it is over": (metric.population, rest)}


def _options(quantity: str, options: OrderedSpec) -> Iterator[tuple[str, object]]:
    """Options that a quantity depends on, the parts that must be finite among them, and their values."""
    given = {**vars(options), "gate_temperature": options.gate_at}
    weights = [name for name in given if name.endswith("_weight")]
    for name, value in given.items():
        if name in _READS.get(quantity, given):
            yield name, value
        elif name in weights:
            yield name, value != 0  # a part without weight may be infinite


@lru_cache(maxsize=1024)
def _ids(group: Group, *, in_order: bool = False) -> str:
    ids = np.asarray(group.ids, dtype=np.int64)
    return hashlib.sha256((ids if in_order else np.sort(ids)).tobytes()).hexdigest()


def mixtures(
    metrics: Sequence[Metric], cells: pl.DataFrame, by: Sequence[str], dump: Dump
) -> pl.DataFrame | None:
    """Which values would be of sessions that mean different things: phase, by-columns, `_order`, `_differs`.

    Args:
        metrics: in the order they are listed.
        cells: of a tally, which hold the by-columns.
        by: the by-columns of the result.
        dump: whose sessions the cells are of.

    Returns:
        None where there are none.
    """
    specs = {fingerprint(session.spec): session.spec for session in dump.sessions}
    if len(specs) < 2:
        return None
    keys = list(dict.fromkeys(["phase", *(name for name in by if name != "type")]))
    present = cells.filter(pl.col("type") == ALL).select(*keys, "spec").unique()
    together = present.group_by(keys).agg(pl.col("spec").sort()).with_columns(pl.col("spec").list.join(" "))
    meanings = {name: _meanings(spec, metrics, by_type="type" in by) for name, spec in specs.items()}
    told = [
        (joined, order, differs)
        for joined in together["spec"].unique()
        for order, differs in _differing(metrics, [meanings[name] for name in joined.split()])
    ]
    if not told:
        return None
    schema = {"spec": pl.String, "_order": pl.Int64, "_differs": pl.String}
    return together.join(pl.DataFrame(told, schema, orient="row"), on="spec").drop("spec")


def _meanings(spec: RecordSpec, metrics: Sequence[Metric], *, by_type: bool) -> dict[int, Meaning]:
    """Place of each metric to its meaning in a session, where the session has it."""
    recorded = {"n", "n_nonfinite", "n_duplicate", *quantity_names(spec)}
    here = {metric.key: metric for metric in metrics_of(spec)}
    found: dict[int, Meaning] = {}
    for place, metric in enumerate(metrics):
        own = metric if by_type else here.get(metric.key)  # a key may be over tokens of another name here
        if own is not None and not own.parts and (own.only_with or own.quantity) in recorded:
            found[place] = meaning_of(own, spec)
    return found


def _differing(
    metrics: Sequence[Metric], sessions: Sequence[Mapping[int, Meaning]]
) -> Iterator[tuple[int, str]]:
    """(place of a metric that these sessions do not agree about, what they differ in)."""
    if len(sessions) < 2:
        return
    places = {metric.key: place for place, metric in enumerate(metrics)}
    for order, metric in enumerate(metrics):
        differ: set[str] = set()
        for place in [places[part] for part in metric.parts] or [order]:
            meanings = [here[place] for here in sessions if place in here]
            for name in {name for meaning in meanings for name in meaning}:
                if len({repr(meaning[name]) for meaning in meanings if name in meaning}) > 1:
                    differ.add(name)
        if differ:
            yield order, " and ".join(sorted(differ))
