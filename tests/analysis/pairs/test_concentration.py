"""Where a gap sits: shares, p-values and their correction against slow computations; planted gaps are found."""

from __future__ import annotations

from math import sqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_oracle import make_pair
from scipy.stats import norm
from scipy.stats import t as student

from logitbox.analysis.pairs.concentration import concentration, two_tails


def paired(rng, samples=40, length=12, sources=3, difference=None):
    """Two types that overlap, sources in turn, golds of very different frequency."""
    n = samples * length
    types, gold = rng.integers(0, 4, n), rng.geometric(0.2, n)
    nll = rng.exponential(1, (2, n)).astype(np.float32)
    if difference is not None:
        nll[0] = nll[1] + difference
    pair = make_pair(
        nll, rng.random((2, n)) < 0.5, np.repeat(np.arange(samples), length), types, ("x", "y"), gold=gold
    )
    keys = [str(i) for i in range(samples)]
    names = [f"s{i % sources}" if i % 7 else None for i in range(samples)]
    pair.a.choice.dump.samples = pl.LazyFrame({"key": keys, "source": names})
    return pair, names


def gap_of(pair):
    return pair.nll[0] - pair.nll[1]


def mask_of(pair, names, kind, name):
    """The tokens of a subset, one by one, from its words."""
    if kind == "type":
        return np.array([bool(bits >> ("x", "y").index(name) & 1) for bits in pair.types])
    if kind == "source":
        return np.array([names[int(cluster)] == name for cluster in pair.cluster])
    if kind == "sample":
        return np.array([pair.keys[int(cluster)] == name for cluster in pair.cluster])
    low, _, high = name.replace(",", "").partition("–")
    values = pair.pos if kind == "position" else np.array([(pair.gold == gold).sum() for gold in pair.gold])
    return np.array([int(low) <= value <= int(high or low) for value in values])


def p_of(difference, mask, cluster):
    """Linearised difference of two ratios, token by token; t with the fewer samples as degrees of freedom."""
    groups, gap, df = np.unique(cluster), 0.0, len(cluster)
    pulls = dict.fromkeys(groups.tolist(), 0.0)
    for part, sign in ((mask, 1), (~mask, -1)):
        mean, there = difference[part].mean(), len(set(cluster[part].tolist()))
        if there < 2:
            return None
        gap, df = gap + sign * mean, min(df, there - 1)
        for c, d in zip(cluster[part].tolist(), difference[part], strict=True):
            pulls[c] += sign * sqrt(there / (there - 1)) * (d - mean) / part.sum()
    return 2 * student.sf(abs(gap) / sqrt(sum(pull**2 for pull in pulls.values())), df)


def holm(ps):
    """By definition: the largest of (m − j) p over all p up to this one."""
    order = sorted(ps)
    return [max(min(1, (len(ps) - j) * q) for j, q in enumerate(order) if q <= p) for p in ps]


@pytest.mark.parametrize("seed", range(4))
def test_every_row_against_a_slow_computation(seed):
    rng = np.random.default_rng(seed)
    pair, names = paired(rng)
    difference = gap_of(pair)
    table = concentration(pair, difference)
    assert set(table["kind"]) == {"type", "source", "position", "gold frequency", "sample"}
    assert set(table.filter(kind="source")["name"]) == {"s0", "s1", "s2"}
    n = len(pair)
    for row in table.iter_rows(named=True):
        mask = mask_of(pair, names, row["kind"], row["name"])
        inside, rest = difference[mask], difference[~mask]
        assert row["n"] == mask.sum()
        assert row["share"] == pytest.approx(mask.mean())
        assert row["part"] == pytest.approx(inside.sum() / n)
        assert row["part_share"] == pytest.approx(inside.sum() / difference.sum())
        assert row["difference"] == pytest.approx(inside.mean())
        assert row["rest"] == pytest.approx(rest.mean())
        if row["kind"] == "sample":
            assert (row["p"], row["p_adjusted"]) == (None, None)
        else:
            assert row["p"] == pytest.approx(p_of(difference, mask, pair.cluster), rel=1e-6)
    tested = table.filter(pl.col("p").is_not_null())
    assert tested["p_adjusted"].to_list() == pytest.approx(holm(tested["p"].to_list()))
    excess = (table["part"] - table["share"] * difference.mean()).abs().to_list()
    assert excess == sorted(excess, reverse=True)


def test_the_samples_listed_are_those_with_the_largest_sums():
    pair, _ = paired(np.random.default_rng(9))
    difference = gap_of(pair)
    sums = {str(c): abs(difference[pair.cluster == c].sum()) for c in range(40)}
    listed = concentration(pair, difference).filter(kind="sample")["name"].to_list()
    assert set(listed) == set(sorted(sums, key=lambda key: -sums[key])[:10])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_buckets_hold_every_token_once(gold):
    rng = np.random.default_rng(0)
    n = len(gold)
    pair = make_pair(rng.random((2, n)), rng.random((2, n)) < 0.5, np.arange(n) // 3, gold=gold)
    table = concentration(pair, gap_of(pair))
    for kind in ("position", "gold frequency"):
        rows = table.filter(kind=kind)
        masks = [mask_of(pair, [], kind, name) for name in rows["name"]]
        assert [mask.sum() for mask in masks] == rows["n"].to_list()
        if masks:
            assert (np.sum(masks, axis=0) == 1).all()


@given(st.floats(0, 30), st.integers(1, 1_500))
@settings(max_examples=200)
def test_student_tails(t, df):
    expected = 2 * student.sf(t, df)
    close = {"abs": 4e-4} if df > 1_000 else {"rel": 1e-6, "abs": 1e-12}
    assert two_tails(t, df) == pytest.approx(expected, **close)


def test_many_degrees_of_freedom_are_normal():
    assert two_tails(1.96, 10**6) == pytest.approx(2 * norm.sf(1.96), rel=1e-12)


PLACES = {
    "type": lambda pair, names: pair.types & 1 == 1,
    "source": lambda pair, names: np.array([names[int(c)] == "s1" for c in pair.cluster]),
    "position": lambda pair, names: pair.pos < 3,
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_planted_gap_is_found_first(kind):
    rng = np.random.default_rng(5)
    pair, names = paired(rng)
    mask = PLACES[kind](pair, names)
    planted = rng.normal(0, 0.5, len(pair)) + np.where(mask, 1.0, 0.0)
    row = concentration(pair, planted).row(0, named=True)
    assert row["kind"] == kind
    assert (mask_of(pair, names, kind, row["name"]) == mask).all()
    assert row["p_adjusted"] < 1e-3
    assert row["part_share"] > 0.8
    assert row["difference"] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("samples", "sources"), [(40, 3), (5, 3)])
def test_nothing_planted_is_rarely_found(samples, sources):
    """Samples differ as wholes, and some sources have one or two of them: no subset is special for that."""
    rng, runs, found = np.random.default_rng(11), 200, 0
    for _ in range(runs):
        pair, _ = paired(rng, samples, 8, sources)
        noise = rng.normal(0, 1, samples)[pair.cluster] + rng.normal(0, 0.3, len(pair))
        found += concentration(pair, noise)["p_adjusted"].drop_nulls().min() <= 0.05
    assert found / runs < 0.05 + 3 * sqrt(0.05 * 0.95 / runs)


def test_what_lies_in_one_sample_is_not_tested():
    n = 60
    rng = np.random.default_rng(3)
    cluster = np.arange(n) // 10
    pair = make_pair(rng.random((2, n)), np.ones((2, n), bool), cluster, cluster == 0, ("only_first",))
    row = concentration(pair, gap_of(pair)).filter(kind="type", name="only_first").row(0, named=True)
    assert (row["n"], row["p"], row["p_adjusted"]) == (10, None, None)


def test_a_subset_of_everything_has_no_rest():
    pair = make_pair([[1, 2], [2, 4]], np.ones((2, 2), bool), [0, 1], [1, 1], ("every",))
    row = concentration(pair, gap_of(pair)).filter(kind="type").row(0, named=True)
    assert (row["share"], row["part_share"], row["rest"], row["p"]) == (1, 1, None, None)


def test_without_a_gap_there_are_no_shares_of_it():
    pair = make_pair(np.ones((2, 30)), np.ones((2, 30), bool), np.arange(30) // 5, np.arange(30) % 2, ("x",))
    table = concentration(pair, gap_of(pair))
    assert table["part_share"].null_count() == table.height > 0
    assert table["p"].null_count() == table.height
