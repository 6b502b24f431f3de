"""Measures over bins against their definitions written out, and the bounds of those from a histogram."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t

from logitbox.analysis.calibration import bin_table, binned, from_arrays, placing, sweep
from logitbox.analysis.calibration.atoms import Atoms, exact_atoms
from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.measures import BY_NAME
from logitbox.analysis.histogram import Grid

TOKENS = st.lists(
    st.tuples(
        st.one_of(
            st.floats(0, 1),
            st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
            st.integers(0, 12).map(lambda k: k / 12),
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=50,
)


def arrays(tokens):
    return np.array([p for p, _ in tokens]), np.array([right for _, right in tokens])


def bins_by_width(tokens, bins):
    """Lists of tokens, by comparing with k / bins."""
    found = {}
    for p, right in tokens:
        found.setdefault(max(k for k in range(bins) if k / bins <= p), []).append((p, right))
    return [found[k] for k in sorted(found)]


def bins_by_mass(tokens, bins):
    """A token is in the bin of the last that is as confident."""
    tokens, found = sorted(tokens), {}
    ranks = {p: rank for rank, (p, _) in enumerate(tokens)}
    for p, right in tokens:
        found.setdefault(ranks[p] * bins // len(tokens), []).append((p, right))
    return [found[k] for k in sorted(found)]


def gap(tokens):
    return sum(right - Fraction(p) for p, right in tokens) / len(tokens)


def norm1(found):
    return float(sum(len(b) * abs(gap(b)) for b in found) / sum(map(len, found)))


@settings(max_examples=60, deadline=None)
@given(TOKENS, st.integers(1, 20))
def test_errors_by_definition(tokens, bins):
    found = from_arrays(*arrays(tokens), bins=bins)
    wide = bins_by_width(tokens, bins)
    total = len(tokens)
    assert found.ece == pytest.approx(norm1(wide), abs=1e-12)
    assert found.mce == pytest.approx(float(max(abs(gap(b)) for b in wide)), abs=1e-12)
    assert found.l2**2 == pytest.approx(float(sum(len(b) * gap(b) ** 2 for b in wide) / total), abs=1e-12)
    squares = Fraction(0)
    for b in wide:
        if len(b) > 1:
            a = Fraction(sum(right for _, right in b), len(b))
            squares += len(b) * (gap(b) ** 2 - a * (1 - a) / (len(b) - 1))
    assert found.l2_debiased**2 == pytest.approx(float(max(squares, 0) / total), abs=1e-12)
    assert found.ece_equal_mass == pytest.approx(norm1(bins_by_mass(tokens, bins)), abs=1e-12)
    for name in ("ece", "ece_equal_mass", "ece_sweep", "mce", "l2", "l2_debiased"):
        assert found.error(name) == 0


@settings(max_examples=40, deadline=None)
@given(TOKENS)
def test_sweep_by_definition(tokens):
    best = 1
    for bins in range(2, 2001):
        shares = [Fraction(sum(right for _, right in b), len(b)) for b in bins_by_mass(tokens, bins)]
        if shares != sorted(shares):
            break
        best = bins
        if len(shares) == len({p for p, _ in tokens}) and bins > 4 * len(tokens):
            break  # every value has its own bin from here on
    assert from_arrays(*arrays(tokens)).ece_sweep == pytest.approx(
        norm1(bins_by_mass(tokens, best)), abs=1e-12
    )


def test_equal_mass_bins_are_even_where_nothing_is_tied():
    p = np.random.default_rng(0).permutation(1000) / 1000
    assert binned.equal_mass(exact_atoms(p, p > 0.5, None), 8).count.tolist() == [125] * 8
    assert binned.equal_mass(exact_atoms(p, p > 0.5, None), 3).count.tolist() == [334, 333, 333]


def test_ties_are_never_split():
    p = np.array([0.5] * 84 + [0.1, 0.2, 0.3] * 2 + [0.9, 0.95] * 5)
    found = binned.equal_mass(exact_atoms(p, p > 0.4, None), 10)
    assert found.count.tolist() == [6, 84, 10]


@settings(deadline=None)
@given(TOKENS, st.integers(1, 12), st.integers(1, 4))
def test_weights_are_repeated_tokens_in_equal_mass_bins(tokens, bins, times):
    p, right = arrays(tokens)
    once = from_arrays(p, right, bins=bins)
    often = from_arrays(p, right, np.full(len(p), float(times)), bins=bins)
    assert often.ece_equal_mass == pytest.approx(once.ece_equal_mass, abs=1e-12)
    assert often.ece_sweep == pytest.approx(once.ece_sweep, abs=1e-12)
    assert often.l2_debiased == pytest.approx(once.l2_debiased, abs=1e-9)


@settings(deadline=None)
@given(TOKENS)
def test_exact_atoms_by_definition(tokens):
    p, right = arrays(tokens)
    weight = np.arange(1.0, len(p) + 1)
    for w in (None, weight):
        atoms = exact_atoms(p, right, w)
        each = np.ones(len(p)) if w is None else w
        assert atoms.low.tolist() == atoms.high.tolist() == sorted(set(p.tolist()))
        assert atoms.is_exact
        for i, value in enumerate(atoms.low):
            here = p == value
            assert atoms.count[i] == here.sum()
            assert atoms.n[i] == pytest.approx(each[here].sum())
            assert atoms.right[i] == pytest.approx((each * right)[here].sum())
            assert atoms.residual[i] == pytest.approx((each * (right - p))[here].sum(), abs=1e-9)
            assert atoms.variation[i] == pytest.approx((each * abs(right - p))[here].sum(), abs=1e-9)
        assert (atoms.squares is None) == (w is None)


def test_zero_of_either_sign_is_one_atom():
    assert len(exact_atoms(np.array([0.0, -0.0]), np.array([True, False]), None)) == 1


def of_histogram(p, right, grid, bins):
    """As a dump's: only the sums over bins of the grid are known."""
    counter = Counter(grid)
    counter.add(p, right)
    atoms = counter.atoms()
    table, straddling = placing.equal_width(atoms, bins)
    return Evidence(len(p), 0, float(len(p)), bins, table, {}, lambda: atoms, None, straddling)


MEASURES = {
    "ece": binned.ece_error,
    "ece_equal_mass": binned.ece_equal_mass_error,
    "ece_sweep": sweep.ece_sweep_error,
    "mce": binned.mce_error,
    "l2": binned.l2_error,
    "l2_debiased": binned.l2_debiased_error,
}


@settings(max_examples=150, deadline=None)
@given(TOKENS, st.sampled_from([Grid(1), Grid(3), Grid(7, 2), Grid(12, 5), Grid(30)]), st.integers(1, 15))
def test_error_bounds_hold(tokens, grid, bins):
    p, right = arrays(tokens)
    exact, rough = from_arrays(p, right, bins=bins), of_histogram(p, right, grid, bins)
    for name, error in MEASURES.items():
        bound = error(rough)
        assert abs(BY_NAME[name].value(rough) - exact.value(name)) <= bound + 1e-9, name
    assert binned.accuracy(rough) == pytest.approx(exact.accuracy)
    assert binned.overconfidence(rough) == pytest.approx(exact.overconfidence, abs=1e-12)


@settings(deadline=None)
@given(TOKENS, st.sampled_from([(30, 4, 15), (30, 4, 10), (12, 0, 4), (7, 3, 7)]))
def test_bins_that_nest_are_exact(tokens, shape):
    n, n_fine, bins = shape
    p, right = arrays(tokens)
    exact, rough = from_arrays(p, right, bins=bins), of_histogram(p, right, Grid(n, n_fine), bins)
    assert rough.straddling == 0
    for part in ("low", "high", "count", "n", "right"):
        assert getattr(rough.table, part).tolist() == getattr(exact.evidence.table, part).tolist()
    for name in ("ece", "mce", "l2", "l2_debiased"):
        assert BY_NAME[name].value(rough) == pytest.approx(exact.value(name), abs=1e-12)
        assert MEASURES[name](rough) == 0


def test_bounds_from_a_fine_grid_are_small():
    rng = np.random.default_rng(0)
    p = 1 - rng.random(50_000) ** 4
    right = rng.random(len(p)) < p**1.2
    rough = of_histogram(p, right, Grid(16_200, 30), 14)
    assert rough.straddling > 0
    assert {name: error(rough) < 2e-3 for name, error in MEASURES.items()} == dict.fromkeys(MEASURES, True)


def test_equal_width_puts_an_atom_where_its_mean_is():
    atoms = Atoms(
        *(
            np.array(v, float)
            for v in ([0.0, 0.4], [0.4, 1.0], [4, 10], [4, 10], [1, 7], [0.5, 4.9], [0.2, 4.0])
        )
    )
    found, straddling = placing.equal_width(atoms, 2)
    assert found.low.tolist() == [0]
    assert found.high.tolist() == [0.5]
    assert found.n.tolist() == [14]
    assert straddling == pytest.approx(2 * (7 - 2 * 4.0 + 4.9))
    found, straddling = placing.equal_width(atoms, 5)
    assert found.low.tolist() == [0, 0.4]
    assert straddling == pytest.approx(2 * (1 - 0.4 + 0.5) + 2 * (7 - 8 + 4.9))


# The reliability table


def test_table_without_clusters_has_wilson_intervals():
    rng = np.random.default_rng(0)
    p = rng.random(500)
    right = rng.random(500) < p
    rough = of_histogram(p, right, Grid(10), 10)
    table = bin_table.reliability(rough)
    assert table.columns == [
        "low",
        "high",
        "n",
        "accuracy",
        "confidence",
        "gap",
        "accuracy_low",
        "accuracy_high",
    ]
    for row in table.iter_rows(named=True):
        here = (p >= row["low"]) & (p < row["high"])
        assert row["n"] == here.sum()
        assert row["accuracy"] == pytest.approx(right[here].mean())
        assert row["confidence"] == pytest.approx(p[here].mean())
        assert row["gap"] == pytest.approx((right - p)[here].mean())
        known = binomtest(int(right[here].sum()), int(here.sum())).proportion_ci(method="wilson")
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((known.low, known.high))


def test_tokens_that_agree_within_samples_count_as_one():
    """50 samples of 100 tokens, all alike: the interval is Wilson's for 50, with t of 49 degrees for z."""
    rng = np.random.default_rng(1)
    p, right = rng.random(50), rng.random(50) < 0.5
    p = 0.6 + p / 1000  # one bin of the clusters
    row = from_arrays(
        np.repeat(p, 100), np.repeat(right, 100), cluster=np.repeat(np.arange(50), 100)
    ).table.row(0, named=True)
    share, z2 = right.mean(), t.ppf(0.975, 49) ** 2
    low, high = np.sort(np.roots([1 + z2 / 50, -2 * share - z2 / 50, share**2]))
    assert row["n"] == 5000
    assert row["accuracy_low"] == pytest.approx(low, abs=2e-3)
    assert row["accuracy_high"] == pytest.approx(high, abs=2e-3)
    free = from_arrays(np.repeat(p, 100), np.repeat(right, 100)).table.row(0, named=True)
    assert free["accuracy_high"] - free["accuracy_low"] < (high - low) / 9


def test_clustered_interval_is_the_linearised_one_where_tokens_are_many():
    rng = np.random.default_rng(2)
    sample = np.repeat(np.arange(2000), 50)
    level = rng.beta(4, 4, 2000)[sample]
    p, right = rng.uniform(0.52, 0.58, len(sample)), rng.random(len(sample)) < level
    row = from_arrays(p, right, cluster=sample, bins=10).table.row(0, named=True)
    sums = np.bincount(sample, right)
    error = sums.std(ddof=1) / 50 / np.sqrt(2000)  # samples of equal length: the error of a mean of means
    z = norm.ppf(0.975)
    assert row["accuracy_low"] == pytest.approx(right.mean() - z * error, abs=3e-4)
    assert row["accuracy_high"] == pytest.approx(right.mean() + z * error, abs=3e-4)


def test_all_right_in_a_bin_is_as_sure_as_there_are_samples():
    p, right = np.full(400, 0.97), np.ones(400, bool)
    for cluster, n in ((np.repeat(np.arange(8), 50), 8), (None, 400), (np.zeros(400), 1)):
        row = from_arrays(p, right, cluster=cluster).table.row(0, named=True)
        known = binomtest(n, n).proportion_ci(method="wilson")
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((known.low, 1.0))


@settings(max_examples=40, deadline=None)
@given(TOKENS, st.sampled_from([1, 2, 15, 400]), st.integers(1, 6))
def test_table_holds_together(tokens, bins, samples):
    p, right = arrays(tokens)
    found = from_arrays(p, right, cluster=np.arange(len(p)) % samples, bins=bins)
    table = found.table
    assert table["n"].sum() == len(p)
    assert (table["n"] * table["gap"].abs()).sum() / len(p) == pytest.approx(found.ece, abs=1e-9)
    assert table.select(
        ((table["accuracy_low"] >= 0) & (table["accuracy_low"] <= table["accuracy"])).all()
    ).item()
    assert table.select(
        ((table["accuracy"] <= table["accuracy_high"]) & (table["accuracy_high"] <= 1)).all()
    ).item()
