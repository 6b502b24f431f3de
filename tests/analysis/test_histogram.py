"""Bins: exact edges, and coarse bins out of fine ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.histogram import FINE, Grid

COARSE = Grid(300)


def critical():
    """Every edge of every allowed coarse grid, its neighbours, and both ends."""
    edges = [np.arange(n + 1) / n for n in (10, 12, 15, 20, 25, 300, 16_200)] + [FINE.edges, COARSE.edges]
    edges += [1.0 - np.exp2(-np.arange(1, 54, dtype=float))]
    edges = np.concatenate(edges)
    near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)])
    return np.unique(np.clip(near, 0, 1))


def by_search(values, edges):
    """Left-closed bins, the last closed on both sides."""
    return np.minimum(np.searchsorted(edges, values, side="right") - 1, len(edges) - 2)


@pytest.mark.parametrize("grid", [FINE, COARSE])
def test_locate_is_exact(grid):
    values = np.concatenate([critical(), np.random.default_rng(0).random(200_000)])
    assert np.array_equal(grid.locate(values), by_search(values, grid.edges))
    assert np.all(np.diff(grid.edges) > 0)
    assert grid.locate(np.array([0.0, 1.0])).tolist() == [0, grid.n_bins - 1]


@pytest.mark.parametrize("grid", [FINE, COARSE])
@pytest.mark.parametrize("n", [1, 10, 12, 15, 20, 25, 300])
def test_bins_nest_in_those_of_every_divisor(grid, n):
    values = np.concatenate([critical(), np.random.default_rng(1).random(50_000)])
    direct = by_search(values, np.arange(n + 1) / n)
    nested = np.minimum(grid.locate(values), grid.n_equal - 1) * n // grid.n_equal
    assert np.array_equal(nested, direct)


@settings(deadline=None)
@given(st.floats(0, 1))
def test_any_value_is_in_its_bin(value):
    for grid in (FINE, COARSE):
        place = int(grid.locate(np.array([value]))[0])
        assert grid.edges[place] <= value
        assert value < grid.edges[place + 1] or (value == 1.0 and place == grid.n_bins - 1)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 40), st.data())
def test_edges_and_their_neighbours_are_in_their_bins(n, n_fine, data):
    grid = Grid(n, n_fine)
    edge = grid.edges[data.draw(st.lists(st.integers(0, grid.n_bins), min_size=1, max_size=20))]
    near = np.concatenate([edge, np.nextafter(edge, 0), np.nextafter(edge, 1), edge.astype(np.float32)])
    values = np.clip(near, 0, 1)
    assert np.array_equal(grid.locate(values), by_search(values, grid.edges))


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 10, 15, 25, 49, 100, 300, 1000, 4097, 16_200, 99_999])
def test_all_edges_of_a_grid(n):
    for grid in (Grid(n), Grid(n, 12)):
        values = np.concatenate([grid.edges, np.nextafter(grid.edges, 0), np.nextafter(grid.edges, 1)])
        values = np.clip(values, 0, 1)
        assert np.array_equal(grid.locate(values), by_search(values, grid.edges))


def test_where_rounding_never_crosses_an_edge_nothing_is_corrected(monkeypatch):
    monkeypatch.setattr(Grid, "_settle", None)  # not callable
    assert Grid(15).locate(np.array([0.2, 1 / 15, 1.0])).tolist() == [3, 1, 14]
    with pytest.raises(TypeError):
        Grid(49).locate(np.array([1 / 49]))  # fl(1/49) · 49 < 1


def test_locate_fills_what_it_is_given():
    values = np.random.default_rng(2).random(1000)
    for grid in (Grid(15), FINE):
        out, scratch = np.full(1000, -1), np.empty(1000)
        kept = values.copy()
        assert grid.locate(values, out, scratch) is out
        assert np.array_equal(out, by_search(values, grid.edges))
        assert np.array_equal(values, kept)


def test_float32_is_located_as_the_float64_that_it_is():
    values = (np.arange(16) / 15).astype(np.float32)
    exact = values.astype(np.float64)
    assert np.array_equal(Grid(15).locate(values), by_search(exact, Grid(15).edges))
