"""Decomposition, reversal set, intervals and permutation test against slow or exact answers."""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_oracle import fewest, make_pair
from scipy.stats import norm

from logitbox.analysis.pairs.cells import cells_of
from logitbox.analysis.pairs.comparison import compare_pair
from logitbox.analysis.pairs.paired import clustered_error, differences
from logitbox.analysis.pairs.removed import removed_rows
from logitbox.analysis.pairs.reversal import curve, removal

LOSS = st.floats(0, 30, width=32)


@st.composite
def pairs(draw, most=40):
    n = draw(st.integers(1, most))
    nll = [draw(st.lists(LOSS, min_size=n, max_size=n)) for _ in "ab"]
    right = [draw(st.lists(st.booleans(), min_size=n, max_size=n)) for _ in "ab"]
    cluster = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    types = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    return make_pair(nll, right, cluster, types, ("x", "y"))


@given(pairs())
@settings(max_examples=100)
def test_parts_add_up_to_the_differences(pair):
    frame = cells_of(pair)
    right_a, right_b = (side.astype(int) for side in pair.right)
    nll_a, nll_b = pair.nll
    kinds = {"": np.ones(len(pair), bool), **pair.of_type()}
    assert set(frame["type"]) == {"", "x", "y"}
    for name, inside in kinds.items():
        rows = frame.filter(type=name)
        assert rows["n"].sum() == inside.sum()
        for part, values in (("tfa_part", right_a - right_b), ("tfce_part", nll_a - nll_b)):
            scale = 1e-12 * max(rows[part].abs().sum(), np.abs(values[inside]).sum() / len(pair), 1e-300)
            assert abs(rows[part].sum() - values[inside].sum() / len(pair)) <= scale


@given(pairs())
@settings(max_examples=60)
def test_swapping_the_sides_flips_every_sign(pair):
    other = make_pair(pair.nll[::-1], pair.right[::-1], pair.cluster, pair.types, ("x", "y"))
    one, two = compare_pair(pair), compare_pair(other)
    assert one.delta_tfa.value == -two.delta_tfa.value
    assert one.delta_tfce.value == pytest.approx(-two.delta_tfce.value, abs=1e-12)
    assert (one.tfa.a, one.tfa.b) == (two.tfa.b, two.tfa.a)
    assert one.answer == two.answer
    assert one.observed == two.observed
    assert one.reversal.tfce.tokens == two.reversal_of_b.tfce.tokens
    assert one.reversal.tfa.tokens == two.reversal_of_b.tfa.tokens
    swap = {"only_a": "only_b", "only_b": "only_a"}
    parts = {(t, swap.get(c, c)): v for t, c, v in two.frame.select("type", "cell", "tfce_part").iter_rows()}
    for t, c, v in one.frame.select("type", "cell", "tfce_part").iter_rows():
        assert v == pytest.approx(-parts[t, c], abs=1e-12)


@given(st.lists(st.integers(-640, 640).map(lambda n: n / 32), min_size=1, max_size=11))  # sums are exact
@settings(max_examples=150)
def test_the_reversal_set_is_the_smallest_there_is(values):
    found = removal(np.array(values))
    assert found.tokens == fewest(values)
    left = np.delete(np.array(values), found.rows)
    assert left.sum() <= 0
    assert len(set(found.rows.tolist())) == found.tokens


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60))
def test_accuracy_is_reversed_by_as_many_tokens_as_it_is_ahead(values):
    assert removal(np.array(values)).tokens == max(0, int(sum(values)))


def test_a_large_reversal_set():
    """Some tokens of 20 nats against many that are slightly better: a known answer in a large case."""
    rng = np.random.default_rng(0)
    values = -rng.uniform(0, 0.01, 90_112)
    rows = rng.choice(90_112, 37, replace=False)
    values[rows] = 20.0 + rng.uniform(0, 1, 37)
    values += (
        37 * 20.2 - values[rows].sum()
    ) / 90_112  # still far above 0 with 36 of them removed? checked below
    found = removal(values)
    ranked = np.sort(values)[::-1]
    brute = next(k for k in range(len(values)) if values.sum() - ranked[:k].sum() <= 0)
    assert found.tokens == brute
    assert set(found.rows) <= set(rows) | set(np.flatnonzero(values > 0))


def test_the_curve_starts_at_the_gap_and_falls():
    values = np.random.default_rng(1).normal(0.2, 1, 5_000)
    line = curve(values)
    assert line.removed[0] == 0
    assert line.gap[0] == pytest.approx(values.mean())
    ranked = np.sort(values)[::-1]
    for k, gap in zip(line.removed[::40], line.gap[::40], strict=True):
        assert gap == pytest.approx(ranked[k:].mean(), rel=1e-9, abs=1e-12)
    assert (np.diff(line.gap) <= 1e-12).all()


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=7))
def test_few_samples_are_flipped_in_every_way(sums):
    values = np.array(sums, dtype=float)
    (found,) = differences(values[None], np.ones(len(values)))
    totals = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in product([1, -1], repeat=len(values))
    ]
    observed = abs(values.sum())
    expected = np.mean([total >= observed * (1 - 1e-12) for total in totals])
    assert found.p == expected


def test_many_samples_agree_with_the_normal_approximation():
    rng = np.random.default_rng(3)
    values = rng.normal(0.12, 1, 400)
    (found,) = differences(values[None], np.ones(400), seed=5)
    z = values.sum() / sqrt((values**2).sum())
    assert found.p == pytest.approx(2 * norm.sf(abs(z)), abs=0.01)


def test_the_test_holds_its_level_and_has_power():
    rng = np.random.default_rng(8)
    null = [differences(rng.standard_t(3, 20)[None], np.ones(20), seed=i)[0].p for i in range(300)]
    assert np.mean(np.array(null) <= 0.05) < 0.05 + 3 * sqrt(0.05 * 0.95 / 300)
    shifted = [differences(rng.normal(1, 1, 30)[None], np.ones(30), seed=i)[0].p for i in range(30)]
    assert np.mean(np.array(shifted) <= 0.05) > 0.9


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 9)), min_size=2, max_size=30))
def test_the_clustered_error_is_the_linearised_one(clusters):
    sums, n = (np.array(column, dtype=float) for column in zip(*clusters, strict=True))
    g, ratio = len(n), sums.sum() / n.sum()
    expected = sqrt(g / (g - 1) * sum((x - ratio * m) ** 2 for x, m in clusters)) / n.sum()
    assert clustered_error(sums, n) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_sample_has_no_interval_and_no_answer():
    """The smallest inversion: A right with p(gold) = .31, B wrong with .45 behind .46."""
    pair = make_pair([[-np.log(0.31)], [-np.log(0.45)]], [[True], [False]], [0])
    result = compare_pair(pair)
    assert result.observed == "inverted"
    assert result.answer == "not distinguishable"
    assert result.delta_tfa.value == 1
    assert result.delta_tfce.value == pytest.approx(np.log(0.45 / 0.31), abs=1e-6)
    assert result.delta_tfce.low is None
    assert result.reversal.tokens == 1
    assert result.reversal.share == 1.0


def test_removed_rows_say_what_they_are():
    pair = make_pair(
        [[5, 1, 0.5], [1, 1, 2]], [[True, True, False], [False, True, True]], [0, 0, 1], [1, 0, 2], ("x", "y")
    )
    result = compare_pair(pair)
    rows = removed_rows(result.reversal.tfce, pair)
    assert rows.rows() == [("0", 0, 0, "<0>", 5.0, True, 1.0, False, ["x"])]
