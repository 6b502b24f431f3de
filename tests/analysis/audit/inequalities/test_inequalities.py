"""No distribution breaks an inequality, whatever is rounded away; one row made by hand breaks each."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from softmax_logs import log_of, log_of_rows, meaning, means

from logitbox.analysis.audit.inequalities.checking import check
from logitbox.analysis.audit.inequalities.registry import CATALOGUE, INEQUALITIES
from logitbox.analysis.audit.inequalities.table import Table
from logitbox.analysis.audit.names import find_meanings

IDS = [entry.id for entry in INEQUALITIES]

BROKEN = {
    "ce-accuracy": {"nll@": 0.1, "correct@": 0.6},
    "ce-top-k": {"nll@": 0.7, "correct@": 0.3, "correct_top5@": 0.4},
    "ce-top-k-alone": {"nll@": 0.7, "correct_top5@": 0.5},
    "top-k-accuracy": {"correct_top5@": 0.5, "correct@": 0.6},
    "sequence-accuracy": {"correct@": 0.9, "n_tokens@": 50, "sequence_correct@": 0.2, "n_sequences@": 10},
    "top-k-order": {"correct_top10@": 0.5, "correct_top5@": 0.6},
    "mrr-accuracy": {"reciprocal_rank@": 0.5, "correct@": 0.6},
    "accuracy-mrr": {"reciprocal_rank@": 0.7, "correct@": 0.2},
    "mrr-ce": {"reciprocal_rank@": 0.5, "nll@": 0.1},
    "ece-overconfident": {"ece@": 0.1, "confidence@": 0.9, "correct@": 0.5},
    "ece-underconfident": {"ece@": 0.1, "confidence@": 0.5, "correct@": 0.9},
    "fraction-above-one": {"correct@": 1.2},
    "fraction-below-zero": {"mass_coord@text": -0.1},
    "below-zero": {"entropy@": -0.2},
    "entropy-ceiling": {"entropy@": 2.5},
    "entropy-confidence": {"entropy@": 0.1, "confidence@": 0.5},
    "confidence-entropy": {"entropy@": 1.0, "confidence@": 0.99},
    "confidence-ce": {"confidence@": 0.5, "nll@": 0.1},
    "ce-entropy": {"nll@": 0.5, "correct@": 0.6, "entropy@": 0.05},
    "entropy-binary": {"entropy@": 0.1, "binary_entropy@": 0.5},
    "entropy-top-k": {"entropy@": 0.1, "top10_entropy@": 0.5},
    "top-k-binary": {"top10_entropy@": 0.2, "binary_entropy@": 0.5},
    "top-k-ceiling": {"top10_entropy@": 4.0},
    "binary-confidence": {"confidence@": 0.99, "binary_entropy@": 0.5},
    "top-prob": {"top2_prob@": 0.4, "confidence@": 0.5},
    "top-prob-order": {"top5_prob@": 0.4, "top2_prob@": 0.5},
    "top-prob-multiple": {"top2_prob@": 0.6, "confidence@": 0.2},
    "confidence-floor": {"confidence@": 0.05},
    "smoothing-floor": {"nll@": 0.3},
    "perplexity-below": {"perplexity@": 2.0, "nll@": 1.0},
    "perplexity-above": {"perplexity@": 3.0, "nll@": 1.0},
    "shares-sum": {"is_coord@": 0.5, "is_desc@": 0.3, "is_format@": 0.3},
    "types-weighted": {
        "is_coord@": 0.5, "is_desc@": 0.3, "is_format@": 0.2,
        "correct@coord": 0.5, "correct@desc": 0.5, "correct@format": 0.5, "correct@": 0.55,
    },
    "types-most": {
        "is_coord@": 0.5, "is_desc@": 0.3, "is_format@": 0.2,
        "correct@coord": 0.1, "correct@desc": 0.1, "correct@format": 0.1, "correct@": 0.9,
    },
    "types-fewest": {
        "is_coord@": 0.5, "is_desc@": 0.3, "is_format@": 0.2,
        "correct@coord": 0.9, "correct@desc": 0.9, "correct@format": 0.9, "correct@": 0.1,
    },
    "rest-weighted": {"is_coord@": 0.5, "correct@coord": 0.5, "correct@text": 0.5, "correct@": 0.55},
    "rest-most": {"is_coord@": 0.5, "correct@coord": 0.1, "correct@text": 0.1, "correct@": 0.9},
    "rest-fewest": {"is_coord@": 0.5, "correct@coord": 0.9, "correct@text": 0.9, "correct@": 0.1},
    "gate-mass": {"coord.gate@coord.finite": 0.01, "coord.gate_mass@coord.finite": 0.5},
    "ce-mass": {"nll@coord": 0.1, "mass_coord@coord": 0.5},
    "ce-mass-rest": {"nll@text": 0.1, "mass_coord@text": 0.5},
    "flip-out-accuracy": {"top_out_coord@coord": 0.6, "correct@coord": 0.6},
    "flip-in-accuracy": {"top_in_coord@text": 0.6, "correct@text": 0.6},
    "composite-loss": {"composite@": 1.0, "nll@text": 0.5, "coord.loss@coord.finite": 0.6},
    "decision-sum-accept-reject": {"decision_mass@": 0.7, "mass_accept@": 0.5, "mass_reject@": 0.3},
    "decision-half-accept-reject": {
        "decision_mass@": 0.8, "mass_accept@": 0.4, "mass_reject@": 0.4, "decision_confidence@": 0.35,
    },
    "decision-sum-yes-no": {"decision_mass@": 0.9, "mass_yes@": 0.5, "mass_no@": 0.3},
    "decision-half-yes-no": {
        "decision_mass@": 0.8, "mass_yes@": 0.4, "mass_no@": 0.4, "decision_confidence@": 0.35,
    },
    "decision-mass": {"decision_mass@": 0.7, "mass_a@": 0.5, "mass_b@": 0.3},
    "decision-confidence": {"decision_mass@": 0.7, "decision_confidence@": 0.8},
    "decision-likeliest": {"decision_confidence@": 0.5, "mass_accept@": 0.6},
}  # fmt: skip
"""One row each, impossible by a clear margin, V = 10."""
ONLY_NOTICED = {"types-weighted", "rest-weighted", "perplexity-above", "sequence-accuracy"}
SMOOTHED = {"label_smoothing_factor": 0.1}


def found_in(columns, how="exact", vocab_size=10, **kwargs):
    """(ids of violations, ids of notices)."""
    logged = log_of({key: np.atleast_1d(x) for key, x in columns.items()}, how, **kwargs)
    violations, notices = check(logged, 0, {key: meaning(key) for key in columns}, vocab_size)
    return {v.inequality for v in violations}, {n.check for n in notices}


def test_every_inequality_has_an_impossible_row():
    assert set(BROKEN) == set(IDS)
    assert len(IDS) == len(set(IDS))


def test_the_catalogue_names_entries_or_a_reason():
    assert list(CATALOGUE) == list(range(1, 15))
    assert all(entry if isinstance(entry, str) else set(entry) <= set(IDS) for entry in CATALOGUE.values())


@pytest.mark.parametrize("name", IDS)
def test_an_impossible_row_convicts(name):
    violations, notices = found_in(BROKEN[name], meta=SMOOTHED if name == "smoothing-floor" else None)
    assert name in (notices if name in ONLY_NOTICED else violations)
    assert name not in (violations if name in ONLY_NOTICED else notices)


@pytest.mark.parametrize("name", IDS)
def test_what_rounding_can_explain_convicts_nobody(name):
    columns = BROKEN[name]
    rows = [{"step": 1, **columns}]
    meta = SMOOTHED if name == "smoothing-floor" else None
    meanings = {key: meaning(key) for key in columns}
    # Printed with no decimal at all, each of these could have been anything within ± 5.
    violations, _ = check(log_of_rows(rows, precision=5.0, meta=meta), 0, meanings, 10)
    assert not violations


@st.composite
def softmax_rows(draw):
    """(logits, gold, weight, is_desc): ties, one-hot and flat distributions, gold likely, unlikely or at random."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, n = 24, draw(st.sampled_from([1, 2, 7, 30]))
    size = draw(st.sampled_from([3, 4, 11, 40]))
    scale = draw(st.sampled_from([0.0, 0.3, 2.0, 10.0, 60.0]))
    logits = rng.normal(size=(rows, n, size)) * scale
    if draw(st.booleans()):
        logits = np.round(logits)
    order = np.argsort(-logits, axis=-1, kind="stable")
    place = rng.integers(0, draw(st.sampled_from([1, 2, 6, 1000])), size=(rows, n)) % size
    gold = np.take_along_axis(order, place[..., None], -1)[..., 0]
    weight = rng.exponential(size=(rows, n)) if draw(st.booleans()) else np.ones((rows, n))
    return logits, gold, weight, rng.random((rows, n)) < 0.5


@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(softmax_rows(), st.sampled_from(["exact", "decimals", "significant"]))
def test_no_softmax_breaks_any(rows, how):
    columns = means(*rows)
    violations, notices = found_in(columns, how, vocab_size=rows[0].shape[-1])
    assert not violations
    assert not notices & set(IDS)


def test_every_inequality_is_reached_by_the_property():
    rng = np.random.default_rng(0)
    columns = means(
        rng.normal(size=(4, 20, 11)),
        rng.integers(0, 11, (4, 20)),
        np.ones((4, 20)),
        rng.random((4, 20)) < 0.5,
    )
    table = Table(log_of(columns, meta=SMOOTHED), 0, {key: meaning(key) for key in columns}, 11)
    (known,) = table.streams.values()
    unused = {entry.id for entry in INEQUALITIES if not any(entry.uses(known, table.facts))}
    # The other two answers are the same entries under other names; three answers need a decision of three.
    assert unused == {"decision-sum-yes-no", "decision-half-yes-no", "decision-mass"}


@settings(max_examples=10, deadline=None)
@given(softmax_rows(), st.sampled_from([0.01, 0.1, 0.5]))
def test_no_smoothed_loss_is_below_its_floor(rows, epsilon):
    logits, gold, *_ = rows
    x = logits - logits.max(-1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, gold[..., None], -1)[..., 0]
    loss = ((1 - epsilon) * nll - epsilon * log_p.mean(-1)).mean(1)
    found = found_in({"nll@": loss}, "decimals", x.shape[-1], meta={"label_smoothing_factor": epsilon})
    assert found[0] == set()


def test_the_smoothing_floor_is_what_the_catalogue_says():
    # ε = 0.1: 1.36 at V = 32k, 1.52 at 152k.
    for size, floor in ((32_000, 1.362), (152_000, 1.518)):
        assert found_in({"nll@": floor - 0.002}, vocab_size=size, meta=SMOOTHED)[0] == {"smoothing-floor"}
        assert found_in({"nll@": floor + 0.002}, vocab_size=size, meta=SMOOTHED)[0] == set()


def test_the_decision_of_three_answers():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(5), size=(50, 8))[..., :3]
    columns = {f"mass_{name}@decision": p[..., i].mean(1) for i, name in enumerate("abc")}
    columns |= {
        "decision_mass@decision": p.sum(-1).mean(1),
        "decision_confidence@decision": p.max(-1).mean(1),
    }
    assert found_in(columns, "decimals") == (set(), set())


@pytest.mark.parametrize("how", ["decimals", "significant"])
def test_three_thousand_clean_runs_convict_nobody(how):
    rng = np.random.default_rng(7)
    runs, lines, n, size = 3000, 4, 16, 12
    sharpness = rng.uniform(0.1, 12.0, size=(runs * lines, 1, 1))
    logits = rng.normal(size=(runs * lines, n, size)) * sharpness
    best = np.argsort(-logits, axis=-1)
    # Half of the tokens of sure models are right: the loss then comes as near to its least as it can.
    place = (rng.random((runs * lines, n)) > rng.random((runs * lines, 1))) * rng.integers(
        1, 3, size=(runs * lines, n)
    )
    gold = np.take_along_axis(best, place[..., None], -1)[..., 0]
    table = means(logits, gold, np.ones(gold.shape), np.ones(gold.shape, bool))
    names = {
        "loss": "nll@", "token_acc": "correct@", "token_acc_top5": "correct_top5@", "perplexity": "perplexity@",
        "entropy": "entropy@", "confidence": "confidence@", "coord_token_acc": "correct@coord",
        "text_token_acc": "correct@text", "coord_token_frac": "is_coord@",
        "coord_monitor/flip_text_to_coord": "top_in_coord@text",
        "coord_monitor/coord_vocab_mass_at_gt_coord": "mass_coord@coord",
    }  # fmt: skip
    logged = log_of({key: table[name] for key, name in names.items()}, how)
    meanings, left_out = find_meanings(logged, 0)
    assert set(meanings) == set(names)
    assert left_out == {}
    violations, _ = check(logged, 0, meanings, size)
    assert violations == []
    # The same rows with a loss of a quarter are seen through.
    logged = log_of({"loss": table["nll@"] / 4, "token_acc": table["correct@"]}, how)
    assert [v.inequality for v in check(logged, 0, meanings)[0]] == ["ce-accuracy"]


def test_the_worst_row_is_told_with_how_many_there_are():
    logged = log_of({"loss": [0.5, 0.1, 0.2], "acc": [0.9, 0.4, 0.5]})
    violations, _ = check(logged, 0, find_meanings(logged, 0)[0])
    (found,) = violations
    assert (found.inequality, found.step, found.count, found.keys) == ("ce-accuracy", 20, 2, ("loss", "acc"))
    assert found.lhs == pytest.approx(0.1)
    assert found.rhs == pytest.approx(0.6 * math.log(2))
    # 0.4158 − 0.5·10⁻⁴·ln 2 over 0.1 + 0.5·10⁻⁴
    assert "factor of 4.16" in found.about


@pytest.mark.parametrize(("framework", "loss", "convicts"), [
    ("trl", 0.95, False), ("ms-swift", 0.95, False), ("transformers", 0.95, False),
    ("", 0.95, True), ("trl", 0.85, True), ("transformers", 0.3, True),
])  # fmt: skip
def test_what_weights_can_explain_is_noticed_where_they_differ(framework, loss, convicts):
    logged = log_of({"loss": [loss * 0.4 * math.log(2)], "acc": [0.6]}, "exact", framework)
    violations, notices = check(logged, 0, find_meanings(logged, 0)[0])
    assert [v.inequality for v in violations] == (["ce-accuracy"] if convicts else [])
    assert [n.check for n in notices] == ([] if convicts else ["ce-accuracy"])


def test_trl_entropies_are_of_other_tokens_and_convict_nobody():
    logged = log_of({"loss": [0.5], "mean_token_accuracy": [0.6], "entropy": [0.05]}, "exact", "trl")
    violations, notices = check(logged, 0, find_meanings(logged, 0)[0])
    assert violations == []
    assert {"ce-entropy", "loss-by-entropy"} <= {n.check for n in notices}


def test_a_nan_loss_nearby_points_to_batches_without_labels():
    rows = [
        {"step": 10, "loss": 0.0954, "mean_token_accuracy": 0.6419},
        {"step": 19, "eval_loss": math.nan, "eval_mean_token_accuracy": 0.62},
    ]
    logged = log_of_rows(rows, "trl", precision=5e-5)
    (found,), notices = check(logged, 0, find_meanings(logged, 0)[0])
    assert found.inequality == "ce-accuracy"
    causes, evidence = found.repair.split(" Here eval_loss is NaN or infinite")
    assert causes.startswith("Look first for micro-batches without any label")
    assert "micro-batches without any label" in evidence
    assert [n.check for n in notices] == ["not-finite"]


def test_keys_of_one_step_are_put_together_where_rows_hold_one_value():
    rows = [
        {"step": 5, "loss": 0.1},
        {"step": 5, "acc": 0.5},
        {"step": 6, "loss": 0.9},
        {"step": 6, "acc": 0.5},
    ]
    logged = log_of_rows(rows)
    violations, _ = check(logged, 0, find_meanings(logged, 0)[0])
    assert [(v.inequality, v.step, v.count) for v in violations] == [("ce-accuracy", 5, 1)]


def test_phases_and_other_rows_are_never_paired():
    rows = [
        {"step": 1, "loss": 0.1},
        {"step": 1, "eval_loss": 1.0, "eval_acc": 0.5},
        {"step": 2, "acc": 0.5, "loss": 2.0},
    ]
    logged = log_of_rows(rows)
    assert check(logged, 0, find_meanings(logged, 0)[0])[0] == []
