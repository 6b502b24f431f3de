"""CORP against pooling written out, scikit-learn's isotonic regression, and every way tokens may lie in bins."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import xlogy
from sklearn.isotonic import IsotonicRegression

from logitbox.analysis.calibration import corp, from_arrays
from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.calibration.evidence import CLUSTER_GRID, Evidence
from logitbox.analysis.histogram import FINE, Grid

levels = st.sampled_from([0.0, 0.2, 0.5, 0.5 + 1e-6, 0.7, 0.9999, 1.0])
numbers = st.one_of(st.floats(1e-3, 1), levels)
tokens = st.lists(st.tuples(numbers, st.booleans(), st.integers(1, 4)), min_size=1, max_size=40)


def scored(p, correct, weight, score):
    with np.errstate(divide="ignore"):
        each = (p - correct) ** 2 if score == "brier" else -np.log(np.where(correct > 0, p, 1 - p))
    return float(each @ weight / weight.sum())


def pooled(confidence, correct, weight):
    """Isotonic fit of every token: equal confidences first, then neighbours that fall, one by one."""
    blocks = []
    for level in sorted(set(confidence.tolist())):
        mine = confidence == level
        blocks.append([weight[mine].sum(), (weight * correct)[mine].sum(), level])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            n, right, high = blocks.pop()
            blocks[-1] = [blocks[-1][0] + n, blocks[-1][1] + right, high]
    highs = np.array([high for _, _, high in blocks])
    values = np.array([right / n for n, right, _ in blocks])
    return values[np.searchsorted(highs, confidence)]


def parts(confidence, correct, weight, score):
    given = scored(confidence, correct, weight, score)
    best = scored(pooled(confidence, correct, weight), correct, weight, score)
    base = scored(np.full(len(correct), correct @ weight / weight.sum()), correct, weight, score)
    return {"miscalibration": given - best, "discrimination": base - best, "uncertainty": base}


def found_parts(evidence, score):
    return {part: corp.part_of(score, part)(evidence) for part in corp.PARTS}


def arrays(drawn):
    confidence, correct, weight = (np.array(part, float) for part in zip(*drawn, strict=True))
    return confidence, correct, weight


def of_histogram(confidence, correct, weight, grid):
    fine, table = Counter(grid), Counter(Grid(15))
    for counter in (fine, table):
        counter.add(confidence, correct, weight=weight)
    n = float(weight.sum())
    sums = {score: scored(confidence, correct, weight, score) * n for score in corp.SCORES}
    return Evidence(len(confidence), 0, n, 15, table.atoms(), sums, fine.atoms)


@settings(max_examples=80, deadline=None)
@given(tokens, st.sampled_from(corp.SCORES))
def test_parts_are_those_of_pooling(drawn, score):
    confidence, correct, weight = arrays(drawn)
    evidence = from_arrays(confidence, correct.astype(bool), weight=weight).evidence
    found = found_parts(evidence, score)
    assert found == pytest.approx(parts(confidence, correct, weight, score), abs=1e-9)
    assert min(found.values()) >= 0
    if np.isfinite(found["miscalibration"]):
        whole = found["miscalibration"] - found["discrimination"] + found["uncertainty"]
        assert whole == pytest.approx(evidence.mean(score), abs=1e-12)
    assert all(corp.error_of(score, part)(evidence) == 0 for part in corp.PARTS)


@settings(max_examples=120, deadline=None)
@given(tokens, st.sampled_from(corp.SCORES), st.sampled_from([FINE, CLUSTER_GRID, Grid(60, 6), Grid(4)]))
def test_what_a_histogram_changes_is_bounded(drawn, score, grid):
    confidence, correct, weight = arrays(drawn)
    binned = of_histogram(confidence, correct, weight, grid)
    true, found = parts(confidence, correct, weight, score), found_parts(binned, score)
    assert min(found.values()) >= 0
    for part in corp.PARTS:
        error = corp.error_of(score, part)(binned)
        if np.isinf(true[part]):
            assert (found[part], error) == (inf, 0)
        else:
            assert abs(found[part] - true[part]) <= error + 1e-9
    if np.isfinite(found["miscalibration"]):
        whole = found["miscalibration"] - found["discrimination"] + found["uncertainty"]
        assert whole == pytest.approx(binned.mean(score), abs=1e-12)


@pytest.mark.parametrize("score", corp.SCORES)
def test_the_bound_is_reached(score):
    """Wrong ones first in the one bin: the fit of tokens is perfect, that of the bin knows nothing."""
    confidence, correct = np.array([0.5, 0.51, 0.52, 0.53]), np.array([0.0, 0.0, 1.0, 1.0])
    binned = of_histogram(confidence, correct, np.ones(4), Grid(10))
    true = parts(confidence, correct, np.ones(4), score)
    found = corp.part_of(score, "discrimination")(binned)
    assert corp.error_of(score, "discrimination")(binned) == pytest.approx(true["discrimination"] - found)
    assert found < true["discrimination"] / 2


@pytest.mark.parametrize("score", corp.SCORES)
def test_from_a_fine_histogram_the_parts_are_nearly_exact_and_so_is_the_bound(score):
    rng = np.random.default_rng(0)
    confidence = 1 - rng.beta(0.4, 2, 100_000)
    correct = (rng.random(100_000) < confidence**1.3).astype(float)
    binned = of_histogram(confidence, correct, np.ones(100_000), FINE)
    exact = found_parts(from_arrays(confidence, correct).evidence, score)
    error = corp.error_of(score, "miscalibration")(binned)
    assert abs(found_parts(binned, score)["miscalibration"] - exact["miscalibration"]) <= error < 2e-3


def test_scikit_learn_agrees():
    rng = np.random.default_rng(1)
    confidence = np.round(rng.beta(4, 1, 5000), 3)
    correct = (rng.random(5000) < confidence**1.5).astype(float)
    fit = IsotonicRegression().fit_transform(confidence, correct)
    base = correct.mean()
    found = from_arrays(confidence, correct)
    assert found.brier_miscalibration == pytest.approx(
        np.mean((confidence - correct) ** 2 - (fit - correct) ** 2)
    )
    assert found.brier_discrimination == pytest.approx(np.mean((base - correct) ** 2 - (fit - correct) ** 2))
    entropy = -(xlogy(fit, fit) + xlogy(1 - fit, 1 - fit)).mean()
    assert found.log_discrimination == pytest.approx(
        -(xlogy(base, base) + xlogy(1 - base, 1 - base)) - entropy
    )


def test_sure_and_wrong_is_infinitely_miscalibrated():
    evidence = from_arrays([1.0, 1.0, 0.6], [True, False, False]).evidence
    assert corp.part_of("log", "miscalibration")(evidence) == inf
    assert corp.part_of("log", "discrimination")(evidence) == pytest.approx(
        -(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3 + 2 * np.log(0.5) / 3
    )
    assert corp.error_of("log", "miscalibration")(evidence) == 0


@pytest.mark.parametrize("right", [True, False])
def test_one_outcome_leaves_no_uncertainty(right):
    evidence = from_arrays([0.2, 0.9, 0.9], [right] * 3).evidence
    for score in corp.SCORES:
        found = found_parts(evidence, score)
        assert (found["discrimination"], found["uncertainty"]) == (0, 0)
        assert found["miscalibration"] == pytest.approx(evidence.mean(score))


def test_a_score_that_is_not_known_has_no_miscalibration():
    binned = of_histogram(np.array([0.2, 0.9]), np.array([0.0, 1.0]), np.ones(2), FINE)
    bare = Evidence(2, 0, 2.0, 15, binned.table, {}, binned.make_atoms)
    assert corp.part_of("log", "miscalibration")(bare) is None
    assert corp.part_of("log", "discrimination")(bare) == pytest.approx(np.log(2))


def test_the_curve_passes_through_the_fit():
    rng = np.random.default_rng(2)
    confidence = rng.random(3000)
    correct = (rng.random(3000) < confidence**2).astype(float)
    x, fitted = corp.curve(from_arrays(confidence, correct).evidence)
    assert len(x) == len(fitted) < 200
    assert (np.diff(x) > 0).all()
    assert (np.diff(fitted) >= 0).all()
    order = np.argsort(confidence)
    expected = pooled(confidence, correct, np.ones(3000))
    assert np.interp(confidence[order], x, fitted) == pytest.approx(expected[order])
