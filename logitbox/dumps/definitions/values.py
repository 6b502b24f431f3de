"""From sums over tokens to the values of metrics, as the live evaluation needs them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.definitions.entries import ALL, Metric, Population, Quantity
from logitbox.dumps.definitions.registry import metrics_of, populations_of, quantities_of
from logitbox.dumps.definitions.tokens import type_names
from logitbox.dumps.spec import RecordSpec

Sums = NDArray[np.float64]
"""[populations, counts and quantities], as `Sheet.columns` names them."""

StepReduction = Literal["token_mean", "step_mean"]

COUNTS = ("n", "n_nonfinite", "n_duplicate")
_LOST = COUNTS.index("n_nonfinite")


@dataclass(frozen=True)
class Sheet:
    """The definitions of one session, in a fixed order: what the rows and columns of its sums are."""

    spec: RecordSpec

    @cached_property
    def populations(self) -> tuple[Population, ...]:
        """Rows."""
        return populations_of(self.spec)

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """Columns after `COUNTS`."""
        return quantities_of(self.spec)

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Types and groups; the last columns, `is_<type>`, are whether a token is of them."""
        return type_names(self.spec)

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """Everything that can be read."""
        return tuple(metrics_of(self.spec))

    @cached_property
    def _row(self) -> dict[str, int]:
        return {population.name: row for row, population in enumerate(self.populations)}

    @cached_property
    def _column(self) -> dict[str, int]:
        is_type = (f"is_{name}" for name in self.types)
        names = (*COUNTS, *(quantity.name for quantity in self.quantities), *is_type)
        return {name: column for column, name in enumerate(names)}

    @property
    def shape(self) -> tuple[int, int]:
        """Of the sums."""
        return len(self._row), len(self._column)

    def value(self, metric: Metric, sums: Sums) -> float | None:
        """A metric's value; None where it is over no tokens, or its columns are not recorded."""
        if metric.reduction == "sum_of_means":
            parts = [self.value(part, sums) for part in self.metrics if part.key in metric.parts]
            known = [part for part in parts if part is not None]
            return math.fsum(known) if known else None
        row = self._row[metric.population]
        if metric.quantity not in self._column:
            return None
        total = sums[row, self._column[metric.quantity]]
        if metric.reduction == "count":
            return float(total)
        count = sums[row, 0]
        if not count:
            return None
        mean = float(total / count)
        return mean if metric.reduction == "token_mean" else min(_exp(mean), metric.high)

    def step_mean(self, metric: Metric, steps: Sequence[Sums]) -> float | None:
        """Mean over steps of a metric's value at each, steps where it has none left out."""
        values = [value for sums in steps if (value := self.value(metric, sums)) is not None]
        return math.fsum(values) / len(values) if values else None

    def reason(self, metric: Metric, steps: Iterable[Sums]) -> str:
        """Why a metric is null over these steps."""
        if metric.reduction == "sum_of_means":
            metric = next(part for part in self.metrics if part.key in metric.parts)
        row = self._row[metric.population]
        known = metric.quantity in self._column
        has_lost = any(sums[row, _LOST] > 0 for sums in steps)
        return why_null(metric, self.populations[row].about, is_recorded=known, has_lost=has_lost)

    def has_tokens(self, sums: Sums) -> bool:
        """Whether there are supervised tokens, be they left out or not."""
        return bool(sums[self._row[ALL], : len(COUNTS)].any())


def why_null(metric: Metric, about: str, *, is_recorded: bool, has_lost: bool) -> str:
    """Why a metric is null, in words.

    Args:
        metric: the metric.
        about: its population in words.
        is_recorded: whether any session recorded the quantity.
        has_lost: whether the population has tokens, but none that is finite.
    """
    if not is_recorded:
        return f"{metric.quantity or metric.key} was not recorded: it takes more of the best tokens than k"
    return f"no {about}{' with finite values' if has_lost else ''}"


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
