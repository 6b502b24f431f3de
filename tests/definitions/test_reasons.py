"""A value that is not there is null and says why; it is neither 0 nor NaN."""

from __future__ import annotations

from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

import logitbox as lb
from logitbox.dumps.definitions.entries import prefix_of
from logitbox.dumps.definitions.registry import metrics_of, populations_of, quantities_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.definitions.values import Sheet
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.spec import build_spec
from logitbox.errors import InputError

V, COORD = 30, range(10, 20)


def both(rec: Recorder, path: Path) -> dict[str, tuple[float | None, str | None]]:
    """Key to (value, reason), after a check that live and dump say the same."""
    live, reasons = rec.metrics(), rec.null_reasons
    rec.close()
    rows = {
        r["key"]: (r["value"], r["reason"]) for r in lb.metrics(lb.open(path)).frame.iter_rows(named=True)
    }
    assert {key: (value, reasons.get(key)) for key, value in live.items()} == {
        key: (None if value is None else pytest.approx(value, rel=1e-12), reason)
        for key, (value, reason) in rows.items()
    }
    assert all((value is None) == (reason is not None) for value, reason in rows.values())
    return rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return tmp_path / "dump"


def test_a_type_that_is_not_supervised(path: Path) -> None:
    """Stage 2 of seed 000: the loss of desc values is masked out, so that their accuracy is no number."""
    rec = Recorder(
        path, V, types=["desc", "format", "tool_call"], groups={"coord": COORD}, ordered={"coord": {}}
    )
    labels = torch.randint(0, 10, (3, 8))
    desc = torch.rand(3, 8) < 0.4
    masks = {"desc": desc, "format": ~desc}
    rec.record(torch.randn(3, 8, V), labels.masked_fill(desc, -100), types=masks)
    found = both(rec, path)
    assert found["desc_token_frac"] == (0.0, None)  # of the tokens that there are, it is known to be none
    for key in (
        "desc_token_acc",
        "desc_token_acc_top5",
        "desc_nll",
        "desc_exp_nll",
        "coord_monitor/flip_desc_to_coord",
    ):
        assert found[key] == (None, "no supervised desc tokens"), key
    assert found["format_token_acc"][0] is not None
    assert found["coord_token_acc"] == (None, "no supervised tokens with gold in coord")
    known = "no supervised tokens with gold in coord and a finite loss there"
    assert found["coord_softce_w1/loss"] == (None, known)
    assert found["coord_softce_w1/coord_tokens"] == (0.0, None)
    assert (
        found["coord_softce_w1/composite_loss"] == found["coord_softce_w1/base_loss"]
    )  # what is left of the sum
    for key in ("entropy", "perplexity", "top1_prob", "top10_prob"):
        assert found[f"train_tool_call_{key}"] == (
            None,
            "no supervised tool_call tokens that are not special",
        )


def test_all_tokens_are_nan(path: Path) -> None:
    rec = Recorder(path, V, groups={"coord": COORD}, ordered={"coord": {}}, answers={"yes": [1], "no": [2]})
    rec.record(torch.full((4, V), torch.nan), torch.tensor([1, 12, 2, 25]), phase="eval")
    found = both(rec, path)
    assert found["eval_n_nonfinite"] == (4.0, None)
    assert found["eval_n_tokens"] == (0.0, None)
    assert found["eval_token_acc"] == (None, "no supervised tokens with finite values")
    assert found["eval_coord_nll"] == (None, "no supervised tokens with gold in coord with finite values")
    assert found["val_perplexity"] == (None, "no supervised tokens that are not special with finite values")
    assert found["eval_decision_accuracy"] == (None, "no supervised decision tokens with finite values")
    assert found["eval_coord_token_frac"] == (None, "no supervised tokens with finite values")
    assert found["eval_coord_softce_w1/composite_loss"][0] is None
    counts = ("n_tokens", "n_nonfinite", "n_duplicate", "coord_tokens", "decision_slots")
    assert all(value is None or key.endswith(counts) for key, (value, _) in found.items())


@pytest.mark.parametrize(("k", "known"), [(1, ()), (2, (2,)), (7, (2, 5)), (10, (2, 5, 10))])
@pytest.mark.parametrize("detailed", [None, {"log_detailed_metrics_every_n_steps": 1}])
def test_k_is_too_small(path: Path, k: int, known: tuple[int, ...], detailed: dict[str, Any] | None) -> None:
    rec = Recorder(path, V, k, detailed=detailed)
    rec.record(torch.randn(6, V), torch.arange(6))
    found = both(rec, path)
    for count in (2, 5, 10):
        value, reason = found[f"train_top{count}_prob"]
        told = f"top{count}_prob was not recorded: it takes more of the best tokens than k"
        assert reason == (None if count in known else told)
        assert (value is not None) == (count in known)
    assert (found["train_top10_entropy"][0] is not None) == (k >= 10)
    assert found["train_entropy"][0] > 0


def test_a_small_vocabulary_has_no_more_tokens_than_it_has(path: Path) -> None:
    rec = Recorder(path, 3)
    rec.record(torch.randn(6, 3), torch.tensor([0, 1, 2] * 2))
    found = both(rec, path)
    assert found["train_top5_prob"] == found["train_top10_prob"] == (1.0, None)
    assert 0 < found["train_top2_prob"][0] < 1


def test_nothing_is_supervised(path: Path) -> None:
    """Rows without a label (scope="all") are no tokens of any metric: nothing is reported, live or later."""
    rec = Recorder(path, V, scope="all")
    ids = torch.randint(0, V, (2, 5))
    rec.record(torch.randn(2, 5, V), torch.full((2, 5), -100), step=1, input_ids=ids)
    assert rec.metrics() == {}
    rec.record(torch.randn(2, 5, V), torch.full((2, 5), -100), step=2, input_ids=ids)
    rec.record(torch.randn(2, 5, V), ids, step=3, input_ids=ids)
    assert rec.metrics(reduction="step_mean")["n_tokens"] == 8.0  # not halved by a step without any
    rec.close()
    assert lb.metrics(lb.open(path), reduction="step_mean").value("n_tokens") == 8.0


def test_sessions_with_other_entropies_are_not_pooled(path: Path) -> None:
    """The key tells k; a session that told other numbers of tokens apart is no part of it."""
    logits, labels, alone = torch.randn(40, V) * 3, torch.randint(0, V, (40,)), {}
    for k, rows in ((3, slice(0, 25)), (10, slice(25, 40))):
        with Recorder(path, V, detailed={"entropy_k": k}) as rec:
            rec.record(logits[rows], labels[rows], step=k)
            alone[k] = rec.metrics()[f"train_top{k}_entropy"]
    table = lb.metrics(lb.open(path))
    for k, n in ((3, 25), (10, 15)):
        assert table.value(f"train_top{k}_entropy") == pytest.approx(alone[k], rel=1e-12)
        assert table.filter(key=f"train_top{k}_entropy")["n"].item() == n
    assert alone[3] != pytest.approx(alone[10], rel=1e-3)


RESOURCEFUL = [
    {
        "groups": {"accept": range(2), "reject": range(2, 4)},
        "ordered": {"accept": {}, "reject": {"sigma": 1.0}},
    },
    {"types": ["decision"]},
    {"types": ["decision", "text"], "groups": {"coord": COORD}, "ordered": {"coord": {}}},
    {"types": ["reasoning", "non_a"], "groups": {"reasoning": COORD, "a": [1]}, "ordered": {"a": {}}},
    {"types": ["top5", "n", "loss", "is_x", "mass_coord"], "groups": {"coord": COORD, "top1": [3]}},
    {
        "answers": {"yes": [1], "no": [2], "maybe": [3, 4]},
        "types": ["tool_call"],
        "detailed": {"entropy_k": 2},
    },
]


@pytest.mark.parametrize("options", RESOURCEFUL, ids=[str(list(o)) for o in RESOURCEFUL])
def test_any_names_go_together(path: Path, options: dict[str, Any]) -> None:
    """Every metric's population and quantity exist, keys are unique, and live and dump agree."""
    rec = Recorder(path, V, **options)
    labels = torch.randint(0, V, (4, 9))
    types = {
        name: torch.rand(4, 9) < 0.5
        for name in options.get("types", ())
        if name not in options.get("groups", ())
    }
    rec.record(torch.randn(4, 9, V) * 2, labels, types=types)
    sheet = Sheet(rec.spec)
    populations = {p.name for p in populations_of(rec.spec)}
    quantities = {q.name for q in quantities_of(rec.spec)} | {"n", "n_nonfinite", "n_duplicate", ""}
    keys = [prefix_of(m.family, "train") + m.key for m in metrics_of(rec.spec)]
    assert len(keys) == len(set(keys)) == len(sheet.metrics)
    for metric in sheet.metrics:
        assert metric.population in populations, metric
        assert metric.quantity in quantities or metric.quantity.removeprefix("is_") in populations, metric
    found = both(rec, path)
    assert sum(value is not None for value, _ in found.values()) > 20
    if "accept" in options.get("groups", {}):
        assert found["accept_softce_w1/composite_loss"][0] == pytest.approx(
            found["accept_softce_w1/base_loss"][0] + found["accept_softce_w1/loss"][0]
        )
    if "reasoning" in options.get("groups", {}):  # gold decides, as for every other metric of that name
        rows = lb.open(path).tokens.collect()
        mine = [nll for nll, gold in rows.select("nll", "gold").iter_rows() if gold in COORD]
        assert found["train_reasoning_perplexity"][0] == pytest.approx(exp(fmean(mine)))


@pytest.mark.parametrize("name", ["exp", "eval", "val", "full"])
def test_names_that_make_a_key_ambiguous_are_refused(path: Path, name: str) -> None:
    """`exp_nll` would be the nll of exp tokens, and `eval_nll` that of eval tokens."""
    if name == "full":  # full_nll, full_full_entropy: no other key
        Recorder(path, V, types=[name]).close()
        return
    with pytest.raises(
        InputError, match=rf"the key '{name}_\w+' would mean two things \(.*give the token type or group"
    ):
        Recorder(path, V, types=[name])
    assert not path.exists()


def test_answers_and_their_slots_have_the_decisions_keys_alone(path: Path) -> None:
    rec = Recorder(
        path, V, groups={"coord": COORD}, types=["desc"], answers={"accept": [1], "reject": [2]}
    )  # fmt: skip
    keys = {metric.key for metric in metrics_of(rec.spec)}
    about = {key for key in keys if any(word in key for word in ("accept", "reject", "decision"))}
    assert about == {
        "avg_p_accept",
        "avg_p_reject",
        "decision_prob_mass",
        "decision_confidence",
        "decision_accuracy",
        "decision_elsewhere",
        "decision_slots",
    }
    labels = torch.tensor([[5, 1, 2, 12, 1]])
    rec.record(torch.randn(1, 5, V), labels)
    assert both(rec, path)["decision_slots"][0] == 1.0
    by_type = lb.metrics(lb.open(path), by=["type"])
    assert {"accept", "reject", "decision"} <= set(by_type.frame["type"])  # still there to look at


def test_a_type_called_decision_is_a_type_where_there_are_no_answers() -> None:
    spec = build_spec(V, None, None, None, ["decision"], probes=False, lse_beta="never", scope="supervised")
    assert "decision_token_acc" in {metric.key for metric in metrics_of(spec)}


def test_trimmed_lists(path: Path) -> None:
    """A list shorter than k is legal; what lies between its end and a number of best tokens is then not known."""
    spec = build_spec(V, 12, None, None, None, probes=False, lse_beta="never", scope="supervised")
    p = torch.linspace(1.0, 0.1, V, dtype=torch.float64).pow(3)
    p = (p / p.sum()).numpy()
    quantity = {q.name: q for q in quantities_of(spec)}

    def rows(*kept: int) -> Rows:
        gap = np.array([[-np.log(p[i] / p[0]) if i < n else np.inf for i in range(10)] for n in kept])
        columns = {
            "gold": np.zeros(len(kept), dtype=np.int64),
            "top_nll": np.full(len(kept), -np.log(p[0])),
            "top_gap": gap,
            "tail_mass": np.array([p[n:].sum() for n in kept]),
            "kept": np.array(kept),
        }
        return Rows(columns, spec)

    def bits(count: int) -> float:
        outcomes = [*p[:count], p[count:].sum()]
        return -sum(q * np.log2(q) for q in outcomes)

    for count in (2, 5, 10):
        found = quantity[f"top{count}_prob"].value(rows(12, 10))
        assert found == pytest.approx([p[:count].sum()] * 2, abs=1e-12)
    assert quantity["top10_entropy"].value(rows(12, 10)) == pytest.approx([bits(10)] * 2, abs=1e-12)
    # Nothing is taken for known that a list does not say; lists that say it are not read alone.
    short = rows(12, 7)
    assert quantity["top5_prob"].value(short) == pytest.approx([p[:5].sum()] * 2, abs=1e-12)
    assert quantity["top10_prob"].value(short) is None
    assert quantity["top10_entropy"].value(short) is None
    # All that is left of a list of n is between n − count tokens, not k − count.
    tight = rows(5)
    tight._columns["top_gap"][0, :5] += 1e-3  # what rounding does
    assert quantity["top5_prob"].value(tight) == pytest.approx([p[:5].sum()], abs=1e-12)


@pytest.mark.parametrize("weight", [1.0, 0.0, -0.1])
def test_a_loss_with_a_negative_weight_has_no_lower_bound(weight: float) -> None:
    ordered = {"coord": {"gate_weight": weight}}
    spec = build_spec(
        V, None, {"coord": COORD}, ordered, None, probes=False, lse_beta="never", scope="supervised"
    )
    low = {metric.key: metric.low for metric in metrics_of(spec)}
    for key in ("loss", "composite_loss"):
        assert low[f"coord_softce_w1/{key}"] == (-float("inf") if weight < 0 else 0.0)
    assert low["coord_softce_w1/gate"] == low["coord_softce_w1/base_loss"] == 0.0
