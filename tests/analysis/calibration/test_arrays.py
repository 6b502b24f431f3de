"""Arrays in: what is refused, what is left out, sums by cluster, and whole distributions."""

from __future__ import annotations

import tracemalloc
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import exp, inf, log, nan

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax, xlogy

from logitbox.analysis.calibration import from_arrays, from_probabilities
from logitbox.analysis.calibration.evidence import CLUSTER_GRID, MOST_CLUSTERS
from logitbox.analysis.calibration.units import folded
from logitbox.errors import InputError

P, RIGHT = [0.2, 0.7, 0.9], [0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.2]], [1]), r"confidence has shape \(1, 1\); give 1 dimension"),
        ((0.5, 1), r"confidence has shape \(\)"),
        ((["a"], [1]), "confidence is not an array of numbers"),
        (([[0.1], [0.2, 0.3]], [1]), "confidence is not an array of numbers"),
        (([0.2, 1.5], [0, 1]), r"confidence is 1.5 in row 1; it must be in \[0, 1\]"),
        (([-1e-9], [0]), "confidence is -1e-09 in row 0"),
        (([inf], [0]), "confidence is inf"),
        ((P, [0, 1]), "correct has 2 values and confidence 3"),
        ((P, [0, 1, 2]), "correct is 2.0 in row 2; it must be 0 or 1"),
        ((P, [0, 1, nan]), "correct is nan in row 2"),
        ((P, [[1], [1, 0], 1]), "correct is not an array of numbers"),
        ((P, RIGHT, [1, [1], 1]), "weight is not an array of numbers"),
        ((P, RIGHT, [1, 10**400, 1]), "weight is not an array of numbers"),
        ((P, [[0, 1, 1]]), r"correct has shape \(1, 3\)"),
        ((P, [True, None, False]), "correct is nan in row 1"),
        ((P, RIGHT, [1, 1]), "weight has 2 values and confidence 3"),
        ((P, RIGHT, [1, -1, 1]), "weight is -1.0 in row 1; it must be finite and 0 or more"),
        ((P, RIGHT, [1, nan, 1]), "weight is nan in row 1"),
        ((P, RIGHT, [1, 1, inf]), "weight is inf in row 2"),
        ((P, RIGHT, None, ["a", "b"]), "cluster has 2 values and confidence 3"),
        ((P, RIGHT, None, [[1, 2], [1, 2], [3, 4]]), r"cluster has shape \(3, 2\)"),
        ((P, RIGHT, None, [[1, 2], [1], [3, 4]]), "cluster is not a list of labels"),
        ((P, RIGHT, None, None, 0), "bins is 0; give a whole number from 1 to 100,000"),
        ((P, RIGHT, None, None, True), "bins is True"),
        ((P, RIGHT, None, None, 2.0), "bins is 2.0"),
    ],
)
def test_arrays_that_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        from_arrays(*arguments)


Q = [[0.2, 0.8], [0.6, 0.4]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.5], [0]), r"probs has shape \(2,\); give 2 dimensions"),
        ((np.zeros((3, 0)), [0, 0, 0]), r"probs has shape \(3, 0\); give one column per class"),
        (([[0.2, 0.7]], [0]), "probs of row 0 are from 0.2 to 0.7 and sum to 0.9"),
        (
            ([[0.5, 0.5], [-0.5, 1.5]], [0, 0]),
            "probs of row 1 are from -0.5 to 1.5 and sum to 1; .*logits want a softmax",
        ),
        (
            (torch.tensor([[0.6015625, 0.400390625]], dtype=torch.bfloat16), [0]),
            "sum to 1.00195; they must .* sum to 1 within 0.001 .*softmax first, in float32",
        ),
        (([[-inf, inf]], [0]), "probs of row 0 are from -inf to inf"),
        ((Q, [0]), "labels has 1 values and probs 2"),
        ((Q, [0, 2]), "labels is 2.0 in row 1; it must be a whole number from 0 to 1"),
        ((Q, [0, -100]), "labels is -100.0 in row 1; .*leave out rows without a label"),
        ((Q, [0, 0.5]), "labels is 0.5"),
        ((Q, [0, nan]), "labels is nan"),
        ((Q, [0, 1], [1, -1]), "weight is -1.0"),
    ],
)
def test_probabilities_that_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        from_probabilities(*arguments)


def test_any_array_will_do():
    expected = from_arrays(np.array(P), np.array(RIGHT, bool)).ece
    assert expected == pytest.approx(0.6 / 3)
    for make in (list, tuple, pl.Series, torch.tensor, lambda v: np.array(v, object)):
        assert from_arrays(make(P), make(RIGHT)).ece == pytest.approx(expected, abs=1e-7)
    assert from_arrays(torch.tensor(P, requires_grad=True), torch.tensor(RIGHT)).ece == pytest.approx(
        expected
    )
    assert from_arrays(pd.Series(P), pd.Series(RIGHT, dtype="boolean")).ece == pytest.approx(expected)
    assert from_arrays([Decimal("0.2"), Fraction(7, 10), 0.9], RIGHT).ece == pytest.approx(expected)


def test_half_precision_of_any_kind():
    p = torch.tensor([0.25, 0.75, 0.875])  # exact in all of them
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        found = from_arrays(p.to(dtype), torch.tensor([0, 1, 1], dtype=torch.bfloat16), p.to(dtype))
        assert found.confidence == pytest.approx(float((p * p).sum() / p.sum()))
        probs = torch.stack([p, 1 - p], dim=1).to(dtype)
        assert from_probabilities(probs, [0, 1, 0]).nll == pytest.approx(-np.log([0.25, 0.25, 0.875]).mean())


@pytest.mark.parametrize(
    "missing",
    [
        [0.2, None, 0.7],
        [0.2, nan, 0.7],
        pd.Series([0.2, None, 0.7], dtype="Float64"),
        pd.Series([0.2, pd.NA, 0.7], dtype=object),
        pl.Series([0.2, None, 0.7]),
        np.ma.masked_array([0.2, 0.4, 0.7], [False, True, False]),
        np.ma.masked_array([0.2, 7.0, 0.7], [False, True, False]),
    ],
)
def test_missing_values_are_left_out(missing):
    found = from_arrays(missing, [0, 1, 1])
    assert (found.n, found.left_out, found.confidence) == (2, 1, pytest.approx(0.45))


@pytest.mark.parametrize(
    "truths", [[1, None, 0], pl.Series([True, None, False]), np.ma.masked_array([True] * 3, [0, 1, 0])]
)
def test_missing_truths_are_refused(truths):
    with pytest.raises(InputError, match="correct is nan in row 1"):
        from_arrays(P, truths)
    assert from_arrays([0.2, nan, 0.9], truths).n == 2


def test_float32_is_what_it_is_in_float64():
    rng = np.random.default_rng(0)
    p, right = rng.random(1000, dtype=np.float32), rng.random(1000) < 0.5
    one, other = from_arrays(p, right), from_arrays(p.astype(np.float64), right)
    for name in ("ece", "ece_equal_mass", "brier", "log_score", "confidence"):
        assert one.value(name) == other.value(name)


def test_nan_rows_are_left_out_and_counted():
    p, right, weight = [0.2, nan, 0.7, nan], [0, nan, 1, 5], [1, 2, 3, 4]
    found = from_arrays(p, right, weight, ["a", "b", "a", "c"])
    assert (found.n, found.left_out) == (2, 2)
    kept = from_arrays([0.2, 0.7], [0, 1], [1, 3])
    assert (found.ece, found.brier, found.accuracy) == (kept.ece, kept.brier, kept.accuracy)
    assert found.evidence.clusters.total == 1
    null = from_arrays(pl.Series([0.2, None]), [0, 1])
    assert (null.n, null.left_out) == (1, 1)
    probs = from_probabilities([[nan, 0.5], [0.3, 0.7]], [-100, 1])
    assert (probs.n, probs.left_out, probs.accuracy) == (1, 1, 1)


def test_rows_of_no_weight_are_left_out():
    found = from_arrays([0.1, 0.2, 0.7], [1, 0, 1], [0, 1, 3])
    assert (found.n, found.left_out, found.evidence.n) == (2, 0, 2)  # weights 1/2 and 3/2
    assert found.accuracy == 0.75
    assert len(found.evidence.atoms) == 2
    assert from_arrays([0.5], [1], [0]).n == 0


@pytest.mark.parametrize(
    "labels",
    [
        [3, 1, 3, 1, 2],
        [-(2**63), 5, -(2**63), 5, 2**63 - 1],
        np.array([2**64 - 1, 0, 2**64 - 1, 0, 7], np.uint64),
        np.array([2**64 - 1, 2**64 - 3, 2**64 - 1, 2**64 - 3, 2**64 - 2], np.uint64),
        ["b", "a", "b", "a", "c"],
        [None, "a", None, "a", 3],
        [0.5, nan, 0.5, nan, 2.0],
        [*list("baba"), 7],
        ["1", 1, "1", 1, b"1"],
        [b"b", b"a", b"b", b"a", b"c"],
        [float("nan"), None, float("nan"), None, 0.5],
        np.array([1, nan, 1, float("nan"), 3], object),
        np.array([nan, 2, Decimal("nan"), 2, "2"], object),
        pd.Series(["b", pd.NA, "b", pd.NA, pd.NaT]),
        pd.Series([1, None, 1, None, 2], dtype="Int64"),
        pd.Series(["b", "a", "b", "a", None], dtype="category"),
        pl.Series(["b", None, "b", None, "c"]),
        pl.Series([1, None, 1, None, 2]),
        pl.Series(["b", "a", "b", "a", "c"], dtype=pl.Categorical),
        np.array(["2020-01-01", "NaT", "2020-01-01", "NaT", "2021-01-01"], "datetime64[D]"),
        [date(2020, 1, 1), None, date(2020, 1, 1), None, date(2021, 1, 1)],
        [("a", 1), "a", ("a", 1), "a", 1],
        np.ma.masked_array([1, 2, 1, 2, 3], [0, 1, 0, 1, 0]),
        torch.tensor([3, 1, 3, 1, 2]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5, 3.0, 4.0]])
def test_sums_by_cluster(labels, weight):
    p, right = np.array([0.05, 0.9999, 0.5, 1.0, 0.3]), np.array([1, 0, 1, 1, 0])
    found = from_arrays(p, right, weight, labels).evidence.clusters
    w = np.ones(5) if weight is None else np.array(weight) / 4  # the largest is from 1 to 2
    assert (len(found), found.total, found.universe, found.grid) == (3, 3, 3, CLUSTER_GRID)
    assert found.unit.tolist() == [0, 1, 2]
    cell = np.minimum(np.searchsorted(CLUSTER_GRID.edges, p, side="right") - 1, CLUSTER_GRID.n_bins - 1)
    numbered = {tuple(np.flatnonzero(row)) for row in found.n}
    assert numbered == {tuple(sorted(cell[[0, 2]])), tuple(sorted(cell[[1, 3]])), (cell[4],)}
    for rows in ([0, 2], [1, 3], [4]):
        at = np.flatnonzero(found.n[:, cell[rows[0]]])
        n, residual = np.zeros((2, CLUSTER_GRID.n_bins))
        np.add.at(n, cell[rows], w[rows])
        np.add.at(residual, cell[rows], w[rows] * (right - p)[rows])
        np.testing.assert_allclose(found.n[at[0]], n)
        np.testing.assert_allclose(found.residual[at[0]], residual)
        for name, value in {"correct": right, "confidence": p, "brier": (p - right) ** 2}.items():
            assert found.sums[name][at[0]] == pytest.approx((w * value)[rows].sum())
    by_hand = [-np.log(0.05), np.log(1e4), np.log(2), 0, -np.log(0.7)]
    assert found.sums["log"].sum() == pytest.approx((w * by_hand).sum())


def test_every_row_is_a_cluster_by_default():
    found = from_arrays(P, RIGHT).evidence.clusters
    assert (len(found), found.total, found.universe) == (3, 3, 3)
    assert found.n.sum(axis=1).tolist() == [1, 1, 1]


def test_many_clusters_are_put_together():
    rng = np.random.default_rng(0)
    label = np.repeat(rng.permutation(10_000), 2)
    p, right = rng.random(20_000), rng.random(20_000) < 0.5
    found = from_arrays(p, right, cluster=label).evidence.clusters
    assert found.total == 10_000
    assert found.universe == MOST_CLUSTERS
    assert len(found) <= MOST_CLUSTERS
    assert (np.diff(found.unit) > 0).all()
    n = found.n.sum(axis=1)
    assert (n % 2 == 0).all()  # no cluster was torn apart
    assert n.sum() == 20_000
    # Whole clusters, whose numbers are their labels here.
    slot = folded(np.arange(10_000))[label]
    expected = np.bincount(slot, right, minlength=MOST_CLUSTERS)[found.unit]
    assert found.sums["correct"].tolist() == expected.tolist()
    # About as even as random numbers: variance of a Poisson distribution.
    assert np.bincount(folded(np.arange(10_000)), minlength=MOST_CLUSTERS).var() == pytest.approx(
        10_000 / 2048, rel=0.15
    )


def test_labels_that_cannot_be_told_apart():
    odd = np.empty(3, object)
    odd[:] = [{}, 1, "a"]
    with pytest.raises(InputError, match="cluster has a label that cannot be told apart"):
        assert from_arrays(P, RIGHT, cluster=odd).evidence.clusters


def example(rows=400, classes=6, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)) * scale
    labels = (logits / 1.7 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, softmax(logits, axis=1), labels, rng.uniform(0.1, 3, rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_probabilities_by_definition(weighted, bins):
    _, p, labels, w = example()
    found = from_probabilities(p, labels, w if weighted else None, bins=bins)
    w = w if weighted else np.ones(len(p))
    top, rows = p.argmax(axis=1), np.arange(len(p))
    share = w / w.sum()
    assert found.accuracy == pytest.approx(share @ (top == labels))
    assert found.confidence == pytest.approx(share @ p[rows, top])
    assert found.brier == pytest.approx(share @ (p[rows, top] - (top == labels)) ** 2)
    assert found.nll == pytest.approx(share @ -np.log(p[rows, labels]))
    assert found.entropy == pytest.approx(share @ -(p * np.log(p)).sum(axis=1))
    assert found.entropy_gap == pytest.approx(found.nll - found.entropy)
    residual = share[:, None] * (np.eye(p.shape[1])[labels] - p)
    bin_ = np.minimum((p * bins).astype(int), bins - 1)  # no p is at an edge
    per = np.array([[residual[:, c][bin_[:, c] == b].sum() for b in range(bins)] for c in range(p.shape[1])])
    assert found.full_ece == pytest.approx(abs(per.sum(axis=0)).sum(), abs=1e-12)
    assert found.classwise_ece == pytest.approx(abs(per).sum() / p.shape[1], abs=1e-12)
    assert found.error("full_ece") == found.error("classwise_ece") == 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [0.5, 2.0, 30.0])
def test_temperature_is_that_of_the_logits(weighted, scale):
    logits, _, labels, w = example(scale=scale)
    logits = np.clip(logits, -70, 70)  # of less than e^-700 nothing is left in p
    p, w = softmax(logits, axis=1), w if weighted else None

    def mean_nll(t):
        q = softmax(logits / np.exp(t), axis=1)[np.arange(len(labels)), labels]
        return np.average(-np.log(q), weights=w)

    best = minimize_scalar(mean_nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
    heat = from_probabilities(p, labels, w).heat
    assert heat.temperature == pytest.approx(np.exp(best.x), rel=1e-5)
    assert heat.low == heat.high == heat.temperature
    assert heat.nll == heat.nll_low == heat.nll_high == pytest.approx(best.fun, abs=1e-9)
    assert heat.nll_before == pytest.approx(mean_nll(0.0))
    assert not heat.at_edge


def test_temperature_at_the_ends_of_its_range():
    right = from_probabilities([[0.9, 0.1], [0.2, 0.8]], [0, 1]).heat  # the colder the better
    assert (right.at_edge, right.temperature) == (True, pytest.approx(0.01))
    wrong = from_probabilities([[0.9, 0.1], [0.2, 0.8]], [1, 0]).heat
    assert (wrong.at_edge, wrong.temperature) == (True, pytest.approx(100))
    assert wrong.nll == pytest.approx(np.log(2), abs=0.02)
    flat = from_probabilities([[0.5, 0.5], [0.5, 0.5]], [1, 1]).heat
    assert (flat.at_edge, flat.temperature, flat.nll) == (False, 1, pytest.approx(np.log(2)))


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.floats(-4.6, 4.6),
        st.sampled_from([0.25, 0.75, 1.75, 3.75]).flatmap(lambda u: st.sampled_from([u, -u])),
    ),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    st.booleans(),
)
def test_best_temperature_wherever_it_is(u, counts, weighted):
    """Rows whose labels come as often as p^β says, so that β is best; at the search's own steps too."""
    probs, labels, weights = [], [], []
    for right, wrong in counts:
        if right == wrong:
            continue
        z = log(right / wrong) * exp(-u)
        if abs(z) > 500:
            continue
        p, q = 1 / (1 + exp(-z)), 1 / (1 + exp(z))
        for label, times in ((0, right), (1, wrong)):
            rows = 1 if weighted else times
            probs += [[p, q]] * rows
            labels += [label] * rows
            weights += [times / rows] * rows
    if not probs:
        return
    heat = from_probabilities(probs, labels, weights).heat
    assert heat.nll <= heat.nll_before + 1e-12
    # Where p is nearly 1/2, it is rounded: the best T of what is given is a little off. Of no slope at all none is needed.
    if heat.temperature != 1:
        assert log(heat.temperature) == pytest.approx(-u, abs=1e-6)
    else:
        z = np.log([p[0] / p[1] for p in probs])
        slope = np.average(z * (1 / (1 + np.exp(-z)) - (np.array(labels) == 0)), weights=weights)
        assert abs(slope) < 1e-11


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(2, 5), st.integers(0, 10_000), st.floats(-3, 6))
def test_a_temperature_is_always_found(rows, classes, seed, scale):
    """Also where labels are as good as sure, tied, or rounded away. No grid does better."""
    rng = np.random.default_rng(seed)
    logits = np.clip(rng.normal(size=(rows, classes)) * np.exp(scale), -300, 300)
    logits[rng.random(rows) < 0.3] = rng.integers(0, 2, classes)  # ties
    p, labels = softmax(logits, axis=1), rng.integers(0, classes, rows)
    if (p[np.arange(rows), labels] == 0).any():
        return
    heat = from_probabilities(p, labels).heat
    assert 0.01 - 1e-12 <= heat.temperature <= 100 + 1e-9
    logp = np.log(np.maximum(p, 1e-320))

    def nll(t):
        x = logp / t
        return (logsumexp(x, axis=1) - x[np.arange(rows), labels]).mean()

    assert heat.nll == pytest.approx(nll(heat.temperature), abs=1e-9)
    best = min(nll(t) for t in np.geomspace(0.01, 100, 200))
    assert heat.nll <= best + 1e-9 * (1 + best)


def test_many_bins_of_many_classes_take_little_memory():
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.ones(400), 40), rng.integers(0, 400, 40)
    w = rng.uniform(1, 2, 40)
    found = from_probabilities(p, labels, w, bins=100_000)
    tracemalloc.start()
    value = found.full_ece, found.classwise_ece
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6
    # The definition: sums over the pairs that share a bin.
    residual = w[:, None] * (np.eye(400)[labels] - p) / w.sum()
    bin_ = np.minimum((p * 100_000).astype(int), 99_999)
    assert value[0] == pytest.approx(abs(np.bincount(bin_.ravel(), residual.ravel())).sum(), abs=1e-12)
    _, code = np.unique(bin_ + np.arange(400) * 100_000, return_inverse=True)
    each = np.bincount(code.ravel(), residual.ravel())
    assert value[1] == pytest.approx(abs(each).sum() / 400, abs=1e-12)


def test_a_label_of_probability_zero():
    found = from_probabilities([[1.0, 0.0], [0.5, 0.5]], [1, 0])
    assert found.nll == inf
    assert found.entropy == pytest.approx(np.log(2) / 2)
    heat = found.heat
    assert (heat.temperature, heat.nll, heat.nll_before) == (None, None, inf)
    assert "a label has probability 0" in heat.reason
    assert found.temperature is None
    sure = from_probabilities([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [0, 2])
    assert (sure.nll, sure.entropy, sure.full_ece, sure.temperature) == (0, 0, 0, 1)


def test_the_lowest_class_of_equals_is_predicted():
    found = from_probabilities([[0.4, 0.4, 0.2]] * 2, [0, 1])
    assert found.accuracy == 0.5


def test_half_precision_may_sum_above_one():
    p = np.array([[1.0, 0.0005, 0.0], [0.9995, 0.001, 0.0]], np.float16)
    found = from_probabilities(p, [0, 1])
    assert found.confidence <= 1
    assert found.nll > 0
    assert np.isfinite(found.full_ece)
    assert from_probabilities(np.array([[1.0008, 0.0]]), [1]).log_score == inf


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 1000))
def test_classwise_of_two_classes_is_the_binary_error(rows, bins, seed):
    """With two classes, residuals of both are opposite, and Full-ECE of one bin is 0."""
    q = np.random.default_rng(seed).random(rows)
    labels = np.random.default_rng(seed + 1).integers(0, 2, rows)
    found = from_probabilities(np.stack([1 - q, q], axis=1), labels, bins=bins)
    second, first = from_arrays(q, labels == 1, bins=bins).ece, from_arrays(1 - q, labels == 0, bins=bins).ece
    assert found.classwise_ece == pytest.approx((first + second) / 2)
    entropy = -(xlogy(q, q) + xlogy(1 - q, 1 - q)).mean()
    assert found.entropy == pytest.approx(entropy)
    if bins == 1:
        assert found.full_ece == pytest.approx(0, abs=1e-12)


def test_empty_distributions():
    found = from_probabilities(np.zeros((0, 4)), [])
    assert (found.n, found.nll, found.temperature, found.full_ece) == (0, None, None, None)
