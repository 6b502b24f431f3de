"""The verdict in words says only what the numbers show: every number in it is one of the result's."""

from __future__ import annotations

import re
from math import sqrt
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs_oracle import make_pair
from scipy.stats import norm

from logitbox.analysis.pairs.comparison import compare_pair
from logitbox.analysis.pairs.heat import Temperature
from logitbox.analysis.pairs.paired import Difference
from logitbox.analysis.pairs.words import headline, numbers, paragraph, reversal, where_from, would_undo

NUMBER = re.compile(r"(?<![\w.,])[+-]?\d[\d,]*(?:\.\d+)?%?")
WHO = r"(A has the better|B has the better|both have the same)"
CELLS = {
    "both get right": (1, 1),
    "only A gets right": (1, 0),
    "only B gets right": (0, 1),
    "both get wrong": (0, 0),
}


def compared(pair, *, holds=True):
    """A comparison whose other passes over the dumps are replaced by something without numbers."""
    result = compare_pair(pair)
    result.__dict__["temperature"] = Temperature(None, None, None, None, "nothing was recorded")
    outcome = SimpleNamespace(holds=holds, summary="every check holds")
    result.__dict__["certificates"] = (outcome, outcome)
    return result


@st.composite
def pairs(draw, typed=True):
    """From nothing but noise to differences beyond it, either way round in either metric."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples = draw(st.integers(1, 9))
    lift, cost = draw(st.sampled_from([-0.6, 0.0, 0.6])), draw(st.sampled_from([-2.0, 0.0, 2.0]))
    cluster = np.repeat(np.arange(samples), rng.integers(1, 7, samples))
    n = len(cluster)
    right = rng.random((2, n)) < np.array([[0.5 + lift / 2], [0.5 - lift / 2]])
    nll = rng.exponential(1, (2, n)) + np.array([[max(cost, 0)], [max(-cost, 0)]])
    types = rng.integers(0, 4, n) if typed else np.zeros(n)
    return make_pair(nll, right, cluster, types, ("x", "y") if typed else (), gold=rng.integers(0, 5, n))


def gap_of(pair):
    return pair.nll[0] - pair.nll[1]


def lead_of(pair):
    return pair.right[0].astype(int) - pair.right[1].astype(int)


def interval(values, cluster):
    """(low, high) by sums in a plain loop; None of one sample."""
    groups = [values[cluster == c] for c in np.unique(cluster)]
    mean, g = values.mean(), len(groups)
    if g < 2:
        return None
    error = sqrt(g / (g - 1) * sum((group - mean).sum() ** 2 for group in groups)) / len(values)
    return mean - norm.ppf(0.975) * error, mean + norm.ppf(0.975) * error


def removed(values):
    """The rows to remove, worst first, until nothing is left of Σ."""
    order = np.argsort(-values, kind="stable")
    k = 0
    while values[order[k:]].sum() > 1e-13 * np.abs(values).sum():
        k += 1
    return order[:k]


def every_number(result):
    """All that may be said, computed from the tokens: plain numbers, and shares (p-values are tested elsewhere)."""
    pair, plain, shares = result.pair, [95.0], []
    gap, lead = gap_of(pair), lead_of(pair)
    for sides, delta, p in ((pair.right, lead, result.delta_tfa.p), (pair.nll, gap, result.delta_tfce.p)):
        plain += [*(side.mean() for side in sides), delta.mean(), p, *(interval(delta, pair.cluster) or ())]
    for a, b in CELLS.values():
        here = (pair.right[0] == a) & (pair.right[1] == b)
        plain += [here.sum(), gap[here].sum() / len(pair), gap[~here].sum() / len(pair)]
    rows = removed(np.sign(gap.sum()) * gap)
    plain += [len(pair), pair.cluster.max() + 1, len(rows), abs(lead.sum())]
    shares += [len(rows) / len(pair), *(mask[rows].mean() for mask in pair.of_type().values())]
    for row in result.concentration.iter_rows(named=True):  # tested by itself
        plain += [float(number) for number in NUMBER.findall(row["name"].replace("–", " "))]
        plain += [0.0 if row["p_adjusted"] is None else row["p_adjusted"]]
        shares += [row["share"], row["part_share"]]
    return plain, shares


def is_said(number, values, unit=1.0):
    """Whether one of the values rounds to a number."""
    digits = len(number.rstrip("%").partition(".")[2])
    shown = float(number.rstrip("%").replace(",", ""))
    return any(abs(shown - unit * value) <= 0.5 * 10**-digits + 1e-9 for value in values)


@given(pairs())
@settings(max_examples=120, deadline=None)
def test_every_number_is_one_of_the_results(pair):
    result = compared(pair)
    said = NUMBER.findall(paragraph(result).replace("–", " ").replace("p ≤ 0.0001", ""))
    plain, shares = every_number(result)
    assert len(said) >= 8
    for number in said:
        assert is_said(number, shares, 100) if number.endswith("%") else is_said(number, plain), number


def who_said(text):
    """Who has the better accuracy and who the better cross-entropy, in the words of `words`."""
    apart = re.search(rf"{WHO} accuracy and {WHO} cross-entropy", text)
    if apart:
        return apart.groups()
    alike = re.search(rf"{WHO} accuracy and the (better|same) cross-entropy", text)
    assert (alike[2] == "same") == (alike[1] == "both have the same")
    return alike[1], alike[1]


@given(pairs())
@settings(max_examples=120, deadline=None)
def test_the_answer_and_who_is_better(pair):
    result = compared(pair)
    text, (gap, lead) = headline(result), (gap_of(pair), lead_of(pair))
    bounds = [interval(values, pair.cluster) for values in (lead, gap)]
    sure = [
        b is not None and (b[0] > 0 or b[1] < 0) and d.p <= 0.05
        for b, d in zip(bounds, (result.delta_tfa, result.delta_tfce), strict=True)
    ]
    same_way = lead.sum() * gap.sum() > 0
    answer = "not distinguishable" if not all(sure) else "inverted" if same_way else "not inverted"
    assert result.answer == answer
    assert text.lower().startswith(f"{answer}: ")
    said = who_said(text)
    words = {1: "A has the better", -1: "B has the better", 0: "both have the same"}
    assert said == (words[int(np.sign(lead.sum()))], words[-int(np.sign(gap.sum()))])
    for name, is_sure in zip(("accuracy", "cross-entropy"), sure, strict=True):
        doubted = f"the difference in {name} could be noise" in text or "but both differences could" in text
        assert doubted == (not is_sure)
    assert ("both metrics agree" in text) == (answer == "not inverted")


@given(pairs())
@settings(max_examples=30, deadline=None)
def test_both_metrics_with_four_decimals(pair):
    accuracy, loss = ([side.mean() for side in sides] for sides in (pair.right, pair.nll))
    text = numbers(compared(pair))
    assert text.startswith(f"TFA {accuracy[0]:.4f} against {accuracy[1]:.4f} (Δ ")
    assert f"), TFCE {loss[0]:.4f} against {loss[1]:.4f} nats (Δ " in text
    samples = len(set(pair.cluster.tolist()))
    of = f"over {len(pair)} token{'s' * (len(pair) > 1)} of {samples} sample{'s' * (samples > 1)}."
    assert text.endswith(f"), {of}")
    assert text.count("95 %") == (2 if samples > 1 else 0)
    assert text.count("one sample only") == (0 if samples > 1 else 2)


@given(pairs())
@settings(max_examples=60, deadline=None)
def test_where_the_gap_comes_from(pair):
    text = where_from(compared(pair))
    if not text:
        assert gap_of(pair).sum() == 0
        return
    a, b, cell, n, part, rest = re.fullmatch(
        r"A alone is right on (\d+) tokens?, B alone on (\d+); tokens (.*) \((\d+)\) add ([-+.\d]+) nats "
        r"to the loss gap(?:, all others ([-+.\d]+))?\.",
        text,
    ).groups()
    gap = gap_of(pair)
    parts = {name: gap[(pair.right[0] == x) & (pair.right[1] == y)].sum() for name, (x, y) in CELLS.items()}
    here = (pair.right[0] == CELLS[cell][0]) & (pair.right[1] == CELLS[cell][1])
    assert (int(a), int(b)) == (int((lead_of(pair) == 1).sum()), int((lead_of(pair) == -1).sum()))
    assert int(n) == here.sum()
    assert float(part) == pytest.approx(parts[cell] / len(pair), abs=5.1e-5)
    assert (rest is None) == bool(here.all())
    assert float(rest or 0) == pytest.approx(gap[~here].sum() / len(pair), abs=5.1e-5)
    sign = np.sign(gap.sum())
    assert sign * parts[cell] == pytest.approx(max(sign * part for part in parts.values()), abs=1e-9)


@given(pairs())
@settings(max_examples=60, deadline=None)
def test_what_would_undo_it_does(pair):
    """Removing as many tokens as it says leaves no difference, and one fewer leaves one."""
    result = compared(pair)
    text = would_undo(result)
    if result.answer == "not distinguishable":
        assert text == "More samples could turn this into either answer."
        return
    counts = re.findall(r"(\d+) tokens? for (TFCE|TFA)", text)
    assert [name for _, name in counts] == ["TFCE", "TFA"]
    for (count, _), values in zip(counts, (gap_of(pair), lead_of(pair)), strict=True):
        ranked = np.sort(values * np.sign(values.sum()))[::-1]
        rounding = 1e-12 * np.abs(values).sum()
        assert ranked[int(count) :].sum() <= rounding
        assert ranked[int(count) - 1 :].sum() > -rounding


@given(pairs())
@settings(max_examples=60, deadline=None)
def test_swapping_the_sides_swaps_the_letters(pair):
    one = compared(pair)
    two = compared(
        make_pair(pair.nll[::-1], pair.right[::-1], pair.cluster, pair.types, ("x", "y"), gold=pair.gold)
    )
    swapped = headline(one).translate(str.maketrans("AB", "BA"))
    assert who_said(headline(two)) == who_said(swapped)
    assert headline(two) == swapped
    assert reversal(two) == reversal(one).translate(str.maketrans("AB", "BA"))
    assert would_undo(two) == would_undo(one)
    alone = r"A alone is right on (\d+) tokens?, B alone on (\d+)"
    first, second = (re.search(alone, paragraph(result)).groups() for result in (one, two))
    assert first == second[::-1]


@given(pairs(typed=False))
@settings(max_examples=20, deadline=None)
def test_without_types_no_type_is_named(pair):
    text = paragraph(compared(pair))
    assert "all in " not in text
    assert "% in " not in text
    assert "type" not in text


def test_without_a_loss_gap_nothing_is_said_of_one():
    rng = np.random.default_rng(2)
    nll = rng.exponential(1, 40)
    result = compared(make_pair([nll, nll], rng.random((2, 40)) < 0.5, np.arange(40) // 4))
    text = paragraph(result)
    assert (where_from(result), reversal(result)) == ("", "")
    assert "both have the same" in text
    assert text.count("loss gap") == 1  # in the sentence on temperature
    assert "Δ +0.0000, 95 % +0.0000 to +0.0000, p = 1.0000" in text


def planted(n, worse, types, samples=20):
    """A's loss is 1 nat higher on some tokens, a little lower on all others."""
    gap = np.where(np.isin(np.arange(n), worse), 1.0, -1e-7)
    return make_pair([gap + 1, np.ones(n)], np.ones((2, n), bool), np.arange(n) % samples, types, ("desc",))


def test_neither_nothing_nor_everything_by_rounding():
    few = compared(planted(40_000, [7], np.zeros(40_000)))
    assert "without the 1 token of 40,000 (less than 0.01%) that cost" in reversal(few)
    rng = np.random.default_rng(0)
    rows = rng.permutation(600)[:400]
    types = np.isin(np.arange(600), rows[1:])
    nearly = make_pair(
        [1 + np.isin(np.arange(600), rows), np.ones(600)],
        np.ones((2, 600), bool),
        np.arange(600) % 20,
        types,
        ("desc",),
    )
    assert "without the 400 tokens of 600 (66.67%, 99% in desc) that cost A most against B" in reversal(
        compared(nearly)
    )
    everything = planted(40_000, [7], np.isin(np.arange(40_000), [7]))
    assert "(less than 0.01%, all in desc)" in reversal(compared(everything))


def test_concentration_is_told_if_it_is_sure():
    n = 400
    types, rng = np.arange(n) % 2, np.random.default_rng(4)
    noise = rng.normal(0, 0.1, n)
    pair = make_pair(
        [6 + noise + 2 * types, np.full(n, 5)], np.ones((2, n), bool), np.arange(n) // 10, types, ("desc",)
    )
    text = paragraph(compared(pair))
    inside = (1 + noise + 2 * types)[types == 1].sum() / (1 + noise + 2 * types).sum()
    assert f"The loss gap is concentrated in type desc: 50% of the tokens, {inside:.0%} of the gap" in text
    assert "(p ≤ 0.0001, Holm)" in text
    assert "p = <" not in text
    flat = make_pair([6 + noise, np.full(n, 5)], np.ones((2, n), bool), np.arange(n) // 10, types, ("desc",))
    assert "concentrated" not in paragraph(compared(flat))
    zero = np.where(types == 1, 1.0, -1.0) + noise
    level = make_pair([5 + zero, np.full(n, 5)], np.ones((2, n), bool), np.arange(n) // 10, types, ("desc",))
    result = compared(level)
    assert result.concentration["p_adjusted"].min() < 1e-4
    assert "concentrated" not in paragraph(result)  # there is no gap to speak of


def test_a_broken_certificate_is_not_called_right():
    pair = make_pair([[1, 2], [2, 1]], [[1, 0], [1, 1]], [0, 1])
    assert "Both metrics are computed right on both sides; of A: every check holds." in paragraph(
        compared(pair)
    )
    text = paragraph(compared(pair, holds=False))
    assert "A certificate is broken: A: " in text
    assert "computed right" not in text


def test_what_is_not_known_of_temperature_is_said():
    pair = make_pair([[1, 2], [2, 1]], [[1, 0], [1, 1]], [0, 1])
    result = compared(pair)
    assert "is a matter of temperature is not known: nothing was recorded." in paragraph(result)
    part = Difference(0.0, None, None, 1.0)
    fitted = SimpleNamespace(temperature=1.25)
    result.__dict__["temperature"] = Temperature(fitted, fitted, part, part)
    assert "No loss gap; the best temperatures are 1.25 and 1.25." in paragraph(result)
