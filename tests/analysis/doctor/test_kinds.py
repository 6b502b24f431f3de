"""Each kind of check against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from doctor_runs import PROFILES, finding, judged, series
from hypothesis import given
from hypothesis import strategies as st

RANGE = 'kind = "range"\nvalue = "x"\n'
STAGES = "[stages]\nearly = [1, 5]\nlate = [5, inf]\n"


def status(rule, values, **options):
    return judged(rule, series({"x": values}, **options)).status


@given(st.floats(-10, 10), st.floats(-5, 5), st.floats(0, 5), st.floats(0, 3))
def test_range_and_how_sure(value, low, width, half):
    found = judged(f"{RANGE}low = {low!r}\nhigh = {low + width!r}", series({"x": [value]}, half=half))
    high, inside = low + width, low <= value <= low + width
    assert found.status == ("pass" if inside else "warn")
    a, b = value - half, value + half
    wholly = (low <= a and b <= high) if inside else (b < low or a > high)
    assert found.sure == ("sure" if wholly else "likely")
    [evidence] = found.evidence
    assert evidence.off_by == pytest.approx(0 if inside else max(low - value, value - high))


@pytest.mark.parametrize(
    ("better", "value", "expected"),
    [
        ("higher", 0.1, "fail"),
        ("higher", 0.4, "warn"),
        ("higher", 0.6, "pass"),
        ("higher", 0.95, "pass"),
        ("lower", 0.1, "pass"),
        ("lower", 0.4, "warn"),
        ("lower", 0.9, "fail"),
    ],
)
def test_bands(better, value, expected):
    bands = {
        "higher": '[{name="bad", status="fail"}, {name="so", low=0.3, status="warn"}, {name="good", low=0.5}, '
        '{name="best", low=0.9}]',
        "lower": '[{name="good", high=0.3}, {name="so", high=0.5, status="warn"}, {name="bad", status="fail"}]',
    }[better]
    assert status(f'{RANGE}better = "{better}"\nbands = {bands}', [value]) == expected


def test_best_band_is_named():
    bands = '[{name="bad", status="fail"}, {name="good", low=0.5}, {name="best", low=0.9}]'
    found = judged(f'{RANGE}better = "higher"\nbands = {bands}', series({"x": [0.95]}))
    assert found.told == "x 0.95: best"


def test_stages_share_their_ends():
    rule = f'{RANGE}bands = [{{name="a", stage="early", high=1}}, {{name="b", stage="late", high=0.5}}]'
    run = [(4, 0.8, "pass"), (5, 0.8, "pass"), (6, 0.8, "warn"), (0.5, 0.8, "pass")]
    for epoch, value, expected in run:
        assert judged(rule, series({"x": [value]}, start=epoch), STAGES).status == expected, epoch


def test_stages_need_epochs():
    rule = f'{RANGE}bands = [{{name="a", stage="early", high=1}}]'
    run = series({"x": [0.5]})
    blind = type(run)(run.frame.with_columns(epoch=None).cast(run.frame.schema), run.facts)
    found = judged(rule, blind, STAGES)
    assert (found.status, found.told) == ("not enough data", "epochs are not known; give steps_per_epoch=")


@pytest.mark.parametrize(
    ("at", "expected"), [("last", 3), ("first", 5), ("highest", 9), ("lowest", 1), (2, 9), (4, 3)]
)
def test_at(at, expected):
    found = judged(f"{RANGE}at = {at!r}\nlow = 0", series({"x": [5, 9, 1, 3]}))
    assert found.evidence[0].point.value == expected


def test_at_an_epoch_that_was_not_reached():
    assert status(f"{RANGE}at = 10\nlow = 0", [1, 2, 3]) == "not enough data"


@given(st.lists(st.floats(0, 2), min_size=1, max_size=8), st.integers(1, 4))
def test_sustained(values, points):
    rule = f'kind = "sustained"\nvalue = "x"\nabove = 1\npoints = {points}'
    expected = "not enough data" if len(values) < points else "warn" if min(values[-points:]) > 1 else "pass"
    assert status(rule, values) == expected
    throughout = f'kind = "sustained"\nvalue = "x"\nabove = 1\npoints = "all"\nleast = {points}'
    expected = "not enough data" if len(values) < points else "warn" if min(values) > 1 else "pass"
    assert status(throughout, values) == expected


def test_sustained_tells_since_when():
    found = judged('kind = "sustained"\nvalue = "x"\nabove = 1\npoints = 2', series({"x": [2, 0, 2, 2, 2]}))
    assert found.told == "x 2: above 1 at the last 2 evaluations, since epoch 3 (step 300)"


@given(st.lists(st.floats(0.1, 2), min_size=1, max_size=9), st.integers(1, 4), st.floats(1.1, 4))
def test_spike(values, before, ratio):
    rule = f'kind = "spike"\nvalue = "x"\nratio = {ratio!r}\nbefore = {before}\nabove = 0.5'
    spikes = [
        v >= max(ratio * np.median(values[i - before : i]), 0.5) for i, v in enumerate(values) if i >= before
    ]
    near = [
        abs(v - ratio * np.median(values[i - before : i])) < 1e-9 for i, v in enumerate(values) if i >= before
    ]
    if not any(near):
        assert status(rule, values) == (
            "not enough data" if not spikes else "warn" if any(spikes) else "pass"
        )


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=9), st.integers(1, 5))
def test_trend(values, points):
    window = values[-points - 1 :]
    for direction, sign in (("rising", 1), ("falling", -1)):
        each = f'kind = "trend"\nvalue = "x"\ndirection = "{direction}"\npoints = {points}\neach = true'
        fit = f'kind = "trend"\nvalue = "x"\ndirection = "{direction}"\npoints = {points}\nby = 0.5'
        if len(values) <= points:
            assert status(each, values) == status(fit, values) == "not enough data"
            continue
        assert status(each, values) == ("warn" if all(sign * d > 0 for d in np.diff(window)) else "pass")
        moved = sign * np.polyfit(np.arange(len(window)), window, 1)[0] * points
        if abs(moved - 0.5) > 1e-9:
            assert status(fit, values) == ("warn" if moved >= 0.5 else "pass")
    flat = f'kind = "trend"\nvalue = "x"\ndirection = "flat"\npoints = {points}\nby = 0.5'
    if len(values) > points:
        assert status(flat, values) == ("warn" if max(window) - min(window) < 0.5 else "pass")
        changes = np.abs(np.diff(window))
        assert status(f"{flat}\neach = true", values) == ("warn" if max(changes) < 0.5 else "pass")


@pytest.mark.parametrize(("last", "expected"), [(1.019, "pass"), (1.021, "warn")])
def test_trend_each_time_and_by_so_much(last, expected):
    rule = 'kind = "trend"\nvalue = "x"\ndirection = "rising"\npoints = 3\neach = true\nby = 0.02\nrelative = true'
    assert judged(rule, series({"x": [1.0, 1.001, 1.002, last]})).status == expected
    assert judged(rule, series({"x": [1.0, 1.5, 1.4, 2.0]})).status == "pass"


def test_an_excuse_makes_a_complaint_a_pass():
    rule = 'kind = "range"\nvalue = "x"\nhigh = 1\nactions = ["do"]\n[[rule.excuse]]\nvalue = "y"\nlow = 5\ntold = "y is high"'
    assert judged(rule, series({"x": [2]})).status == "warn"
    assert judged(rule, series({"x": [2], "y": [4]})).status == "warn"
    found = judged(rule, series({"x": [2], "y": [6]}))
    assert (found.status, found.actions) == ("pass", ())
    assert "but y is high (y 6" in found.told
    assert judged(rule, series({"x": [0.5], "y": [6]})).told == judged(rule, series({"x": [0.5]})).told


def test_trend_by_epoch_takes_the_last_of_each():
    rule = 'kind = "trend"\nvalue = "x"\ndirection = "rising"\npoints = 2\neach = true\nper_epoch = true'
    run = series({"x": [1, 9, 2, 0, 3, 0]})
    frame = run.frame.with_columns(epoch=run.frame["epoch"] / 2)  # two evaluations an epoch: 9, 0, 0
    assert judged(rule, type(run)(frame, run.facts)).status == "pass"
    run = series({"x": [9, 1, 9, 2, 9, 3]})
    frame = run.frame.with_columns(epoch=run.frame["epoch"] / 2)
    assert judged(rule, type(run)(frame, run.facts)).status == "warn"


PATTERN = """kind = "pattern"
{extra}
[[rule.condition]]
value = "a"
low = 1
must = true
[[rule.condition]]
value = "b"
low = 1
[[rule.condition]]
value = "c"
low = 1
"""


@pytest.mark.parametrize(
    ("values", "least", "expected"),
    [
        ("111", 3, "warn"),
        ("110", 3, "pass"),
        ("110", 2, "warn"),
        ("011", 2, "pass"),  # without the one that must be there
        ("1?1", 2, "warn"),
        ("1?0", 2, "not enough data"),
        ("1?0", 3, "pass"),  # too few whatever the unknown one is
        ("?11", 2, "not enough data"),
        ("0??", 2, "pass"),
        ("???", 2, "not enough data"),
    ],
)
def test_pattern(values, least, expected):
    run = series({key: [int(v)] for key, v in zip("abc", values, strict=True) if v != "?"})
    found = judged(PATTERN.format(extra=f"least = {least}"), run)
    assert found.status == expected
    assert [e.holds for e in found.evidence] == [None if v == "?" else v == "1" for v in values]
    wanted = judged(PATTERN.format(extra=f"least = {least}\nwanted = true"), run)
    assert wanted.status == {"warn": "pass", "pass": "warn"}.get(expected, expected)


def test_pattern_is_as_sure_as_what_decides_it():
    rule = PATTERN.format(extra="")
    assert judged(rule, series({"a": [2], "b": [2], "c": [2]}, half=0.1)).sure == "sure"
    assert judged(rule, series({"a": [2], "b": [2], "c": [1.05]}, half=0.1)).sure == "likely"
    assert judged(rule, series({"a": [0], "b": [1.05], "c": [1.05]}, half=0.1)).sure == "sure"  # a settles it
    assert judged(rule, series({"a": [2], "b": [2], "c": [2]})).sure == "no interval known"


NEED = """kind = "range"
value = "x"
high = 1
[[rule.need]]
value = "x"
at = "highest"
high = "limit"
unless_set = "limit"
told = "beyond the limit"
"""


def test_need():
    head = "[constants]\nlimit = 5\n"
    assert judged(NEED, series({"x": [0.5]}), head).status == "pass"
    found = judged(NEED, series({"x": [6.0, 0.5]}), head)
    assert found.status == "not enough data"
    assert found.told.startswith("beyond the limit")
    assert judged(NEED, series({"x": [6.0, 0.5]}), head, limit=5.0).status == "pass"


def test_number_of_classes():
    rule = f'{RANGE}low = "1/C"'
    assert judged(rule, series({"x": [0.2]}, classes=10)).status == "pass"
    assert judged(rule, series({"x": [0.2]}, classes=4)).status == "warn"
    found = judged(rule, series({"x": [0.2]}, classes=None))
    assert found.told == "the number of classes is not known; give classes="
    found = judged(f"{RANGE}low = 0\nclasses = 3", series({"x": [0.2]}, classes=2))
    assert found.told == "says nothing about 2 classes; 3 or more needed"


def test_values_that_are_not_finite_are_no_points():
    assert status(f"{RANGE}low = 0", [1, float("nan")]) == "pass"
    assert status(f"{RANGE}low = 0", [float("inf")]) == "not enough data"


def test_after_a_resume_the_later_row_counts():
    run = series({"x": [1, 2]})
    twice = type(run)(run.frame.vstack(series({"x": [7]}, start=2).frame), run.facts)
    assert judged(f"{RANGE}low = 5", twice).status == "pass"


def test_norms_logged_before_clipping_are_not_judged():
    run = series({"train/grad_norm": [3.0, 2.5, 0.3]}, start=8)
    profile = PROFILES["classification"]
    assert finding(profile, "grad-norm", run).status == "not enough data"
    assert finding(profile, "grad-norm", run, clip=1.0).status == "pass"
    assert (
        finding(profile, "grad-norm-at-max", series({"train/grad_norm": [3.0, 2.5, 3.0]}), clip=1.0).status
        == "warn"
    )
