"""Figures and the page's section of two evaluations, against the tokens they are made of."""

from __future__ import annotations

import re
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

import logitbox as lb
from logitbox.analysis.pairs.align import Aligned, Pair, Unaligned
from logitbox.analysis.pairs.comparison import compare_pair
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError
from logitbox.reports.comparison import prepare_waterfall
from logitbox.reports.style import FreeAxes

V, T, N, KINDS = 24, 8, 14, ("cells", "reversal", "density")
NASTY = "<script>alert(1)</script>"
TOKENS = [NASTY, "\n", "\u202e", "", " ", "\x1b[31m", *(f"t{i}" for i in range(6, V))]
LABELS = torch.randint(0, V, (N, T), generator=torch.Generator().manual_seed(4))


def logits_of(seed, scale, sharpness):
    logits = torch.randn(N, T, V, generator=torch.Generator().manual_seed(seed)) * scale
    return logits.scatter_add(2, LABELS[..., None], torch.full((N, T, 1), sharpness))


LOGITS = {"a": logits_of(1, 3, 3.0), "b": logits_of(2, 1, 1.0)}


def record(path, logits, labels=LABELS, keys=range(N), types=True, **options):
    keys = [f"{NASTY}{key}" for key in keys]
    names = ["low", "high"] if types else []
    with Recorder(path, TOKENS, 6, types=names, **options) as recorder:
        recorder.samples(
            {"sample": list(range(len(labels))), "key": keys, "source": ["<b>web</b>"] * len(keys)}
        )
        for step in (1, 2):
            masks = {"low": labels < 12, "high": labels >= 12} if types else None
            scaled = logits * step / 2
            recorder.record(
                scaled, labels, step, "eval", sample=list(range(len(labels))), shift=False, types=masks
            )
    return lb.open(path)


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    where = tmp_path_factory.mktemp("pair")
    return {name: record(where / f"run-{name}", logits, lse_beta="eval") for name, logits in LOGITS.items()}


@pytest.fixture(scope="module")
def result(dumps):
    return lb.explain(dumps["a"], against=dumps["b"])


def numbers(name):
    """(correct, nll), float64."""
    x, gold = LOGITS[name].double().numpy().reshape(-1, V), LABELS.numpy().reshape(-1)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    return x.argmax(1) == gold, -log_p[np.arange(len(gold)), gold]


def compared(nll, right):
    """A comparison of plain arrays [2, n], a token a sample."""
    choice = SimpleNamespace(dump=SimpleNamespace(types=SimpleNamespace(names=())))
    n = len(nll[0])
    nll, right, rows = np.asarray(nll, np.float32), np.asarray(right, bool), np.arange(n)
    sides = [Aligned(choice, rows, nll[i], right[i]) for i in range(2)]
    zeros = np.zeros(n, np.int32)
    return compare_pair(
        Pair(*sides, rows, zeros, zeros, zeros.astype(np.uint32), None, Unaligned(0, 0, 0, 0, 0))
    )


def test_the_waterfall_is_that_of_the_tokens(result):
    (right_a, nll_a), (right_b, nll_b) = numbers("a"), numbers("b")
    parts, counts = [], []
    for a, b in ((1, 1), (1, 0), (0, 1), (0, 0)):
        here = (right_a == a) & (right_b == b)
        parts.append((nll_a - nll_b)[here].sum() / (N * T))
        counts.append(int(here.sum()))
    data = prepare_waterfall(result)
    assert data.labels == ("both right", "only A right", "only B right", "both wrong", "ΔTFCE")
    assert data.n.tolist() == [*counts, N * T]
    assert data.part == pytest.approx([*parts, (nll_a - nll_b).mean()], abs=1e-6)
    assert data.start == pytest.approx([0, *np.cumsum(parts)[:3], 0], abs=1e-6)
    assert data.start[3] + data.part[3] == pytest.approx(data.part[4], abs=1e-12)


def test_the_waterfall_of_a_type(result):
    data = prepare_waterfall(result, "low")
    inside = LABELS.numpy().reshape(-1) < 12
    gap = numbers("a")[1] - numbers("b")[1]
    assert data.part[-1] == pytest.approx(gap[inside].sum() / (N * T), abs=1e-6)
    assert data.n[-1] == inside.sum()


def test_the_reversal_curve_is_that_of_the_tokens(result):
    ax = result.plot(Figure().add_subplot(), kind="reversal")
    line = ax.get_lines()[0]
    gap = numbers("a")[1] - numbers("b")[1]
    sign = np.sign(gap.sum())
    ranked = np.sort(sign * gap)[::-1]
    removed = np.round(line.get_xdata() * N * T / 100).astype(int)
    assert removed[0] == 0
    assert line.get_ydata() == pytest.approx([ranked[k:].mean() for k in removed], abs=1e-6)
    fewest = next(k for k in range(N * T) if ranked[k:].sum() <= 0)
    assert [text.get_text() for text in ax.texts] == [f"{fewest} of {N * T} tokens"]
    assert ax.get_ylabel() == f"mean nll, {'A − B' if sign > 0 else 'B − A'}, nats"
    assert ax.get_lines()[2].get_xdata()[0] == pytest.approx(100 * fewest / (N * T))


def test_the_density_is_that_of_the_tokens(result):
    ax = result.plot(Figure().add_subplot(), kind="density")
    (mesh,) = [one for one in ax.collections if isinstance(one, QuadMesh)]
    expected = np.zeros((60, 60))
    for nll_a, nll_b in zip(numbers("a")[1], numbers("b")[1], strict=True):
        places = (60 * (1 - min(nll / -np.log(1e-4), 1)) for nll in (nll_a, nll_b))
        row, column = (min(int(place + 1e-9), 59) for place in places)
        expected[row, column] += 1
    assert np.ma.filled(mesh.get_array(), 0).reshape(60, 60).tolist() == expected.tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("p(gold), B", "p(gold), A")


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_axes_are_used_and_nothing_global_changes(kind, result):
    before = dict(mpl.rcParams)
    figure = Figure()
    mine = figure.add_subplot()
    assert result.plot(mine, kind=kind) is mine
    own = result.plot(kind=kind)
    assert isinstance(own, FreeAxes)
    assert own.figure is not figure
    assert own._repr_png_().startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before


def test_another_kind_is_refused(result):
    with pytest.raises(InputError, match="kind is 'pie'; a comparison has cells, reversal, density"):
        result.plot(kind="pie")


ODD = {
    "all right": ([[0.1, 0.2, 0.3], [0.1, 0.1, 0.1]], np.ones((2, 3))),
    "all wrong, B worse": ([[1, 2, 3], [4, 4, 4]], np.zeros((2, 3))),
    "one token": ([[2.0], [1.0]], [[1], [0]]),
    "no gap": ([[1, 2], [1, 2]], [[1, 0], [0, 1]]),
    "no gap in sum": ([[1, 2], [2, 1]], [[1, 0], [0, 1]]),
    "no loss": (np.zeros((2, 4)), np.ones((2, 4))),
    "hopeless": ([[90, 100], [100, 80]], np.zeros((2, 2))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ODD)
def test_odd_cases_are_drawn(case, kind):
    result = compared(*ODD[case])
    ax = result.plot(kind=kind)
    ax.figure.canvas.draw()
    n, gap = len(result.pair), result.delta_tfce.value
    if kind == "cells":
        shown = [text.get_text() for text in ax.texts]
        assert shown[-1] == f"{gap:+.4f}"
        low, high = ax.get_xlim()
        assert low < min(0, gap) <= max(0, gap) < high
    elif kind == "reversal":
        assert len(ax.texts) == (gap != 0)
        assert ax.get_lines()[0].get_ydata()[0] == pytest.approx(abs(gap))
        assert ax.get_ylabel().startswith("mean nll, B − A" if gap < 0 else "mean nll, A − B")
        if gap:
            assert ax.get_xlim()[1] <= 100
    else:
        (mesh,) = [one for one in ax.collections if isinstance(one, QuadMesh)]
        assert mesh.get_array().sum() == n


@pytest.fixture(scope="module")
def path(dumps, tmp_path_factory):
    return lb.report(dumps["a"], tmp_path_factory.mktemp("page") / "r.html", dumps["b"])


@pytest.fixture(scope="module")
def page(path, parse):
    return parse(path.read_text(encoding="utf-8"))


def words(section):
    return " ".join(section.split())


def minus(value):
    return f"{value:+.4f}".replace("-", "−")


def test_the_section_has_the_numbers_of_the_tokens(page, result):
    section = words(page.sections["against"])
    (right_a, nll_a), (right_b, nll_b) = numbers("a"), numbers("b")
    lead, gap = right_a.mean() - right_b.mean(), (nll_a - nll_b).mean()
    assert words(result.told) in section
    assert f"accuracy (TFA) {right_a.mean():.4f} {right_b.mean():.4f} {minus(lead)}" in section
    assert f"nats {nll_a.mean():.4f} {nll_b.mean():.4f} {minus(gap)}" in section
    both = right_a & right_b
    assert f"both right {both.sum()} {both.mean():.1%}".replace("%", " %") in section
    assert f"all {N * T} 100.0 % {minus(lead)} {minus(gap)}" in section
    low = LABELS.numpy().reshape(-1) < 12
    for name, inside in (("low", low), ("high", ~low)):
        part = (nll_a - nll_b)[inside].sum() / (N * T)
        alone = [(inside & right_a & ~right_b).sum(), (inside & right_b & ~right_a).sum()]
        assert re.search(
            rf" {name} {inside.sum()} {alone[0]} {alone[1]} .* {re.escape(minus(part))} ", section
        )
    assert words(str(result.temperature)) in section
    for one in result.certificates:
        assert words(str(one)) in section


def test_the_tokens_are_listed_worst_first_and_visible(page):
    gap = numbers("a")[1] - numbers("b")[1]
    gap *= np.sign(gap.sum())
    worst = np.argsort(-gap)[:15]
    section = words(page.sections["against"].partition("which the loss gap is gone")[2])
    shown = {"\n": "↵", "\u202e": "\\u202e", "": "(empty)", " ": "␣", "\x1b[31m": "\\u001b[31m"}
    place = 0
    for i in worst[: int(min(15, next(k for k in range(N * T) if np.sort(gap)[::-1][k:].sum() <= 0)))]:
        gold = TOKENS[int(LABELS.reshape(-1)[i])]
        sample, pos = divmod(int(i), T)
        row = f"{shown.get(gold, gold)} {NASTY}{sample} {pos} {numbers('a')[1][i]:.4f}"
        found = section.find(row.replace("  ", " "))
        assert found >= place, row
        place = found


def test_the_page_is_safe_and_whole(page, path):
    text = path.read_text(encoding="utf-8")
    assert NASTY not in text
    assert "\u202e" not in text
    assert page.tags.isdisjoint({"script", "b", "iframe", "img", "link"})
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = [(tag, value) for tag, name, value in page.attributes if name in ("href", "xlink:href")]
    assert all(value[1:] in ids for tag, value in links if tag != "image")
    assert all(value.startswith("data:image/png;base64,") for tag, value in links if tag == "image")
    assert ("a", "#against") in links
    assert set(re.findall(r"https?:[^\"'\s<]*", text)) == {"http://www.w3.org/2000/svg"}
    assert text.count('aria-label="Who is right where') == 1
    order = [text.index(f'<h2 id="{name}"') for name in ("glance", "against", "metrics")]
    assert order == sorted(order)


def test_the_same_comparison_gives_the_same_bytes(dumps, result, path, tmp_path):
    again = lb.report(dumps["a"], tmp_path / "again.html", result)
    assert again.read_bytes() == path.read_bytes()


def test_two_steps_of_one_dump_are_told_apart(dumps, tmp_path, parse):
    steps = lb.explain(dumps["a"], against=dumps["a"], step=2, against_step=1)
    page = parse(lb.report(dumps["a"], tmp_path / "r.html", steps).read_text(encoding="utf-8"))
    assert "Against run-a, eval, step 1" in words(page.sections["against"])


def test_without_types_text_temperature_or_gap(tmp_path, parse):
    dump = record(tmp_path / "plain", LOGITS["a"], types=False, lse_beta="never")
    page = parse(lb.report(dump, tmp_path / "r.html", dump).read_text(encoding="utf-8"))
    section = words(page.sections["against"])
    assert "By token type" not in section
    assert "There is no loss gap" in section
    assert "is not known: A has no lse_beta" in section
    assert "Both parts add up" not in section


def test_without_against_there_is_no_section(dumps, tmp_path, parse):
    page = parse(lb.report(dumps["a"], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "against" not in page.sections
    assert ("a", "href", "#against") not in page.attributes


def test_what_does_not_align_is_refused_before_anything_is_written(dumps, result, tmp_path):
    other = record(tmp_path / "other", LOGITS["b"], keys=range(50, 50 + N))
    with pytest.raises(InputError, match="only 0 of 112 tokens"):
        lb.report(dumps["a"], tmp_path / "r.html", other)
    with pytest.raises(InputError, match=r"the comparison is of .*run-a, the report of .*run-b"):
        lb.report(dumps["b"], tmp_path / "r.html", result)
    assert not (tmp_path / "r.html").exists()
