"""Ties, caps, masked answers and other values at the edge, each worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log2
from pathlib import Path

import pytest
import torch

import logitbox as lb
from logitbox.dumps.recorder import Recorder

ANSWERS = {"no": (4,), "yes": (7, 2)}
Read = Callable[..., dict[str, float | None]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Record logits [N, V] with masks of types, and give the metrics, live and from the dump, which are the same."""

    def make(
        logits: torch.Tensor,
        labels: list[int],
        types: dict[str, torch.Tensor] | None = None,
        **options: object,
    ) -> dict[str, float | None]:
        with Recorder(tmp_path / "dump", logits.shape[1], **options) as rec:
            rec.record(logits, torch.tensor(labels), types=types)
            live = rec.metrics()
        rows = lb.metrics(lb.open(tmp_path / "dump")).frame.select("key", "value").rows()
        assert live == {
            key: None if value is None else pytest.approx(value, rel=1e-12) for key, value in rows
        }
        return live

    return make


def with_probabilities(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_among_equal_answers_the_first_declared_is_chosen(read: Read) -> None:
    """P(no) = P(yes) = 1/4 everywhere, the latter in two forms."""
    found = read(torch.zeros(4, 8), [4, 4, 7, 5], answers={"no": (4, 5), "yes": (7, 2)})
    assert found["decision_accuracy"] == 0.75
    assert found["avg_p_no"] == found["avg_p_yes"] == found["decision_confidence"] == pytest.approx(0.25)
    assert found["decision_prob_mass"] == pytest.approx(0.5)
    assert found["decision_elsewhere"] == 1.0  # the arg-max, lowest id among equals, is 0


def test_the_likeliest_answer_need_not_be_the_likeliest_token(read: Read) -> None:
    """Forms add up: yes by 0.2 + 0.15 over no's 0.3; the arg-max of all is elsewhere."""
    p = [0.32, 0.01, 0.15, 0.005, 0.3, 0.005, 0.01, 0.2]
    found = read(with_probabilities(p), [2], answers=ANSWERS)
    assert found["decision_accuracy"] == 1.0
    assert found["decision_elsewhere"] == 1.0
    assert found["decision_confidence"] == pytest.approx(0.35)
    assert found["decision_prob_mass"] == pytest.approx(0.65)


def test_answers_without_any_probability_are_wrong(read: Read, tmp_path: Path) -> None:
    """Neither answer is possible in the first two rows; in the third, one is."""
    x = torch.zeros(3, 8)
    x[:, [4, 2, 7]] = -torch.inf
    x[2, 2] = 0.0
    found = read(x, [5, 0, 2], answers=ANSWERS, types={"decision": torch.ones(3, dtype=torch.bool)})
    assert found["decision_slots"] == 3.0
    assert found["decision_accuracy"] == pytest.approx(1 / 3)
    assert found["decision_prob_mass"] == found["decision_confidence"] == pytest.approx(1 / 18)
    assert found["decision_elsewhere"] == 1.0  # among equals the lowest id is the arg-max
    slots = lb.decisions(lb.open(tmp_path / "dump"), phase="train").frame
    assert slots["pred"].to_list() == [None, None, "yes"]
    assert slots["correct"].to_list() == [False, False, True]


def test_an_impossible_gold_answer_is_left_out(read: Read) -> None:
    """Its nll is infinite, so that the slot has no finite values."""
    x = torch.zeros(1, 8)
    x[0, [4, 2, 7]] = -torch.inf
    found = read(x, [4], answers=ANSWERS)
    assert found["decision_slots"] == 0.0
    assert found["decision_accuracy"] is None


def test_top5_takes_the_lowest_ids_among_equals(read: Read) -> None:
    found = read(torch.zeros(8, 8), list(range(8)))
    assert found["token_acc"] == 1 / 8
    assert found["token_acc_top5"] == 5 / 8


@pytest.mark.parametrize(("nll", "capped"), [(13.0, exp(13)), (14.0, 1e6), (800.0, 1e6)])
def test_perplexity_is_capped_and_exp_nll_is_not(read: Read, nll: float, capped: float) -> None:
    x = torch.zeros(1, 2)
    x[0, 0] = nll  # ln(e^nll + 1) − 0 is nll, to 1e-5
    found = read(x, [1])
    assert found["train_perplexity"] == pytest.approx(capped, rel=1e-5)
    assert found["exp_nll"] == (float("inf") if nll > 709 else pytest.approx(exp(nll), rel=1e-5))


@pytest.mark.parametrize(
    ("p", "bits"),
    [([0.5, 0.25, 0.125, 0.125], 1.0), ([1.0, 0.0, 0.0, 0.0], 0.0), ([0.25] * 4, 0.5 - 0.75 * log2(0.75))],
)
def test_binary_entropy_is_that_of_top_1_against_all_else(read: Read, p: list[float], bits: float) -> None:
    assert read(with_probabilities(p), [0])["train_entropy"] == pytest.approx(bits, abs=1e-6)


def test_distances_rounded_to_float16_make_nothing_of_a_tiny_rest(read: Read) -> None:
    """Two tokens hold all but 1e-9: 1 − Σ p of rounded distances would leave 1e-4, of which 2e-3 bits are made."""
    gap = 1.0005  # float16 has 1 and 1.000977
    p = torch.full((1, 40), 1e-9 / 38, dtype=torch.float64)
    p[0, :2] = torch.tensor([0.0, -gap], dtype=torch.float64).softmax(0)
    exact = -sum(q * log2(q) for q in (p / p.sum())[0].tolist())
    found = read(p.log(), [0], k=12)
    assert found["train_top2_prob"] == pytest.approx(1.0, abs=2e-4)
    assert found["train_top10_prob"] == pytest.approx(1.0, abs=1e-8)
    assert found["train_top10_entropy"] == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("vocab", [None, ["a", "b", "<eos>"]], ids=["number", "texts"])
def test_special_tokens_are_those_that_are_known(tmp_path: Path, vocab: list[str] | None) -> None:
    """A number or a list of texts tells of none, and none is left out; `flags=` tells them."""
    logits = with_probabilities([0.5, 0.25, 0.25], [0.1, 0.1, 0.8])
    labels = torch.tensor([0, 2])
    with Recorder(tmp_path / "dump", 3 if vocab is None else vocab) as rec:
        rec.record(logits, labels)
        assert rec.metrics()["train_top1_prob"] == pytest.approx((0.5 + 0.8) / 2)
        rec.record(logits, labels, flags={"special": labels == 2})
        assert rec.metrics()["train_top1_prob"] == pytest.approx(0.5)
