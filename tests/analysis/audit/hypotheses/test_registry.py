"""The registry itself: ids, catalogue, names of what entries are made of."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from audit_conventions import AVERAGES, FINISHED
from audit_oracles import KEYS, bfloat16
from hypothesis import given
from hypothesis import strategies as st

from logitbox.analysis.audit.hypotheses.catalogue import CATALOGUE, OTHER_SOURCES, SECTIONS, UNSEEN
from logitbox.analysis.audit.hypotheses.entries import Hypothesis
from logitbox.analysis.audit.hypotheses.registry import HYPOTHESES, REDUCTIONS, TRANSFORMS
from logitbox.analysis.audit.hypotheses.transforms import to_bfloat16

IDS = {entry.id for entry in HYPOTHESES}


def test_every_id_of_the_catalogue_is_there_once() -> None:
    names = [name for section in SECTIONS.values() for name in section]
    assert len(names) == len(set(names)) == len(CATALOGUE) == 57
    assert set(UNSEEN) < set(names)


@pytest.mark.parametrize(("name", "shown"), CATALOGUE.items(), ids=str)
def test_an_id_has_hypotheses_or_a_reason(name: str, shown: tuple[str, ...] | str) -> None:
    assert shown, f"nothing shows {name}, and UNSEEN does not say why"
    assert isinstance(shown, str) == (name in UNSEEN)
    assert not any(name in entry.catalogue for entry in HYPOTHESES if name in UNSEEN)


def test_ids_are_unique() -> None:
    assert [name for name, count in Counter(entry.id for entry in HYPOTHESES).items() if count > 1] == []


def test_every_hypothesis_has_an_oracle_and_a_case() -> None:
    missing = {entry.id for entry in HYPOTHESES if entry.id not in {**AVERAGES, **FINISHED}}
    assert missing == set()
    assert {entry.id for entry in HYPOTHESES if entry.case not in KEYS} == set()


@pytest.mark.parametrize("entry", HYPOTHESES, ids=lambda entry: entry.id)
def test_an_entry_is_complete(entry: Hypothesis) -> None:
    assert entry.catalogue
    assert set(entry.catalogue) <= set(CATALOGUE) | set(OTHER_SOURCES)
    for text in (entry.about, entry.misleads, entry.fix):
        assert text
        assert text.strip() == text
        assert not text.endswith(".")
    assert "it is" not in entry.about  # the verdict says so itself, and goes on after a colon
    assert ":" not in entry.about
    assert all(text[0].islower() for text in (entry.misleads, entry.fix))
    assert entry.about[0].islower() or entry.about[0].isdigit()
    assert entry.evidence
    assert entry.reduction in {"", *REDUCTIONS}
    assert entry.transform in {"", *TRANSFORMS}
    assert set(entry.transforms) <= set(TRANSFORMS)
    parts = (entry.population, entry.value, entry.terms, entry.reduction, entry.transform, entry.parameter)
    assert any(parts), "it changes nothing of the definition"
    links = [link for link in entry.evidence if "github" in link]
    assert all(link.rsplit("/", 2)[1] == "issues" and link.rsplit("/", 1)[1].isdigit() for link in links)


def test_entries_that_differ_in_nothing_are_not_registered() -> None:
    parts = Counter(
        (e.values, e.population, e.value, e.terms, e.reduction, e.transform, e.parameter, e.transforms)
        for e in HYPOTHESES
    )
    assert max(parts.values()) == 1


@given(st.floats(-(2.0**90), 2.0**90, width=32).filter(lambda x: abs(x) > 2.0**-90))
def test_bfloat16_is_that_of_the_bits(value: float) -> None:
    assert to_bfloat16(np.array([value]))[0] == bfloat16(value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("exp", 1.5, math.exp(1.5)),
        ("exp_cap_20", 25.0, 485165195.4),
        ("exp_cap_20", 2.0, math.exp(2)),
        ("exp_cap_1e6", 14.0, 1e6),
        ("mean_exp_cap_1e6", 900.0, 1e6),
        ("bits", math.log(2), 1.0),
        ("power_2", 3.0, 8.0),
        ("exp_of_bits", math.log(2), math.e),
    ],
)
def test_transforms(name: str, value: float, expected: float) -> None:
    transform = TRANSFORMS[name]
    for side in (transform.low, transform.high):
        assert side(np.array([value]))[0] == pytest.approx(expected, rel=1e-9)
