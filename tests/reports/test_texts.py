"""Numbers and token text as shown."""

from __future__ import annotations

import pytest

from logitbox.reports import texts
from logitbox.reports.sections.tokens import choices


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (texts.share, 0.97314, "0.9731"),
        (texts.share, 0.00003, "3.0e-05"),
        (texts.share, 1e-19, "0.0000"),
        (texts.share, 0.0, "0.0000"),
        (texts.share, None, "–"),
        (texts.count, 1234567.0, "1,234,567"),
        (texts.number, 1.31009, "1.3101"),
        (texts.number, 123456.78, "123,456.8"),
        (texts.number, float("inf"), "∞"),
        (texts.number, float("-inf"), "−∞"),
        (texts.number, float("nan"), "NaN"),
        (texts.signed, 0.5, "+0.5000"),
        (texts.signed, -0.5, "−0.5000"),
        (texts.signed, -4e-9, "0.0000"),
        (texts.signed, float("nan"), "NaN"),
        (texts.percent, 0.994, "99.4 %"),
    ],
)
def test_numbers(form, value, text):
    assert form(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a␣b"),
        ("\n\t\r", "↵⇥␍"),
        ("\u202eabc", "\\u202eabc"),
        ("\x00\x1b", "\\u0000\\u001b"),
        ("\u00a0", "\\u00a0"),
        ("中", "中"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_is_invisible(text, shown):
    assert texts.visible(text, spaces=True) == shown


def test_shorten_and_plural():
    assert texts.shorten("abcdef", 4) == "abc…"
    assert texts.shorten("abcd", 4) == "abcd"
    assert (texts.plural(1, "row"), texts.plural(2000, "row")) == ("1 row", "2,000 rows")


def test_choices_with_hostile_tokens():
    told = [(7, "", 0.5), (3, "·", 0.3), (9, "a · b", 0.1), (4, "0.5", 0.05)]
    best = [{"id": i, "text": text, "p": p} for i, text, p in told]
    found = [(choice.text, choice.probability, choice.is_gold) for choice in choices(best, 9)]
    assert found == [
        ("(empty)", "0.500", False),
        ("·", "0.300", False),
        ("a␣·␣b", "0.100", True),
        ("0.5", "0.050", False),
    ]
