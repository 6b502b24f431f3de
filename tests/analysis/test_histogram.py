"""Bins: exact edges, and coarse bins out of fine ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitbox.analysis.histogram import COARSE, FINE
from logitbox.errors import InputError


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
def test_coarsened_bins_are_those_of_direct_binning(grid, n):
    values = np.concatenate([critical(), np.random.default_rng(1).random(50_000)])
    direct = by_search(values, np.arange(n + 1) / n)
    assert np.array_equal(grid.coarsen(grid.locate(values), n), direct)


@given(st.floats(0, 1))
def test_any_value_is_in_its_bin(value):
    for grid in (FINE, COARSE):
        place = int(grid.locate(np.array([value]))[0])
        assert grid.edges[place] <= value
        assert value < grid.edges[place + 1] or (value == 1.0 and place == grid.n_bins - 1)
    assert COARSE.locate(np.array([value])) == FINE.coarsen(FINE.locate(np.array([value])), 300)


def test_bins_that_do_not_divide_are_refused():
    with pytest.raises(
        InputError, match=r"bins is 16; it must divide 300\. Up to 100: 1, 2, 3, 4, 5, 6, 10, 12, 15"
    ):
        COARSE.coarsen(np.array([1]), 16)
    with pytest.raises(InputError, match="bins is 0"):
        FINE.coarsen(np.array([1]), 0)
