"""Oddities of values and of their order: NaN, nothing but 0, steps that go back, one moment told twice."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import polars as pl

from logitbox.analysis.audit.inequalities.summaries import SUMMARY
from logitbox.analysis.audit.inequalities.table import Table
from logitbox.analysis.audit.result import Notice, Violation

_ROWS = 3
"""So many rows of nothing but 0 are no accident."""


def _norms(table: Table) -> list[str]:
    return [
        key
        for key in table.columns
        if key.rsplit("/", 1)[-1] in ("grad_norm", "gradient_norm", "train_grad_norm")
    ]


def nonfinite(table: Table) -> Iterator[Notice]:
    """Keys that are NaN or infinite where others of the same row are finite."""
    summaries = [key for key in table.columns if re.match(SUMMARY, key) and key not in table.meanings]
    watched = [key for key in table.columns if key in table.meanings] + summaries + _norms(table)
    finite = {key: np.isfinite(table.columns[key].value) for key in table.columns}
    for key in watched:
        others = [mask for other, mask in finite.items() if other != key]
        odd = table.columns[key].is_odd & np.logical_or.reduce([*others, np.zeros(len(table.steps), bool)])
        if odd.any():
            where = int(np.flatnonzero(odd)[0])
            beside = [k for k in table.meanings if k != key and k in finite and finite[k][where]]
            yield table.notice(
                "not-finite", where, (key, *beside), _why_odd(table, key, beside), int(odd.sum())
            )


def _why_odd(table: Table, key: str, beside: list[str]) -> str:
    told = f"{key} is NaN or infinite{' beside finite ' + ' and '.join(beside) if beside else ''}."
    meaning = table.meanings.get(key)
    if (
        meaning is not None
        and meaning.value == "nll"
        and any(table.meanings[k].value == "correct" for k in beside)
    ):
        return f"{told} Look for batches without any label: their mean loss is 0/0, while their accuracy may count as 0."
    if meaning is None and re.match(SUMMARY, key):
        return f"{told} A sum over the run that holds one NaN is NaN."
    if meaning is None:
        return f"{told} A step with an overflowing gradient is skipped by loss scalers; more than a few say that training diverged."
    return f"{told} Averages that replace such steps hide them: find the step, and look at its labels and its learning rate."


def nothing_trained(table: Table) -> Iterator[Violation | Notice]:
    """A loss, or a gradient norm, of exactly 0 in all rows."""
    losses = table.training_losses
    zero = {key: _is_zero(table, key) for key in (*losses, *_norms(table)) if key in table.columns}
    norms = [key for key in _norms(table) if zero[key]]
    for key in (key for key in losses if zero.get(key)):
        count = int(np.isfinite(table.columns[key].value).sum())
        repair = (
            "Look for labels that are all −100 (a chat template or a prompt mask that matches everything), for inputs cut "
            "off before the answer, and for overflow in half precision that is replaced by 0."
        )
        if norms:
            about = f"A cross-entropy is never exactly 0, and with {norms[0]} 0 as well nothing was trained."
            yield Violation(
                "nothing-trained", table.run, None, (key, *norms), 0.0, 0.0, "CE > 0", about, repair, count
            )
        else:
            yield Notice(
                "all-zero", table.run, None, (key,), f"{key} is 0 in all {count} rows. {repair}", count
            )
    if norms and not any(zero.get(key) for key in losses):
        count = int(np.isfinite(table.columns[norms[0]].value).sum())
        told = (
            f"{norms[0]} is 0 in all {count} rows: nothing is trained, or the framework does not report it."
        )
        yield Notice("all-zero", table.run, None, tuple(norms), told, count)


def _is_zero(table: Table, key: str) -> bool:
    value = table.columns[key].value
    value = value[np.isfinite(value)]
    return len(value) >= _ROWS and not value.any()


def out_of_order(table: Table) -> Iterator[Notice]:
    """Steps, or epochs, that go back from one row of a phase to the next."""
    rows = table.frame.unique("row", maintain_order=True).sort("row")
    for name in ("step", "epoch"):
        back = rows.filter(pl.col(name).is_not_null()).filter(
            pl.col(name) < pl.col(name).shift(1).over("phase")
        )
        if back.height:
            first = back.row(0, named=True)
            told = f"{name} goes back in {back.height} rows, first to {first[name]:g}: several runs, or lines out of order."
            yield table.notice(f"{name}-order", first["moment"], (), told, back.height)


def repeated(table: Table) -> Iterator[Notice]:
    """One key with several values at one step and phase."""
    rows = table.frame.filter(pl.col("key").is_in(list(table.meanings)) & pl.col("step").is_not_null())
    several = (
        rows.group_by("step", "phase", "key", maintain_order=True)
        .agg(pl.col("value").n_unique().alias("values"), pl.col("row").n_unique().alias("rows"))
        .filter(pl.col("values") > 1)
    )
    for (key,), where in several.group_by("key", maintain_order=True):
        step = where["step"][0]
        told = f"{key} has several values at one step, first at step {step}: several runs or processes in one log."
        yield Notice("repeated", table.run, step, (str(key),), told, where.height)
