"""θ against scipy and brute force; its interval against resampling whole samples, and by coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from logitbox.analysis.discordance import discordance, discordance_of
from logitbox.analysis.pairs.choice import choose


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40))
def test_value_is_the_share_of_pairs(tokens):
    nll, right, cluster = (np.array(column) for column in zip(*tokens, strict=True))
    found = discordance(nll.astype(float), right, cluster)
    pairs = [(a > b) + 0.5 * (a == b) for a in nll[right] for b in nll[~right]]
    assert (found.n_right, found.n_wrong) == (right.sum(), (~right).sum())
    if not pairs:
        assert found.value is found.low is found.high is None
        assert f"all {len(nll)} tokens are {'right' if right.any() else 'wrong'}" in str(found)
        return
    assert found.value == pytest.approx(np.mean(pairs), abs=1e-12)
    u = mannwhitneyu(nll[right], nll[~right]).statistic
    assert found.value == pytest.approx(u / len(pairs), abs=1e-12)
    if len(set(cluster)) < 2:
        assert found.low is None
    else:
        assert 0 <= found.low <= found.value <= found.high <= 1


def draw(rng, samples, spread=0.6):
    """Tokens of samples that differ in how hard they are."""
    n = rng.integers(4, 15, samples)
    cluster = np.repeat(np.arange(samples), n)
    hard = rng.normal(0, spread, samples)[cluster]
    right = rng.random(len(cluster)) < 1 / (1 + np.exp(hard))
    return np.exp(rng.normal(np.where(right, -0.5, 0.8) + hard, 1.0)), right, cluster


def test_interval_is_that_of_resampling_samples():
    rng = np.random.default_rng(0)
    nll, right, cluster = draw(rng, 150)
    found = discordance(nll, right, cluster)
    of = [np.flatnonzero(cluster == c) for c in range(150)]
    values = []
    for _ in range(600):
        rows = np.concatenate([of[c] for c in rng.integers(0, 150, 150)])
        values.append(discordance(nll[rows], right[rows], np.zeros(len(rows), int)).value)
    low, high = np.quantile(values, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.15 * (high - low))
    assert found.high == pytest.approx(high, abs=0.15 * (high - low))


def test_interval_is_the_formula_token_by_token():
    nll = np.array([0.1, 0.9, 0.4, 2.0, 0.6, 1.2, 0.2, 0.9])
    right = np.array([True, True, True, False, False, False, True, False])
    cluster = np.array([5, 5, 7, 7, 7, 9, 9, 9])
    pairs = {(i, j): (nll[i] > nll[j]) + 0.5 * (nll[i] == nll[j]) for i in range(8) for j in range(8)}
    rows, others = np.flatnonzero(right), np.flatnonzero(~right)
    theta = np.mean([pairs[i, j] for i in rows for j in others])
    u = dict.fromkeys((5, 7, 9), 0.0)
    for i in rows:
        u[cluster[i]] += (np.mean([pairs[i, j] for j in others]) - theta) / len(rows)
    for j in others:
        u[cluster[j]] += (np.mean([pairs[i, j] for i in rows]) - theta) / len(others)
    error = np.sqrt(3 / 2 * sum(value**2 for value in u.values())) / (theta * (1 - theta))
    ends = np.log(theta / (1 - theta)) + np.array([-1, 1]) * 1.959963984540054 * error
    found = discordance(nll, right, cluster)
    assert (found.low, found.high) == pytest.approx(tuple(1 / (1 + np.exp(-ends))))


def test_tokens_repeated_within_their_sample_add_no_certainty():
    nll, right, cluster = draw(np.random.default_rng(2), 80)
    once, four = discordance(nll, right, cluster), [np.repeat(v, 4) for v in (nll, right, cluster)]
    again = discordance(*four)
    assert (again.value, again.low, again.high) == pytest.approx((once.value, once.low, once.high), rel=1e-9)
    alone = discordance(*four[:2], np.arange(len(four[0])))
    assert alone.high - alone.low < 0.6 * (once.high - once.low)


def test_the_interval_covers_at_its_rate():
    rng = np.random.default_rng(1)
    truth = discordance(*draw(rng, 60_000)).value
    found = [discordance(*draw(rng, 60)) for _ in range(400)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.92 <= covered <= 0.98


def test_perfect_separation_still_has_an_interval():
    found = discordance(
        np.array([0.1, 0.2, 2.0, 3.0]), np.array([True, True, False, False]), np.array([0, 1, 0, 1])
    )
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(1.96**2 / (2 + 1.96**2), rel=1e-4)  # Wilson, none of 2
    other = discordance(np.array([5.0, 1.0]), np.array([True, False]), np.array([0, 1]))
    assert (other.value, other.low, other.high) == (1, pytest.approx(1 - found.high), 1)


@pytest.mark.parametrize("phase", ["eval", "val"])
def test_of_a_dump(dump, tokens, phase):
    choice = choose(dump, phase)
    last = dict(choice.places.select("dataset", "step").rows())
    mine = [t for t in tokens if t["phase"] == phase and t["finite"] and t["step"] == last.get(t["dataset"])]
    right, wrong = ([t["nll"] for t in mine if t["correct"] == is_right] for is_right in (True, False))
    found = discordance_of(choice)
    assert (found.n_right, found.n_wrong) == (len(right), len(wrong))
    assert found.value == pytest.approx(
        mannwhitneyu(right, wrong).statistic / len(right) / len(wrong), abs=1e-3
    )
    cluster = [f"{t['dataset']} {t['sample']}" for t in mine]
    again = discordance(
        np.array([t["nll"] for t in mine]),
        np.array([t["correct"] for t in mine]),
        np.unique(cluster, return_inverse=True)[1],
    )
    assert (found.low, found.high) == pytest.approx((again.low, again.high), abs=1e-3)
    assert str(found).startswith(f"{choice.told}: a random right token costs more")
