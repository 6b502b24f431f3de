"""The one frame that every reader of logs gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

SCHEMA: dict[str, type[pl.DataType]] = {
    "run": pl.Int64,
    "row": pl.Int64,
    "step": pl.Int64,
    "epoch": pl.Float64,
    "phase": pl.String,
    "key": pl.String,
    "value": pl.Float64,
    "precision": pl.Float64,
}
"""Columns of `Logged.frame`.

`run`: which of the runs in the file, from 0. `row`: number of the row (dict, line) in the file; values of one row were
logged together. `step`, `epoch`: null where the log does not tell. `phase`: "train", "eval", … as the key's prefix or the
row tells. `key`: as logged, prefix included. `value`: NaN and infinities stay. `precision`: half a unit of the last digit
that was printed, so that the value before printing is within value ± precision; next to 0 for floats printed in full.
"""


@dataclass(frozen=True, eq=False)
class Logged:
    """What was logged.

    Attributes:
        frame: one row per logged value, in the order of the file; see `SCHEMA`.
        source: what it was read from, for messages.
        format: of the file, in words: "transformers trainer_state.json", "console text", …
        framework: who wrote it as far as its keys tell ("trl", "ms-swift", "llama-factory", "transformers"), "" if they do not.
        notes: what a reader must be told: runs split (counted from 1), duplicates dropped, rows left out, each with its count.
        meta: facts of the file that are no series, such as `max_steps`, `train_batch_size`, `logging_steps`.
    """

    frame: pl.DataFrame
    source: str = ""
    format: str = ""
    framework: str = ""
    notes: tuple[str, ...] = ()
    meta: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def runs(self) -> tuple[int, ...]:
        """Numbers of the runs, in order."""
        return tuple(self.frame["run"].unique(maintain_order=True))
