"""A file is not a run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.logs import read_logged
from logitbox.analysis.logs.records import Reading
from logitbox.analysis.logs.splitting import joined, split


def train(steps, factor=1.0, **more):
    return [
        {"step": s, "loss": round(factor * (3 - s / 100), 4), "learning_rate": 0.01, **more} for s in steps
    ]


def steps_of(logged):
    """The steps of `loss`, run by run."""
    loss = logged.frame.filter(key="loss")
    return [loss.filter(run=run)["step"].to_list() for run in logged.runs]


def test_one_run():
    rows = [row for s in (10, 20, 30) for row in (*train([s]), {"step": s, "eval_loss": 2.0})]
    rows.append({"step": 30, "train_loss": 2.5, "train_runtime": 9.0})
    rows.append({"step": 30, "test_loss": 2.5})
    logged = read_logged(rows)
    assert logged.runs == (0,)
    assert logged.notes == ()


def test_keys_one_after_the_other_are_one_run():
    rows = [{"step": s, "key": key, "value": s / 7} for key in ("loss", "eval_loss") for s in (1, 2, 3)]
    logged = read_logged(rows)
    assert logged.runs == (0,)
    assert logged.notes == ()


def test_resumed():
    logged = read_logged([*train([10, 20, 30, 40, 50]), *train([40, 50, 60], 1.1)])
    assert steps_of(logged) == [[10, 20, 30, 40, 50], [40, 50, 60]]
    assert logged.notes == (
        "run 2 begins at row 5: resumed at step 40, after 50; 2 rows of the run before replaced",
    )


def test_resumed_at_the_step_where_it_stopped():
    logged = read_logged([*train([10, 20, 30, 40, 50]), *train([50, 60, 70], 1.1)])
    assert steps_of(logged) == [[10, 20, 30, 40, 50], [50, 60, 70]]
    assert logged.notes == (
        "run 2 begins at row 5: resumed at step 50, after 50; 1 row of the run before replaced",
    )


def test_one_run_after_the_other():
    logged = read_logged([*train([10, 20, 30]), *train([10, 20, 30], 1.1), *train([5, 10], 1.2)])
    assert steps_of(logged) == [[10, 20, 30], [10, 20, 30], [5, 10]]
    assert logged.notes == (
        "run 2 begins at row 3: a new run (from step 10 on, after 30)",
        "run 3 begins at row 6: a new run (from step 5 on, after 30)",
    )


@pytest.mark.parametrize("first", [1, 15])
def test_a_summary_ends_a_run(first):
    end = {"step": 30, "train_loss": 2.5, "train_runtime": 9.0}
    logged = read_logged([*train([10, 20, 30]), end, *train([first, 40], 1.1)])
    assert steps_of(logged) == [[10, 20, 30], [first, 40]]
    assert logged.notes == (f"run 2 begins at row 4: a new run (from step {first} on, after 30)",)


def test_training_goes_on_after_a_summary():
    end = {"step": 30, "train_loss": 2.5, "train_runtime": 9.0}
    logged = read_logged([*train([10, 20, 30]), end, *train([40, 50])])
    assert steps_of(logged) == [[10, 20, 30], [40, 50]]
    assert logged.notes == ("run 2 begins at row 4: resumed at step 40, after 30",)


def test_without_moments_a_summary_still_ends_a_run():
    logged = read_logged(
        [{"loss": 2.0}, {"loss": 2.0}, {"train_loss": 2.0, "train_runtime": 1.0}, {"loss": 1.0}]
    )
    assert logged.frame["run"].to_list() == [0, 0, 0, 0, 1]
    assert logged.notes == ("run 2 begins at row 3: the one before had ended with a summary",)


def test_repeated_rows_are_dropped():
    rows = [row for one in train([10, 20, 30]) for row in (one | {"memory": 1.5}, one | {"memory": 2.5})]
    logged = read_logged(rows)
    assert steps_of(logged) == [[10, 20, 30]]
    assert logged.notes == ("3 rows repeated an earlier one word for word: dropped",)
    twice = read_logged(train([10, 20, 30]) * 2)
    assert steps_of(twice) == [[10, 20, 30]]


def test_rows_alike_by_chance_stay():
    assert read_logged([{"loss": 0.0}] * 3).frame.height == 3
    assert read_logged([{"loss": 0.0, "epoch": 0.01}] * 3).frame.height == 3


def test_processes_in_turn():
    rows = [row for s in (10, 20, 30, 40) for factor in (1.0, 1.1, 1.2) for row in train([s], factor)]
    rows.insert(6, {"step": 20, "eval_loss": 1.0})  # of the first only
    logged = read_logged(rows)
    assert steps_of(logged) == [[10, 20, 30, 40]] * 3
    for run, factor in enumerate((1.0, 1.1, 1.2)):
        got = logged.frame.filter(run=run, key="loss")["value"].to_list()
        assert got == [round(factor * (3 - s / 100), 4) for s in (10, 20, 30, 40)]
    assert logged.frame.filter(key="eval_loss")["run"].to_list() == [0]
    assert logged.notes == ("3 rows of the same step come in turn (processes, or evaluations): runs 1 to 3",)


def test_processes_in_turn_and_resumed():
    rows = [row for s in (10, 20, 30) for factor in (1.0, 1.1) for row in train([s], factor)]
    rows += [row for s in (20, 30, 40) for factor in (1.2, 1.3) for row in train([s], factor)]
    logged = read_logged(rows)
    assert steps_of(logged) == [[10, 20, 30]] * 2 + [[20, 30, 40]] * 2
    assert len(logged.notes) == 3


def test_epochs_stand_for_steps():
    def log(epochs, value):
        return [{"epoch": e, "loss": value + e, "lr": 0.5} for e in epochs]

    logged = read_logged([*log([0.1234, 0.2468, 0.3702], 1.0), *log([0.1234, 0.2468], 2.0)])
    assert logged.frame.filter(key="loss")["run"].to_list() == [0, 0, 0, 1, 1]
    # Epochs of two decimals are the same for rows of several steps.
    rounded = read_logged([{"epoch": round(i / 300, 2), "loss": 2.0 - i / 7, "lr": 0.5} for i in range(12)])
    assert rounded.runs == (0,)
    again = read_logged([{"epoch": round(i % 6 / 300, 2), "loss": 2.0 - i / 7, "lr": 0.5} for i in range(12)])
    assert again.frame.filter(key="loss")["run"].to_list() == [0] * 6 + [1] * 6


def test_precision_is_that_of_the_run():
    rows = [*train([10, 20], 1.0), {"step": 5, "loss": 1.23456789012345}]
    logged = read_logged(rows)
    assert logged.frame.filter(key="loss")["precision"].to_list()[:2] == [0.05, 0.05]
    assert logged.frame.filter(key="loss")["precision"].to_list()[2] < 1e-13


def test_many_runs_are_not_all_listed():
    logged = read_logged([row for i in range(40) for row in train([1, 2], 1 + i / 9)])
    assert logged.runs == tuple(range(40))
    assert len(logged.notes) == 13
    assert logged.notes[-1] == "27 more such notes: 40 runs"


def test_a_key_of_two_kinds_of_rows_makes_no_processes():
    rows = [
        row
        for s in (10, 20, 30, 40)
        for row in (
            {"step": s, "loss": s / 7, "acc": 0.5, "n": 1.0 * s},
            {"step": s, "eval_loss": s / 3, "eval_acc": 0.5, "n": 2.0},
        )
    ]
    logged = read_logged(rows)
    assert logged.runs == (0,)
    assert logged.notes == ()
    assert logged.frame.height == 24


def test_phases_of_one_step_are_no_processes():
    rows = [{"step": s, "phase": phase, "loss": s / n} for s in (1, 2, 3) for n, phase in enumerate("ab", 3)]
    back = [{"step": s, "phase": phase, "loss": s / 7} for phase in "ab" for s in (1, 2, 3)]
    for one in (rows, back):
        logged = read_logged(one)
        assert (logged.runs, logged.notes) == ((0,), ())
        assert logged.frame["phase"].to_list() == [row["phase"] for row in one]


def test_processes_with_a_key_of_their_own():
    rows = [
        {"step": s, "loss": s / rank, "acc": 0.5 / rank, f"rank{rank}": 1.0}
        for s in (10, 20, 30)
        for rank in (1, 2)
    ]
    logged = read_logged(rows)
    assert steps_of(logged) == [[10, 20, 30]] * 2
    assert [logged.frame.filter(key=f"rank{r}")["run"].unique().to_list() for r in (1, 2)] == [[0], [1]]


def test_a_resume_inside_a_window():
    logged = read_logged([*train([10, 20, 30]), *train([25, 30, 40], 1.1)])
    assert steps_of(logged) == [[10, 20, 30], [25, 30, 40]]
    assert logged.notes == (
        "run 2 begins at row 3: resumed at step 25, after 30; 1 row of the run before replaced",
    )


def brute(runs):
    """A record stays unless a later run has one of its keys at its step or before."""
    kept = []
    for i, run in enumerate(runs):
        for record in run:
            later = [other for after in runs[i + 1 :] for other in after]
            if not any(other.step <= record.step and set(other.cells) & set(record.cells) for other in later):
                kept.append(record)
    return kept


@given(st.lists(st.tuples(st.integers(0, 9), st.sets(st.sampled_from("abc"), min_size=1)), max_size=25))
@settings(max_examples=60, deadline=None)
def test_joined(moments):
    rows = [{"step": step, **dict.fromkeys(keys, i + 0.5)} for i, (step, keys) in enumerate(moments)]
    runs = split(Reading().records(rows)).runs
    assert joined(runs) == brute(runs)
    assert sorted(r.row for run in runs for r in run) == list(range(len(rows)))  # none lost


def test_joined_without_moments():
    end = {"train_loss": 2.0, "train_runtime": 1.0}
    runs = split(Reading().records([{"loss": 2.0}, end, {"loss": 1.0}, {"loss": 0.5}])).runs
    assert [record.row for record in joined(runs)] == [1, 2, 3]
    rows = [*train([10, 20]), {"eval_loss": 1.0}, *train([20, 30], 1.1), {"loss": 9.0}]
    assert [record.row for record in joined(split(Reading().records(rows)).runs)] == [0, 2, 3, 4, 5]


def test_precision_is_that_of_the_phase():
    rows = [{"step": 1, "phase": "a", "loss": 0.7027}, {"step": 1, "phase": "b", "loss": 0.123456789}]
    assert read_logged(rows).frame["precision"].to_list() == pytest.approx([5e-5, 5e-10])
