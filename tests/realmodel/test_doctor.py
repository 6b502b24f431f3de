"""The doctor on real classifiers: four runs on handwritten digits, one healthy, three in trouble.

And what a person would agree with: which pattern is named, which is not, and when it is first seen.
"""

from __future__ import annotations

import polars as pl
import pytest

import logitbox as lb
from logitbox.analysis.classification import classification
from logitbox.analysis.doctor import doctor
from logitbox.analysis.doctor.diagnosis import diagnose
from logitbox.analysis.doctor.loading import shipped
from logitbox.analysis.doctor.series import Series

pytestmark = pytest.mark.realmodel

PATTERNS = {
    "healthy": None,
    "flipped": "mislabeled-data",
    "tiny": "insufficient-capacity",
    "memorised": "memorizing-speakers",
}
FIRST = 10
"""Epoch from which on a pattern must be named."""


@pytest.fixture(scope="module", params=PATTERNS)
def run(request, classifiers):
    return request.param, lb.open(classifiers[request.param])


def told_at(dump, epoch):
    """The diagnosis of the run as it stood after an epoch."""
    found = doctor(dump)
    known = pl.col("epoch").is_null() | (pl.col("epoch") <= epoch)
    return diagnose(Series(found.series.filter(known), found.facts), shipped("classification"), {})


def test_names_the_pattern_and_no_other(run):
    kind, dump = run
    found = doctor(dump)
    named = {rule for rule in PATTERNS.values() if rule and found.finding(rule).status == "fail"}
    assert named == {PATTERNS[kind]} - {None}, str(found)
    assert found.ok == (kind == "healthy"), str(found)
    if kind == "healthy":
        assert found.finding("healthy").status == "pass"
    else:
        assert found.finding(PATTERNS[kind]).rule.title in str(found)
        assert found.finding(PATTERNS[kind]).actions
        assert found.finding("healthy").status == "warn"


def test_names_it_in_the_middle_of_the_run_and_nothing_before_it(run):
    kind, dump = run
    for epoch in (2, 4, FIRST, 15):
        found = told_at(dump, epoch)
        named = {rule for rule in PATTERNS.values() if rule and found.finding(rule).status == "fail"}
        assert named <= {PATTERNS[kind]}, (epoch, str(found))
        if kind == "healthy":
            assert found.ok, (epoch, str(found))
        if epoch >= FIRST and kind != "healthy":
            assert named == {PATTERNS[kind]}, (epoch, str(found))


def test_agrees_with_the_rule_for_stopping(run):
    _, dump = run
    rule = classification(dump).stopping.filter(condition="all of them")["holds"].item()
    assert (doctor(dump).finding("early-stopping").status == "warn") == bool(rule)


def test_what_a_person_would_agree_with(run):
    kind, dump = run
    found = doctor(dump)
    status = {finding.rule.name: finding.status for finding in found.findings}
    assert status["nonfinite-grad"] == "pass"
    assert status["loss-zero"] == "pass"
    assert status["duration-same"] == "pass"  # short samples were made harder
    assert status["dataset-behind"] == "pass"  # both halves are alike
    assert status["dataset-timit"] == "not enough data"
    if kind == "healthy":
        assert status["val-accuracy"] == status["macro-f1-gap"] == status["speaker-consistency"] == "pass"
        assert status["early-stopping"] == status["val-loss-rising"] == "pass"
    if kind == "flipped":
        assert status["loss-std-high"] == "fail"
    if kind == "tiny":
        assert status["val-accuracy"] == "warn"
        assert status["overconfident"] == "pass"
    if kind == "memorised":
        assert status["loss-std-severe"] == status["loss-std"] == "pass"
        assert status["dataset-overfit"] == "warn"
        assert status["plateaus-early"] == "warn"
