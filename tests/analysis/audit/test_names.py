"""What names promise, and names that look alike."""

from __future__ import annotations

import polars as pl
import pytest

from logitbox.analysis.audit.names import find_meanings
from logitbox.analysis.logs.frame import SCHEMA, Logged
from logitbox.dumps.spec import build_spec


def log(*rows, framework="", phase="train"):
    told = [
        {"run": 0, "row": n, "step": n + 1, "epoch": None, "phase": "eval" if key.startswith("eval") else phase, "key": key,
         "value": float(value), "precision": 0.0}
        for n, row in enumerate(rows)
        for key, value in row.items()
    ]  # fmt: skip
    return Logged(pl.DataFrame(told, schema=SCHEMA), framework=framework)


def spec(**kwargs):
    options = {
        "groups": None,
        "ordered": None,
        "types": None,
        "probes": False,
        "lse_beta": "eval",
        "scope": "supervised",
    }
    return build_spec(100, None, **{**options, **kwargs})


def only(key, **kwargs):
    meanings, left_out = find_meanings(log({key: 0.5}), 0, **kwargs)
    assert set(meanings) | set(left_out) == {key}
    return meanings.get(key)


@pytest.mark.parametrize(("key", "value", "transform", "phase"), [
    ("loss", "nll", "identity", "train"), ("train_loss", "nll", "identity", "train"), ("eval_loss", "nll", "identity", "eval"),
    ("train/loss", "nll", "identity", "train"), ("eval/loss", "nll", "identity", "eval"), ("val_loss", "nll", "identity", "eval"),
    ("val/loss", "nll", "identity", "eval"), ("Loss/val", "nll", "identity", "eval"), ("lm loss", "nll", "identity", "train"),
    ("acc", "correct", "identity", "train"), ("eval_accuracy", "correct", "identity", "eval"),
    ("mean_token_accuracy", "correct", "identity", "train"), ("eval_token_acc", "correct", "identity", "eval"),
    ("top5_accuracy", "correct_top5", "identity", "train"), ("eval_token_acc_top5", "correct_top5", "identity", "eval"),
    ("ppl", "nll", "exp", "train"), ("eval_perplexity", "nll", "exp", "eval"), ("entropy", "entropy", "identity", "train"),
    ("top10_acc", "correct_top10", "identity", "train"),
])  # fmt: skip
def test_common_names(key, value, transform, phase):
    meaning = only(key)
    assert (meaning.terms, meaning.transform, meaning.phase) == (((value, ""),), transform, phase)
    assert meaning.is_fraction == value.startswith("correct")


def test_seeds_keys_without_a_dump():
    keys = ["desc_token_acc", "coord_token_frac", "coord_monitor/flip_text_to_coord", "text_token_acc", "coord_softce_w1/gate",
            "eval_decision_prob_mass", "train_entropy", "train_top1_prob", "val_reasoning_perplexity"]  # fmt: skip
    meanings, _ = find_meanings(log(dict.fromkeys(keys, 0.5)), 0)
    assert {key: (*meanings[key].terms[0], meanings[key].transform) for key in keys} == {
        "desc_token_acc": ("correct", "desc", "identity"),
        "coord_token_frac": ("is_coord", "", "identity"),
        "coord_monitor/flip_text_to_coord": ("top_in_coord", "text", "identity"),
        "text_token_acc": ("correct", "text", "identity"),
        "coord_softce_w1/gate": ("coord.gate", "coord.finite", "identity"),
        "eval_decision_prob_mass": ("decision_mass", "decision", "identity"),
        "train_entropy": ("binary_entropy", ".plain", "identity"),
        "train_top1_prob": ("confidence", ".plain", "identity"),
        "val_reasoning_perplexity": ("nll", "reasoning.plain", "exp_cap_1e6"),
    }


def test_the_composite_loss_is_a_sum_of_two_means():
    ours = spec(groups={"coord": range(10)}, ordered={"coord": {}})
    meaning = only("coord_softce_w1/composite_loss", specs=(ours,))
    assert meaning.terms == (("nll", "text"), ("coord.loss", "coord.finite"))


def test_with_a_dump_names_are_those_of_its_definitions():
    assert only("foo_token_acc", specs=(spec(types=["foo"]),)).terms == (("correct", "foo"),)
    assert only("foo_token_acc", specs=(spec(),)) is None
    assert only("train_entropy", specs=(spec(),)).value == "binary_entropy"
    assert only("train/entropy", specs=(spec(),)).value == "entropy"
    assert only("n_tokens", specs=(spec(),)) is None


@pytest.mark.parametrize(("key", "value", "population", "transform"), [
    ("foo_loss", "nll", "foo", "identity"), ("foo_ppl", "nll", "foo", "exp"), ("eval_foo_perplexity", "nll", "foo", "exp"),
    ("foo_acc", "correct", "foo", "identity"), ("eval/foo/entropy", "entropy", "foo", "identity"),
    ("foo_bar_loss", "nll", "foo_bar", "identity"), ("coord_loss", "nll", "coord", "identity"),
    ("text_token_acc_top5", "correct_top5", "text", "identity"),
])  # fmt: skip
def test_metrics_of_types_and_groups(key, value, population, transform):
    ours = spec(types=["foo", "foo_bar"], groups={"coord": range(10)}, ordered={"coord": {}})
    meaning = only(key, specs=(ours,))
    assert (meaning.terms, meaning.transform) == (((value, population),), transform)
    assert meaning.is_fraction == value.startswith("correct")


@pytest.mark.parametrize("key", ["food_loss", "baz_loss", "foo_runtime", "foo_n_tokens", "foo_whatever"])
def test_names_that_only_begin_like_a_type_are_not_of_it(key):
    assert only(key, specs=(spec(types=["foo"]),)) is None


def test_phases_and_datasets_are_the_dumps():
    streams = [("train", ""), ("val", "wiki"), ("val", "code")]
    found = only("eval_wiki_loss", specs=(spec(),), streams=streams)
    assert (found.phase, found.dataset) == ("val", "wiki")
    assert only("eval_loss", specs=(spec(),), streams=streams).dataset is None
    assert only("eval_loss", specs=(spec(),), streams=[("train", ""), ("eval", "wiki")]).dataset == "wiki"
    meanings, _ = find_meanings(log({"eval_wiki_loss": 1, "eval_wiki_runtime": 3}), 0)
    assert meanings["eval_wiki_loss"].dataset == "wiki"


def test_a_bare_key_is_of_the_phase_of_its_row():
    meanings, _ = find_meanings(
        log({"token_acc": 0.5, "loss": 1.0}, phase="eval"), 0, (spec(),), [("eval", "")]
    )
    assert {m.phase for m in meanings.values()} == {"eval"}


@pytest.mark.parametrize(("row", "framework", "keys"), [
    ({"loss": 0.6, "accuracy": 0.9}, "llama-factory", {"loss", "accuracy"}),
    ({"loss": 0.6, "rewards/accuracies": 0.9, "logps/chosen": -40}, "trl", {"loss"}),
    ({"loss": 0.01, "reward": 0.2, "kl": 0.1, "completion_length": 90}, "trl", {"loss"}),
    ({"loss": -0.01, "acc": 0.2}, "", {"loss"}),
    ({"loss": 0.2, "focal_loss": 0.1}, "", {"loss", "focal_loss"}),
    ({"loss": 0.2, "kd_loss": 0.1}, "", {"loss", "kd_loss"}),
    ({"eval_loss": 0.2, "eval_roc_auc": 0.9, "eval_accuracy": 0.3}, "", {"eval_loss"}),
])  # fmt: skip
def test_losses_that_are_no_cross_entropy_are_not_audited(row, framework, keys):
    meanings, left_out = find_meanings(log(row, framework=framework), 0)
    assert keys <= set(left_out)
    assert not keys & set(meanings)
    assert all(left_out[key] for key in keys)


def test_the_summary_of_a_run_is_no_window():
    rows = [{"loss": 1.0}, {"train_loss": 0.9, "train_runtime": 8, "mean_token_accuracy": 0.1}]
    meanings, left_out = find_meanings(log(*rows), 0)
    assert "whole run" in left_out["train_loss"]
    assert set(meanings) == {"loss", "mean_token_accuracy"}
    # Logged all along, it is the loss of training.
    assert "train_loss" in find_meanings(log({"train_loss": 1.0}, {"train_loss": 0.9}), 0)[0]


def test_added_losses_are_noted():
    meanings, _ = find_meanings(log({"loss": 1.0, "mtp_loss": 0.3}), 0)
    assert "multi-token" in meanings["loss"].note


def test_a_perplexity_beside_an_evaluation_is_of_it():
    meanings, _ = find_meanings(log({"eval_loss": 1.0, "perplexity": 2.718}), 0)
    assert meanings["perplexity"].phase == "eval"
