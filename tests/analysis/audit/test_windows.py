"""Which micro-batches a logged line is about, against plain loops."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitbox.analysis.audit.hypotheses.entries import Level, Reduction
from logitbox.analysis.audit.micros import Micros
from logitbox.analysis.audit.plans import plan_of
from logitbox.analysis.audit.windows import (
    EVAL,
    TRAIN,
    Windows,
    eval_windows,
    guess_steps,
    lacks_lines,
    train_windows,
)


def micros_of(steps: list[int], passes: list[int] | None = None, ranks: int = 2) -> Micros:
    """`ranks` micro-batches at every step, of 1 row, 2 rows, …."""
    step = np.repeat(np.array(steps, dtype=np.int64), ranks)
    where = {
        "pass": np.repeat(np.array(passes or [0] * len(steps), dtype=np.int64), ranks),
        "step": step,
        "micro": np.zeros(len(step), dtype=np.int64),
        "rank": np.tile(np.arange(ranks, dtype=np.int64), len(steps)),
    }
    rows = np.arange(1.0, len(step) + 1)
    return Micros(where, {"rows": rows, "positions": rows}, {})


def members(windows: Windows, micros: Micros) -> dict[int, set[int]]:
    """Line to the steps it is about."""
    found: dict[int, set[int]] = {}
    for line, micro in zip(windows.line, windows.micro, strict=True):
        found.setdefault(int(line), set()).add(int(micros.where["step"][micro]))
    return found


@pytest.mark.parametrize(("alignment", "recorded"), [(TRAIN[0], range(1, 31)), (TRAIN[1], range(30))])
def test_a_line_is_about_the_steps_since_the_line_before(alignment, recorded) -> None:
    micros = micros_of(list(recorded))
    windows = train_windows(np.array([10, 20, 30]), micros, alignment)
    assert windows.covered.all()
    first = recorded.start
    assert members(windows, micros) == {i: set(range(first + 10 * i, first + 10 * i + 10)) for i in range(3)}


def test_a_window_with_a_step_that_was_not_recorded_is_not_covered() -> None:
    micros = micros_of([1, 2, 3, 5, 6, 7, 8, 9])
    windows = train_windows(np.array([3, 6, 9]), micros, TRAIN[0])
    assert windows.covered.tolist() == [True, False, True]
    assert members(windows, micros) == {0: {1, 2, 3}, 2: {7, 8, 9}}


def test_a_first_line_of_one_step_has_a_window_of_one_step() -> None:
    micros = micros_of(list(range(1, 21)))
    windows = train_windows(np.array([1, 10, 20]), micros, TRAIN[0])
    assert members(windows, micros)[0] == {1}
    assert members(windows, micros)[1] == set(range(2, 11))


def test_a_first_line_in_whose_window_the_recording_begins_is_not_covered() -> None:
    """Training may have been resumed there, or what came before may be lost: nothing tells."""
    windows = train_windows(np.array([20, 30]), micros_of(list(range(13, 31))), TRAIN[0])
    assert windows.covered.tolist() == [False, True]


def test_a_step_without_one_of_its_ranks_is_not_covered() -> None:
    micros = micros_of(list(range(1, 13)))
    kept = ~((micros.where["step"] == 5) & (micros.where["rank"] == 1))
    where = {name: column[kept] for name, column in micros.where.items()}
    fewer = Micros(where, {name: column[kept] for name, column in micros.batches.items()}, {})
    assert fewer.partial.tolist() == [5]
    assert train_windows(np.array([4, 8, 12]), fewer, TRAIN[0]).covered.tolist() == [True, False, True]
    assert eval_windows(np.array([4, 5]), fewer, EVAL[0]).covered.tolist() == [True, False]


@pytest.mark.parametrize(
    ("steps", "logged", "between", "expected"),
    [
        ([5, 10, 20, 25], [5, 10, 15, 20, 25], None, [False, False, True, False]),
        ([5, 10, 20, 25], [5, 10, 20, 25], None, [False] * 4),  # a longer gap in everything
        ([5, 10, 20, 25], [5, 10, 20, 25], 5, [False, False, True, False]),
        ([10, 20, 30], [5, 10, 15, 20, 25, 30], None, [False] * 3),  # logged every other time
        ([1, 10, 20], [1, 10, 20], None, [False] * 3),
        ([7], [7], None, [False]),
        ([], [], None, []),
    ],
)
def test_lines_before_which_a_line_is_missing(steps, logged, between, expected) -> None:
    found = lacks_lines(np.array(steps, dtype=np.int64), np.array(logged, dtype=np.int64), between)
    assert found.tolist() == expected


def test_one_more_step_is_that_of_the_line_before() -> None:
    micros = micros_of(list(range(1, 7)))
    windows = train_windows(np.array([3, 6]), micros, TRAIN[0], more=1)
    assert members(windows, micros) == {0: {1, 2, 3}, 1: {3, 4, 5, 6}}


def test_an_evaluation_is_the_last_pass_at_its_step() -> None:
    micros = micros_of([0, 5, 5, 10], passes=[0, 0, 1, 0])
    windows = eval_windows(np.array([5, 10, 15]), micros, EVAL[0])
    assert windows.covered.tolist() == [True, True, False]
    assert sorted(windows.micro[windows.line == 0]) == [4, 5]


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=6, unique=True),
    st.sets(st.integers(1, 14), min_size=1),
)
def test_windows_are_those_of_a_plain_loop(lines: list[int], recorded: set[int]) -> None:
    steps = np.array(sorted(lines))
    micros = micros_of(sorted(recorded))
    windows = train_windows(steps, micros, TRAIN[0])
    found = members(windows, micros)
    for number in range(1, len(steps)):
        wanted = set(range(int(steps[number - 1]) + 1, int(steps[number]) + 1))
        assert bool(windows.covered[number]) == (wanted <= recorded)
        assert found.get(number, set()) == (wanted if wanted <= recorded else set())


def test_steps_of_lines_that_tell_none() -> None:
    recorded = np.arange(1, 21)
    assert guess_steps(4, recorded, None, is_train=True).tolist() == [5, 10, 15, 20]
    assert guess_steps(4, recorded, 3, is_train=True).tolist() == [3, 6, 9, 12]
    assert guess_steps(2, np.array([7, 9]), None, is_train=False).tolist() == [7, 9]
    assert not len(guess_steps(3, np.array([7, 9]), None, is_train=False))


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        (Reduction("", "", keep="rank_0"), {0}),
        (Reduction("", "", keep="last_step"), {2, 3}),
        (Reduction("", "", (Level(("step",)),)), {0, 1, 2, 3}),
    ],
)
def test_what_counts_at_all(reduction: Reduction, expected: set[int]) -> None:
    micros = micros_of([1, 2])
    windows = train_windows(np.array([2]), micros, TRAIN[0])
    kept = set(plan_of(micros, windows, reduction).micro.tolist())
    assert kept == (expected if reduction.keep != "rank_0" else {0, 2})


def test_groups_of_groups_are_those_of_polars() -> None:
    rng = np.random.default_rng(1)
    micros = micros_of(list(range(1, 13)), ranks=3)
    values = rng.normal(size=micros.count)
    windows = train_windows(np.array([4, 12]), micros, TRAIN[0])
    plan = plan_of(micros, windows, Reduction("", "", (Level(("step", "rank")), Level(("step",)))))
    frame = pl.DataFrame(
        {"line": windows.line, "step": micros.where["step"][windows.micro], "x": values[windows.micro]}
    )
    level = values[plan.micro]
    for number in range(3):
        level = plan.summed(number, level)
    assert level == pytest.approx(
        frame.group_by("line", maintain_order=True).agg(pl.col("x").sum())["x"].to_numpy()
    )
    assert plan.sizes == (36, 12, 2)
    assert plan.line.tolist() == [0, 1]
