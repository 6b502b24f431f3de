"""Smooth calibration error against direct sums of reflected Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from logitbox.analysis.calibration import from_arrays, smooth
from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.calibration.evidence import CLUSTER_GRID, Evidence
from logitbox.analysis.histogram import FINE, Grid
from logitbox.errors import InputError

NOISE = 1e-8
"""What arithmetic alone may add; bounds are on what bins add."""


def smoothed(at, mass, sigma, t):
    """Σ mass · (reflected Gaussian), image by image, at ascending t."""
    turns = 2.0 * np.arange(-int(5 * sigma) - 1, int(5 * sigma) + 2)
    images = np.concatenate([turn + side * at for turn in turns for side in (1, -1)])
    masses = np.tile(mass, 2 * len(turns))
    found = np.zeros(len(t))
    for start in range(0, len(t), 500):
        part = t[start : start + 500]
        near = (images > part[0] - 10 * sigma) & (images < part[-1] + 10 * sigma)
        z = (part[:, None] - images[near]) / sigma
        found[start : start + 500] = np.exp(-0.5 * z * z) @ masses[near]
    return found / (sigma * np.sqrt(2 * np.pi))


def norm(confidence, correct, sigma, weight=None):
    """∫ |smoothed residual| by the midpoint rule on a very fine grid; only where there may be anything."""
    w = np.ones(len(confidence)) if weight is None else weight
    nodes = max(4000, int(400 / sigma))
    t = (np.arange(nodes) + 0.5) / nodes
    near = (t > confidence.min() - 10 * sigma) & (t < confidence.max() + 10 * sigma)
    return abs(smoothed(confidence, w * (correct - confidence), sigma, t[near])).sum() / nodes / w.sum()


def data(name, n=150):
    rng = np.random.default_rng(7)
    confidence, chance = {
        "overconfident": lambda: (p := rng.beta(5, 1, n), 0.8 * p),
        "calibrated": lambda: (p := rng.random(n), p),
        "far off": lambda: (p := rng.random(n), 1 - p),
        "all near 1": lambda: (p := 1 - rng.random(n) * 1e-3, p * 0 + 0.9),
        "some at 1": lambda: (p := np.where(rng.random(n) < 0.5, 1, rng.beta(5, 2, n)), p * 0 + 0.8),
        "some at 0": lambda: (p := np.where(rng.random(n) < 0.5, 0, rng.random(n)), p * 0 + 0.3),
        "0 and 1": lambda: (p := rng.integers(0, 2, n) * 1.0, p * 0 + 0.5),
        "equal": lambda: (p := np.full(n, 0.7), p),
        "one token": lambda: (p := np.array([0.3]), p),
        "small": lambda: (p := 1 - rng.random(n) * 2e-2, p**2),
    }[name]()
    return confidence, rng.random(len(confidence)) < chance


NAMES = (
    *("overconfident", "calibrated", "far off", "all near 1", "some at 1", "some at 0"),
    *("0 and 1", "equal", "one token", "small"),
)


def of_histogram(confidence, correct, grid):
    fine, table = Counter(grid), Counter(Grid(15))
    for counter in (fine, table):
        counter.add(confidence, correct)
    n = len(confidence)
    return Evidence(n, 0, float(n), 15, table.atoms(), {}, fine.atoms)


@pytest.mark.parametrize("name", NAMES)
def test_it_equals_the_direct_sum_at_its_own_bandwidth(name):
    """The norm does not rise with σ: where norm(v) is v within ε, the fixed point is v within ε."""
    confidence, correct = data(name)
    evidence = from_arrays(confidence, correct).evidence
    value = smooth.smooth_ece(evidence)
    assert value == smooth.bandwidth(evidence)
    assert norm(confidence, correct, value) == pytest.approx(value, abs=1e-7)
    assert smooth.smooth_ece_error(evidence) == 0


def test_weights_are_repetitions():
    confidence, correct = data("overconfident", 60)
    weight = np.random.default_rng(0).integers(1, 5, 60)
    many = from_arrays(np.repeat(confidence, weight), np.repeat(correct, weight))
    weighted = from_arrays(confidence, correct, weight=weight)
    assert smooth.smooth_ece(weighted.evidence) == pytest.approx(smooth.smooth_ece(many.evidence), abs=1e-12)


@pytest.mark.parametrize("at", [1.0, 1 - 1e-6, 1 - 1e-12, 0.5, 0.0])
def test_one_confidence_gives_its_gap(at):
    """However much is smoothed, a residual of one sign keeps its integral, at the boundary too."""
    correct = np.arange(1000) % 10 != 0
    assert smooth.smooth_ece(from_arrays(np.full(1000, at), correct).evidence) == pytest.approx(abs(0.9 - at))


def test_a_perfect_model_has_none():
    assert smooth.smooth_ece(from_arrays([1.0, 1.0, 0.0], [True, True, False]).evidence) == 0


def test_tiny_errors_are_found_on_a_finer_mesh():
    """Confidences just below 1, nearly all right: the bandwidth is far below the first meshes' steps."""
    rng = np.random.default_rng(3)
    n = 8000
    confidence = 1 - rng.random(n) ** 2 * 3e-4
    correct = np.ones(n, bool)
    correct[np.argmax(confidence < 1 - 2.9e-4)] = False
    value = smooth.smooth_ece(from_arrays(confidence, correct).evidence)
    assert 1e-5 < value < 1e-4
    nodes = 2000  # the smoothed residual is all within 1e-3 of 1
    t = 1 - 1e-3 + (np.arange(nodes) + 0.5) / nodes * 1e-3
    residual = smoothed(confidence, (correct - confidence) / n, value, t)
    assert abs(residual).mean() * 1e-3 == pytest.approx(value, abs=1e-8)


def test_errors_below_all_meshes_are_known_to_lie_there():
    p, right, weight = np.array([1e-6, 6e-6]), np.array([0, 1]), np.array([1e6 - 1, 1])
    value = from_arrays(p, right, weight).smooth_ece
    nodes, width = 200_000, 4e-5  # nothing beyond
    t = (np.arange(nodes) + 0.5) / nodes * width

    def excess(sigma):
        return abs(smoothed(p, weight * (right - p) / 1e6, sigma, t)).mean() * width - sigma

    assert value == pytest.approx(brentq(excess, 1e-7, 1e-5), abs=2e-6)
    assert 0 < value < 2e-6


def test_many_atoms_give_what_few_do():
    """From 2^17 atoms on, the first mesh is another one."""
    rng = np.random.default_rng(5)
    confidence = rng.random(200_000)
    correct = rng.random(200_000) < confidence**1.1
    exact = smooth.smooth_ece(from_arrays(confidence, correct).evidence)
    binned = of_histogram(confidence, correct, FINE)
    assert len(binned.atoms) < 2**17 < 200_000
    assert smooth.smooth_ece(binned) == pytest.approx(exact, abs=1e-7)


numbers = st.one_of(
    st.floats(0, 1), st.floats(0.99, 1), st.floats(0, 1e-6).map(lambda x: 1 - x), st.sampled_from([0.0, 1.0])
)
tokens = st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(tokens, st.sampled_from([FINE, CLUSTER_GRID, Grid(60, 6), Grid(5)]))
def test_what_a_histogram_changes_is_bounded(drawn, grid):
    confidence, correct = (np.array(part) for part in zip(*drawn, strict=True))
    exact = smooth.smooth_ece(from_arrays(confidence, correct).evidence)
    binned = of_histogram(confidence, correct, grid)
    error = smooth.smooth_ece_error(binned)
    assert error >= 0
    # Values below 2e-6 are only known to lie below that, from tokens too.
    assert abs(smooth.smooth_ece(binned) - exact) <= error + (NOISE if exact > 2e-6 else 2e-6)


def test_the_bound_is_small_where_it_matters():
    confidence, correct = data("overconfident", 5000)
    assert smooth.smooth_ece_error(of_histogram(confidence, correct, FINE)) < 1e-6
    assert smooth.smooth_ece_error(of_histogram(confidence, correct, CLUSTER_GRID)) < 1e-3


@pytest.mark.parametrize("name", ["overconfident", "calibrated", "some at 1"])
def test_the_curve_is_that_of_nadaraya_and_watson(name):
    confidence, correct = data(name)
    evidence = from_arrays(confidence, correct).evidence
    sigma = smooth.bandwidth(evidence)
    x, accuracy, density = smooth.smooth_curve(evidence, points=201)
    assert sigma > 1 / 200
    n = len(confidence)
    expected = smoothed(confidence, np.ones(n) / n, sigma, x)
    hits = smoothed(confidence, correct / n, sigma, x)
    assert np.allclose(density, expected, atol=1e-6)
    seen = expected > 1e-3
    assert np.allclose(accuracy[seen], (hits / expected)[seen], atol=1e-5)
    assert np.isnan(accuracy[expected < 1e-10]).all()
    assert (density.sum() - (density[0] + density[-1]) / 2) / 200 == pytest.approx(1, abs=1e-6)


def test_the_curve_of_a_narrow_bandwidth_is_as_wide_as_its_points():
    x, accuracy, density = smooth.smooth_curve(from_arrays([1.0, 1.0], [True, True]).evidence, points=101)
    assert density[-1] == pytest.approx(2 / (0.01 * np.sqrt(2 * np.pi)))
    assert accuracy[-1] == pytest.approx(1)
    assert np.isnan(accuracy[x < 0.9]).all()


@pytest.mark.parametrize("points", [1, 0, True, 2.5, 10_001])
def test_a_number_of_points_is_checked(points):
    with pytest.raises(InputError, match="whole number from 2 to 10,000"):
        smooth.smooth_curve(from_arrays([0.5], [True]).evidence, points=points)


@pytest.mark.parametrize("sigma", [0.0001, 0.0005, 0.002, 0.01, 0.1, 0.7])
@pytest.mark.parametrize("grid", [CLUSTER_GRID, Grid(60, 6)])
def test_norms_of_many_residuals(sigma, grid):
    rng = np.random.default_rng(1)
    residual = rng.normal(size=(3, grid.n_bins))
    found = smooth.smoothed_norm(residual, grid, sigma)
    nodes = int(40 / sigma)
    t, centre = (np.arange(nodes) + 0.5) / nodes, (grid.edges[1:] + grid.edges[:-1]) / 2
    expected = [abs(smoothed(centre, row, sigma, t)).mean() for row in residual]
    assert found == pytest.approx(expected, rel=2e-3)


def test_without_smoothing_the_norm_is_the_sum():
    residual = np.random.default_rng(2).normal(size=(4, CLUSTER_GRID.n_bins))
    for sigma in (0.0, 1e-9):
        assert smooth.smoothed_norm(residual, CLUSTER_GRID, sigma) == pytest.approx(abs(residual).sum(axis=1))
