"""Keys, differences, ratios and families."""

from __future__ import annotations

from math import hypot

import pytest
from doctor_runs import judged, series

from logitbox.analysis.doctor.quantities import quantity, values_of
from logitbox.errors import InputError

FAMILY = {"d/0-5s": [0.3], "d/5-10s": [0.5], "d/10-15s": [0.9], "d/15+s": [0.8]}


def last(text, values, half=None, only=(), leave_out=()):
    points, why = values_of(quantity(text), series(values, half=half), only, leave_out)
    assert not why, why
    return points[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("highest(d/*)", 0.9),
        ("lowest(d/*)", 0.3),
        ("spread(d/*)", 0.6),
        ("lowest_gap(d/*)", (0.5 + 0.9 + 0.8) / 3 - 0.3),
        ("first(d/*)", 0.3),
        ("last(d/*)", 0.8),
        ("before_last(d/*)", 0.9),
        ("last_minus_first(d/*)", 0.5),
        ("largest_step(d/*)", 0.4),
        ("d/15+s - d/10-15s", -0.1),
        ("|d/15+s - d/10-15s|", 0.1),
        ("d/0-5s / d/5-10s", 0.6),
        ("highest(d/*) - d/15+s", 0.1),
    ],
)
def test_value(text, expected):
    assert last(text, FAMILY).value == pytest.approx(expected, abs=1e-12)


def test_families_are_in_the_order_of_their_numbers():
    point = last("largest_step(d/*)", FAMILY)
    assert point.key == "|d/10-15s − 5-10s|"


def test_intervals_add_as_if_independent():
    point = last("a - b", {"a": [0.7], "b": [0.4]}, half=0.1)
    assert (point.low, point.high) == pytest.approx((0.3 - hypot(0.1, 0.1), 0.3 + hypot(0.1, 0.1)))
    point = last("lowest_gap(d/*)", FAMILY, half=0.1)
    assert point.high - point.value == pytest.approx(hypot(0.1, 0.1 / 3, 0.1 / 3, 0.1 / 3))
    point = last("|a - b|", {"a": [0.4], "b": [0.45]}, half=0.1)
    assert (point.value, point.low) == (pytest.approx(0.05), 0.0)
    assert point.high == pytest.approx(0.05 + hypot(0.1, 0.1))
    point = last("a / b", {"a": [0.6], "b": [0.3]}, half=0.01)
    assert point.high - point.value == pytest.approx(hypot(0.01 / 0.3, 2 * 0.01 / 0.3))


def test_points_are_paired_with_the_latest_before():
    run = series({"a": [1, 2, 3]})
    later = series({"b": [10, 20]}, start=1.5)  # steps 150 and 250
    both = type(run)(run.frame.vstack(later.frame), run.facts)
    points, _ = values_of(quantity("a - b"), both)
    assert [point.value for point in points] == [2 - 10, 3 - 20]


def test_only_and_leave_out_name_pairs_both_ways():
    values = {"c/a → b": [0.5], "c/b → a": [0.4], "c/a → c": [0.3]}
    assert last("highest(c/*)", values, leave_out=["A ↔ B"]).value == 0.3
    assert last("lowest(c/*)", values, only=["b ↔ a"]).value == 0.4
    points, why = values_of(quantity("highest(c/*)"), series(values), only=["x ↔ y"])
    assert (points, why) == ([], "c/* has none of x ↔ y")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give a key"),
        (3, "give a key"),
        ("a - b - c", "at most two"),
        ("d/*", "needs a function"),
        ("mean(d/*)", "no function 'mean'"),
        ("lowest(d)", "is of a family"),
        ("lowest(a", "no key"),
        ("|a", "no key"),
    ],
)
def test_what_cannot_be_read(text, said):
    with pytest.raises(InputError, match=said):
        quantity(text)


def test_what_is_missing_is_named():
    def told(value):
        return judged(f'kind = "range"\nvalue = "{value}"\nlow = 0', series(FAMILY)).told

    assert told("other") == "no other"
    assert told("lowest(e/*)") == "no e/*"
    assert told("d/0-5s - other") == "no other"
    assert (
        judged('kind = "range"\nvalue = "spread(d/*)"\nlow = 0', series({"d/a": [1]})).told
        == "1 in d/*; at least 2 needed"
    )
