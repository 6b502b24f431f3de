"""Where the token mean and the mean over logging steps differ: trainers log either, under the same name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from logitbox.analysis.metrics import metrics_of_tally
from logitbox.analysis.populations import ALL
from logitbox.dumps.definitions.entries import Metric
from logitbox.reports import texts
from logitbox.reports.sections.pieces import value_text
from logitbox.reports.streams import Material, Stream

_MAX_ROWS = 12
_NOTABLE = 1e-3
"""Relative difference up to which two values count as the same."""


@dataclass(frozen=True)
class Difference:
    """A key whose two means differ."""

    key: str
    token_mean: str
    step_mean: str
    difference: str
    relative: str


@dataclass(frozen=True)
class Reduced:
    """One stream over all its logging steps."""

    label: str
    steps: int
    rows: tuple[Difference, ...]
    n_differing: int
    n_agreeing: int
    n_empty: int
    """Keys that are null."""


def build(material: Material) -> tuple[Reduced, ...]:
    """Every stream with more than one logging step (each evaluation of the set at each step is one)."""
    steps = {id(stream): _logging_steps(stream, material) for stream in material.streams}
    long = [stream for stream in material.streams if steps[id(stream)] > 1]
    if not long:
        return ()
    both = metrics_of_tally(material.tally, material.dump, ("phase", "dataset"), reduction="both").frame
    # A count's step mean is another quantity, not another way to average.
    known = {metric.key: metric for metric in material.metrics if metric.reduction != "count"}
    return tuple(_stream(stream, steps[id(stream)], both, known) for stream in long)


def _logging_steps(stream: Stream, material: Material) -> int:
    cells = material.tally.cells.filter(
        (pl.col("phase") == stream.phase) & (pl.col("dataset") == stream.dataset) & (pl.col("type") == ALL)
    )
    return cells.select("pass", "step").n_unique()


def _stream(stream: Stream, steps: int, both: pl.DataFrame, known: Mapping[str, Metric]) -> Reduced:
    keys = {stream.keys[key]: metric for key, metric in known.items()}
    here = both.filter(
        (pl.col("phase") == stream.phase) & (pl.col("dataset") == stream.dataset), pl.col("key").is_in(keys)
    )
    is_step_mean = pl.col("reduction") == "step_mean"
    compared = here.filter(~is_step_mean).select("key", of_tokens="value")
    compared = compared.join(
        here.filter(is_step_mean).select("key", of_steps="value"), on="key", maintain_order="left"
    )
    difference = pl.col("of_steps") - pl.col("of_tokens")
    full = compared.drop_nulls().with_columns(
        difference=difference,
        # Two infinite means agree; 0 against 0 does too.
        relative=pl.when(pl.col("of_steps") == pl.col("of_tokens"))
        .then(0.0)
        .otherwise(difference.abs() / pl.col("of_tokens").abs()),
    )
    # Written so that NaN, from infinite values, counts as a difference.
    differing = full.filter(~(pl.col("relative") <= _NOTABLE)).sort(
        "relative", descending=True, maintain_order=True
    )
    return Reduced(
        stream.label,
        steps,
        tuple(_row(keys[key], key, *values) for key, *values in differing.head(_MAX_ROWS).iter_rows()),
        differing.height,
        full.height - differing.height,
        compared.height - full.height,
    )


def _row(
    metric: Metric, key: str, token: float, step: float, difference: float, relative: float
) -> Difference:
    mean, of_steps = value_text(metric, token), value_text(metric, step)
    return Difference(key, mean, of_steps, _signed(difference), _percent(relative))


def _percent(relative: float) -> str:
    return f"{relative:,.1%}".replace("%", " %") if math.isfinite(relative) else texts.number(relative)


def _signed(difference: float) -> str:
    """A difference with its sign, also a small one: here it is large beside its value."""
    return ("+" if difference > 0 else "−") + texts.number(abs(difference))
