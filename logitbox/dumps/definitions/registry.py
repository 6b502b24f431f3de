"""All definitions that apply to a session. Adding a metric is one entry in one of the rooms listed here."""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType

from logitbox.dumps.definitions import agent, decisions, groups, tokens
from logitbox.dumps.definitions.entries import Metric, Population, Quantity, prefix_of
from logitbox.dumps.spec import RecordSpec
from logitbox.errors import InputError

_ROOMS: tuple[ModuleType, ...] = (tokens, groups, agent, decisions)
"""Each has any of `populations`, `quantities` and `metrics`, functions of a spec."""


def populations_of(spec: RecordSpec) -> tuple[Population, ...]:
    """Every population of a session, those for internal use last."""
    found = [entry for room in _ROOMS if hasattr(room, "populations") for entry in room.populations(spec)]
    return tuple(sorted(found, key=lambda population: population.is_internal))


def quantities_of(spec: RecordSpec) -> tuple[Quantity, ...]:
    """Every quantity that a session's columns give; `is_<type>` is made of the populations."""
    return tuple(entry for room in _ROOMS for entry in room.quantities(spec))


def metrics_of(spec: RecordSpec) -> list[Metric]:
    """Every metric that a session with this spec can have, in the order they are listed."""
    return [entry for room in _ROOMS for entry in room.metrics(spec)]


_USUAL_PHASES = (("train", "eval", "test"), ("train", "val", "test"))


def check_keys(spec: RecordSpec) -> None:
    """Refuse names of types and groups that make one key mean two things, such as a type `exp` or `eval`.

    Raises:
        InputError: it names the key.
    """
    for phases in _USUAL_PHASES:
        if told := _ambiguous(spec, phases):
            raise InputError(f"{told}; give the token type or group in its name another name")


def check_phases(spec: RecordSpec, phase: str, others: Collection[str]) -> None:
    """Refuse a phase whose keys are another phase's, such as `full`: `full_entropy` is a metric of train.

    Raises:
        InputError: it names the phase and the key.
    """
    if told := _ambiguous(spec, [*sorted(others), phase]):
        raise InputError(f"phase is {phase!r}, but {told}; give the phase another name")


def _ambiguous(spec: RecordSpec, phases: Collection[str]) -> str:
    """The first key with two meanings, in words; empty where there is none."""
    metrics = metrics_of(spec)
    owner: dict[str, str] = {}
    for phase, metric in ((phase, metric) for phase in phases for metric in metrics):
        key = prefix_of(metric.family, phase, phases) + metric.key
        told = f"{metric.about}, in phase {phase!r}"
        if owner.setdefault(key, told) != told:
            return f"the key {key!r} would mean two things ({owner[key]}; {told})"
    return ""


def needed_columns(spec: RecordSpec) -> list[str]:
    """Columns of `tokens` that the definitions of a session read."""
    entries = (*populations_of(spec), *quantities_of(spec))
    return list(
        dict.fromkeys(["gold", "flags", "types", *(name for entry in entries for name in entry.needs)])
    )
