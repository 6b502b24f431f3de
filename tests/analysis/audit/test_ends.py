"""Which ranks are cut where the data end, against plain loops."""

from __future__ import annotations

import polars as pl
import pytest

from logitbox.analysis.audit.ends import cut_ranks

MICROS, WORLD, ROWS = 2, 4, 2

EPOCHS = {
    "shares of an epoch": ([0.0, 0.5, 1.0, 1.5, 2.0], {1, 3}),
    "a run that ends with its epoch": ([0.0, 1 / 3, 2 / 3], {2}),
    "whole epochs": ([0.0, 0.0, 0.0, 1.0, 1.0], {2}),
    "one step an epoch": ([0.0, 1.0, 2.0], {0, 1}),  # how long the last one takes is not known
    "not told": ([None, None, None], set()),
    "one step": ([0.0], set()),
}
"""Epochs before steps 0, 1, …, and the steps that are an epoch's last."""


def batches(epochs: list[float | None], left: int | None = None) -> pl.DataFrame:
    """Two rows a batch; of every step's last batches only the first `left` rows, by rank, are not repeated."""
    rows = []
    for step, epoch in enumerate(epochs):
        for micro in range(MICROS):
            for rank in range(WORLD):
                real = ROWS if left is None or micro < MICROS - 1 else min(max(left - rank * ROWS, 0), ROWS)
                rows.append((0, step, micro, rank, epoch, float(real)))
    names = {"pass": pl.Int64, "step": pl.Int64, "micro": pl.Int64, "rank": pl.Int64, "epoch": pl.Float64}
    return pl.DataFrame(rows, schema={**names, "unrepeated": pl.Float64}, orient="row")


@pytest.mark.parametrize("left", [None, 1, 3, 5])
@pytest.mark.parametrize(("epochs", "ends"), EPOCHS.values(), ids=EPOCHS)
def test_training_leaves_ranks_out_of_an_epochs_last_step(
    epochs: list[float | None], ends: set[int], left: int | None
) -> None:
    made = batches(epochs, left)
    stay = 1 if left is None else left  # unknown: one
    found = cut_ranks(made, is_train=True, has_repeats=left is not None)
    assert found.tolist() == [
        step in ends and rank >= stay for step, rank in made.select("step", "rank").iter_rows()
    ]


@pytest.mark.parametrize("left", [None, 1, 3, 5])
def test_an_evaluation_leaves_ranks_out_of_its_last_batch(left: int | None) -> None:
    made = batches([None, 0.5], left)
    stay = 1 if left is None else left
    found = cut_ranks(made, is_train=False, has_repeats=left is not None)
    assert found.tolist() == [
        micro == MICROS - 1 and rank >= stay for micro, rank in made.select("micro", "rank").iter_rows()
    ]


def test_an_epoch_whose_end_was_not_recorded_has_none() -> None:
    made = batches([0.0, 0.25, 0.5, 0.75, 1.0, 1.25]).filter(pl.col("step") != 3)
    assert not cut_ranks(made, is_train=True, has_repeats=False).any()
