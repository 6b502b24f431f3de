"""Every key that the seeds name: there, the same live and from the dump, and equal to the full logits."""

from __future__ import annotations

from math import isfinite, isinf
from pathlib import Path
from typing import Any

import pytest
from scenario import NAMES, ORDERED, Scenario

import logitbox as lb
from logitbox.dumps.recorder import Recorder

SEED_000 = [
    "coord_softce_w1/base_loss",
    "coord_softce_w1/composite_loss",
    "coord_softce_w1/loss",
    "coord_softce_w1/soft_ce",
    "coord_softce_w1/w1",
    "coord_softce_w1/gate",
    "coord_softce_w1/coord_vocab_mass",
    "coord_softce_w1/coord_tokens",
    "token_acc",
    "token_acc_top5",
    "text_token_acc",
    "desc_token_frac",
    "format_token_frac",
    "coord_token_frac",
    "desc_token_acc",
    "format_token_acc",
    "coord_token_acc",
    "desc_token_acc_top5",
    "format_token_acc_top5",
    "coord_token_acc_top5",
    "coord_monitor/flip_coord_to_noncoord",
    "coord_monitor/flip_text_to_coord",
    "coord_monitor/flip_format_to_coord",
    "coord_monitor/flip_desc_to_coord",
    "coord_monitor/coord_vocab_mass_at_gt_coord",
    "coord_monitor/coord_vocab_mass_at_gt_text",
    "coord_monitor/coord_vocab_mass_at_gt_format",
    "coord_monitor/coord_vocab_mass_at_gt_desc",
]
"""Train names; the first two are the "base LM loss" and the sum that is trained on, to which the seed gives no key."""

SEED_001 = [
    "train_entropy",
    "val_entropy",
    "train_perplexity",
    "val_perplexity",
    "train_top1_prob",
    "val_top1_prob",
    "train_top2_prob",
    "val_top2_prob",
    "train_top5_prob",
    "val_top5_prob",
    "train_top10_prob",
    "val_top10_prob",
    "train_reasoning_entropy",
    "val_reasoning_entropy",
    "train_reasoning_perplexity",
    "val_reasoning_perplexity",
    "train_reasoning_top1_prob",
    "val_reasoning_top1_prob",
    "train_reasoning_top2_prob",
    "val_reasoning_top2_prob",
    "train_reasoning_top5_prob",
    "val_reasoning_top5_prob",
    "train_reasoning_top10_prob",
    "val_reasoning_top10_prob",
    "train_tool_call_entropy",
    "val_tool_call_entropy",
    "train_tool_call_perplexity",
    "val_tool_call_perplexity",
    "train_tool_call_top1_prob",
    "val_tool_call_top1_prob",
    "train_tool_call_top2_prob",
    "val_tool_call_top2_prob",
    "train_tool_call_top5_prob",
    "val_tool_call_top5_prob",
    "train_tool_call_top10_prob",
    "val_tool_call_top10_prob",
]

SEED_003 = [
    "eval_avg_p_accept",
    "eval_avg_p_reject",
    "eval_decision_prob_mass",
    "eval_decision_confidence",
    "eval_decision_accuracy",
]

NAMED = [*SEED_000, *(f"eval_{key}" for key in SEED_000), *SEED_001, *SEED_003]
OF_AGENT_TYPES = {key for key in SEED_001 if "reasoning" in key or "tool_call" in key}

SCENARIOS = {
    "exact": Scenario(),
    "from_gaps": Scenario(types=NAMES, options={"k": 10}, seed=1),
    "from_more_gaps": Scenario(types=NAMES, options={"k": 32}, seed=2),
    "few_gaps": Scenario(types=NAMES, options={"k": 6}, seed=6),
    "small_k": Scenario(options={"k": 4, "scope": "all"}, seed=3),
    "weightless": Scenario(ordered=ORDERED | {"soft_ce_weight": 0.0, "gate_weight": -0.4}, seed=7),
    "no_types_told_apart": Scenario(
        options={"detailed": {"enable_token_classification": False}, "shard_rows": 50}, seed=4
    ),
    "no_detailed": Scenario(options={"detailed": False, "lse_beta": "never", "probes": False}, seed=5),
}
REDUCTIONS = ("token_mean", "step_mean")


def absent(name: str) -> set[str]:
    """Named keys that a switch turns off, or whose types were not declared."""
    if name == "no_detailed":
        return set(SEED_001)
    return OF_AGENT_TYPES if "gaps" in name or name == "no_types_told_apart" else set()


def is_of_agent(key: str) -> bool:
    return key.startswith(("train_", "val_"))


def bare(key: str) -> str:
    """A full key without the prefix of train or eval."""
    return next((key.removeprefix(p) for p in ("train_", "val_", "eval_") if key.startswith(p)), key)


def phase_of(key: str) -> str:
    return "eval" if key.startswith(("val_", "eval_")) else "train"


@pytest.fixture(scope="module", params=SCENARIOS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def read(name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All ways to evaluate one scenario."""
    folder: Path = tmp_path_factory.mktemp(name)
    scenario = SCENARIOS[name]
    found: dict[str, Any] = {"null": {}}
    for reduction in REDUCTIONS:

        def whole(rec: Recorder, reduction: str = reduction) -> dict[str, float | None]:
            values = rec.metrics(reduction=reduction)
            found["null"][reduction] = rec.null_reasons
            assert rec.metrics(reduction=reduction) == {}
            return values

        def prefixed(rec: Recorder, reduction: str = reduction) -> dict[str, dict[str, float | None]]:
            return {p: rec.metrics(p, reduction=reduction) for p in ("eval_", "")}

        found[reduction] = scenario.record(folder / reduction, whole)
        found[f"{reduction} prefixed"] = scenario.record(folder / f"{reduction}-prefixed", prefixed)
    found["dump"] = lb.metrics(lb.open(folder / "token_mean"), reduction="both").frame
    return found


def dump_rows(read: dict[str, Any], reduction: str) -> dict[str, dict[str, Any]]:
    """Rows of the dump by key; counts are themselves whatever the reduction."""
    frame = read["dump"]
    rows = [
        r
        for r in frame.iter_rows(named=True)
        if (r["reduction"] == "step_mean") == (reduction == "step_mean")
    ]
    assert len({r["key"] for r in rows}) == len(rows)
    return {r["key"]: r for r in rows}


def test_the_table_names_each_key_once() -> None:
    assert len(NAMED) == len(set(NAMED)) == 2 * 28 + 2 * 18 + 5


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_named_key_is_there_live_and_from_the_dump(
    name: str, read: dict[str, Any], reduction: str
) -> None:
    wanted = set(NAMED) - absent(name)
    assert wanted <= set(read[reduction])
    assert wanted <= set(dump_rows(read, reduction))
    assert not absent(name) & (set(read[reduction]) | set(dump_rows(read, reduction)))
    for prefix, phase in (("eval_", "eval"), ("", "train")):
        mine = {prefix + bare(key) for key in wanted if phase_of(key) == phase}
        assert mine <= set(read[f"{reduction} prefixed"][prefix])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_live_and_dump_agree_on_every_key_there_is(read: dict[str, Any], reduction: str) -> None:
    live, dump = read[reduction], dump_rows(read, reduction)
    assert set(live) == set(dump)
    for key, value in live.items():
        assert (value is None) == (dump[key]["value"] is None), key
        assert read["null"][reduction].get(key) == dump[key]["reason"], key
        if value is not None:
            assert value == pytest.approx(dump[key]["value"], rel=1e-12, abs=1e-15), key


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_prefix_changes_keys_and_nothing_else(read: dict[str, Any], reduction: str) -> None:
    whole = read[reduction]
    for prefix, phase in (("eval_", "eval"), ("", "train")):
        mine = {bare(key): value for key, value in whole.items() if phase_of(key) == phase}
        assert read[f"{reduction} prefixed"][prefix] == {prefix + key: value for key, value in mine.items()}


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_key_equals_the_full_logits(name: str, read: dict[str, Any], reduction: str) -> None:
    """1e-6; where probabilities are made of rounded distances, what that rounding can do, 2e-4 at most."""
    expected = dict(SCENARIOS[name].full(reduction))
    dump = dump_rows(read, reduction)
    assert set(expected) == set(dump)
    seen = 0
    for key, (value, n, slack) in expected.items():
        assert dump[key]["n"] == n, key
        if value is None:
            assert dump[key]["value"] is None, key
            assert dump[key]["reason"], key
            continue
        assert isfinite(value) or (name, bare(key)) == ("weightless", "coord_softce_w1/soft_ce"), key
        seen += 1
        off = 0.0 if "gaps" not in name else slack if key.endswith("entropy") else min(slack, 2e-4)
        assert dump[key]["value"] == pytest.approx(value, rel=1e-6, abs=1e-6 + off), key
    assert seen > 100


def test_the_scenarios_have_what_makes_counting_hard() -> None:
    """Else the tests above would say less than they seem to."""
    for name, scenario in SCENARIOS.items():
        both = dict(scenario.full("token_mean"))
        steps = dict(scenario.full("step_mean"))
        for before in ("", "eval_"):
            for count in ("n_nonfinite", "decision_slots"):
                assert both[before + count][0] > 0, (name, before, count)
            # A part without weight may be infinite.
            assert (both[f"{before}coord_softce_w1/n_nonfinite"][0] > 0) == (name != "weightless"), name
            assert isinf(both[f"{before}coord_softce_w1/soft_ce"][0]) == (name == "weightless"), name
        assert both["eval_n_duplicate"][0] > 0
        differing = [
            k for k, (value, *_) in both.items() if value is not None and steps[k][0] != pytest.approx(value)
        ]
        assert len(differing) > 100
        special = sum(t["is_special"] for t in scenario.tokens)
        overlap = sum(sum(bool(t[f"is_{n}"]) for n in scenario.types) > 1 for t in scenario.tokens)
        assert special > 10
        assert overlap > 100 or scenario.types == NAMES
        assert any(t["step"] == 2 for t in scenario.tokens)
        assert not any(t["is_desc"] for t in scenario.tokens if t["step"] == 2)
