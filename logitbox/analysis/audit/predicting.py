"""What a hypothesis says would have been logged: sums of micro-batches, averaged as it says."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.audit.evidence import SAMPLE_MEANS, Setup
from logitbox.analysis.audit.hypotheses.entries import Reduction, Transform
from logitbox.analysis.audit.micros import Micros
from logitbox.analysis.audit.plans import Plan, plan_of
from logitbox.analysis.audit.windows import Windows

Float = NDArray[np.float64]
Int = NDArray[np.int64]

Terms = tuple[tuple[str, str], ...]
"""(value, population) each."""

Bounds = tuple[Float, Float]
"""Least and greatest value of every line; the same where it is exact, NaN where it is not known."""

FIRST_LABEL = ".first_label"
"""Population of the rows whose first label is supervised."""


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines of logged keys against one stream of micro-batches.

    Attributes:
        micros: the stream.
        windows: kind of window to the pairs of line and micro-batch.
        setup: facts of the recording.
        is_train: whether lines are about the steps since the line before, not about one evaluation.
    """

    micros: Micros
    windows: dict[str, Windows]
    setup: Setup
    is_train: bool = True
    _done: dict[Hashable, Bounds | None] = field(default_factory=dict[Hashable, Bounds | None])
    _plans: dict[Hashable, Plan] = field(default_factory=dict[Hashable, Plan])
    _parts: dict[Hashable, Lines] = field(default_factory=dict[Hashable, "Lines"])
    _conditions: dict[Hashable, bool] = field(default_factory=dict[Hashable, bool])

    @property
    def count(self) -> int:
        """Number of lines."""
        return len(self.windows["line"].covered)

    @cached_property
    def accumulation(self) -> int:
        """Micro-batches of one rank in a step: as it was noted, else as most steps have."""
        return self.setup.accumulation or _usual_accumulation(self.micros)

    def condition(self, holds: Callable[[Lines], bool]) -> bool:
        """Whether something holds of these lines; looked at once."""
        if holds not in self._conditions:
            self._conditions[holds] = holds(self)
        return self._conditions[holds]

    def only(self, numbers: Int) -> Lines:
        """The same lines under the same numbers, of which only some have micro-batches; made once."""
        key = numbers.tobytes()
        if key not in self._parts:
            windows = {name: one.only(numbers) for name, one in self.windows.items()}
            setup = replace(self.setup, accumulation=self.accumulation)
            self._parts[key] = Lines(self.micros, windows, setup, self.is_train)
        return self._parts[key]

    def plan(self, reduction: Reduction) -> Plan:
        """The groups of a reduction."""
        key = (reduction.window, reduction.keep, tuple(level.by for level in reduction.levels))
        if key not in self._plans:
            self._plans[key] = plan_of(self.micros, self.windows[reduction.window], reduction)
        return self._plans[key]

    def reduced(self, terms: Terms, reduction: Reduction, inside: Transform | None = None) -> Bounds | None:
        """The average of some terms before the transform; None where nothing recorded gives them."""
        key = (terms, reduction, inside)
        if key not in self._done:
            self._done[key] = _bounds(self, terms, reduction, inside)
        return self._done[key]


def _bounds(lines: Lines, terms: Terms, reduction: Reduction, inside: Transform | None) -> Bounds | None:
    factor = _factor(lines, reduction)
    low = _line_means(lines, terms, reduction, "low", inside)
    if low is None:
        return None
    is_exact = inside is None and all(_sums(lines.micros, *term, reduction) is not None for term in terms)
    high = low if is_exact else _line_means(lines, terms, reduction, "high", inside)
    return None if high is None else (low * factor, high * factor)


def _line_means(
    lines: Lines, terms: Terms, reduction: Reduction, side: str, inside: Transform | None
) -> Float | None:
    """The value of every line on one side of its bounds, [lines]."""
    plan = lines.plan(reduction)
    mean, tokens = np.zeros(plan.sizes[0]), np.zeros(plan.sizes[0])
    for value, population in terms:
        total = _sums(lines.micros, value, population, reduction, side)
        count = _counts(lines.micros, population, reduction)
        if total is None or count is None:
            return None
        total, count = plan.summed(0, total[plan.micro]), plan.summed(0, count[plan.micro])
        mean += np.divide(total, count, out=np.zeros(len(total)), where=count != 0)
        tokens += count
    is_unknown = np.isnan(mean)[plan.codes[0]]
    if not reduction.empty_is_zero:
        mean = np.where(tokens > 0, mean, np.nan)
    if inside is not None:
        with np.errstate(over="ignore"):
            mean = inside.low(mean) if side == "low" else inside.high(mean)
    result = np.full(lines.count, np.nan)
    result[plan.line] = _averaged(lines.micros, plan, reduction, mean, tokens)
    # Else a group whose value was not recorded would be left out of the average.
    result[plan.pair_line[is_unknown]] = np.nan
    return result


def _averaged(micros: Micros, plan: Plan, reduction: Reduction, mean: Float, tokens: Float) -> Float:
    """Averages of averages, down to the lines; groups without a mean are left out of them."""
    sizes = {
        name: plan.summed(0, micros.batches[name][plan.micro]) for name in ("rows", "unrepeated", "positions")
    }
    sizes |= {"tokens": tokens, "equal": np.ones(len(mean))}
    for number, level in enumerate(reduction.levels, start=1):
        weight = np.where(np.isnan(mean), 0.0, sizes[level.weight])
        total = plan.summed(number, np.nan_to_num(mean) * weight)
        size = plan.summed(number, weight)
        mean = np.divide(total, size, out=np.full(len(total), np.nan), where=size != 0)
        sizes = {name: plan.summed(number, values) for name, values in sizes.items()}
        sizes["equal"] = np.ones(len(mean))
    return mean


def _sums(micros: Micros, value: str, population: str, reduction: Reduction, side: str = "") -> Float | None:
    """Numerators of all micro-batches; those of a value that is only bounded on the side that is asked for."""
    suffix = SAMPLE_MEANS if reduction.per == "samples" else ""
    exact = micros.column(population, value + suffix)
    return exact if exact is not None or not side else micros.column(population, f"{value}.{side}{suffix}")


def _counts(micros: Micros, population: str, reduction: Reduction) -> Float | None:
    """Denominators of all micro-batches."""
    if reduction.per in micros.batches:
        return micros.batches[reduction.per]
    name = {"tokens": "n", "tokens+first_labels": "n"}.get(reduction.per, reduction.per)
    count = micros.column(population, name)
    if count is None or reduction.per != "tokens+first_labels":
        return count
    first = micros.column(FIRST_LABEL, "n")
    return None if first is None else count + first


def _factor(lines: Lines, reduction: Reduction) -> Float:
    """What every line is multiplied by, [lines]."""
    factor = np.ones(lines.count)
    name = reduction.factor
    if name in ("world", "1/world"):
        factor *= lines.setup.world
    elif name != "one":
        factor[1 if name == "accumulation_after_first" else 0 :] *= lines.accumulation
    return 1 / factor if name.startswith("1/") else factor


def _usual_accumulation(micros: Micros) -> int:
    """Micro-batches of one rank in most steps."""
    moments = np.stack([micros.where[name] for name in ("pass", "step", "rank")])
    _, counts = np.unique(moments, axis=1, return_counts=True)
    return int(np.bincount(counts).argmax()) if len(counts) else 1
