"""Clustered intervals: degenerate cases, and how often they hold the truth."""

from __future__ import annotations

from math import sqrt

import numpy as np
import polars as pl
import pytest

from logitbox.analysis.intervals import interval, standard_error


def cell(x, n, evaluations=1.0):
    """A tally's cell from per-sample sums."""
    x, n = np.asarray(x, dtype=float), np.asarray(n, dtype=float)
    return pl.DataFrame(
        {"n": [int(n.sum())], "clusters": [len(n)], "nn": [(n * n).sum()], "evaluations": [evaluations],
         "q": [x.sum()], "q:xx": [(x * x).sum()], "q:xn": [(x * n).sum()]}
    )  # fmt: skip


def bounds(frame, *, is_share):
    low, high = interval("q", is_share=is_share)
    return frame.select(low.alias("low"), high.alias("high")).row(0)


@pytest.mark.parametrize("share", [0.0, 1 / 3, 0.5, 1.0])
def test_samples_that_all_agree_give_the_wilson_interval_over_samples(share):
    n = np.array([3, 6, 9, 300, 3000])
    z, g = 1.959963984540054, 5
    # Wilson (1927), as in the textbook: roots of (p̂ − p)² = z² p (1 − p) / g.
    roots = np.roots([1 + z * z / g, -(2 * share + z * z / g), share * share])
    assert bounds(cell(share * n, n), is_share=True) == pytest.approx(sorted(roots.real), abs=1e-9)
    assert bounds(cell(share * n, n), is_share=False) == pytest.approx((share, share))


def test_one_sample_has_no_interval():
    assert bounds(cell([3], [7]), is_share=True) == (None, None)
    assert bounds(cell([3, 3], [7, 7], evaluations=2.0), is_share=True) == (None, None)


def test_the_same_samples_met_again_tell_nothing_new():
    rng = np.random.default_rng(0)
    n = rng.integers(1, 30, 40)
    x = rng.binomial(n, 0.7)
    once = bounds(cell(x, n), is_share=True)
    thrice = bounds(cell(np.tile(x, 3), np.tile(n, 3), evaluations=3.0), is_share=True)
    assert thrice == pytest.approx(once, rel=1e-12)


def test_standard_error_survives_a_large_offset():
    """Σ(x − Rn)² from moments, where x is nearly proportional to n."""
    rng = np.random.default_rng(1)
    n = rng.integers(50, 150, 1000).astype(float)
    x = 12.0 * n + rng.normal(0, 0.5, 1000)
    ratio = x.sum() / n.sum()
    direct = sqrt(1000 / 999 * ((x - ratio * n) ** 2).sum()) / n.sum()
    assert cell(x, n).select(standard_error("q")).item() == pytest.approx(direct, rel=1e-6)


def test_coverage_with_correlated_tokens():
    """600 data sets of 60 samples whose tokens share a rate: the interval should hold the truth in 95 %.

    It does in 93 to 95 % at this size; 91 % is asked for. Taking tokens as independent gives under 70 %.
    """
    rng = np.random.default_rng(2)
    hits = naive_hits = 0
    for _ in range(600):
        n = rng.integers(5, 60, 60)
        x = rng.binomial(n, rng.beta(2, 1, 60))
        low, high = bounds(cell(x, n), is_share=True)
        truth = 2 / 3
        hits += low <= truth <= high
        mean = x.sum() / n.sum()
        naive_hits += abs(mean - truth) <= 1.96 * sqrt(mean * (1 - mean) / n.sum())
    assert 0.91 <= hits / 600 <= 0.98
    assert naive_hits / 600 < 0.7
