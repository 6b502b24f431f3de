"""The cumulative residual against loops, and the range of a Brownian motion against its moments, its density and simulation."""

from __future__ import annotations

from math import exp, log, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from logitbox.analysis.calibration import cumulative, from_arrays
from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.calibration.evidence import CLUSTER_GRID, Evidence
from logitbox.analysis.histogram import FINE, Grid

levels = st.sampled_from([0.0, 0.1, 0.5, 0.5 + 1e-6, 0.7, 0.9999, 1.0])
numbers = st.one_of(st.floats(0, 1), levels)
tokens = st.lists(st.tuples(numbers, st.booleans(), st.integers(1, 4)), min_size=1, max_size=40)


def plain(confidence, correct, weight):
    """Range of partial sums over all tokens up to each confidence."""
    sums = [0.0]
    for level in sorted(set(confidence.tolist())):
        upto = confidence <= level
        sums.append(float((weight * (correct - confidence))[upto].sum()))
    return (max(sums) - min(sums)) / weight.sum()


def of_histogram(confidence, correct, grid, weight=None):
    fine, table = Counter(grid), Counter(Grid(15))
    for counter in (fine, table):
        counter.add(confidence, correct, weight=weight)
    n = float(len(confidence)) if weight is None else float(weight.sum())
    return Evidence(len(confidence), 0, n, 15, table.atoms(), {}, fine.atoms)


@settings(max_examples=80, deadline=None)
@given(tokens)
def test_the_range_is_that_of_partial_sums(drawn):
    confidence, correct, weight = (np.array(part, float) for part in zip(*drawn, strict=True))
    evidence = from_arrays(confidence, correct.astype(bool), weight=weight).evidence
    assert cumulative.kuiper(evidence) == pytest.approx(plain(confidence, correct, weight), abs=1e-14)
    assert cumulative.kuiper_error(evidence) == 0


@settings(max_examples=80, deadline=None)
@given(tokens, st.sampled_from([FINE, CLUSTER_GRID, Grid(60, 6), Grid(4)]))
def test_a_histogram_is_never_above_and_below_by_a_known_bound(drawn, grid):
    confidence, correct, weight = (np.array(part, float) for part in zip(*drawn, strict=True))
    binned = of_histogram(confidence, correct.astype(bool), grid, weight)
    missed = plain(confidence, correct, weight) - cumulative.kuiper(binned)
    assert -1e-14 <= missed <= cumulative.kuiper_error(binned) + 1e-14


def test_the_bound_is_reached():
    """All right ones first in a bin, then all wrong ones: nothing can be worse."""
    confidence = np.concatenate([np.full(5, 0.50), np.full(5, 0.51)])
    correct = np.arange(10) < 5
    binned = of_histogram(confidence, correct, Grid(10))
    missed = plain(confidence, correct, np.ones(10)) - cumulative.kuiper(binned)
    assert missed > 0.2
    assert cumulative.kuiper_error(binned) == pytest.approx(missed)


def test_moments_of_the_range():
    """Feller 1951: mean 2√(2/π), second moment 4 ln 2."""
    p = cumulative.range_p
    assert quad(p, 0, 12, points=[2])[0] == pytest.approx(2 * sqrt(2 / pi), abs=1e-9)
    assert quad(lambda r: 2 * r * p(r), 0, 12, points=[2])[0] == pytest.approx(4 * log(2), abs=1e-9)


@pytest.mark.parametrize("size", [0.6, 1.2, 1.9, 2.1, 3.5, 6.0])
def test_the_range_has_fellers_density(size):
    density = [(-1) ** (k - 1) * k * k * exp(-0.5 * (k * size) ** 2) / sqrt(2 * pi) for k in range(1, 60)]
    h = 1e-4
    slope = (cumulative.range_p(size - h) - cumulative.range_p(size + h)) / (2 * h)
    assert slope == pytest.approx(8 * sum(density), rel=1e-5)


def test_both_series_meet_and_both_tails_hold():
    p = cumulative.range_p
    assert p(2 - 1e-12) == pytest.approx(p(2 + 1e-12), abs=1e-11)
    assert p(0.0) == p(0.01) == 1.0
    assert p(float("inf")) == 0.0
    # far out one term of Feller's density is left, 8 φ(r), whose integral is 8 P(normal > r)
    assert p(7.0) == pytest.approx(8 * norm.sf(7), rel=1e-9)
    assert p(30.0) > 0
    grid = [p(r) for r in np.linspace(0, 8, 400)]
    assert all(np.diff(grid) <= 0)


def test_the_range_as_simulated():
    rng = np.random.default_rng(0)
    steps, paths = 1000, 20_000
    found = np.zeros(paths)
    for start in range(0, paths, 2000):
        walk = np.cumsum(rng.standard_normal((2000, steps)), axis=1) / sqrt(steps)
        found[start : start + 2000] = np.maximum(walk.max(1), 0) - np.minimum(walk.min(1), 0)
    found += 2 * 0.5826 / sqrt(steps)  # what a walk misses of either extreme, in the mean (Chernoff 1965)
    for size in (0.9, 1.2, 1.6, 2.0, 2.5, 3.0):
        p = cumulative.range_p(size)
        assert (found >= size).mean() == pytest.approx(p, abs=4 * sqrt(p * (1 - p) / paths) + 1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_p_of_independent_tokens_is_the_analytic_one(weighted):
    rng = np.random.default_rng(1)
    confidence = np.round(rng.beta(4, 1, 2000), 2)
    correct = rng.random(2000) < confidence
    weight = rng.integers(1, 4, 2000).astype(float) if weighted else np.ones(2000)
    evidence = from_arrays(confidence, correct, weight=weight if weighted else None).evidence
    deviation = sqrt((weight**2 * confidence * (1 - confidence)).sum()) / weight.sum()
    expected = cumulative.range_p(plain(confidence, correct * 1.0, weight) / deviation)
    assert cumulative.kuiper_p(evidence) == pytest.approx(expected, rel=1e-9)


def test_from_bins_p_is_no_smaller():
    rng = np.random.default_rng(2)
    confidence = rng.beta(4, 1, 3000)
    correct = rng.random(3000) < confidence * 0.98
    exact = cumulative.kuiper_p(from_arrays(confidence, correct).evidence)
    assert exact == pytest.approx(cumulative.kuiper_p(of_histogram(confidence, correct, FINE)), rel=0.02)
    assert exact < cumulative.kuiper_p(of_histogram(confidence, correct, Grid(20)))
    weight = rng.random(3000)
    exact = cumulative.kuiper_p(from_arrays(confidence, correct, weight=weight).evidence)
    binned = cumulative.kuiper_p(of_histogram(confidence, correct, FINE, weight))
    assert exact == pytest.approx(binned, rel=0.02)


def test_sure_models_have_p_of_0_or_1():
    assert cumulative.kuiper_p(from_arrays([1.0, 0.0], [True, False]).evidence) == 1
    assert cumulative.kuiper_p(from_arrays([1.0, 0.0], [True, True]).evidence) == 0


def test_p_of_a_calibrated_model_is_hardly_ever_small():
    """Independent tokens: P(p < 0.1) is 0.1, or a little less."""
    rng = np.random.default_rng(3)
    small = 0
    for _ in range(300):
        confidence = rng.beta(3, 1, 500)
        small += cumulative.kuiper_p(from_arrays(confidence, rng.random(500) < confidence).evidence) < 0.1
    assert 12 <= small <= 45


def test_p_of_clustered_tokens_is_honest():
    """Calibrated, but 20 tokens of a cluster are right together: taken as independent, most data would look miscalibrated."""
    rng = np.random.default_rng(4)
    small, naive = 0, 0
    for _ in range(40):
        confidence = rng.beta(3, 1, 100)
        right = rng.random(100) < confidence
        rows = np.repeat(confidence, 20), np.repeat(right, 20)
        small += cumulative.kuiper_p(from_arrays(*rows, cluster=np.repeat(np.arange(100), 20)).evidence) < 0.1
        naive += cumulative.kuiper_p(from_arrays(*rows).evidence) < 0.1
    assert small <= 10
    assert naive > 25


def test_p_of_clustered_tokens_finds_a_miscalibrated_model():
    rng = np.random.default_rng(5)
    confidence = rng.beta(3, 1, 3000)
    right = rng.random(3000) < confidence * 0.8
    found = cumulative.kuiper_p(from_arrays(confidence, right, cluster=np.arange(3000) // 10).evidence)
    assert found == pytest.approx(1 / 1001)


def test_p_of_clusters_of_one_is_that_without_clusters():
    rng = np.random.default_rng(6)
    confidence = rng.random(300)
    right = rng.random(300) < confidence
    alone = cumulative.kuiper_p(from_arrays(confidence, right, cluster=np.arange(300)).evidence)
    assert alone == cumulative.kuiper_p(from_arrays(confidence, right).evidence)


def test_p_of_five_clusters_that_all_lean_one_way():
    """Of 32 turnings 2 are as far off as the data."""
    found = cumulative.kuiper_p(
        from_arrays(np.full(50, 0.7), np.zeros(50), cluster=np.arange(50) // 10).evidence
    )
    assert found == pytest.approx(1 / 16, abs=0.03)


def test_p_of_many_clusters_of_one_is_the_analytic_one_too():
    """Beyond what clusters are told apart."""
    rng = np.random.default_rng(6)
    confidence = rng.random(5000)
    right = rng.random(5000) < confidence
    alone = cumulative.kuiper_p(from_arrays(confidence, right, cluster=np.arange(5000)).evidence)
    assert alone == cumulative.kuiper_p(from_arrays(confidence, right).evidence)


def test_p_of_a_single_cluster_is_unknown():
    assert cumulative.kuiper_p(from_arrays([0.3, 0.4], [True, False], cluster=[1, 1]).evidence) is None


def test_ranges_of_rows():
    rows = np.array([[1.0, -3.0, 1.0], [-1.0, -1.0, -1.0], [2.0, 1.0, 0.0]])
    assert cumulative.cumulative_range(rows).tolist() == [3.0, 3.0, 3.0]


def test_the_curve_starts_at_nothing_and_keeps_the_range():
    rng = np.random.default_rng(8)
    confidence = rng.random(30_000)
    evidence = from_arrays(confidence, rng.random(30_000) < confidence).evidence
    share, residual = cumulative.curve(evidence, points=200)
    assert len(share) == len(residual) <= 202
    assert (share[0], residual[0], share[-1]) == (0, 0, 1)
    assert (np.diff(share) > 0).all()
    assert np.ptp(residual) == pytest.approx(cumulative.kuiper(evidence))
    whole = cumulative.curve(from_arrays([0.2, 0.2, 0.8], [True, False, True]).evidence)
    assert whole[0].tolist() == pytest.approx([0, 2 / 3, 1])
    assert whole[1].tolist() == pytest.approx([0, 0.2, 0.8 / 3])
