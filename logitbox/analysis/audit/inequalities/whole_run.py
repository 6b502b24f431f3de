"""A trainer's loss of the whole run against the losses it logged on the way."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from logitbox.analysis.audit.inequalities.entries import Held
from logitbox.analysis.audit.inequalities.summaries import SUMMARY, RunLoss, run_loss
from logitbox.analysis.audit.inequalities.table import Table
from logitbox.analysis.audit.result import Notice

_NOISE = 1e-4
"""Of the loss: what sums in float32, and steps whose NaN was replaced, may be off by."""

_ABSURD = 3.0
"""Times the highest logged loss: more than this no few steps at the end average."""

_LOOK = (
    "Look for a loss that is summed over accumulation steps or divided by too many in one of the two, "
    "and for lines of several runs."
)


def whole_run(table: Table) -> Iterator[Notice]:
    """Where `train_loss` cannot be the mean of the logged losses, weighted with their steps: which formula it is."""
    for run in _runs(table):
        if about := _explained(run):
            moment = table.frame.filter(pl.col("row") == run.row)["moment"][0]
            yield table.notice("train-loss", moment, (run.key, run.loss), about)


def whole_run_held(table: Table) -> Iterator[Held]:
    """Where `train_loss` can be that mean: how near it is, or what the steps that no line tells of would average."""
    for run in _runs(table):
        if _explained(run):
            continue
        step = None if run.total is None else int(run.total)
        if run.total == run.covered:
            formula = "loss of the run = mean of the logged losses"
            lhs, rhs = run.told, run.after()[0] / run.covered
        else:
            untold = "a last line that may be missing" if step is None else "the steps that no line tells of"
            formula = f"{_ABSURD:g}·the highest logged loss ≥ mean of {untold}"
            low, _, high = _missing(run)
            lhs, rhs = _ABSURD * run.highest, (low + high) / 2
        yield Held("train-loss", table.run, step, (run.key, run.loss), lhs, rhs, formula, len(run.step))


def _runs(table: Table) -> Iterator[RunLoss]:
    losses = table.training_losses
    keys = table.frame.filter(pl.col("key").str.contains(SUMMARY))["key"].unique(maintain_order=True)
    for key in keys:
        found = run_loss(table.frame, str(key), losses) if key not in table.meanings else ""
        if isinstance(found, RunLoss):
            yield found


def _missing(run: RunLoss) -> tuple[float, float, float]:
    """(least, steps, most) that the steps after the last line, `steps` of them, can have averaged.

    Where the log has no steps, at most one line is missing, and the first may be of a few steps only.
    """
    in_all, rounding, covered = run.after()
    total = covered + 1 if run.total is None else run.total
    steps = total - covered
    if steps <= 0:
        return 0.0, 0.0, 0.0
    off = (rounding + (run.precision + _NOISE * abs(run.told)) * total) / steps
    average = (run.told * total - in_all) / steps
    first = run.value[0] if run.total is None else 0.0
    return average - off, steps, average + first + off


def _explained(run: RunLoss) -> str:
    """What the loss of the run is instead; "" where it can be the mean."""
    in_all, rounding, covered = run.after()
    mean = in_all / covered
    noise = run.precision + _NOISE * abs(run.told)
    if abs(run.told - mean) <= rounding / covered + noise:
        return ""
    begin = f"The loss of the whole run is {run.told:.6g}, the mean of the logged losses {mean:.6g}."
    low, steps, high = _missing(run)
    if run.total == covered:
        return f"{begin} {_formula(run, covered, noise)}"
    if low <= _ABSURD * run.highest and high >= 0:
        return ""
    untold = "Even if a last line were missing, it would have to be"
    if run.total is not None:
        untold = (
            f"No line tells of the last {steps:g} of its {run.total:g} steps, which would have to average"
        )
    return (
        f"{begin} {untold} {low if low > 0 else high:.4g}, while the logged losses lie between {run.value.min():.4g} "
        f"and {run.highest:.4g}. {_LOOK}"
    )


def _formula(run: RunLoss, total: float, noise: float) -> str:
    """Which other formula gives the loss of a run that the lines tell of wholly."""
    # A log may begin with the resume: its first line is then as long as the second.
    before = [2 * run.step[0] - run.step[1]] if len(run.step) > 1 else []
    for resumed in (float(step) for step in (*before, *run.step[:-1]) if step > 0):
        part, rounding, steps = run.after(resumed)
        if abs(run.told - part / total) <= rounding / total + noise:
            return (
                f"It is the sum since step {resumed:g}, where training was resumed, divided by all {total:g} steps; "
                f"the mean since then is {run.told * total / steps:.6g}."
            )
        if abs(run.told - part / steps) <= rounding / steps + noise:
            return f"It is the mean since step {resumed:g}, where training was resumed."
    if abs(run.told - float(run.value.mean())) <= float(run.rounding.mean()) + noise:
        return "It is the mean of the lines, whatever number of steps each is of."
    return f"It is neither, nor the sum since a resume divided by all steps. {_LOOK}"
