"""Where calibration is easily got wrong: nothing to see, nothing but extremes, one token, weights."""

from __future__ import annotations

from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.calibration import from_arrays, from_probabilities
from logitbox.analysis.calibration.measures import MEASURES

FIELDS = [measure.name for measure in MEASURES]
OF_CLASSES = ["n", "temperature", "full_ece", "classwise_ece"]

WEIGHT_LINEAR = [
    *(
        "accuracy",
        "confidence",
        "overconfidence",
        "ece",
        "mce",
        "l2",
        "smooth_ece",
        "kuiper",
        "brier",
        "log_score",
    ),
    *(
        f"{score}_{part}"
        for score in ("brier", "log")
        for part in ("miscalibration", "discrimination", "uncertainty")
    ),
]
"""Measures that only know how much weight lies where."""

RNG = np.random.default_rng(0)
RANDOM = RNG.random(200)

CASES = {
    "empty": ([], []),
    "one right": ([0.7], [1]),
    "one wrong": ([0.7], [0]),
    "two": ([0.7, 0.7], [0, 1]),
    "all right": (RANDOM, np.ones(200)),
    "all wrong": (RANDOM, np.zeros(200)),
    "all equal": (np.full(100, 0.3), np.arange(100) % 3 == 0),
    "sure and right": (np.ones(50), np.ones(50)),
    "sure and wrong": (np.ones(50), np.zeros(50)),
    "never and wrong": (np.zeros(50), np.zeros(50)),
    "never and right": (np.zeros(50), np.ones(50)),
    "both ends": ([0.0, 1.0] * 20, [0, 1, 1, 0] * 10),
    "next to the ends": ([5e-324, np.nextafter(1, 0), 1 - 1e-9, 1e-300] * 5, [0, 1, 0, 1] * 5),
    "edges": (np.arange(16) / 15, np.arange(16) % 2),
    "only NaN": ([nan, nan], [0, 1]),
    "some NaN": ([nan, 0.2, 0.9], [0, 1, 1]),
    "separated": (np.sort(RANDOM), np.arange(200) >= 100),
    "upside down": (np.sort(RANDOM), np.arange(200) < 100),
    "random": (RANDOM, RNG.random(200) < RANDOM),
}


def check_fields(found, names):
    for name in names:
        value = getattr(found, name)
        assert value is None or isinstance(value, int | float), name
        assert value is None or not isnan(value), name
        assert value == found.value(name) or value is None
        assert found.error(name) == 0
        low, high = found.interval(name) or (0, 0)
        assert low <= high, name
    assert found.frame.height == len(FIELDS)
    assert found.table["n"].sum() == found.n
    assert str(found)


@pytest.mark.parametrize("case", CASES)
def test_every_field_is_a_number_or_none(case):
    p, right = (np.asarray(part, np.float64) for part in CASES[case])
    n = len(p)
    check_fields(from_arrays(p, right), FIELDS + OF_CLASSES)
    check_fields(from_arrays(p, right, cluster=np.zeros(n), bins=1), FIELDS + OF_CLASSES)
    check_fields(from_arrays(p, right, np.linspace(0.0, 7.0, n), np.arange(n) % 3), FIELDS + OF_CLASSES)


@pytest.mark.parametrize(
    ("probs", "labels"),
    [
        (np.zeros((0, 3)), []),
        ([[1.0]], [0]),
        ([[0.2, 0.8]], [0]),
        ([[0.0, 1.0]], [0]),
        ([[0.0, 1.0]] * 9, [1] * 9),
        ([[0.5, 0.5]] * 9, [1] * 9),
        ([[nan, nan], [0.4, 0.6]], [0, 1]),
        (np.full((30, 4), 0.25), np.arange(30) % 4),
    ],
)
def test_every_field_of_probabilities(probs, labels):
    check_fields(from_probabilities(probs, labels), FIELDS + OF_CLASSES)


def test_nothing():
    for found in (from_arrays([], []), from_arrays([nan], [1]), from_arrays([0.5], [1], [0])):
        assert found.n == 0
        assert [found.value(name) for name in FIELDS] == [None] * len(FIELDS)
        assert [found.interval(name) for name in FIELDS] == [None] * len(FIELDS)
        assert found.table.is_empty()
        assert found.table.columns[:3] == ["low", "high", "n"]
    assert from_arrays([nan], [1]).left_out == 1


def test_all_right():
    found = from_arrays(RANDOM, np.ones(200), bins=10)
    mean = RANDOM.mean()
    assert found.accuracy == 1
    for name in ("ece", "ece_equal_mass", "ece_sweep", "kuiper"):  # all residuals are of one sign
        assert found.value(name) == pytest.approx(1 - mean)
    assert found.overconfidence == pytest.approx(mean - 1)
    assert found.log_score == pytest.approx(-np.log(RANDOM).mean())


def test_all_wrong():
    found = from_arrays(RANDOM, np.zeros(200), bins=10)
    for name in ("ece", "ece_equal_mass", "ece_sweep", "kuiper", "confidence", "overconfidence"):
        assert found.value(name) == pytest.approx(RANDOM.mean())
    assert found.brier == pytest.approx((RANDOM**2).mean())


@pytest.mark.parametrize(("right", "gap"), [(1, 0.3), (0, 0.7)])
def test_one_token(right, gap):
    found = from_arrays([0.7], [right])
    for name in ("ece", "ece_equal_mass", "ece_sweep", "mce", "l2", "kuiper"):
        assert found.value(name) == pytest.approx(gap)
    assert found.l2_debiased == 0  # one token tells nothing of its bin's variance
    assert found.table.row(0)[:3] == (10 / 15, 11 / 15, 1)


def test_certainty():
    for p, right in ((1.0, 1), (0.0, 0)):
        found = from_arrays([p] * 9, [right] * 9)
        for name in ("ece", "mce", "l2", "smooth_ece", "kuiper", "brier", "log_score"):
            assert found.value(name) == pytest.approx(0, abs=1e-9)
    for p, right in ((1.0, 0), (0.0, 1)):
        found = from_arrays([p] * 9, [right] * 9)
        assert (found.ece, found.mce, found.l2, found.kuiper, found.brier) == (1, 1, 1, 1, 1)
        assert found.log_score == inf


def test_confidence_of_one_is_in_the_last_bin():
    found = from_arrays([1.0, 0.95], [1, 0])
    assert found.table["low"].to_list() == [14 / 15]
    assert found.ece == pytest.approx(0.475)


def test_all_equal_confidences():
    found = from_arrays(np.full(100, 0.3), np.arange(100) < 40)
    for name in ("ece", "ece_equal_mass", "ece_sweep", "mce", "l2", "kuiper"):
        assert found.value(name) == pytest.approx(0.1)
    assert found.l2_debiased == pytest.approx(np.sqrt(0.01 - 0.4 * 0.6 / 99))
    assert found.table.height == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.001, 0.999), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30
    ).filter(lambda rows: any(row[2] for row in rows)),
    st.integers(1, 12),
)
def test_whole_weights_are_repeated_rows(rows, bins):
    p, right, weight = (np.array([row[i] for row in rows]) for i in range(3))
    weighted = from_arrays(p, right, weight, bins=bins)
    repeated = from_arrays(np.repeat(p, weight), np.repeat(right, weight), bins=bins)
    for name in WEIGHT_LINEAR:
        assert weighted.value(name) == pytest.approx(repeated.value(name), abs=1e-7), name
    assert weighted.n == (weight > 0).sum()


WEIGHTED = [*WEIGHT_LINEAR, "l2_debiased", "ece_equal_mass", "ece_sweep"]
UNITS = st.one_of(
    st.floats(1e-6, 1e6), st.floats(-300, 300).map(lambda e: 10**e), st.sampled_from([1e-320, 1e307])
)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), UNITS, st.booleans())
def test_the_unit_of_weights_does_not_matter(seed, unit, whole):
    rng = np.random.default_rng(seed)
    p, right = rng.integers(0, 20, 30) / 20, rng.random(30) < 0.5
    weight = rng.integers(1, 5, 30).astype(float) if whole or unit < 1e-300 else rng.uniform(0.1, 2, 30)
    if unit == 1e-320:
        unit = 1024 * 5e-324  # what is below the normal numbers holds few digits
    one, other = from_arrays(p, right, weight), from_arrays(p, right, weight * unit)
    for name in WEIGHTED:
        assert one.value(name) == pytest.approx(other.value(name), abs=1e-7), name
    assert one.interval("brier") == pytest.approx(other.interval("brier"))
    labels = rng.integers(0, 3, 30)
    probs = rng.dirichlet(np.ones(3), 30)
    one, other = from_probabilities(probs, labels, weight), from_probabilities(probs, labels, weight * unit)
    for name in ("nll", "entropy", "temperature", "full_ece", "classwise_ece"):
        assert one.value(name) == pytest.approx(other.value(name), rel=1e-6), name


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 80), st.integers(1, 12), UNITS, st.booleans())
def test_equal_weights_change_nothing(seed, n, bins, weight, tied):
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 9, n) / 8 if tied else rng.random(n)
    right = rng.random(n) < 0.6
    p = np.clip(p, 0, 1)
    one, other = from_arrays(p, right, bins=bins), from_arrays(p, right, np.full(n, weight), bins=bins)
    assert one.frame.equals(other.frame)  # values, intervals, errors: to the last bit
    assert one.table.equals(other.table)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 80), st.integers(1, 12), UNITS)
def test_weights_that_are_rounded_repetitions(seed, n, bins, unit):
    """0.1 and 0.3 are rounded: ranks must not tell them from 1 and 3, nor repeated rows."""
    rng = np.random.default_rng(seed)
    p, right, times = rng.random(n), rng.random(n) < 0.6, rng.integers(1, 4, n)
    unit = max(unit, 1e-290)
    # Rows of one weight each; a row of three counts like three of one if no cut falls into it, so cut at whole rows only.
    whole = from_arrays(p, right, times, bins=bins)
    rounded = from_arrays(p, right, times * unit, bins=bins)
    assert whole.ece_equal_mass == pytest.approx(rounded.ece_equal_mass, abs=1e-12)
    assert whole.ece_sweep == pytest.approx(rounded.ece_sweep, abs=1e-12)
    by_hand, before = {}, 0
    for i in np.argsort(p):
        cell = by_hand.setdefault(before * bins // int(times.sum()), [])
        cell.append(times[i] * (right[i] - p[i]))
        before += int(times[i])
    assert rounded.ece_equal_mass == pytest.approx(
        sum(abs(sum(cell)) for cell in by_hand.values()) / times.sum(), abs=1e-12
    )


def test_weights_beside_which_others_vanish():
    for tiny in (1e-200, 1e-320, 5e-324):
        found = from_arrays([0.2, 0.6, 0.9, 0.3], [0, 1, 1, 1], [1, 2, 1, tiny])
        check_fields(found, FIELDS)
        assert found.n == 3
        assert found.l2_debiased == from_arrays([0.2, 0.6, 0.9], [0, 1, 1], [1, 2, 1]).l2_debiased
    huge = from_arrays([0.2, 0.6, 0.9], [0, 1, 1], [1e308, 1.7e308, 1e-10])
    check_fields(huge, FIELDS)
    assert huge.accuracy == pytest.approx(1.7 / 2.7)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_no_share_leaves_its_range(seed, n):
    rng = np.random.default_rng(seed)
    weight = rng.lognormal(0, 3, n)
    for p in (np.ones(n), np.zeros(n), rng.random(n)):
        for right in (np.ones(n), np.zeros(n)):
            found = from_arrays(p, right, weight, bins=int(rng.integers(1, 30)))
            for name in (
                "accuracy",
                "confidence",
                "ece",
                "ece_equal_mass",
                "mce",
                "l2",
                "kuiper",
                "brier",
            ):
                assert 0 <= found.value(name) <= 1, name
            assert -1 <= found.overconfidence <= 1


def test_whole_weights_of_distributions_are_repeated_rows():
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(4), 50)
    labels, weight = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    one = from_probabilities(probs, labels, weight)
    other = from_probabilities(np.repeat(probs, weight, axis=0), np.repeat(labels, weight))
    for name in (*WEIGHT_LINEAR, "nll", "entropy", "entropy_gap", "temperature", "full_ece", "classwise_ece"):
        assert one.value(name) == pytest.approx(other.value(name), abs=1e-7), name
