"""What is odd but convicts nobody, and the one oddity that does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from softmax_logs import log_of_rows

from logitbox.analysis.audit.inequalities.checking import check
from logitbox.analysis.audit.names import find_meanings


def found(rows, vocab_size=None, **kwargs):
    """(ids of violations, notice by id)."""
    logged = log_of_rows(rows, **kwargs)
    violations, notices = check(logged, 0, find_meanings(logged, 0)[0], vocab_size)
    return [v.inequality for v in violations], {n.check: n for n in notices}


def test_nothing_but_zero_is_a_conviction_with_the_gradients_only():
    zero = [{"step": s, "loss": 0.0, "grad_norm": 0.0} for s in (1, 2, 3)]
    assert found(zero)[0] == ["nothing-trained"]
    assert found(zero[:2])[0] == []
    alone = [{"step": s, "loss": 0.0} for s in (1, 2, 3)]
    assert found(alone)[0] == []
    assert "all-zero" in found(alone)[1]
    assert found([{**row, "grad_norm": 0.1} for row in zero])[0] == []


def test_nan_beside_finite_values_is_told_with_its_count():
    rows = [
        {"step": 1, "loss": math.nan, "acc": 0.5},
        {"step": 2, "loss": 1.0, "acc": 0.5},
        {"step": 3, "loss": math.inf, "acc": 0.4},
    ]
    violations, notices = found(rows)
    assert violations == []
    assert (notices["not-finite"].count, notices["not-finite"].step) == (2, 1)


LOSSES = [(10, 4.0), (20, 3.0), (25, 2.0), (40, 1.0)]
IN_ALL = 10 * 4 + 10 * 3 + 5 * 2 + 15 * 1


def with_summary(told):
    rows = [{"step": step, "loss": loss} for step, loss in LOSSES]
    return [*rows, {"step": 40, "train_loss": told, "train_runtime": 9.0}]


def test_the_loss_of_the_run_is_the_mean_weighted_with_steps():
    assert "train-loss" not in found(with_summary(IN_ALL / 40))[1]


@pytest.mark.parametrize(("told", "words"), [
    ((5 * 2 + 15 * 1) / 40, "sum since step 20"),
    ((5 * 2 + 15 * 1) / 20, "mean since step 20"),
    (10 / 4, "mean of the lines"),
    (0.77, "neither"),
])  # fmt: skip
def test_the_formula_of_another_loss_of_the_run_is_told(told, words):
    violations, notices = found(with_summary(told))
    assert violations == []
    assert words in notices["train-loss"].about


def test_steps_after_the_last_line_may_have_any_loss():
    rows = [
        {"step": 10, "loss": 0.0954},
        {"step": 20, "loss": 0.08},
        {"step": 29, "train_loss": 0.07, "train_runtime": 1.0},
    ]
    assert "train-loss" not in found(rows)[1]


def test_order_and_repetition():
    rows = [{"step": 1, "epoch": 0.1, "loss": 1.0}, {"step": 3, "epoch": 0.3, "loss": 1.0}, {"step": 2, "epoch": 0.2, "loss": 1.0},
            {"step": 3, "epoch": 0.3, "loss": 1.1}]  # fmt: skip
    notices = found(rows)[1]
    assert (notices["step-order"].step, notices["step-order"].count) == (2, 1)
    assert notices["repeated"].step == 3


def test_rare_figures_are_noticed_only():
    rows = [
        {"step": 1, "loss": 12.6, "token_acc": 0.9, "entropy": 1.0},
        {"step": 2, "loss": 0.2, "token_acc": 0.9, "entropy": 0.2},
    ]
    violations, notices = found(rows)
    assert violations == []
    assert {"loss-by-accuracy", "loss-by-entropy", "first-loss"} <= set(notices)
    assert notices["loss-by-accuracy"].count == 1
    # ln 262144 = 12.477; of a vocabulary of a million, ln V = 13.8.
    assert "first-loss" not in found(rows, vocab_size=1_000_000)[1]


def test_an_accuracy_must_be_a_whole_number_of_hits():
    assert "granularity" not in found([{"step": 1, "token_acc": 2 / 7, "n_tokens": 7}])[1]
    assert "granularity" in found([{"step": 1, "token_acc": 0.25, "n_tokens": 7}])[1]
    # Tokens of the input are no supervised ones.
    assert "granularity" not in found([{"step": 1, "token_acc": 0.25, "num_tokens": 7}])[1]


def test_level_shifts_but_not_slopes():
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.02, 0.02, 60)
    slope = 3 * np.exp(-np.arange(60) / 10) + noise
    step = np.where(np.arange(60) < 30, 1.0, 2.0) + noise
    for series, is_shift in ((slope, False), (1 + noise, False), (step, True), (step[:30], False)):
        notices = found([{"step": s + 1, "loss": loss} for s, loss in enumerate(series)])[1]
        assert ("level-shift" in notices) == is_shift
    assert notices.get("level-shift") is None
