"""Prepared arrays equal independent computations; drawing touches nothing but its Axes."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import logitbox as lb
from logitbox.analysis.metrics import Metrics
from logitbox.analysis.results import Result
from logitbox.errors import InputError
from logitbox.reports.bars import flip_words, prepare_flips, prepare_tokens
from logitbox.reports.curves import Curve, draw_curves, point_limit, prefixes, prepare_curves, thinned
from logitbox.reports.figures import draw
from logitbox.reports.parts import prepare_parts
from logitbox.reports.reliability import prepare_reliability
from logitbox.reports.style import FreeAxes, figure_style, new_axes

RESULTS = ("calibration", "metrics", "flips", "high_entropy", "explain")


def result_of(name: str, dump) -> Result:
    return lb.metrics(dump, by="step") if name == "metrics" else getattr(lb, name)(dump)


def test_reliability_arrays_are_those_of_numpy(recorded):
    data = prepare_reliability(lb.calibration(recorded.dump, by="step", bins=10), phase="eval", step=8)
    batch = recorded.batches["eval", 8]
    bins = np.minimum((batch.confidence * 10).astype(int), 9)
    filled = np.unique(bins)
    assert data.low == pytest.approx(filled / 10)
    assert data.n.tolist() == [np.sum(bins == b) for b in filled]
    assert data.accuracy == pytest.approx([batch.correct[bins == b].mean() for b in filled])
    assert data.confidence == pytest.approx([batch.confidence[bins == b].mean() for b in filled], rel=1e-5)
    gaps = np.abs(data.accuracy - data.confidence) * data.n / data.n.sum()
    assert data.ece == pytest.approx(gaps.sum())
    assert data.total == len(batch.gold)


def test_reliability_defaults_to_the_last_evaluation(recorded):
    result = lb.calibration(recorded.dump, by="step")
    last = prepare_reliability(result)
    assert last.where == "eval · step 8"
    assert last.total == len(recorded.batches["eval", 8].gold)


def test_reliability_of_what_is_not_there(recorded):
    with pytest.raises(InputError, match="phases are eval, train"):
        prepare_reliability(lb.calibration(recorded.dump), phase="test")
    with pytest.raises(InputError, match="'step' is no by-column"):
        prepare_reliability(lb.calibration(recorded.dump), step=3)


def test_curves_are_token_means_per_step(recorded):
    train, evaluation = sorted(
        prepare_curves(lb.metrics(recorded.dump, by="step"), "token_acc"), key=lambda c: -len(c.step)
    )
    for curve, phase in ((train, "train"), (evaluation, "eval")):
        steps = sorted(step for name, step in recorded.batches if name == phase)
        assert curve.step.tolist() == steps
        assert curve.value == pytest.approx([recorded.batches[phase, step].correct.mean() for step in steps])
        assert (curve.low <= curve.value).all()
        assert (curve.value <= curve.high).all()


def test_curve_keys(recorded):
    result = lb.metrics(recorded.dump, by="step")
    assert set(prefixes(result)) == {"", "train_", "eval_", "val_"}
    assert [curve.key for curve in prepare_curves(result, "eval_nll")] == ["eval_nll"]
    with pytest.raises(InputError, match="keys names 'accuracy'"):
        prepare_curves(result, "accuracy")
    with pytest.raises(InputError, match="by='step'"):
        prepare_curves(lb.metrics(recorded.dump))


def test_every_line_has_a_look_of_its_own(recorded):
    ax = draw(lb.metrics(recorded.dump, by=["step", "type"]), keys="token_acc")
    labels = [line.get_label() for line in ax.lines]
    assert {"token_acc", "eval_token_acc", "eval_token_acc · coord", "token_acc · text"} <= set(labels)
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in ax.lines}
    assert len(looks) == len(labels) == 10


def test_prefixes_are_those_of_the_phases(recorded):
    """Not taken from keys: phases and groups may be called anything."""
    frame = lb.metrics(recorded.dump, by="step").frame
    found = prefixes(Metrics(frame, "", ("train", "a/n_tokens")))
    assert list(dict.fromkeys(found)) == ["", "train_", "a/n_tokens_"]


def test_thinning_keeps_both_ends_and_the_cap():
    x = np.arange(5000.0)
    curve = thinned(Curve("a", "a", x, x, x, x))
    assert len(curve.step) == 400
    assert (curve.step[0], curve.step[-1]) == (0, 4999)
    assert (np.diff(curve.step) > 0).all()
    assert point_limit(2) == 400
    assert point_limit(8) == 200
    short = Curve("a", "a", x[:5], x[:5], x[:5], x[:5])
    assert thinned(short) is short


def test_no_line_has_more_points_than_allowed():
    x = np.arange(5000.0)
    with figure_style():
        ax = new_axes((4, 3))
        draw_curves(ax, [Curve(str(i), str(i), x, x, x, x) for i in range(3)], [Curve("o", "1", x, x, x, x)])
    assert {len(line.get_xdata()) for line in ax.lines} == {400}


def test_flip_bars_are_those_of_numpy(recorded):
    data = prepare_flips(lb.flips(recorded.dump, by="step"))
    batch = recorded.batches["eval", 8]
    inside, told = batch.gold >= 12, batch.logits.argmax(1) >= 12
    value = dict(zip(data.labels, data.value, strict=True))
    assert value["eval: coord → noncoord"] == pytest.approx((~told[inside]).mean())
    assert value["eval: text → coord"] == pytest.approx(told[~inside].mean())


def test_mass_bars_are_those_of_numpy(recorded):
    data = prepare_flips(lb.flips(recorded.dump, by="step"), "masses")
    batch = recorded.batches["train", 8]
    mass = np.exp(batch.log_p[:, 12:]).sum(1)
    value = dict(zip(data.labels, data.value, strict=True))
    assert value["coord mass at coord"] == pytest.approx(mass[batch.gold >= 12].mean(), rel=1e-5)


def test_flips_without_groups_say_so(odd_dump):
    with pytest.raises(InputError, match="pass groups= to the Recorder"):
        prepare_flips(lb.flips(odd_dump("bare")))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("coord_monitor/flip_coord_to_noncoord", "coord → noncoord"),
        ("eval_coord_monitor/flip_text_to_coord", "eval: text → coord"),
        ("eval_coord_monitor/coord_vocab_mass_at_gt_desc", "eval: coord mass at desc"),
        ("my_eval_a_b_monitor/flip_a_b_to_nona_b", "my_eval: a_b → nona_b"),
        ("a_b_monitor/flip_non_a_b_to_a_b", "non_a_b → a_b"),
        ("a_b_monitor/a_b_vocab_mass_at_gt_c_d", "a_b mass at c_d"),
    ],
)
def test_flip_words(key, words):
    assert flip_words(key) == words


def test_parts_are_those_of_numpy(recorded):
    data = prepare_parts(lb.explain(recorded.dump, by="step"), phase="eval", step=8)
    batch = recorded.batches["eval", 8]
    right, likely = batch.correct, batch.confidence >= 0.5
    best = np.sort(batch.log_p)[:, ::-1]
    near, inside = -batch.nll >= best[:, 0] - np.log(2), -batch.nll >= best[:, 7]  # k is 8
    unsure = ~right & ~likely
    masks = [
        np.zeros(48, dtype=bool),  # no two logits are equal
        right & likely,
        right & ~likely,
        ~right & likely,
        unsure & near,
        unsure & ~near & inside,
        unsure & ~near & ~inside,
    ]
    assert data.share[0] == pytest.approx([mask.mean() for mask in masks])
    assert data.share[1] == pytest.approx([(mask & right).sum() / right.sum() for mask in masks])
    assert data.share[2] == pytest.approx(
        [batch.nll[mask].sum() / batch.nll.sum() for mask in masks], rel=1e-5
    )
    assert (data.n, data.tfa, data.tfce) == (
        48,
        pytest.approx(batch.correct.mean()),
        pytest.approx(batch.nll.mean(), rel=1e-5),
    )


def test_parts_defaults_and_errors(recorded):
    assert prepare_parts(lb.explain(recorded.dump, by="step")).n == 48
    with pytest.raises(InputError, match="'step' is no by-column"):
        prepare_parts(lb.explain(recorded.dump), step=3)
    with pytest.raises(InputError, match="no tokens have"):
        prepare_parts(lb.explain(recorded.dump), token_type="verbs")


def test_token_bars_are_entropies_highest_first(recorded):
    data = prepare_tokens(lb.high_entropy(recorded.dump, 7, step=8), 5)
    log_p = recorded.batches["eval", 8].log_p
    entropy = np.sort(-(np.exp(log_p) * log_p).sum(1))[::-1]
    assert data.value == pytest.approx(entropy[:5], rel=1e-5)
    assert len(data.labels) == 5


@pytest.mark.parametrize("name", RESULTS)
def test_draws_on_the_axes_given(name, recorded):
    figure = Figure()
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    before = len(ax.get_children())
    assert result_of(name, recorded.dump).plot(ax) is ax
    assert len(ax.get_children()) > before
    figure.canvas.draw()


@pytest.mark.parametrize("name", RESULTS)
def test_leaves_global_state_alone(name, recorded):
    result, before = result_of(name, recorded.dump), dict(mpl.rcParams)
    ax = result.plot()
    assert isinstance(ax, FreeAxes)
    ax.figure.savefig(io.BytesIO(), format="png")
    assert dict(mpl.rcParams) == before


def test_pyplot_is_never_imported(odd_dump, tmp_path):
    code = (
        "import sys, logitbox as lb\n"
        f"d = lb.open({str(odd_dump('classifier').path)!r})\n"
        "lb.calibration(d).plot(); lb.report(d, sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    target = tmp_path / "subprocess.html"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert target.is_file()


def test_new_axes_show_themselves_in_jupyter(recorded):
    ax = lb.calibration(recorded.dump).plot()
    assert ax._repr_png_().startswith(b"\x89PNG")
    assert ax.figure._repr_png_().startswith(b"\x89PNG")


def test_a_result_without_figure_is_refused():
    nothing = Result(pl.DataFrame(), "")
    with pytest.raises(
        InputError,
        match="figures exist of Audit, Calibration, CalibrationTable, Comparison, Decisions, Explanation, Flips, Metrics, TokenList",
    ):
        nothing.plot()
    with pytest.raises(InputError, match="a str has no figure"):
        draw("x")


def test_tokens_that_the_font_lacks_are_escaped(recorded):
    rows = {"gold_text": ["中$x$", "ok"], "top_text": ["\u202e", " "], "entropy": [2.0, 1.0]}
    result = lb.high_entropy(recorded.dump, 2)
    frame = result.frame.with_columns(**{name: pl.Series(values) for name, values in rows.items()})
    ax = draw(type(result)(frame, ""))
    ax.figure.savefig(io.BytesIO(), format="png")  # a missing glyph would warn, and warnings are errors
    assert [label.get_text() for label in ax.get_yticklabels()] == ["\\u4e2d$x$ (\\u202e)", "ok (␣)"]
