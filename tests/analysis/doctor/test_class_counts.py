"""Other numbers of classes than the guide's 8, and models that are better than its examples."""

from __future__ import annotations

import re

import pytest
from doctor_runs import PROFILES, finding, series

from logitbox.analysis.doctor.profile import Pattern

PROFILE = PROFILES["classification"]
RULES = {rule.name: rule for rule in PROFILE.rules}
KNOWN = {"C": 8.0, **PROFILE.constants}


@pytest.mark.parametrize("classes", [2, 4, 8, 10, 100, 1000])
def test_ranges_stay_in_order_for_other_numbers_of_classes(classes):
    known = KNOWN | {"C": float(classes)}
    lows = {band.name: band.low.value(known) for band in RULES["val-accuracy"].check.bands if band.low}
    names = ["early training", "mid training", "good model", "excellent"]
    assert [lows[name] for name in names] == sorted(lows[name] for name in names)
    assert lows["early training"] == pytest.approx(1 / classes)
    assert all(low < 1 for low in lows.values())


def test_expressions_are_exact_fractions():
    texts = [
        end.text for rule in PROFILE.rules for end in bounds(rule) if "1 -" in end.text or "/C)" in end.text
    ]
    assert len(texts) >= 10
    corrected = r"(\d)/C( \+ \d+/\d+\*\(1 - \1/C\))?"
    bare = [re.sub(r"^max\(0\.\d+, (.*)\)$", r"\1", text) for text in texts]
    assert all(re.fullmatch(corrected, text) for text in bare), texts


@pytest.mark.parametrize("classes", [3, 4, 5, 6, 7, 8, 9, 100])
def test_top_k_by_chance_is_no_sign_of_confusion(classes):
    """An untrained model has 1/C, 2/C and 3/C, whatever C is."""
    values = {"val/accuracy": 1, "val/top2_accuracy": 2, "val/top3_accuracy": 3}
    run = series({key: [k / classes] for key, k in values.items()}, classes=classes)
    assert finding(PROFILE, "top2-confused", run).status == "pass"
    assert finding(PROFILE, "top3-gap", run).status == ("pass" if classes > 3 else "not enough data")


def test_a_model_that_is_excellent_is_not_told_it_is_ill():
    excellent = {
        "train/loss_std": [0.02],
        "train/grad_norm": [0.005],
        "train/grad_norm_std": [0.01],
        "val/speaker_consistency": [0.95],
        "val/accuracy": [0.97],
        "val/avg_entropy": [0.05],
    }
    run = series(excellent, start=10)
    healthy = finding(PROFILE, "healthy", run)
    assert healthy.status == "pass"
    assert "better than that" in healthy.told
    assert finding(PROFILE, "speaker-consistency", run).status == "pass"
    poor = series(excellent | {"val/accuracy": [0.5]}, start=10)
    assert finding(PROFILE, "healthy", poor).status == "warn"
    assert finding(PROFILE, "speaker-consistency", poor).status == "warn"


def bounds(rule):
    """All bounds of a rule's bands."""
    bands = getattr(rule.check, "bands", ())
    return [end for band in bands for end in (band.low, band.high) if end is not None]


def leaves(rule):
    """All checks of a rule: its own or its conditions', its needs and its excuses."""
    own = [c.check for c in rule.check.conditions] if isinstance(rule.check, Pattern) else [rule.check]
    return [*own, *(need.check for need in (*rule.needs, *rule.excuses))]


def test_what_depends_on_the_classes_is_a_number_of_the_guide_for_8():
    """Also in conditions whose bounds are not the guide's for that sign."""
    of_guide = [
        *(0.125, 0.25, 0.35, 0.55, 0.60, 0.75, 0.15, 0.30, 0.70, 0.80, 0.90, 0.95),  # accuracies
        *(0.2, 0.3, 0.8, 1.0, 1.5, 1.8, 2.0, 0.38, 0.45),  # entropies and examples
    ]
    ends = [
        (rule.name, end)
        for rule in PROFILE.rules
        for leaf in leaves(rule)
        for band in getattr(leaf, "bands", ())
        for end in (band.low, band.high)
        if end is not None and "C" in end.names
    ]
    assert len(ends) > 30
    for rule, end in ends:
        assert any(abs(end.value(KNOWN) - number) < 1e-12 for number in of_guide), (rule, end.text)
