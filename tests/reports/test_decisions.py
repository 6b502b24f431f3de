"""Figures of decisions show the numbers of NumPy, and the report's section says what was decided."""

from __future__ import annotations

import dataclasses
import io
import re

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import logitbox as lb
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError
from logitbox.reports.decisions import KINDS, prepare_bins, prepare_evolution
from logitbox.reports.style import BLUE, VERMILLION, FreeAxes

V, N, T = 30, 60, 6
NASTY = "<script>alert(1)</script>"
ANSWERS = {"accept": [3, 4], "reject": [5]}
TOKENS = [f"t{i}" for i in range(V - 1)] + ["<b>\u202e</b>"]


def fill(path, answers, steps=(2, 4, 6), phases=("train", "eval"), rows=N, types=None):
    """Every sample ends with an answer; returns (phase, step) to its masses [rows, answers] and gold answers."""
    rng = np.random.default_rng(8)
    every = [i for ids in answers.values() for i in ids]
    kept = {}
    with Recorder(path, TOKENS, k=4, answers=answers, types=types) as rec:
        for step in steps:
            for phase in phases:
                logits = torch.from_numpy(rng.normal(0, 1, (rows, T, V)).astype(np.float32))
                labels = torch.from_numpy(rng.integers(20, V, (rows, T)))
                labels[:, -1] = torch.from_numpy(rng.choice(every, rows))
                logits[:, -2, every] += step / 2
                logits[torch.arange(rows // 2), -2, labels[: rows // 2, -1]] += 3
                logits[::7, -2, V - 1] += 9
                masks = None if types is None else {"decision": torch.zeros(rows, T, dtype=torch.bool)}
                keys = [f"{NASTY}{i}" for i in range(rows)]
                rec.record(logits, labels, step, phase, sample=keys, input_ids=labels, types=masks)
                x = logits[:, -2].double().numpy()
                p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
                mass = np.stack([p[:, list(ids)].sum(1) for ids in answers.values()], 1)
                gold = labels[:, -1].numpy()[:, None]
                kept[phase, step] = mass, np.argmax([np.isin(gold, ids)[:, 0] for ids in answers.values()], 0)
    return kept


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    path = tmp_path_factory.mktemp("decided") / "dump"
    kept = fill(path, ANSWERS)
    return lb.open(path), kept


def test_evolution_lines_are_means_of_numpy(decided):
    dump, kept = decided
    ax = lb.decisions(dump).plot()
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    assert list(lines) == ["p(accept)", "p(reject)", "all answers", "confidence", "accuracy"]
    for label, of in {
        "p(accept)": lambda mass, gold: mass[:, 0].mean(),
        "p(reject)": lambda mass, gold: mass[:, 1].mean(),
        "all answers": lambda mass, gold: mass.sum(1).mean(),
        "confidence": lambda mass, gold: mass.max(1).mean(),
        "accuracy": lambda mass, gold: (mass.argmax(1) == gold).mean(),
    }.items():
        expected = [(step, of(*kept["eval", step])) for step in (2, 4, 6)]
        assert lines[label] == pytest.approx(np.array(expected), rel=1e-6), label
    assert len({line.get_color() for line in ax.lines}) == 5


def test_calibration_points_and_whiskers(decided):
    dump, kept = decided
    mass, gold = kept["eval", 6]
    sure, right = mass.max(1), mass.argmax(1) == gold
    bins = np.minimum((sure * 10).astype(int), 9)
    filled = np.unique(bins)
    ax = lb.decisions(dump).plot(kind="calibration", bins=10)
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    expected = [(sure[bins == b].mean(), right[bins == b].mean()) for b in filled]
    assert points.get_xydata() == pytest.approx(np.array(expected), rel=1e-6)
    (whiskers,) = ax.containers[0].lines[2]
    for (x, y), segment, b in zip(expected, whiskers.get_segments(), filled, strict=True):
        n = (bins == b).sum()
        # The two roots of (p − y)² = z² p (1 − p) / n, which Wilson's interval is.
        roots = np.sort(np.roots([1 + 1.959964**2 / n, -(2 * y + 1.959964**2 / n), y * y]))
        assert segment[:, 0] == pytest.approx(x, rel=1e-6)
        assert segment[:, 1] == pytest.approx(roots, abs=1e-5)
    ece = sum((bins == b).mean() * abs(x - y) for (x, y), b in zip(expected, filled, strict=True))
    assert ax.get_title(loc="left") == f"ECE {ece:.4f} · 60 decisions"
    strip = ax.child_axes[0]
    assert [bar.get_height() for bar in strip.patches] == [(bins == b).sum() for b in filled]


def test_histogram_bars_stack_wrong_on_right(decided):
    dump, kept = decided
    mass, gold = kept["eval", 6]
    sure, right = mass.max(1), mass.argmax(1) == gold
    ax = lb.decisions(dump).plot(kind="histogram", bins=5)
    for container, mask in zip(ax.containers, (right, ~right), strict=True):
        shown = {round(bar.get_x(), 6): bar.get_height() for bar in container}
        counts = np.histogram(sure[mask], bins=5, range=(0, 1))[0]
        assert shown == {round(i / 5, 6): n for i, n in enumerate(counts) if n}
    bottoms = {bar.get_x(): bar.get_y() for bar in ax.containers[1]}
    under = {bar.get_x(): bar.get_height() for bar in ax.containers[0]}
    assert bottoms == {x: under.get(x, 0) for x in bottoms}
    assert to_hex(ax.containers[0][0].get_facecolor()) == BLUE.lower()
    assert to_hex(ax.containers[1][0].get_edgecolor()) == VERMILLION.lower()
    assert ax.containers[1][0].get_hatch()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_on_the_axes_given_and_leaves_global_state_alone(kind, decided):
    result, before = lb.decisions(decided[0]), dict(mpl.rcParams)
    figure = Figure()
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    assert result.plot(ax, kind=kind) is ax
    assert ax.has_data()
    figure.canvas.draw()
    own = result.plot(kind=kind)
    assert isinstance(own, FreeAxes)
    own.figure.savefig(io.BytesIO(), format="png")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("kind", ["calibration", "histogram"])
def test_all_right_or_all_wrong(kind, correct, decided):
    result = lb.decisions(decided[0])
    result = dataclasses.replace(result, frame=result.frame.filter(pl.col("correct") == correct))
    ax = result.plot(kind=kind)
    ax.figure.savefig(io.BytesIO(), format="png")
    if kind == "calibration":
        assert set(prepare_bins(result, kind).accuracy) == {float(correct)}
    else:
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["right", "wrong"]


def test_nothing_to_draw_and_unknown_kinds(decided, tmp_path):
    with pytest.raises(InputError, match="kind is 'pie'; allowed are evolution, calibration, histogram"):
        lb.decisions(decided[0]).plot(kind="pie")
    with pytest.raises(InputError, match="bins is -3"):
        lb.decisions(decided[0]).plot(kind="histogram", bins=-3)
    with Recorder(tmp_path / "d", V, answers=ANSWERS) as rec:
        rec.record(torch.zeros(2, V), torch.tensor([20, 21]), phase="eval")
    none = lb.decisions(lb.open(tmp_path / "d"))
    for kind in KINDS:
        with pytest.raises(InputError, match=r"nothing to draw \(eval, step 0: no decisions; 2 samples"):
            none.plot(kind=kind)


def test_many_answers_have_few_curves(tmp_path):
    fill(tmp_path / "d", {name: [i] for i, name in enumerate("ABCDEF")})
    result = lb.decisions(lb.open(tmp_path / "d"))
    labels = [curve.label for curve in prepare_evolution(result)]
    assert labels == ["p(A)", "p(B)", "p(C)", "p(D)", "all answers", "confidence", "accuracy"]


@pytest.fixture(scope="module")
def text(decided, tmp_path_factory):
    return lb.report(decided[0], tmp_path_factory.mktemp("page") / "r.html").read_text(encoding="utf-8")


def test_section_says_what_was_decided(decided, text, parse):
    _, kept = decided
    page = parse(text)
    section = " ".join(page.sections["decisions"].split())
    mass, gold = kept["eval", 6]
    wrong = np.flatnonzero(mass.argmax(1) != gold)
    told = f"60 decisions, accuracy {(mass.argmax(1) == gold).mean():.4f}, probability on answers {mass.sum(1).mean():.4f}"
    assert f"eval, step 6 {told}" in section
    assert "train" not in section
    assert f"The 8 surest of {len(wrong)} wrong decisions" in section
    surest = wrong[np.argsort(-mass[wrong].max(1))][:8]
    names = list(ANSWERS)
    rows = [
        f"{NASTY}{i} {names[gold[i]]} {names[mass[i].argmax()]} {mass[i, 0]:.4f} {mass[i, 1]:.4f} {mass[i].sum():.4f} "
        for i in surest
    ]
    cells = " ".join(re.sub(r"</t[hd]>", " ", text[text.index("<caption>The 8 surest") :]).split())
    shown = re.sub(r"<[^>]*>", "", cells).replace("&lt;", "<").replace("&gt;", ">")
    places = [re.sub(r"\s+", " ", shown).find(row) for row in rows]
    assert -1 not in places
    assert places == sorted(places)
    assert page.cells["eval_decision_accuracy"] == f"{(mass.argmax(1) == gold).mean():.4f}"
    assert ("a", "href", "#decisions") in page.attributes


def test_section_is_safe_and_has_three_figures(text, parse):
    page = parse(text)
    assert page.tags.isdisjoint({"script", "b"})
    assert NASTY not in text
    assert "\u202e" not in text
    section = text[text.index('aria-labelledby="decisions"') : text.index('aria-labelledby="flips"')]
    labels = re.findall(r'<svg[^>]*aria-label="([^"]*)"', section)
    assert [label.split(".")[0].split(",")[0] for label in labels] == [
        "eval: decisions over steps",
        "How sure the decisions are",
        "Accuracy against confidence",
    ]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_same_dump_same_bytes(decided, text, tmp_path):
    assert lb.report(decided[0], tmp_path / "again.html").read_text(encoding="utf-8") == text


def page_of(path, parse):
    return parse(lb.report(lb.open(path), path.parent / "r.html").read_text(encoding="utf-8"))


def test_no_section_without_answers(odd_dump, tmp_path, parse):
    page = page_of(odd_dump("bare").path, parse)
    assert "decisions" not in page.sections
    assert ("a", "href", "#decisions") not in page.attributes


def test_one_step_of_training_and_many_answers(tmp_path, parse):
    kept = fill(tmp_path / "d", {name: [i] for i, name in enumerate("ABCDEF")}, steps=(3,), phases=("train",))
    section = " ".join(page_of(tmp_path / "d", parse).sections["decisions"].split())
    assert "train, step 3" in section
    assert "over steps" not in section
    assert "p(predicted) p(gold)" in section
    mass, gold = kept["train", 3]
    wrong = np.flatnonzero(mass.argmax(1) != gold)
    first = wrong[mass[wrong].max(1).argmax()]
    assert f"{mass[first].max():.4f} {mass[first, gold[first]]:.4f} {mass[first].sum():.4f}" in section


def test_answers_without_a_slot_say_so(tmp_path, parse):
    fill(tmp_path / "d", ANSWERS, steps=(1,), types=["decision"])
    section = page_of(tmp_path / "d", parse).sections["decisions"]
    assert "No decision slot with finite values" in section
