"""Every rule of a shipped profile has a run that trips it and one that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doctor_runs import PROFILES, cases, finding, series

from logitbox.analysis.doctor.expressions import bound
from logitbox.analysis.doctor.profile import Band, Pattern, Range, Sustained, keys_of

ALL = [(name, case) for name in PROFILES for case in cases(name)]
IDS = [f"{case['rule']}-{i}" for i, (_, case) in enumerate(ALL)]


def untested(profile, told):
    """Rules without a case."""
    return {rule.name for rule in profile.rules} - {case["rule"] for case in told}


def idle(profile, told):
    """Rules that no case of theirs trips."""
    said = {}
    for case in told:
        status = finding(profile, case["rule"], series(case["trip"], case.get("start", 1))).status
        said.setdefault(case["rule"], []).append(status)
    return {rule for rule, found in said.items() if not {"warn", "fail"} & set(found)}


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_trips(name, case):
    found = finding(PROFILES[name], case["rule"], series(case["trip"], case.get("start", 1)))
    assert found.status == case.get("status", "warn"), found
    assert found.evidence
    assert found.sure == "no interval known"
    assert found.rule.why
    assert found.actions == found.rule.actions
    assert found.actions or found.rule.wanted


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_does_not_trip(name, case):
    found = finding(PROFILES[name], case["rule"], series(case["fine"], case.get("start", 1)))
    assert found.status == "pass", found
    assert found.actions == ()


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_narrow_intervals_make_it_sure_and_wide_ones_do_not(name, case):
    exact = {
        *("nonfinite", "nonfinite-grad", "nonfinite-tokens", "nonfinite-training-tokens"),
        *("loss-zero", "grad-zero"),
    }
    start = case.get("start", 1)
    if case["rule"] not in exact:
        found = finding(PROFILES[name], case["rule"], series(case["trip"], start, half=1e-9))
        assert (found.status, found.sure) == (case.get("status", "warn"), "sure"), found
    found = finding(PROFILES[name], case["rule"], series(case["trip"], start, half=100.0))
    assert (found.status, found.sure) == (case.get("status", "warn"), "likely"), found


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_says_what_is_missing(name, case):
    found = finding(PROFILES[name], case["rule"], series({}))
    assert found.status == "not enough data"
    assert found.told.count("no ") >= 1
    assert found.actions == ()


@pytest.mark.parametrize("name", PROFILES)
def test_every_rule_has_a_case(name):
    assert untested(PROFILES[name], cases(name)) == set()
    assert idle(PROFILES[name], cases(name)) == set()


@pytest.mark.parametrize("name", PROFILES)
def test_a_rule_that_cannot_fire_is_found(name):
    profile = PROFILES[name]
    for i, rule in enumerate(profile.rules):
        dead = {
            Range: lambda check: replace(check, better="higher", bands=(Band("anything", low=bound(-1e9)),)),
            Sustained: lambda check: replace(check, above=bound(1e9), below=None),
        }.get(type(rule.check))
        if dead is None or rule.name in {case["rule"] for case in cases(name)[:i]}:
            continue
        rules = (*profile.rules[:i], replace(rule, check=dead(rule.check)), *profile.rules[i + 1 :])
        assert idle(replace(profile, rules=rules), cases(name)) == {rule.name}
        return
    pytest.fail("no rule was put to sleep")


def test_a_rule_without_a_case_is_found():
    profile = PROFILES["classification"]
    assert untested(profile, [case for case in cases("classification") if case["rule"] != "loss-std"]) == {
        "loss-std"
    }


@pytest.mark.parametrize("name", PROFILES)
def test_aliases_lead_to_keys_that_rules_use(name):
    profile = PROFILES[name]
    used = {key for rule in profile.rules for key in keys_of(rule.check)} | {s.key for s in profile.dashboard}
    families = tuple(key.removesuffix("*") for key in used if key.endswith("*"))
    for alias, key in profile.aliases.items():
        assert key in used or key.startswith(families) or key.startswith("train/"), alias
    for key in profile.needs:
        assert key in used, key


def test_patterns_are_named_as_in_the_guide():
    titles = [rule.title for rule in PROFILES["classification"].rules if isinstance(rule.check, Pattern)]
    assert {"Mislabeled data", "Memorizing speakers", "Insufficient model capacity", "Healthy"} <= set(titles)
