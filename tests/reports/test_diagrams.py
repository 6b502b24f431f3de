"""Calibration diagrams: prepared numbers against independent ones, and drawings that show them on any Axes."""

from __future__ import annotations

import io
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn.isotonic import IsotonicRegression

import logitbox as lb
from logitbox.analysis.calibration import Calibration, from_arrays
from logitbox.errors import InputError
from logitbox.reports.diagram_cumulative import prepare_cumulative
from logitbox.reports.diagram_lines import MAX_POINTS, simplified
from logitbox.reports.diagram_steps import prepare_steps
from logitbox.reports.diagram_types import layout, prepare_types
from logitbox.reports.reliability import reliability_of
from logitbox.reports.style import BLUE, INK, FreeAxes
from logitbox.reports.svg import to_svg

N = 4000


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Over-confident predictions, most of them sure; independent rows."""
    rng = np.random.default_rng(3)
    confidence = rng.beta(4, 0.8, N)
    return confidence, rng.random(N) < confidence**1.5


@pytest.fixture(scope="module")
def found(arrays) -> Calibration:
    return from_arrays(*arrays)


def test_simplified_lines_stay_near_and_keep_their_ends():
    x = np.sort(np.random.default_rng(0).random(3000))
    y = np.sin(9 * x) + 0.3 * (x > 0.5)
    few_x, few_y = simplified(x, y)
    assert len(few_x) <= MAX_POINTS
    assert set(zip(few_x, few_y, strict=True)) <= set(zip(x, y, strict=True))
    assert (few_x[0], few_x[-1]) == (x[0], x[-1])
    assert (np.diff(few_x) > 0).all()
    assert np.abs(np.interp(x, few_x, few_y) - y).max() < 0.02
    line = simplified(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0]))
    assert line[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_simplified_leaves_short_lines_alone(n):
    x, y = simplified(np.arange(float(n)), np.arange(float(n)))
    assert len(x) == len(y) == n


def test_a_step_of_no_width_is_kept():
    """Isotonic fits jump between neighbours, and equal confidences have one place."""
    x, y = simplified([0.0, 0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0])
    assert list(zip(x, y, strict=True)) == [(0, 0), (0.5, 0), (0.5, 1), (1, 1)]


def test_bins_are_those_of_numpy(arrays, found):
    confidence, correct = arrays
    data = reliability_of(found)
    bins = np.minimum((confidence * 15).astype(int), 14)
    filled = np.unique(bins)
    assert data.n.tolist() == [np.sum(bins == b) for b in filled]
    assert data.accuracy == pytest.approx([correct[bins == b].mean() for b in filled])
    assert data.confidence == pytest.approx([confidence[bins == b].mean() for b in filled])
    assert data.ece == pytest.approx((data.n / N * abs(data.accuracy - data.confidence)).sum())
    assert (data.accuracy_low <= data.accuracy).all()
    assert (data.accuracy <= data.accuracy_high).all()
    assert data.ece_interval == found.interval("ece")
    assert data.ece_interval[0] < data.ece < data.ece_interval[1]


def test_the_monotone_line_is_scikit_learns(arrays, found):
    confidence, correct = arrays
    fit = IsotonicRegression(out_of_bounds="clip").fit(confidence, correct.astype(float))
    x, y = reliability_of(found).corp
    assert 2 < len(x) <= MAX_POINTS
    known = np.isfinite(x)
    x, y = x[known], y[known]
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    # Every height is that of a block. Between blocks, where isotonic regression interpolates, it is the lower or the upper.
    levels = np.unique(fit.predict(confidence))
    assert np.abs(y[:, None] - levels).min(axis=1) == pytest.approx(0, abs=1e-12)
    ordered = np.sort(confidence)
    below = fit.predict(ordered[np.maximum(np.searchsorted(ordered, x, side="right") - 1, 0)])
    above = fit.predict(ordered[np.minimum(np.searchsorted(ordered, x), N - 1)])
    assert (y >= below - 1e-12).all()
    assert (y <= above + 1e-12).all()


@pytest.mark.parametrize(("gap", "pieces"), [(0.05, 1), (0.4, 2)])
def test_lines_cross_small_gaps_only(gap, pieces):
    """Tokens at 0.1 to 0.3 and again after a gap: neither line slopes through where there are none for long."""
    rng = np.random.default_rng(1)
    confidence = np.concatenate([rng.uniform(0.1, 0.3, 4000), rng.uniform(0.3 + gap, 0.5 + gap, 4000)])
    data = reliability_of(from_arrays(confidence, rng.random(8000) < confidence))
    for x, y in (data.corp, data.smooth):
        assert np.isnan(x).sum() == np.isnan(y).sum() == pieces - 1
        assert len(x) <= MAX_POINTS


def test_the_smooth_line_follows_accuracy(arrays, found):
    """c^1.5 is the truth; where there are hundreds of tokens the line is near it."""
    x, y = reliability_of(found).smooth
    confidence = arrays[0]
    assert 2 < len(x) <= MAX_POINTS
    assert confidence.min() <= x[0]
    assert x[-1] <= confidence.max()
    dense = (x > 0.6) & (x < 0.97)
    assert y[dense] == pytest.approx(x[dense] ** 1.5, abs=0.06)


def test_the_smooth_line_has_gaps_where_there_are_no_tokens():
    rng = np.random.default_rng(1)
    confidence = np.concatenate([rng.uniform(0.1, 0.3, 2000), rng.uniform(0.8, 1.0, 2000)])
    x, y = reliability_of(from_arrays(confidence, rng.random(4000) < confidence)).smooth
    assert len(x) <= MAX_POINTS
    assert np.isnan(y).sum() == np.isnan(x).sum() == 1
    known = x[np.isfinite(x)]
    assert not ((known > 0.45) & (known < 0.65)).any()


def test_the_cumulative_residual_is_numpys(arrays, found):
    confidence, correct = arrays
    order = np.argsort(confidence)
    path = np.concatenate([[0], np.cumsum((correct - confidence)[order])]) / N
    data = prepare_cumulative(found)
    at = np.rint(data.share * N).astype(int)
    assert data.residual == pytest.approx(path[at], abs=1e-12)
    assert (data.low, data.high) == pytest.approx((path.min(), path.max()))
    assert data.kuiper == pytest.approx(path.max() - path.min())
    assert np.interp(np.arange(N + 1) / N, data.share, data.residual) == pytest.approx(path, abs=1e-3)


def test_nothing_to_draw_is_said():
    nothing = from_arrays([], [])
    for kind in ("reliability", "cumulative"):
        with pytest.raises(InputError, match="nothing to draw"):
            nothing.plot(kind=kind)


@pytest.mark.parametrize(
    "arrays_", [([0.7], [True]), ([1.0, 1.0, 0.0], [True, False, False]), ([0.5] * 9, [True] * 9)]
)
@pytest.mark.parametrize("kind", ["reliability", "cumulative"])
def test_few_tokens_are_drawn(arrays_, kind):
    ax = from_arrays(*arrays_).plot(kind=kind)
    ax.figure.savefig(io.BytesIO(), format="png")


@pytest.fixture(scope="module")
def by_step(recorded):
    return lb.calibration(recorded.dump, by="step")


def test_types_are_panels_with_all_tokens_first(recorded, by_step):
    panels = prepare_types(by_step, phase="eval", step=8)
    batch = recorded.batches["eval", 8]
    counts = {"coord": (batch.gold >= 12).sum(), "desc": (batch.gold < 6).sum()}
    assert panels[0].name == "all tokens"
    assert panels[0].data.total == len(batch.gold)
    of = {panel.name: panel.data.total for panel in panels}
    assert {name: of[name] for name in counts} == counts
    totals = [panel.data.total for panel in panels[1:]]
    assert totals == sorted(totals, reverse=True)
    ax = by_step.plot(kind="types", phase="eval", step=8)
    told = "".join(text.get_text() for inset in ax.child_axes for text in inset.texts)
    assert all(name in told for name in of)
    assert len(ax.child_axes) == 2 * len(panels)


def test_layouts_have_room_for_all():
    for n in range(1, 13):
        rows, across = layout(n)
        assert rows * across >= n > (rows - 1) * across


def test_steps_are_those_of_numpy(recorded, by_step):
    data = prepare_steps(by_step)
    batches = {step: batch for (phase, step), batch in recorded.batches.items() if phase == "eval"}
    assert data.gap.step.tolist() == data.ece.step.tolist() == sorted(batches)
    assert data.gap.value == pytest.approx(
        [batches[step].confidence.mean() - batches[step].correct.mean() for step in sorted(batches)], abs=1e-6
    )
    assert (data.gap.low <= data.gap.value).all()
    assert (data.ece.value <= data.ece.high).all()
    assert (data.noise.value > 0).all()
    inside = prepare_steps(by_step, token_type="coord")
    assert inside.where == "eval · coord"
    with pytest.raises(InputError, match="by='step'"):
        prepare_steps(lb.calibration(recorded.dump))


KINDS = ("reliability", "cumulative", "types", "steps")


@pytest.mark.parametrize("kind", KINDS)
def test_draws_on_the_axes_given_and_touches_nothing_else(kind, by_step):
    before = dict(mpl.rcParams)
    figure = Figure()
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    assert by_step.plot(ax, kind=kind) is ax
    assert figure.axes == [ax]
    figure.canvas.draw()
    own = by_step.plot(kind=kind)
    assert isinstance(own, FreeAxes)
    own.figure.savefig(io.BytesIO(), format="png")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(6.4, 4.8), (5.6, 4.4)])
def test_nothing_is_cut_off_on_axes_given(kind, size, by_step):
    """In a plain figure without any layout all text and the strip lie inside, the strip inside the axes."""
    figure = Figure(size)
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    by_step.plot(ax, kind=kind, phase="eval")
    figure.canvas.draw()
    outer = figure.get_tightbbox()
    assert outer.x0 >= 0
    assert outer.y0 >= 0
    assert outer.x1 <= size[0]
    assert outer.y1 <= size[1]
    for inset in ax.child_axes:
        assert inset.get_window_extent().y1 <= ax.get_window_extent().y1 + 1
    told = [*ax.texts, *(text for inset in ax.child_axes for text in inset.texts)]
    if kind == "reliability":
        assert any("eval" in text.get_text() for text in told)
        assert any("tokens per bin" in text.get_text() for text in told)


def test_a_figure_of_steps_names_its_phase(by_step):
    assert by_step.plot(kind="steps", phase="train").get_legend().get_title().get_text() == "train"


def test_type_is_a_token_type(by_step):
    told = by_step.plot(phase="eval", type="coord", step=8).get_title(loc="left")
    assert "coord" in told
    assert told == by_step.plot(phase="eval", token_type="coord", step=8).get_title(loc="left")


@pytest.mark.parametrize("kind", KINDS)
def test_pages_can_be_light_or_dark(kind, by_step):
    """Nothing black or white: lines and text take the page's colour or one visible on both."""
    svg = to_svg(by_step.plot(kind=kind).figure, "x", "x")
    colors = set(re.findall(r"#[0-9a-f]{6}", svg.lower()))
    assert INK not in colors
    assert "currentColor" in svg
    for color in colors:
        brightness = sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) / 3
        assert 60 < brightness < 200, color


def test_whiskers_are_the_intervals(found):
    ax = found.plot()
    data = reliability_of(found)
    lines = [line for line in ax.lines if line.get_color() == BLUE and np.isnan(line.get_ydata()).any()]
    assert len(lines) == 1
    ends = lines[0].get_ydata().reshape(-1, 3)
    assert ends[:, 0] == pytest.approx(data.accuracy_low)
    assert ends[:, 1] == pytest.approx(data.accuracy_high)
    low, high = found.interval("ece")
    assert f"ECE {found.ece:.4f} [{low:.4f}, {high:.4f}]" in ax.get_title(loc="left")
    assert f"{N:,} tokens" in ax.get_title(loc="left")
    assert len({to_hex(line.get_color()) for line in ax.lines}) >= 4


def test_names_are_drawn_as_they_are(found):
    odd = type(found)(found.evidence, of="中$x$ \u202e" + "y" * 60)
    for kind in ("reliability", "cumulative"):
        ax = odd.plot(kind=kind)
        ax.figure.savefig(io.BytesIO(), format="png")  # a missing glyph would warn, and warnings are errors
        assert "\\u4e2d$x$" in ax.get_title(loc="left")
        assert ax.get_title(loc="left").endswith("…")


def test_kinds_that_there_are_not(found, by_step):
    with pytest.raises(InputError, match="kind is 'steps'; a calibration has reliability, cumulative"):
        found.plot(kind="steps")
    with pytest.raises(InputError, match=r"kind is 'bars'; .*types, steps"):
        by_step.plot(kind="bars")


def test_a_diagram_is_small(by_step):
    svg = to_svg(by_step.plot().figure, "x", "x")
    assert len(svg) < 16_000
