"""What holds is told with the row that comes nearest to breaking it."""

from __future__ import annotations

import math

import pytest
from softmax_logs import log_of_rows

from logitbox.analysis.audit.inequalities.holding import held
from logitbox.analysis.audit.names import find_meanings


def holding(rows, **kwargs):
    logged = log_of_rows(rows, **kwargs)
    return held(logged, 0, find_meanings(logged, 0)[0])


def by_id(rows, **kwargs):
    return {one.inequality: one for one in holding(rows, **kwargs) if len(one.keys) > 1}


def test_the_nearest_row_is_told():
    losses, accuracies = (2.0, 1.0, 0.5), (0.3, 0.4, 0.9)
    rows = [{"step": n, "loss": x, "acc": a} for n, (x, a) in enumerate(zip(losses, accuracies, strict=True))]
    ratios = [x / ((1 - a) * math.log(2)) for x, a in zip(losses, accuracies, strict=True)]
    found = by_id([*rows, {"step": 7, "loss": 0.1}])["ce-accuracy"]
    assert (found.step, found.rows, found.keys) == (1, 3, ("loss", "acc"))
    assert found.ratio == pytest.approx(min(ratios))
    assert f"nearest a factor of {min(ratios):.3g}" in found.about
    assert found.slack == pytest.approx(1.0 - 0.6 * math.log(2))


def test_what_is_broken_in_one_row_does_not_hold():
    rows = [{"step": 1, "loss": 2.0, "acc": 0.5}, {"step": 2, "loss": 0.1, "acc": 0.5}]
    assert "ce-accuracy" not in by_id(rows)
    assert "ce-accuracy" in by_id(rows[:1])


def test_a_perplexity_that_is_exp_of_the_loss_is_told_once():
    rows = [
        {"step": n, "eval_loss": x, "eval_perplexity": round(math.exp(x), 4)}
        for n, x in enumerate((1.0, 2.0))
    ]
    found = by_id(rows, precision=5e-5)
    assert "perplexity-above" not in found
    assert found["perplexity-below"].formula == "perplexity = exp(loss)"
    assert found["perplexity-below"].slack == pytest.approx(
        max(abs(r["eval_perplexity"] - math.exp(r["eval_loss"])) for r in rows)
    )
    # A mean of exp lies above: one of the two holds, and is told as such.
    found = by_id([{"step": 1, "eval_loss": 1.0, "eval_perplexity": 4.0}])
    assert found["perplexity-below"].formula == "perplexity ≥ exp(loss)"


def test_the_loss_of_the_run_is_told_where_it_can_be_the_mean():
    lines = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}]
    found = by_id([*lines, {"step": 20, "train_loss": 1.5, "train_runtime": 1.0}])["train-loss"]
    assert (found.lhs, found.rhs, found.rows) == (1.5, 1.5, 2)
    found = by_id([*lines, {"step": 25, "train_loss": 1.4, "train_runtime": 1.0}])["train-loss"]
    assert (found.lhs, found.rhs) == (6.0, pytest.approx((1.4 * 25 - 30) / 5))
    assert "train-loss" not in by_id([*lines, {"step": 25, "train_loss": 14.0, "train_runtime": 1.0}])


def test_ranges_come_last():
    rows = [{"step": n, "loss": 1.0, "acc": 0.5} for n in range(4)]
    found = holding(rows)
    assert [len(one.keys) for one in found] == sorted((len(one.keys) for one in found), reverse=True)
    assert {(one.formula, one.keys, one.rows) for one in found if len(one.keys) == 1} == {
        ("1 ≥ x", ("acc",), 4),
        ("x ≥ 0", ("acc",), 4),
        ("x ≥ 0", ("loss",), 4),
    }
