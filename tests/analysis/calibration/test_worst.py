"""The ranking of subgroups, and its correction for having looked at many."""

from __future__ import annotations

from functools import partial
from math import sqrt

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from logitbox.analysis.calibration import from_arrays
from logitbox.analysis.calibration.worst import adjusted_p, rank_worst


def group(rng, rows=400, factor=1.0, clusters=40):
    """Evidence of rows that are right with probability factor · confidence."""
    p = rng.uniform(0.5, 0.95, rows)
    cluster = np.sort(rng.integers(0, clusters, rows))
    return from_arrays(p, rng.random(rows) < factor * p, cluster=cluster).evidence


def stepped_down(values, noises):
    """Westfall & Young 1993, §2.8, written out."""
    t = [(v - row.mean()) / row.std() for v, row in zip(values, noises, strict=True)]
    drawn = [(row - row.mean()) / row.std() for row in noises]
    order, p, least = sorted(range(len(t)), key=lambda i: -t[i]), {}, 0.0
    for place, i in enumerate(order):
        left = order[place:]
        reached = sum(max(drawn[j][r] for j in left) >= t[i] for r in range(noises.shape[1]))
        least = max(least, (1 + reached) / (1 + noises.shape[1]))
        p[i] = least
    return [p[i] for i in range(len(t))]


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_p_is_step_down_max_t(seed):
    rng = np.random.default_rng(seed)
    shared = rng.gamma(2, size=200)
    noises = np.stack([shared * rng.uniform(0.2, 2) + rng.gamma(2, size=200) for _ in range(6)])
    values = noises.mean(axis=1) + noises.std(axis=1) * rng.normal(1, 1.5, 6)
    assert adjusted_p(values, noises) == pytest.approx(stepped_down(values, noises))


def test_without_noise_only_an_error_is_sure():
    noises = np.stack([np.zeros(99), np.zeros(99), np.linspace(0.01, 0.02, 99)])
    assert adjusted_p(np.array([0.3, 0.0, 0.5]), noises) == pytest.approx([0.01, 1.0, 0.01])


def test_replicates_that_are_all_alike_are_no_evidence():
    """Each cluster in a bin of its own: turned or not, the ECE is the same but for rounding."""
    p = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 200)
    evidence = from_arrays(p, np.zeros(1000), cluster=p).evidence
    frame = rank_worst([({"i": 0}, evidence), ({"i": 1}, group(np.random.default_rng(0)))], None)
    assert frame.filter(pl.col("i") == 0).select("p", "p_adjusted").row(0) == (1.0, 1.0)


def test_the_same_subgroup_twice_costs_nothing():
    """Draws are shared, so that the correction knows that both say the same; Bonferroni would double p."""
    one = group(np.random.default_rng(2), factor=0.93)
    alone = rank_worst([({"type": "x"}, one)], 10)
    twice = rank_worst([({"type": name}, one) for name in "xyz"], 10)
    assert twice["p_adjusted"].to_list() == [alone["p_adjusted"][0]] * 3
    assert alone["p_adjusted"][0] == alone["p"][0]


def test_calibrated_subgroups_are_rarely_called_bad():
    rng = np.random.default_rng(5)
    runs = 80
    said = corrected = 0
    for _ in range(runs):
        frame = rank_worst([({"i": i}, group(rng, rows=150, clusters=25)) for i in range(8)], None)
        said += frame["p"].min() <= 0.05
        corrected += frame["p_adjusted"].min() <= 0.05
    assert corrected / runs <= 0.11
    assert said / runs > 0.2  # what the correction is for


def test_few_and_unequal_clusters_are_not_called_bad():
    rng, runs, said = np.random.default_rng(6), 40, 0
    for _ in range(runs):
        evidences = []
        for i in range(6):
            sizes = np.maximum(1, 20 * rng.lognormal(0, 1.5, (3, 8, 40)[i % 3])).astype(int)
            cluster = np.repeat(np.arange(len(sizes)), sizes)
            p = rng.uniform(0.5, 0.95, len(cluster))
            off = 0.9 * rng.choice([-1, 1], len(sizes))[cluster] * p * (1 - p)
            evidences.append(
                ({"i": i}, from_arrays(p, rng.random(len(p)) < p + off, cluster=cluster).evidence)
            )
        said += rank_worst(evidences, None)["p_adjusted"].min() <= 0.05
    assert said / runs <= 0.18  # once in 10,000 of a true 0.05


def test_few_independent_tokens_are_not_called_bad():
    """Most of 20 tokens are right at 0.95, and lean the same way by chance."""
    rng, runs, said = np.random.default_rng(8), 60, 0
    for _ in range(runs):
        evidences = []
        for i in range(8):
            p = 1 / (1 + np.exp(-rng.normal(3, 2, 20)))
            evidences.append(({"i": i}, from_arrays(p, rng.random(20) < p).evidence))
        said += rank_worst(evidences, None)["p_adjusted"].min() <= 0.05
    assert said / runs <= 0.16


def test_tokens_alone_have_the_p_of_a_binomial():
    """One bin, 12 tokens at 0.7, 4 right: |4 − 8.4| is reached by 4 or fewer and no more."""
    p = from_arrays(np.full(12, 0.7 + 1e-9), np.arange(12) < 4, bins=1).evidence
    exact = binom.cdf(4, 12, 0.7)
    assert rank_worst([({"i": 0}, p)])["p"][0] == pytest.approx(exact, abs=4 * sqrt(exact / 1000))


@pytest.mark.parametrize("bins", [7, 15, 700])
def test_four_clusters_that_all_lean_one_way_are_one_case_of_eight(bins):
    p = np.random.default_rng(0).uniform(0.4, 0.6, 400)
    evidence = from_arrays(p, np.zeros(400), cluster=np.arange(400) // 100, bins=bins).evidence
    assert rank_worst([({"i": 0}, evidence)])["p"][0] == pytest.approx(1 / 8, abs=0.04)


def test_the_worst_comes_first_and_is_sure():
    rng = np.random.default_rng(0)
    groups = [({"type": f"fine {i}"}, group(rng)) for i in range(6)]
    groups.insert(3, ({"type": "bad"}, group(rng, rows=900, factor=0.7)))
    frame = rank_worst(groups, 4)
    assert frame.height == 4
    assert frame["type"][0] == "bad"
    assert frame["p_adjusted"][0] == pytest.approx(1 / 1001)
    assert (frame["p_adjusted"][1:] > 0.05).all()
    assert frame["ece_low"].is_sorted(descending=True)
    bad = frame.row(0, named=True)
    assert bad["ece_low"] < bad["ece"] < bad["ece_high"]
    assert bad["overconfidence"] == pytest.approx(bad["confidence"] - bad["accuracy"])
    assert 0 < bad["ece_noise"] < bad["ece"]


def test_subgroups_of_one_sample_come_last_and_say_so():
    rng = np.random.default_rng(0)
    single = from_arrays([0.9, 0.9], [0, 0], cluster=[1, 1]).evidence
    frame = rank_worst([({"type": "one"}, single), ({"type": "many"}, group(rng))], 10)
    assert frame["type"].to_list() == ["many", "one"]
    last = frame.row(1, named=True)
    assert last["ece"] == pytest.approx(0.9)
    assert [last[name] for name in ("ece_low", "ece_high", "ece_noise", "p", "p_adjusted")] == [None] * 5
    assert "fewer than 2" in last["note"]


def test_nothing_to_rank_is_an_empty_table():
    empty = from_arrays([], []).evidence
    frame = rank_worst([({"type": "none"}, empty)], 10)
    assert frame.is_empty()
    assert frame.columns == rank_worst([({"type": "x"}, group(np.random.default_rng(0)))], 10).columns
    assert rank_worst([], 10).is_empty()


def test_all_rows_where_no_number_is_asked_for():
    rng = np.random.default_rng(0)
    make = partial(group, rng, rows=60)
    assert rank_worst([({"i": i}, make()) for i in range(13)], None).height == 13
