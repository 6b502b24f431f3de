"""Bounds: arithmetic in C and constants, and nothing else."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitbox.analysis.doctor.expressions import UnknownName, bound
from logitbox.errors import InputError

LEAVES = st.one_of(st.integers(1, 99).map(str), st.floats(0.01, 99).map(repr), st.just("C"), st.just("clip"))


def grown(inner):
    pairs = st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    return st.one_of(pairs, inner.map(lambda x: f"-{x}"), inner.map(lambda x: f"ln({x})"))


@given(st.recursive(LEAVES, grown, max_leaves=6))
def test_as_python_computes_it(text):
    known = {"C": 10.0, "clip": 0.5}
    try:
        expected = eval(text, {"__builtins__": {}, "ln": math.log}, known)
    except (ZeroDivisionError, ValueError):
        expected = None
    found = bound(text, frozenset(["clip"]))
    if expected is None or not math.isfinite(expected):
        with pytest.raises(InputError):
            found.value(known)
    else:
        assert found.value(known) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "C.real",
        "C[0]",
        "C ** 2",
        "C // 2",
        "C % 2",
        "exp(C)",
        "ln(C, 2)",
        "ln(x=C)",
        "lambda: 1",
        "[1]",
        "1 if C else 2",
        "C and 1",
        "C < 2",
        "True",
        "'a'",
        "1j",
        "x := 1",
        "",
        "1 +",
        "C; C",
        "1" * 300,
        "(" * 150 + "1" + ")" * 150,
        "other",
        "\x00",
    ],
)
def test_nothing_else(text):
    if text.startswith("(("):
        text = text[:99]
    with pytest.raises(InputError):
        bound(text)


@pytest.mark.parametrize("value", [True, None, [], {}, math.nan, math.inf])
def test_no_number(value):
    with pytest.raises(InputError, match="give a"):
        bound(value)


def test_what_is_not_known_is_told():
    with pytest.raises(UnknownName, match="C"):
        bound("1/C").value({"C": None})
    with pytest.raises(InputError, match="no value"):
        bound("1/(C-8)").value({"C": 8.0})
    with pytest.raises(InputError, match="no value"):
        bound("ln(C-8)").value({"C": 8.0})


def test_numbers_stay_as_they_are():
    assert bound(0.1).value({}) == 0.1
    assert bound(3).value({}) == 3.0
    assert bound("C").names == {"C"}
