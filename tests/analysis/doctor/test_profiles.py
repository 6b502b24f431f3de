"""A user's own profile: what it may hold, and what is told where it is wrong."""

from __future__ import annotations

import re

import pytest
from doctor_runs import PROFILES, finding, series

from logitbox.analysis.doctor.loading import SHIPPED, load_profile, profile_of
from logitbox.analysis.doctor.locating import Source
from logitbox.errors import InputError

GOOD = """name = "mine"

[constants]
most = 2.0

[stages]
early = [1, 5]

[actions]
look = ["look at it"]

[[rule]]
name = "a"
title = "first"
kind = "range"
value = "x"
high = "most"
actions = "look"

[[rule]]
name = "b"
title = "second"
kind = "pattern"
least = 1
[[rule.condition]]
value = "x"
low = 1
[[rule.condition]]
kind = "sustained"
value = "y"
above = 3

[[rule]]
name = "c"
title = "third"
kind = "range"
value = "x"
bands = [
  { name = "good", low = 1 },
  { name = "bad", status = "warn" },
]
"""


def test_good():
    profile = profile_of(Source("mine.toml", GOOD))
    assert [rule.name for rule in profile.rules] == ["a", "b", "c"]
    assert finding(profile, "a", series({"x": [3]})).actions == ("look at it",)
    assert finding(profile, "a", series({"x": [3]}), most=4.0).status == "pass"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('name = "mine"', 'name = "mine"\nrools = 1', 2, "rools is unknown; allowed are name, about"),
        ("most = 2.0", 'most = "two"', 4, "constants.most is 'two'; give a number"),
        ("most = 2.0", "C = 2.0", 4, "constants.C is no name for a constant"),
        ("most = 2.0", "max = 2.0", 4, "constants.max is no name for a constant"),
        ("early = [1, 5]", "early = [5, 1]", 7, "stages.early is"),
        ('look = ["look at it"]', "look = 3", 10, "actions.look is 3; give a list of texts"),
        ('title = "first"\n', "", 12, "has no 'title'"),
        ('title = "first"', "title = 3", 14, "rule[1].title is 3; give a text"),
        (
            'title = "first"\nkind = "range"',
            'title = "first"\nkind = "rang"',
            15,
            "kind is 'rang'; allowed are range",
        ),
        ('kind = "range"\nvalue = "x"\nhigh', 'value = "x"\nhigh', 12, "has no 'kind'"),
        ('high = "most"', 'high = "moist"', 17, "rule[1].high is 'moist', and moist is unknown"),
        ('high = "most"', 'high = "most ** 2"', 17, "holds 'most ** 2'"),
        ('high = "most"', 'high = "1/0"', 17, "rule[1].high is '1/0', which comes to no number"),
        ('high = "most"', 'high = "ln(0 - C)"', 17, "which comes to no number"),
        ('high = "most"', 'hihg = "most"', 17, "rule[1].hihg is unknown; allowed are name, title"),
        ('actions = "look"', 'actions = "lok"', 18, "is 'lok'; lists under [actions] are look"),
        ('name = "b"', 'name = "a"', 21, "rule[2].name is 'a', as is rule 1's"),
        ("least = 1", "least = 3", 24, "least is 3, but there are 2 conditions"),
        ("least = 1", 'value = "x"', 24, "rule[2].value is unknown"),
        ("low = 1\n[[", "lo = 1\n[[", 27, "rule[2].condition[1].lo is unknown"),
        (
            "low = 1\n[[rule.condition]]\n",
            'low = 1\n[[rule.need]]\ntold = "t"\n',
            20,
            "fewer than two tables",
        ),
        ("above = 3", "", 28, "needs 'above' or 'below'"),
        ("above = 3", "above = 3\nbelow = 1", 28, "and not both"),
        ('kind = "sustained"', 'kind = "pattern"', 29, "is 'pattern'; allowed are range, sustained"),
        ('value = "y"', 'value = "y*z("', 30, "is no key"),
        ('{ name = "good", low = 1 }', '{ name = "good", lwo = 1 }', 39, "rule[3].bands[1].lwo is unknown"),
        (
            'status = "warn"',
            'status = "wrn"',
            40,
            "bands[2].status is 'wrn'; allowed are 'pass', 'warn', 'fail'",
        ),
        ('"good", low = 1', '"good", stage = "mid"', 39, "is 'mid'; stages are early"),
        ('"good", low = 1', '"good", status = "fail"', 38, "hold no band to pass in"),
        ("bands = [", "low = 1\nbands = [", 33, "needs 'bands', or 'low' and 'high'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(old, new, line, said):
    assert GOOD.count(old) >= 1
    text = GOOD.replace(old, new, 1)
    with pytest.raises(InputError, match=re.escape(said)) as error:
        profile_of(Source("mine.toml", text))
    assert str(error.value).startswith(f"mine.toml, line {line}: "), error.value


def test_syntax_errors_have_a_line_too():
    with pytest.raises(InputError, match=r"mine.toml is no TOML: .*line 3"):
        profile_of(Source("mine.toml", 'name = "a"\n\n[[rule]\n'))


def test_no_rules():
    with pytest.raises(InputError, match=r"has no \[\[rule\]\]"):
        profile_of(Source("mine.toml", 'name = "a"\n'))


def test_extends_replaces_drops_and_adds():
    text = """extends = "classification"
drop = ["dataset-timit"]
[constants]
clip = 1.0
[[rule]]
name = "loss-std-severe"
title = "mine"
kind = "sustained"
value = "train/loss_std"
above = 5.0
[[rule]]
name = "own"
title = "own"
kind = "range"
value = "my/key"
low = "1/C"
"""
    profile, base = profile_of(Source("mine.toml", text)), PROFILES["classification"]
    names = [rule.name for rule in profile.rules]
    assert names == [*(rule.name for rule in base.rules if rule.name != "dataset-timit"), "own"]
    assert finding(profile, "loss-std-severe", series({"train/loss_std": [2, 2, 2]})).status == "pass"
    assert finding(profile, "own", series({"my/key": [0.1]})).status == "warn"
    assert profile.constants == {"clip": 1.0}
    assert profile.aliases == base.aliases
    assert profile.dashboard == base.dashboard
    with pytest.raises(InputError, match="line 2: drop names 'x'"):
        profile_of(Source("mine.toml", 'extends = "classification"\ndrop = ["x"]'))
    with pytest.raises(InputError, match="line 1: extends is 'x'; shipped profiles are classification"):
        profile_of(Source("mine.toml", 'extends = "x"'))


def test_load(tmp_path):
    for name in SHIPPED:
        assert load_profile(name).name == name
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_profile(path).name == load_profile(str(path)).name == "mine"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as text"):
        load_profile(path)
    with pytest.raises(InputError, match="no profile 'clasification'; give classification, language-model"):
        load_profile("clasification")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_ones_are_tidy(name):
    profile = PROFILES[name]
    assert profile.about.endswith(".")
    for rule in profile.rules:
        assert rule.why.endswith((".", ".)")), rule.name
        assert re.fullmatch(r"[a-z0-9-]+", rule.name)
        assert all(action and not action.endswith(".") for action in rule.actions)
