"""Where every sample has as many tokens, all averages of averages are one number, and nobody can tell them apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest

from logitbox.analysis.audit.audit import audit_evidence
from logitbox.analysis.audit.evidence import SAMPLE_MEANS, Evidence, Setup
from logitbox.analysis.audit.hypotheses.registry import HYPOTHESES
from logitbox.analysis.audit.result import KeyVerdict
from logitbox.analysis.logs.frame import SCHEMA, Logged

STEPS, MICROS, WORLD, ROWS, WIDTH = 12, 3, 2, 4, 9

AVERAGES = {
    *("micro-mean", "micro-mean-by-step", "step-mean", "rank-mean", "rank-means", "micro-pooled"),
    *("sample-mean", "pad-weight", "pad-weight-pooled"),
}
"""Hypotheses about training that only put the same tokens into other groups."""


def evidence(tokens_a_row: int, *, ragged: bool) -> Evidence:
    """Sums of random nll: rows of `tokens_a_row` tokens, or of any number up to it."""
    rng = np.random.default_rng(3)
    cells: list[Mapping[str, object]] = []
    batches: list[Mapping[str, object]] = []
    for step in range(1, STEPS + 1):
        for micro in range(MICROS):
            for rank in range(WORLD):
                where = {
                    "phase": "train",
                    "dataset": "",
                    "pass": 0,
                    "step": step,
                    "rank": rank,
                    "micro": micro,
                }
                counts = rng.integers(1, tokens_a_row + 1, ROWS) if ragged else np.full(ROWS, tokens_a_row)
                rows = [rng.exponential(1.5, count) for count in counts]
                n, total = int(counts.sum()), float(sum(row.sum() for row in rows))
                means = float(sum(row.mean() for row in rows))
                cell = {"population": "", "n": n, "samples": ROWS, "nll": total, "nll" + SAMPLE_MEANS: means}
                size = {"rows": ROWS, "positions": ROWS * WIDTH, "predicted": ROWS * (WIDTH - 1)}
                cells.append(where | cell)
                batches.append(where | size | {"n_supervised": n})
    return Evidence(pl.DataFrame(cells), pl.DataFrame(batches), Setup(world=WORLD, accumulation=MICROS))


def verdict(made: Evidence) -> KeyVerdict:
    """On a loss that is the token mean of every two steps."""
    sums = made.cells.group_by((pl.col("step") + 1) // 2 * 2).agg(pl.col("nll", "n").sum()).sort("step")
    logged = sums.select(
        run=pl.lit(0),
        row=pl.int_range(pl.len()),
        step="step",
        epoch=pl.lit(None),
        phase=pl.lit("train"),
        key=pl.lit("loss"),
        value=(pl.col("nll") / pl.col("n")).round(4),
        precision=pl.lit(5e-5),
    ).cast({name: kind() for name, kind in SCHEMA.items()})
    return audit_evidence(Logged(logged), made).keys[0]


def test_equal_counts_make_all_averages_one() -> None:
    found = verdict(evidence(5, ragged=False))
    assert found.verdict == "cannot tell"
    assert found.hypothesis is None
    assert set(found.ties_with) - {"definition"} == AVERAGES
    assert found.tell_apart


@pytest.mark.parametrize("most", [2, 8])
def test_ragged_rows_tell_them_apart(most: int) -> None:
    found = verdict(evidence(most, ragged=True))
    assert (found.verdict, found.hypothesis, found.ties_with) == ("agrees", "definition", ())


def test_the_averages_are_registered() -> None:
    assert {entry.id for entry in HYPOTHESES} >= AVERAGES
