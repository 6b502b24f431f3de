"""The ordered rules against a plain reading of them, token by token, from the logits."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitbox.analysis.classes import (
    CLASSES,
    NAMES,
    RIGHT_TIED,
    SUMS,
    Evidence,
    Thresholds,
    class_sums,
    classify,
)
from logitbox.errors import InputError

ROWS = st.lists(
    st.tuples(st.lists(st.integers(-3, 9), min_size=6, max_size=6), st.integers(0, 5)),
    min_size=1,
    max_size=12,
)
"""Whole-number logits of six tokens (many ties), and gold."""


def evidence(rows, kept=2):
    """Columns as a Recorder would write them: counts, and float32."""
    x = np.array([logits for logits, _ in rows], dtype=float)
    gold = np.array([g for _, g in rows])
    at = x[np.arange(len(x)), gold][:, None]
    top = np.log(np.exp(x - x.max(1, keepdims=True)).sum(1))
    return Evidence(
        nll=(x.max(1) - at[:, 0] + top).astype(np.float32).astype(float),
        top_nll=top.astype(np.float32).astype(float),
        n_gt=(x > at).sum(1),
        n_eq=(x == at).sum(1) - 1,
        n_eq_before=((x == at) & (np.arange(6) < gold[:, None])).sum(1),
        kept=np.full(len(x), kept),
    )


def plainly(logits, gold, kept, likely, near):
    p = np.exp(logits) / np.exp(logits).sum()
    best = max(logits)
    order = sorted(range(6), key=lambda i: (-logits[i], i))
    if logits[gold] == best and list(logits).count(best) > 1:
        return "tied"
    if order[0] == gold:
        return "sure_right" if p.max() >= likely else "barely_right"
    if p.max() >= likely:
        return "confidently_wrong"
    if best - logits[gold] <= near:
        return "near_miss"
    return "off" if gold in order[:kept] else "lost"


@given(ROWS, st.integers(0, 6), st.floats(0.05, 0.95), st.floats(0, 4))
def test_every_token_has_the_class_that_the_rules_give(rows, kept, likely, near):
    found = classify(evidence(rows, kept), Thresholds(likely, near))
    for (logits, gold), kind in zip(rows, found, strict=True):
        p = max(np.exp(logits) / np.exp(logits).sum())
        if abs(p - likely) > 1e-6 and abs(max(logits) - logits[gold] - near) > 1e-5:  # else rounding decides
            assert NAMES[kind] == plainly(np.array(logits, float), gold, kept, likely, near)


@given(ROWS, st.integers(0, 6))
def test_every_token_has_exactly_one_and_parts_add_up(rows, kept):
    e = evidence(rows, kept)
    sums = class_sums(e)
    assert set(sums) == set(SUMS)
    assert np.array_equal(sum(sums[f"class_{name}"].astype(int) for name in NAMES), np.ones(len(rows)))
    assert np.array_equal(sum(sums[f"nll_{name}"] for name in NAMES), e.nll)
    right = sums["class_sure_right"] | sums["class_barely_right"] | sums[RIGHT_TIED]
    assert np.array_equal(right, e.rank == 0)


@given(ROWS)
def test_each_class_costs_what_it_says(rows):
    e, slack = evidence(rows), 2e-6
    kind = np.array(NAMES)[classify(e)]
    cost = {name: e.nll[kind == name] for name in NAMES}
    assert (cost["tied"] >= log(2) - slack).all()
    assert (cost["sure_right"] <= log(2) + slack).all()
    assert (cost["barely_right"] > log(2) - slack).all()
    sure = kind == "confidently_wrong"
    assert (cost["confidently_wrong"] >= -np.log(-np.expm1(-e.top_nll[sure])) - 1e-4 * e.nll[sure]).all()
    assert (cost["near_miss"] >= log(2) - slack).all()
    assert (cost["near_miss"] <= e.top_nll[kind == "near_miss"] + log(2) + slack).all()
    assert (cost["off"] >= np.log(e.rank[kind == "off"] + 1) - slack).all()
    assert (cost["lost"] >= log(3) - slack).all()


def test_values_on_a_threshold_count_as_reaching_it():
    ties = [([5, 5, -300, -300, -300, -300], 2), ([4, 3, 3, 3, 3, 3], 1)]
    kinds = [NAMES[i] for i in classify(evidence(ties), Thresholds(0.5, 1.0))]
    assert kinds == ["confidently_wrong", "near_miss"]  # p(arg-max) = ½; gold 1 nat below
    assert NAMES[classify(evidence(ties[1:]), Thresholds(0.5, 0.999))[0]] == "off"


def test_the_default_near_is_half_as_likely():
    e = evidence([([2, 2, 0, 0, 0, 0], 0)])
    half = Evidence(e.top_nll + log(2), e.top_nll, np.array([1]), np.array([0]), np.array([0]), np.array([0]))
    less = Evidence(e.top_nll + 0.6932, e.top_nll, *(np.array([v]) for v in (1, 0, 0, 0)))
    assert [NAMES[classify(one, Thresholds(likely=0.9))[0]] for one in (half, less)] == ["near_miss", "lost"]


@pytest.mark.parametrize("bad", [{"likely": 0}, {"likely": 1.1}, {"likely": "½"}, {"near": -1}, {"near": float("nan")},
                                 {"near": float("inf")}, {"likely": True}])  # fmt: skip
def test_thresholds_are_checked(bad):
    with pytest.raises(InputError, match=f"{next(iter(bad))} is"):
        Thresholds(**bad)


def test_rules_are_told_with_their_thresholds():
    told = {kind.name: kind.at(Thresholds(0.9, 1.5)) for kind in CLASSES}
    assert told["sure_right"] == ("gold is the arg-max, p ≥ 0.9", "at most −ln 0.9")
    assert told["near_miss"] == (
        "gold at most 1.5 nats below the best",
        "at least ln 2, and at most 1.5 above −ln p(arg-max)",
    )
