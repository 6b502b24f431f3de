"""The densities of tokens against plain histograms; the Axes they are drawn in."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

import logitbox as lb
from logitbox.analysis.classes import DEFAULT, Thresholds
from logitbox.analysis.pairs.choice import choose
from logitbox.dumps.recorder import Recorder
from logitbox.reports.density import draw_density, prepare_density
from logitbox.reports.style import FreeAxes

FLOOR, BINS = 1e-4, 50


def counted(p_gold, p_top):
    """[top, gold] counts, token by token."""
    table = np.zeros((BINS, BINS))
    for gold, top in zip(p_gold, p_top, strict=True):
        place = BINS * (1 - np.log(max(gold, FLOOR)) / np.log(FLOOR))
        row, column = (min(int(value + 1e-9), BINS - 1) for value in (BINS * top, place))
        table[row, column] += 1
    return table


@pytest.mark.parametrize("step", [0, 8])
def test_counts_are_those_of_the_logits(recorded, step):
    batch = recorded.batches["eval", step]
    data = prepare_density(choose(recorded.dump, "eval", step), DEFAULT)
    assert data.counts.tolist() == counted(np.exp(-batch.nll), batch.confidence).tolist()
    assert data.n == len(batch.gold)
    assert (data.gold[0], data.gold[-1], data.top[0], data.top[-1]) == (FLOOR, 1, 0, 1)


def test_tokens_that_are_sure_beyond_rounding_are_counted(tmp_path):
    """p = 1 exactly on both axes, and p(gold) = 0 but for rounding."""
    logits = torch.tensor([[40.0, -40, -40], [-40, 40, -40]])
    with Recorder(tmp_path / "d", 3) as recorder:
        recorder.record(logits, torch.tensor([0, 0]), phase="eval")
    data = prepare_density(choose(lb.open(tmp_path / "d")), DEFAULT)
    assert (data.n, data.counts[-1, -1], data.counts[-1, 0]) == (2, 1, 1)


def test_nonfinite_tokens_are_left_out_and_nothing_is_drawn(odd_dump):
    data = prepare_density(choose(odd_dump("nonfinite")), DEFAULT)
    assert (data.n, data.counts.sum()) == (0, 0)
    ax = Figure().add_subplot()
    draw_density(ax, data)
    ax.figure.canvas.draw()
    (mesh,) = [one for one in ax.collections if isinstance(one, QuadMesh)]
    assert np.ma.getmaskarray(mesh.get_array()).all()


def test_the_regions_are_those_of_the_classes(recorded):
    """The lines are where the rules change: p = likely, and p(arg-max) = p(gold) · e^near."""
    thresholds = Thresholds(likely=0.6, near=0.2)
    ax = Figure().add_subplot()
    draw_density(ax, prepare_density(choose(recorded.dump), thresholds))
    diagonal, near, likely = ax.get_lines()
    assert np.array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert np.log(near.get_ydata() / near.get_xdata()) == pytest.approx(0.2)
    assert max(near.get_ydata()) < 0.6
    assert set(likely.get_ydata()) == {0.6}


def test_the_users_axes_are_used_and_nothing_global_changes(recorded):
    before = dict(mpl.rcParams)
    result = lb.explain(recorded.dump)
    figure = Figure()
    mine = figure.add_subplot()
    assert result.plot(mine, kind="density", phase="eval", step=4) is mine
    own = result.plot(kind="density")
    assert isinstance(own, FreeAxes)
    assert own.figure is not figure
    assert dict(mpl.rcParams) == before
    (mesh,) = [one for one in mine.collections if isinstance(one, QuadMesh)]
    batch = recorded.batches["eval", 4]
    expected = counted(np.exp(-batch.nll), batch.confidence)
    assert np.ma.filled(mesh.get_array(), 0).reshape(BINS, BINS).tolist() == expected.tolist()
