"""What is odd but convicts nobody, and the one oddity that does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from softmax_logs import log_of_rows

from logitbox.analysis.audit.inequalities.checking import check
from logitbox.analysis.audit.names import find_meanings
from logitbox.dumps.spec import build_spec


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
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "train_loss": math.nan, "train_runtime": 3.0}]
    assert found(rows)[1]["not-finite"].keys == ("train_loss",)


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


def untold(told, *, steps=True, last=29):
    rows = [
        {"step": 10, "loss": 0.0954},
        {"step": 20, "loss": 0.08},
        {"step": last, "train_loss": told, "train_runtime": 1.0},
    ]
    return rows if steps else [{key: x for key, x in row.items() if key != "step"} for row in rows]


def mean_with(missing):
    return (10 * 0.0954 + 10 * 0.08 + 9 * missing) / 29


@pytest.mark.parametrize(("missing", "is_odd"), [
    (0.0, False), (0.05, False), (0.28, False), (0.29, True), (77.0, True), (-0.01, True),
])  # fmt: skip
def test_steps_after_the_last_line_may_have_a_loss_within_reason(missing, is_odd):
    notices = found(untold(mean_with(missing)))[1]
    assert ("train-loss" in notices) == is_odd
    if is_odd:
        shown = float(notices["train-loss"].about.split("would have to average ")[1].split(",")[0])
        assert shown == pytest.approx(missing, abs=2e-3 + 1e-3 * abs(missing))
        assert "the last 9 of its 29 steps" in notices["train-loss"].about


@pytest.mark.parametrize(("told", "is_odd"), [
    (0.0877, False), (0.0954, False), (77.0, True),
    # A third line at 3 · 0.0954, and the first of next to no steps: (0.08 + …) / 3.
    ((0.0954 + 0.08 + 0.28) / 3, False), ((0.0954 + 0.08 + 0.30) / 3, True), (0.03, False), (0.025, True),
])  # fmt: skip
def test_lines_are_counted_where_the_log_has_no_steps(told, is_odd):
    notices = found(untold(told, steps=False))[1]
    assert ("train-loss" in notices) == is_odd
    if is_odd:
        assert notices["train-loss"].step is None
        assert f"row 3: train_loss = {told:.6g}" in notices["train-loss"].about


def test_a_log_that_begins_with_the_resume():
    rows = [{"step": 110, "loss": 1.0}, {"step": 120, "loss": 3.0}]
    summary = {"step": 120, "train_loss": (10 * 1 + 10 * 3) / 120, "train_runtime": 1.0}
    assert "sum since step 100" in found([*rows, summary])[1]["train-loss"].about


@pytest.mark.parametrize(("rows", "why"), [
    ([{"eval_loss": 0.7}, {"train_loss": 0.3, "train_runtime": 1.0}], "no training loss was logged"),
    ([{"loss": 0.7}, {"train_loss": math.nan, "train_runtime": 1.0}], "it is NaN"),
    ([{"loss": 0.7}, {"loss": math.nan}, {"train_loss": 0.7, "train_runtime": 1.0}], "loss is NaN or infinite in 1 of 2 lines"),
    ([{"train_loss": 0.7, "train_runtime": 1.0}, {"loss": 0.7}], "loss was not logged before it"),
])  # fmt: skip
def test_a_loss_of_the_run_that_cannot_be_checked_is_told(rows, why):
    logged = log_of_rows(rows)
    reason = find_meanings(logged, 0)[1]["train_loss"]
    assert "could not be checked: " in reason
    assert why in reason
    assert "train-loss" not in found(rows)[1]
    assert "checked against" in find_meanings(log_of_rows(untold(0.08)), 0)[1]["train_loss"]


def test_a_first_loss_a_little_above_ln_v_is_that_of_a_fresh_model():
    # ln 1000 = 6.91
    for first, is_odd in ((7.2, False), (8.4, False), (8.5, True)):
        notices = found([{"step": 1, "loss": first}], vocab_size=1000)[1]
        assert ("first-loss" in notices) == is_odd
    assert "newly enlarged head" in notices["first-loss"].about
    for beside in ({"coord_softce_w1/loss": 3.0}, {"mtp_loss": 3.0}):
        assert "first-loss" not in found([{"step": 1, "loss": 8.5, **beside}], vocab_size=1000)[1]
    # Of a dump with an ordered group, too.
    logged = log_of_rows([{"step": 1, "loss": 8.5}])
    group = {
        "types": None,
        "probes": False,
        "lse_beta": "eval",
        "scope": "supervised",
        "groups": {"coord": range(10)},
    }
    for ordered, expected in ((None, ["first-loss"]), ({"coord": {}}, [])):
        meanings, _ = find_meanings(logged, 0, [build_spec(1000, None, ordered=ordered, **group)])
        assert [n.check for n in check(logged, 0, meanings, 1000)[1]] == expected


def test_where_the_log_has_no_steps_the_row_is_told():
    rows = [
        {"epoch": 0.1, "loss": 2.0, "acc": 0.5},
        {"epoch": 0.25, "loss": 0.1, "acc": 0.5},
        {"loss": math.nan, "acc": 0.4},
    ]
    logged = log_of_rows(rows)
    (violation,), (notice,) = check(logged, 0, find_meanings(logged, 0)[0])
    assert violation.about.endswith("it is row 2, epoch 0.25: loss = 0.1, acc = 0.5.")
    assert notice.about.endswith("it is row 3: loss = NaN or infinite, acc = 0.4.")
    logged = log_of_rows([{"step": n, **row} for n, row in enumerate(rows)])
    assert not any("no step" in one.about for one in check(logged, 0, find_meanings(logged, 0)[0])[1])


def test_order_and_repetition():
    rows = [{"step": 1, "epoch": 0.1, "loss": 1.0}, {"step": 3, "epoch": 0.3, "loss": 1.0}, {"step": 2, "epoch": 0.2, "loss": 1.0},
            {"step": 3, "epoch": 0.3, "loss": 1.1}]  # fmt: skip
    notices = found(rows)[1]
    assert (notices["step-order"].step, notices["step-order"].count) == (2, 1)
    assert notices["repeated"].step == 3


def test_rare_figures_are_noticed_only():
    rows = [
        {"step": 1, "loss": 15.0, "token_acc": 0.9, "entropy": 1.0},
        {"step": 2, "loss": 0.2, "token_acc": 0.9, "entropy": 0.2},
    ]
    violations, notices = found(rows)
    assert violations == []
    assert {"loss-by-accuracy", "loss-by-entropy", "first-loss"} <= set(notices)
    assert notices["loss-by-accuracy"].count == 1
    # 1.15 · ln V + 0.5 is 14.85 of 262,144 tokens and 16.4 of a million.
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


@pytest.mark.parametrize(("key", "seq_acc", "is_odd"), [
    # 10 of 100 tokens are wrong, so no more than 10 of 20 sequences are.
    ("eval_seq_acc", 0.5, False), ("eval_seq_acc", 0.45, True), ("seq_acc", 0.45, False),
])  # fmt: skip
def test_sequences_are_counted_beside_the_token_accuracy_of_the_same_phase(key, seq_acc, is_odd):
    row = {"step": 1, "eval_token_acc": 0.9, "eval_n_tokens": 100, "eval_n_sequences": 20, key: seq_acc}
    logged = log_of_rows([row])
    violations, notices = check(logged, 0, find_meanings(logged, 0)[0])
    assert violations == []
    assert [n.check for n in notices] == ["sequence-accuracy"] * is_odd


def test_caps_and_means_of_exp_are_told_apart():
    big = 25.0
    rows = [{"step": 1, "eval_loss": big, "eval_perplexity": math.exp(20)}]
    logged = log_of_rows(rows)
    violations, notices = check(logged, 0, find_meanings(logged, 0)[0])
    assert violations == []
    assert "capped" in {n.check for n in notices}
    logged = log_of_rows([{"step": 1, "eval_loss": 2.0, "eval_perplexity": 4.0}])
    violations, _ = check(logged, 0, find_meanings(logged, 0)[0])
    assert [v.inequality for v in violations] == ["perplexity-below"]
    logged = log_of_rows([{"step": 1, "eval_loss": 2.0, "eval_perplexity": 9.0}])
    violations, notices = check(logged, 0, find_meanings(logged, 0)[0])
    assert (violations, [n.check for n in notices]) == ([], ["perplexity-above"])
