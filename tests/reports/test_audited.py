"""An audit in figures and in reports."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.figure import Figure

import logitbox as lb
from logitbox.analysis.audit.audit import Audit
from logitbox.analysis.audit.result import KeyVerdict, Violation
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError
from logitbox.reports.audited import audit_plot, prepare_series
from logitbox.reports.curves import MAX_POINTS
from logitbox.reports.figures import draw
from logitbox.reports.sections import head, logged


def verdict_of(key="loss", verdict="bug", hypothesis="micro-mean", n=6, run=0, **columns) -> KeyVerdict:
    step = np.arange(1, n + 1) * 10
    logged = np.round(2.0 - step / 100, 2)
    frame = pl.DataFrame(
        {
            "step": step,
            "logged": logged,
            "precision": np.full(n, 0.005),
            "tolerance": np.full(n, 0.006),
            "reference": logged + np.where(step % 20 == 0, 0.05, 0.004),
            "explained": logged + 0.001,
        }
        | columns
    )
    return KeyVerdict(key, run, verdict, hypothesis, n_lines=n, lines=frame)


def audit_of(*verdicts: KeyVerdict) -> Audit:
    return Audit(frame=pl.DataFrame(), verdict="", keys=verdicts)


def test_arrays_and_which_lines_differ():
    data = prepare_series([verdict_of()])
    assert data.step.tolist() == [10, 20, 30, 40, 50, 60]
    assert data.differs.tolist() == [False, True, False, True, False, True]
    assert data.explained == pytest.approx(data.logged + 0.001)
    assert data.title == "loss: bug"


def test_the_worst_compared_key_is_shown_unless_one_is_named():
    agrees = verdict_of("acc", "agrees", "definition")
    nothing = KeyVerdict("entropy", 0, "impossible")
    second = verdict_of("loss", "unexplained", None, run=1)
    every = [agrees, nothing, second, verdict_of()]
    assert prepare_series(every).title == "loss: bug\n1 of 3 keys; plot(key=…) draws another"
    assert prepare_series(every, "loss (run 2)").title == "loss (run 2): unexplained"
    assert prepare_series(every, "acc").explained is None
    assert prepare_series(every, "loss (run 2)").explained is None
    with pytest.raises(InputError, match=r"'entropy' was not compared .* acc, loss \(run 2\), loss"):
        prepare_series(every, "entropy")
    with pytest.raises(InputError, match="there is nothing to draw without a dump"):
        audit_of(nothing).plot()


def test_long_logs_are_thinned_with_both_ends_and_lines_without_steps_are_numbered():
    data = prepare_series([verdict_of(n=5000)])
    assert len(data.step) == MAX_POINTS
    assert (data.step[0], data.step[-1]) == (10, 50_000)
    unnumbered = verdict_of(step=pl.Series([None] * 6, dtype=pl.Int64))
    assert prepare_series([unnumbered]).step.tolist() == [0, 1, 2, 3, 4, 5]
    assert audit_plot(audit_of(unnumbered)).get_xlabel() == "line of the log"


def test_lines_that_are_not_known_are_no_difference():
    data = prepare_series([verdict_of(reference=pl.Series([None] * 6, dtype=pl.Float64))])
    assert not data.differs.any()
    assert np.isnan(data.reference).all()


def test_what_is_drawn():
    before = dict(mpl.rcParams)
    ax = draw(audit_of(verdict_of()), key="loss")
    drawn = {line.get_label(): line for line in ax.get_lines()}
    assert list(drawn) == ["what its name promises", "micro-mean", "logged ± rounding", "differs (3 of 6)"]
    assert drawn["differs (3 of 6)"].get_xdata().tolist() == [20, 40, 60]
    logged = np.round(2.0 - np.arange(1, 7) / 10, 2)
    (band,) = ax.collections
    low, high = band.get_datalim(ax.transData).intervaly
    assert (low, high) == pytest.approx((logged.min() - 0.005, logged.max() + 0.005))
    assert ax.get_ylabel() == "loss"
    assert ax.get_legend().get_title().get_text() == "loss: bug"
    assert dict(mpl.rcParams) == before


def test_differences_are_to_the_definition():
    ax = draw(audit_of(verdict_of()), key="loss", difference=True)
    zero, explained, logged, differs = (np.asarray(line.get_ydata()) for line in ax.get_lines())
    off = np.array([0.004, 0.05] * 3)
    assert zero.tolist() == [0.0] * 6
    assert logged == pytest.approx(-off)
    assert explained == pytest.approx(0.001 - off)
    assert differs == pytest.approx([-0.05] * 3)
    assert ax.get_ylabel() == "difference in loss"


@pytest.mark.parametrize(
    ("off", "verdict", "is_drawn"),
    [(0.009, "bug", True), (0.011, "bug", False), (0.004, "agrees", False), (float("nan"), "bug", False)],
)
def test_a_difference_too_small_to_see_is_drawn_by_itself(off, verdict, is_drawn):
    """The series ranges over 0.5, so that 0.01 is 2 % of it; a difference within the tolerance is none."""
    logged = np.round(2.0 - np.arange(1, 7) / 10, 2)
    found = audit_of(verdict_of(verdict=verdict, reference=logged + off))
    assert (draw(found).get_ylabel() == "difference in loss") == is_drawn
    assert draw(found, difference=not is_drawn).get_ylabel() == ("loss" if is_drawn else "difference in loss")


def test_labels_fit_the_figure():
    ax = draw(audit_of(verdict_of("a/very/long/name/of/a/key/that/goes/on"), verdict_of()), difference=True)
    ax.figure.canvas.draw()
    page = ax.figure.bbox
    for box in (ax.yaxis.label.get_window_extent(), ax.get_legend().get_window_extent()):
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1


def test_on_the_users_axes_a_key_with_odd_characters():
    ax = Figure().subplots()
    assert audit_plot(audit_of(verdict_of("a$b$\u202e", "agrees", "definition")), ax=ax) is ax
    assert "\u202e" not in ax.get_ylabel() + ax.get_title()
    assert ax.get_title().endswith(": agrees")
    ax.figure.canvas.draw()
    assert [line.get_label() for line in ax.get_lines()][:2] == [
        "what its name promises",
        "logged ± rounding",
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A dump whose trainer logged three keys."""
    path = tmp_path_factory.mktemp("audited") / "dump"
    torch.manual_seed(0)
    with Recorder(path, 8) as rec:
        for step in (1, 2):
            rec.record(torch.randn(2, 6, 8), torch.randint(0, 8, (2, 6)), step=step)
            rec.scalars(step, {"loss": 2.0, "mine": 1.0, "lr": 0.1})
    return lb.open(path)


def section_of(dump, audited):
    return logged.build(SimpleNamespace(dump=dump), (), audited)


def test_the_report_has_a_verdict_per_key_at_its_furthest_line(small):
    verdict = replace(
        verdict_of(), about="it is off. each counts the same", fix="count tokens", ties_with=("pad-weight",)
    )
    agrees = verdict_of("mine", "agrees", "definition", reference=pl.Series([1.0] * 6), logged=[1.0] * 6)
    found = section_of(small, audit_of(verdict, agrees))
    assert [(row.logged, row.step, row.difference, row.verdict) for row in found.rows] == [
        ("loss", "60", "−0.05", "bug: micro-mean"),
        ("mine", "60", "0", "agrees"),
    ]
    assert [(told.keys, told.verdict) for told in found.told] == [("loss", "bug: micro-mean")]
    assert found.told[0].about == (
        "It is off. each counts the same. Fits as well: pad-weight (a bug; the same where padded sizes are equal)."
    )
    assert found.told[0].fix == "Count tokens."
    assert found.unmatched == ("lr",)


@pytest.mark.parametrize(
    ("off", "tolerance", "told"),
    [
        (4.36e-05, 1e-6, "+4.4e-05"),
        (-0.000262, 1e-6, "−0.00026"),
        (-1234.5, 1.0, "−1,234"),
        (5.6e-08, 1e-6, "0"),
    ],
)
def test_differences_keep_two_digits_and_rounding_is_none(small, off, tolerance, told):
    key = verdict_of(
        reference=pl.Series([1.0] * 6),
        logged=pl.Series([1.0 + off] * 6),
        tolerance=pl.Series([tolerance] * 6),
    )
    assert [row.difference for row in section_of(small, audit_of(key)).rows] == [told]


def test_keys_of_which_the_same_is_said_stand_together_after_what_is_impossible(small):
    same = [KeyVerdict(name, 0, "cannot tell", about="no dump.") for name in ("loss", "mine")]
    broken = Violation("x", 0, 7, ("loss", "mine"), 0.25, 0.5, "a ≥ b", "as a holds b", "look there")
    found = section_of(small, replace(audit_of(*same), violations=(broken,)))
    assert [(told.keys, told.verdict) for told in found.told] == [
        ("loss, mine", "impossible: a ≥ b"),
        ("loss, mine", "cannot tell"),
    ]
    assert found.told[0].about == "As a holds b; at step 7: 0.2500 against 0.5000."
    assert found.rows == ()


@pytest.mark.parametrize(
    ("keys", "broken", "told"),
    [
        ([], False, None),
        ([("loss", "agrees")], False, None),
        ([("loss", "bug"), ("acc", "impossible"), ("mine", "bug")], True, "bug: loss, mine; impossible: acc"),
        ([("loss", "cannot tell")], True, "keys that cannot all be true"),
        (
            [("loss", "other convention"), ("acc", "impossible")],
            True,
            "impossible: acc; 1 key by another convention than the name's",
        ),
    ],
)
def test_at_a_glance_tells_what_is_wrong(keys, broken, told):
    found = audit_of(*(KeyVerdict(name, 0, verdict) for name, verdict in keys))
    violation = Violation("x", 0, 7, ("loss",), 0.25, 0.5, "a ≥ b", "as a holds b", "look there")
    found = replace(found, violations=(violation,) * broken)
    assert head._audited(found) == ([] if told is None else [("Logged values", told)])
    assert head._audited("why not") == head._audited(None) == []


def test_a_report_never_fails_for_its_log(small, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise InputError("these scalars are no log <b>; give others")

    monkeypatch.setattr("logitbox.reports.report.audit", fail)
    told = []
    page = lb.report(small, tmp_path / "r.html", progress=lambda *at: told.append(at)).read_text("utf-8")
    assert "could not be audited: these scalars are no log &lt;b&gt;; give others" in page
    assert {total for _, total in told} == {3 * len(small.shards("tokens"))}


def test_the_report_of_the_demo_says_that_its_accuracy_is_a_mean_of_means(tmp_path):
    page = lb.report(lb.load_example("digits"), tmp_path / "r.html").read_text("utf-8")
    glance = page.partition('id="glance"')[2].partition("</section>")[0]
    assert re.search(r"<dt>Logged values</dt><dd>\d keys by another convention", unescape(glance))
    section = " ".join(page.partition('id="logged"')[2].partition("</section>")[0].split())
    row = section.partition("<code>token_acc</code>")[2].partition("</tr>")[0]
    assert "other convention: micro-mean" in row
    assert "mean of the micro-batches" in section
