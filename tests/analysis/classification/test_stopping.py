"""The rule for stopping, on series made for it, and the dashboard."""

from __future__ import annotations

from types import SimpleNamespace

import polars as pl
import pytest

from logitbox.analysis.classification import classification
from logitbox.analysis.classification.dashboard import PRIORITY
from logitbox.analysis.classification.stopping import stopping
from logitbox.dumps.dump import Dump


def told(
    loss: list[float],
    accuracy: list[float],
    train: float | None = 0.05,
    val: float = 0.6,
    epochs: list[float] | None = None,
) -> dict[str, tuple]:
    """(holds, since epoch, first epoch) by condition: 1, 2, 3 or all."""
    n = len(loss)
    steps = list(range(10, 10 * n + 10, 10))
    when = epochs or [float(i + 1) for i in range(n)]
    columns = {
        "val/loss": loss,
        "val/accuracy": accuracy,
        "train/loss_std": [train] * n,
        "val/loss_std": [val] * n,
    }
    frame = pl.concat(
        pl.DataFrame(
            {"step": steps, "key": [key] * n, "value": values},
            schema={"step": pl.Int64, "key": pl.String, "value": pl.Float64},
        )
        for key, values in columns.items()
    )
    evidence = SimpleNamespace(
        evaluations=pl.DataFrame(
            {"step": steps, "epoch": when}, schema={"step": pl.Int64, "epoch": pl.Float64}
        ),
        training_at=lambda step: {"step": step},
    )
    rows = stopping(frame, evidence).rows(named=True)
    names = ("loss", "accuracy", "spread", "all")
    return {
        name: (row["holds"], row["since_epoch"], row["first_epoch"])
        for name, row in zip(names, rows, strict=True)
    }


RISING = [1.0, 0.9, 0.8, 0.81, 0.82, 0.83, 0.84]
FLAT = [0.5, 0.6, 0.602, 0.6, 0.601, 0.6, 0.603]


def test_all_of_it() -> None:
    found = told(RISING, FLAT)
    assert found == {
        "loss": (True, 6, 6),
        "accuracy": (True, 7, 7),
        "spread": (True, 1, 1),
        "all": (True, 7, 7),
    }


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"loss": [*RISING[:-1], 0.83]}, "loss"),  # equal is no rise
        ({"accuracy": [*FLAT[:-1], 0.6051]}, "accuracy"),
        ({"train": 0.1}, "spread"),
        ({"val": 0.5}, "spread"),
    ],
)
def test_one_that_fails_is_enough(change: dict, fails: str) -> None:
    found = told(**{"loss": RISING, "accuracy": FLAT, **change})
    assert found[fails][0] is False
    assert found["all"][0] is False
    assert all(found[name][0] for name in ("loss", "accuracy", "spread") if name != fails)


def test_what_once_held_is_remembered() -> None:
    found = told([*RISING, 0.5], [*FLAT, 0.603])
    assert found["loss"] == (False, None, 6)
    assert found["all"] == (False, None, 7)


def test_too_few_epochs_are_not_known() -> None:
    found = told(RISING[2:5], FLAT[2:5])
    assert found["loss"][0] is None
    assert found["accuracy"][0] is None
    assert found["all"][0] is None
    assert told(RISING, FLAT, train=None)["spread"][0] is None


def test_an_epoch_is_its_last_evaluation() -> None:
    zigzag = [9.0, 1.0, 9.0, 0.9, 0.1, 0.95, 0.1, 0.97]
    halves = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    found = told(zigzag, [0.5] * 8, epochs=halves)
    assert found["loss"][0] is False  # 1 → 0.9 → 0.95 → 0.97
    rising = [9.0, 0.9, 9.0, 0.91, 0.1, 0.95, 0.1, 0.97]
    assert told(rising, [0.5] * 8, epochs=halves)["loss"] == (True, 4.0, 4.0)


def test_the_dashboard_has_the_six(dump: Dump) -> None:
    found = classification(dump)
    board = found.dashboard
    assert board["key"].to_list() == list(PRIORITY)
    by_key = {row["key"]: row for row in board.iter_rows(named=True)}
    assert by_key["val/loss"]["value"] == found.value("val/loss")
    loss = [found.value("val/loss", step) for step in (8, 12, 16)]
    assert by_key["val/loss"]["trend"] == pytest.approx((loss[2] - loss[0]) / 2)
    assert by_key["val/loss"]["direction"] == ("up" if loss[2] > loss[0] else "down")
    worst = min(("web", "book"), key=lambda name: found.value(f"val/per_dataset_accuracy/{name}"))
    assert by_key["val/per_dataset_accuracy"]["detail"] == worst
    top = found.confusions("last", 0.0).row(0, named=True)
    assert by_key["val/top_confusions"]["value"] == top["rate"]
    assert by_key["val/top_confusions"]["detail"] == f"{top['gold']} taken for {top['predicted']}"
