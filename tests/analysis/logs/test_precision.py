"""How exactly a printed number tells the one before printing."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.logs.precision import precisions, printed

FINITE = st.floats(min_value=-1e6, max_value=1e6, allow_subnormal=False)


@pytest.mark.parametrize(
    ("given_", "value", "decimals", "digits"),
    [
        ("1.4224", 1.4224, 4, 5),
        ("0.7027", 0.7027, 4, 4),
        ("9.987e-05", 9.987e-05, 8, 4),
        ("1e+05", 1e5, -5, 1),
        ("0.0", 0.0, 1, 0),
        ("-12", -12.0, 0, 2),
        (".5", 0.5, 1, 1),
        ("5.", 5.0, 0, 1),
        (" 12.5% ", 0.125, 3, 3),
        ("5E3", 5000.0, -3, 1),
        (0.1 + 0.2, 0.1 + 0.2, 17, 17),
        (7, 7.0, 0, 1),
        (np.float32(0.7), 0.7, 1, 1),
        (np.int64(7), 7.0, 0, 1),
        (Decimal("1.50"), 1.5, 2, 3),
        (np.float64(0.5), 0.5, 1, 1),
    ],
)
def test_digits(given_, value, decimals, digits):
    found = printed(given_)
    assert (found.value, found.decimals, found.digits) == (value, decimals, digits)


@pytest.mark.parametrize(
    "other",
    [
        "",
        " ",
        ".",
        "-",
        "e5",
        "1_000",
        "0x10",
        "1,5",
        "1/2",
        "one",
        "1 2",
        "٣",
        True,
        None,
        [],
        {},
        1j,
        b"1",
        pytest.param(10**5000, id="huge"),
        "1" * 500,
    ],
)
def test_what_is_no_number(other):
    assert printed(other) is None


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-Infinity", "Infinity"])
def test_not_finite(text):
    assert repr(printed(text).value) == repr(float(text))
    assert precisions([printed(text), printed("0.25")]) == [0.0, 0.005]


def room(texts):
    return precisions([printed(text) for text in texts])


def test_the_rule():
    assert room(["1.5", "0.7027", "12.34"]) == [5e-4, 5e-5, 5e-3]  # four significant digits
    assert room(["1.5", "0.7027", "12.3456"]) == [5e-5] * 3  # four decimals
    assert room(["0", "0.0"]) == [0.05, 0.05]
    assert room([]) == []
    assert max(room(["0.7337145492434501", "0.5"])) < 1e-15


@given(st.lists(FINITE, min_size=1, max_size=30), st.integers(0, 8), st.booleans())
@settings(max_examples=80, deadline=None)
def test_decimals_bound(values, n, drops_zeros):
    # Python prints a float rounded to whole numbers with a decimal that was not rounded to: 2.0.
    texts = [repr(round(value, n or 1)) if drops_zeros else f"{value:.{n}f}" for value in values]
    for value, text, half in zip(values, texts, room(texts), strict=True):
        assert abs(value - float(text)) <= half * (1 + 1e-9) + 1e-15 * abs(value)


@given(st.lists(FINITE, min_size=1, max_size=30), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_significant_digits_bound(values, n):
    texts = [f"{value:.{n}g}" for value in values]
    for value, text, half in zip(values, texts, room(texts), strict=True):
        assert abs(value - float(text)) <= half * (1 + 1e-9) + 1e-15 * abs(value)


def test_it_is_no_wider_than_need_be():
    """Where the largest number of digits shows, the half-width is that of the printer."""
    values = np.random.default_rng(3).uniform(0.1, 20.0, 400)
    four = room([f"{value:.4g}" for value in values])
    assert four == pytest.approx(0.5 * 10.0 ** (np.floor(np.log10(values)) - 3), rel=1e-9)
    assert room([repr(round(value, 4)) for value in values.tolist()]) == pytest.approx(np.full(400, 5e-5))


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_float32(values):
    """Whatever float64 was stored as this float32 is within."""
    narrow = np.float32(values)
    for number, half in zip(narrow, precisions([printed(one) for one in narrow]), strict=True):
        edge = float(number) + 0.499 * float(np.spacing(number))
        assert abs(edge - printed(number).value) <= half * (1 + 1e-6) + 1e-45


PRINTERS = {
    "%.4f": lambda x: f"{x:.4f}",
    "%.4g": lambda x: f"{x:.4g}",
    "transformers": lambda x: repr(round(x, 4)),
    "ms-swift": lambda x: repr(round(x, 8)),
    "float32": lambda x: repr(float(np.float32(x))),
    "float64": repr,
    "%.2e": lambda x: f"{x:.2e}",
}
AT_MOST = {"%.4f": 5.1e-5, "transformers": 5.1e-5, "ms-swift": 6e-6, "float32": 1e-10, "float64": 1e-10}
"""Of a key whose values reach 1e5: never absurdly wide."""


@pytest.mark.parametrize("printer", PRINTERS)
def test_printers_of_trainers(printer):
    """Losses, accuracies that are fractions of small numbers, learning rates and norms, a few at a time."""
    rng = np.random.default_rng(0)
    for kind in (
        lambda n: rng.uniform(0.0, 5.0, n),
        lambda n: rng.integers(0, 9, n) / 8,
        lambda n: 10.0 ** rng.uniform(-7, -3, n),
        lambda n: 10.0 ** rng.uniform(-4, 5, n),
    ):
        for n in (1, 2, 3, 10, 30):
            values = kind(n).tolist()
            texts = [PRINTERS[printer](value) for value in values]
            stored = np.float64(np.float32(values)) if printer == "float32" else values
            halves = room(texts)
            for value, text, half in zip(stored, texts, halves, strict=True):
                assert abs(value - float(text)) <= half * (1 + 1e-9) + 1e-15 * abs(value)
            if n == 30 and printer in AT_MOST and len(set(texts)) > 9:
                assert max(halves) <= AT_MOST[printer]


@pytest.mark.parametrize(
    ("texts", "halves"),
    [
        (["0.5", "0.8981481481481481"], [5e-17, 5e-17]),
        (["1.0", "0.7337145492434501", "0.0"], [5e-16, 5e-17, 5e-17]),
        (["1e-05", "0.0001", "9.5e-06"], [5e-7, 5e-6, 5e-8]),
        (["1e-05"], [5e-6]),
        (["128", "1024", "7"], [0.5, 0.5, 0.5]),
        (["0.7027", "0.7", "1e-04"], [5e-5, 5e-5, 5e-5]),
    ],
)
def test_mixed_values_of_one_key(texts, halves):
    assert room(texts) == pytest.approx(halves, rel=1e-9)
