"""The scalars of a dump: one run, whatever order, session or rank they came in."""

from __future__ import annotations

import polars as pl
import pytest
from read_text import cells

from logitbox.analysis.logs import read_logged
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder


@pytest.fixture
def record(tmp_path):
    """Calls of `Recorder.scalars` in a session of their own."""

    def call(*calls, **options):
        with Recorder(tmp_path / "dump", vocab=4, **options) as rec:
            for step, values, *phase in calls:
                rec.scalars(step, values, *phase)

    return call


@pytest.fixture
def logged(tmp_path):
    return lambda: read_logged(open_dump(tmp_path / "dump"))


def values_of(logged, key):
    return logged.frame.filter(key=key).select("run", "step", "value").rows()


def test_a_key_in_two_calls_of_a_step_is_no_second_run(record, logged):
    record(
        *[
            call
            for s in (1, 2, 3, 4)
            for call in ((s, {"loss": s / 7, "x": 1.0}), (s, {"eval_loss": s / 3, "x": 2.0}))
        ]
    )
    found = logged()
    assert found.runs == (0,)
    assert values_of(found, "loss") == [(0, s, s / 7) for s in (1, 2, 3, 4)]
    assert values_of(found, "eval_loss") == [(0, s, s / 3) for s in (1, 2, 3, 4)]
    assert values_of(found, "x") == [(0, s, 2.0) for s in (1, 2, 3, 4)]
    assert found.notes == ("4 values logged again at the same step (x): the last one counts",)


def test_phases_are_apart_and_late_steps_in_order(record, logged):
    record(
        (2, {"loss": 2.0}, "val"), (2, {"loss": 1.0}), (1, {"loss": 1.5}), (3, {"loss": 0.5, "epoch": 0.3})
    )
    found = logged()
    assert found.frame.select("step", "epoch", "phase", "value").rows() == [
        (1, None, "train", 1.5),
        (2, None, "val", 2.0),
        (2, None, "train", 1.0),
        (3, 0.3, "train", 0.5),
    ]
    assert (found.runs, found.notes) == ((0,), ())


def test_sessions_that_go_on_are_one_run(record, logged):
    record((1, {"loss": 3.0}), (2, {"loss": 2.0}))
    record((3, {"loss": 1.0}))
    assert values_of(logged(), "loss") == [(0, 1, 3.0), (0, 2, 2.0), (0, 3, 1.0)]
    record((1, {"loss": 3.5}))  # the training once more
    again = logged()
    assert values_of(again, "loss")[-1] == (1, 1, 3.5)
    assert again.notes == ("run 2 begins at row 3: a new run (from step 1 on, after 3)",)


def test_a_resumed_session_is_the_same_run(record, logged):
    record(
        *[(s, {"loss": 1.0 * s}) for s in (1, 2, 3, 4)],
        (3, {"eval_loss": 9.0}, "eval"),
        (4, {"acc": 1.0}, "eval"),
    )
    record(*[(s, {"loss": 10.0 * s}) for s in (3, 4, 5)], (3, {"eval_loss": 8.0}, "eval"), resume_from=3)
    found = logged()
    assert values_of(found, "loss") == [(0, 1, 1.0), (0, 2, 2.0), (0, 3, 30.0), (0, 4, 40.0), (0, 5, 50.0)]
    assert values_of(found, "eval_loss") == [(0, 3, 8.0)]
    assert values_of(found, "acc") == [(0, 4, 1.0)]
    assert found.notes == ("1 value logged again at the same step (eval_loss): the last one counts",)


def test_ranks(record, logged):
    for rank in (1, 0):
        record(
            (1, {"loss": 2.0, "mine": float(rank), "nan": float("nan")}),
            (2, {f"only{rank}": 1.0, "mine": float(rank)}),
            rank=rank,
            world=2,
            session="0001-same",
        )
    found = logged()
    assert found.runs == (0,)
    assert {key: value for key, (_, value) in cells(found).items() if value == value} == {
        (1, "loss"): 2.0,
        (1, "mine"): 0.0,
        (2, "mine"): 0.0,
        (2, "only0"): 1.0,
        (2, "only1"): 1.0,
    }
    assert found.notes == (
        "2 values differ between ranks (mine): those of the first rank count",
        "2 values of other ranks were the same: taken once",
    )


def test_hostile_names(record, logged):
    """Names of columns as keys of scalars."""
    record(
        (
            5,
            {
                "step": 7.0,
                "Step": 8.0,
                "phase": 1.0,
                "run": 2.0,
                "key": 3.0,
                "value": 4.0,
                "": 1.0,
                "loss": 0.5,
            },
        )
    )
    assert cells(logged()) == {
        (5, "key"): ("train", 3.0),
        (5, "value"): ("train", 4.0),
        (5, "loss"): ("train", 0.5),
    }


@pytest.mark.parametrize(
    ("names", "framework"),
    [
        (["loss", "token_acc", "learning_rate", "epoch", "eval_loss", "num_tokens"], ""),
        (["mean_token_accuracy"], "trl"),
        (["memory(GiB)"], "ms-swift"),
    ],
)
def test_a_dump_has_anybodys_names(record, logged, names, framework):
    record((1, dict.fromkeys(names, 0.5)))
    assert logged().framework == framework


def test_the_frame_has_all_that_was_logged(record, logged, tmp_path):
    record(*[(s, {f"k{k}": s + k / 7 for k in range(20)}) for s in range(50)])
    expected = open_dump(tmp_path / "dump").scalars.select("step", "key", "value").collect()
    assert logged().frame.select("step", "key", "value").equals(expected.cast({"value": pl.Float64}))
