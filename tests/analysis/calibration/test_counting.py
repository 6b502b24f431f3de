"""Counting tokens into bins: exact at edges, mergeable, and of little memory."""

from __future__ import annotations

import itertools
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.histogram import FINE, Grid
from logitbox.errors import InputError


def state(counter):
    parts = [counter._count, counter._confidence]
    return [
        part.tolist() for part in [*parts, *(p for p in (counter._weight, counter._squares) if p is not None)]
    ]


def bin_by_fractions(value: float, bins: int) -> int:
    """Left-closed, edges correctly rounded, the last bin closed: compared in exact arithmetic."""
    edges = [Fraction(k / bins) for k in range(bins)]
    return max(k for k, edge in enumerate(edges) if edge <= Fraction(value))


@settings(deadline=None)
@given(st.integers(1, 130), st.data())
def test_edges_and_their_neighbours(bins, data):
    k = data.draw(st.integers(0, bins))
    edge = k / bins
    values = np.clip([edge, np.nextafter(edge, 0), np.nextafter(edge, 2)], 0, 1)
    for value in values:
        counter = Counter(Grid(bins))
        counter.add(np.array([value]), np.array([True]))
        atoms = counter.atoms()
        at = bin_by_fractions(float(value), bins)
        assert (atoms.low.tolist(), atoms.high.tolist()) == ([at / bins], [(at + 1) / bins])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("grid", [Grid(15), Grid(6), Grid(300, 12), FINE])
def test_sums_of_groups(grid, dtype):
    rng = np.random.default_rng(0)
    p = (1 - rng.random(70_000) ** 3).astype(dtype)
    right, group = rng.random(len(p)) < 0.7, rng.integers(0, 3, len(p)).astype(np.int8)
    counter = Counter(grid, 3)
    counter.add(p, right, group)
    for g in range(3):
        atoms, mine = counter.atoms(g), group == g
        value = p[mine].astype(np.float64)
        place = np.minimum(np.searchsorted(grid.edges, value, side="right") - 1, grid.n_bins - 1)
        at = np.unique(place)
        assert atoms.count.tolist() == np.bincount(place)[at].tolist() == atoms.n.tolist()
        assert atoms.right.tolist() == np.bincount(place, right[mine])[at].tolist()
        np.testing.assert_allclose(atoms.confidence, np.bincount(place, value)[at], rtol=1e-12)
        np.testing.assert_allclose(
            atoms.right_confidence, np.bincount(place, value * right[mine])[at], rtol=1e-12
        )
        np.testing.assert_allclose(
            counter.residuals()[g, at], np.bincount(place, right[mine] - value)[at], atol=1e-8
        )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 1), st.floats(0.1, 9)), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.booleans(),
)
def test_any_split_merged_in_order_gives_the_same(rows, cuts, weighted):
    p, right, group, weight = (np.array([row[i] for row in rows]) for i in range(4))
    whole = Counter(Grid(7, 3), 2)
    whole.add(p, right, group, weight if weighted else None)
    cuts = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = []
    for a, b in itertools.pairwise(cuts):
        parts.append(Counter(Grid(7, 3), 2))
        parts[-1].add(p[a:b], right[a:b], group[a:b], weight[a:b] if weighted else None)

    def merged():
        total = Counter(Grid(7, 3), 2)
        for part in parts:
            total.merge(part)
        return total

    assert state(merged()) == state(merged())
    assert merged()._count.tolist() == whole._count.tolist()
    for mine, theirs in zip(state(merged()), state(whole), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_weighted_and_unweighted_add_up():
    one, other, both = (Counter(Grid(4)) for _ in range(3))
    one.add(np.array([0.1, 0.9]), np.array([0, 1]))
    other.add(np.array([0.9]), np.array([1]), weight=np.array([3.0]))
    both.add(np.array([0.9]), np.array([1]), weight=np.array([3.0]))
    both.add(np.array([0.1, 0.9]), np.array([0, 1]))
    one.merge(other)
    for counter in (one, both):
        atoms = counter.atoms()
        assert atoms.n.tolist() == [1, 4]
        assert atoms.count.tolist() == [1, 2]
        assert atoms.squares is not None
        assert atoms.squares.tolist() == [1, 10]
        assert atoms.effective.tolist() == [1, 1.6]


def test_counters_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="1 groups of 4 bins and 2 of 4"):
        Counter(Grid(4)).merge(Counter(Grid(4), 2))


def test_nothing_added():
    counter = Counter(Grid(15), 3)
    counter.add(np.zeros(0, np.float32), np.zeros(0, bool), np.zeros(0, np.int64))
    assert [len(counter.atoms(group)) for group in range(3)] == [0, 0, 0]


def test_memory_does_not_grow_with_tokens():
    rng = np.random.default_rng(0)
    p, right = rng.random(2_000_000, dtype=np.float32), rng.random(2_000_000) < 0.5
    group = rng.integers(0, 8, len(p)).astype(np.int8)
    tracemalloc.start()
    counter = Counter(Grid(15), 8)
    counter.add(p, right, group)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


def test_sums_do_not_stop_at_high_confidence():
    """In float32, sums stop growing at 2^24 tokens; here the same block comes again and again."""
    rng = np.random.default_rng(1)
    p = (0.94 + 0.06 * rng.random(1 << 17)).astype(np.float32)
    p = p[p < 1]
    right = rng.random(len(p)) < 0.9
    block, total = Counter(Grid(15)), Counter(Grid(15))
    block.add(p, right)
    times = 300  # 39 million
    for _ in range(times):
        total.merge(block)
    atoms = total.atoms()
    assert atoms.count.tolist() == [times * len(p)]
    gap = Fraction(int(right.sum()), len(p)) - sum(map(Fraction, p.astype(float).tolist())) / len(p)
    assert float(atoms.residual[0] / atoms.n[0]) == pytest.approx(float(gap), abs=1e-12)
