"""A file is not a run."""

from __future__ import annotations

import pytest

from logitbox.analysis.logs import read_logged


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
        "run 1 begins at row 5: resumed at step 40, after 50; 2 rows of the run before replaced",
    )


def test_resumed_at_the_step_where_it_stopped():
    logged = read_logged([*train([10, 20, 30, 40, 50]), *train([50, 60, 70], 1.1)])
    assert steps_of(logged) == [[10, 20, 30, 40, 50], [50, 60, 70]]
    assert logged.notes == (
        "run 1 begins at row 5: resumed at step 50, after 50; 1 row of the run before replaced",
    )


def test_one_run_after_the_other():
    logged = read_logged([*train([10, 20, 30]), *train([10, 20, 30], 1.1), *train([5, 10], 1.2)])
    assert steps_of(logged) == [[10, 20, 30], [10, 20, 30], [5, 10]]
    assert logged.notes == (
        "run 1 begins at row 3: a new run (from step 10 on, after 30)",
        "run 2 begins at row 6: a new run (from step 5 on, after 30)",
    )


@pytest.mark.parametrize("first", [1, 15])
def test_a_summary_ends_a_run(first):
    end = {"step": 30, "train_loss": 2.5, "train_runtime": 9.0}
    logged = read_logged([*train([10, 20, 30]), end, *train([first, 40], 1.1)])
    assert steps_of(logged) == [[10, 20, 30], [first, 40]]
    assert logged.notes == (f"run 1 begins at row 4: a new run (from step {first} on, after 30)",)


def test_training_goes_on_after_a_summary():
    end = {"step": 30, "train_loss": 2.5, "train_runtime": 9.0}
    logged = read_logged([*train([10, 20, 30]), end, *train([40, 50])])
    assert steps_of(logged) == [[10, 20, 30], [40, 50]]
    assert logged.notes == ("run 1 begins at row 4: resumed at step 40, after 30",)


def test_without_moments_a_summary_still_ends_a_run():
    logged = read_logged(
        [{"loss": 2.0}, {"loss": 2.0}, {"train_loss": 2.0, "train_runtime": 1.0}, {"loss": 1.0}]
    )
    assert logged.frame["run"].to_list() == [0, 0, 0, 0, 1]
    assert logged.notes == ("run 1 begins at row 3: the one before had ended with a summary",)


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
    assert logged.notes == ("3 rows of the same step come in turn (processes, or evaluations): runs 0 to 2",)


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
