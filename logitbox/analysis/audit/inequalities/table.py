"""One run of a log as arrays: what was logged together, key by key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.audit.aliases import ALIASES
from logitbox.analysis.audit.inequalities.entries import Facts, Known
from logitbox.analysis.audit.inequalities.interval import Float, Interval
from logitbox.analysis.audit.names import CAPPED, Meaning, training_losses
from logitbox.analysis.audit.result import Notice
from logitbox.analysis.logs.frame import Logged
from logitbox.dumps.definitions.agent import PERPLEXITY_CAP

CAPS: Mapping[str, tuple[float, ...]] = {CAPPED: (PERPLEXITY_CAP,), "exp": (math.exp(20.0), PERPLEXITY_CAP)}
"""Where perplexities of a transform are known to be cut off."""

FLOAT = 1e-6
"""Of 1 + a value: what float32 arithmetic may be off by."""

_ACCURACIES = sorted(
    ("token_acc", *(name for name, metric in ALIASES.items() if metric == "token_acc")), key=len, reverse=True
)
"""Names of token accuracies, the longest first."""

_BESIDE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "n_tokens": (
            "n_tokens",
            "n_supervised",
            "num_supervised_tokens",
            "supervised_tokens",
            "num_label_tokens",
        ),
        "n_sequences": ("n_sequences", "num_sequences", "n_seqs"),
        "sequence_correct": ("seq_acc", "seq_accuracy", "sequence_acc", "sequence_accuracy"),
    }
)
"""What may be told beside a token accuracy, and under which names; all are of the same line."""

_SMOOTHING = ("label_smoothing_factor", "label_smoothing")


@dataclass(frozen=True, eq=False)
class Column:
    """One key at every moment, NaN where it was not logged or not finite; `is_odd` where it was NaN or infinite."""

    value: Float
    precision: Float
    is_odd: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Table:
    """One run.

    Attributes:
        logged: the log.
        run: which of its runs.
        meanings: key to what it promises.
        vocab_size: V where it is known.
    """

    logged: Logged
    run: int
    meanings: Mapping[str, Meaning]
    vocab_size: int | None = None

    @cached_property
    def frame(self) -> pl.DataFrame:
        """Rows of the run, with the number of their `moment`: what was logged together.

        That is one row, or, in logs of one value a row, one step of a phase.
        """
        frame = self.logged.frame.filter(pl.col("run") == self.run)
        together = ["row"]
        if not frame.is_empty() and frame["row"].n_unique() == frame.height and not frame["step"].has_nulls():
            together = ["step", "phase"]
        moments = frame.select(together).unique(maintain_order=True).with_row_index("moment")
        return frame.join(moments, on=together, how="left", nulls_equal=True, maintain_order="left")

    @cached_property
    def facts(self) -> Facts:
        """What is known beside the keys."""
        smoothing = next((self.logged.meta[name] for name in _SMOOTHING if name in self.logged.meta), None)
        return Facts(self.vocab_size, smoothing or None)

    @cached_property
    def steps(self) -> list[int | None]:
        """Step of each moment."""
        first = self.frame.group_by("moment", maintain_order=True).agg(pl.col("step").first()).sort("moment")
        return first["step"].to_list()

    @cached_property
    def training_losses(self) -> list[str]:
        """Keys of plain losses of training."""
        return training_losses(self.meanings)

    def notice(self, check: str, moment: int, keys: tuple[str, ...], about: str, count: int = 1) -> Notice:
        """A notice of one moment."""
        return Notice(check, self.run, self.steps[moment], keys, about + self.place(moment, keys), count)

    def place(self, moment: int, keys: Sequence[str]) -> str:
        """Row, epoch and values of a moment, a sentence of its own; "" where the step tells which it is."""
        if self.steps[moment] is not None:
            return ""
        first = self.frame.filter(pl.col("moment") == moment).row(0, named=True)
        epoch = "" if first["epoch"] is None else f", epoch {first['epoch']:.6g}"
        told = {key: self._shown(key, moment) for key in keys if key in self.columns}
        values = ", ".join(f"{key} = {value}" for key, value in told.items() if value)
        return (
            f" The log has no step here: it is row {first['row'] + 1:,}{epoch}{': ' * bool(values)}{values}."
        )

    def _shown(self, key: str, moment: int) -> str:
        column = self.columns[key]
        if column.is_odd[moment]:
            return "NaN or infinite"
        return f"{column.value[moment]:.6g}" if np.isfinite(column.value[moment]) else ""

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Every key, of several values at one moment the last."""
        found: dict[str, Column] = {}
        for (key,), rows in self.frame.group_by("key", maintain_order=True):
            value, precision = (np.full(len(self.steps), np.nan) for _ in range(2))
            at = rows["moment"].to_numpy()
            value[at], precision[at] = rows["value"].to_numpy(), rows["precision"].to_numpy()
            is_odd = np.zeros(len(value), dtype=np.bool_)
            is_odd[at] = ~np.isfinite(value[at])
            found[str(key)] = Column(np.where(is_odd, np.nan, value), precision, is_odd)
        return found

    @cached_property
    def streams(self) -> dict[tuple[str, str | None], list[Known]]:
        """(phase, dataset) to the keys about it, and to those that are told beside its token accuracy."""
        found: dict[tuple[str, str | None], list[Known]] = {}
        for key, meaning in self.meanings.items():
            if key in self.columns:
                stream = found.setdefault((meaning.phase, meaning.dataset), [])
                stream.append(self._known(meaning))
                stream += [self._known(other) for other in self.beside(meaning)]
        return found

    def beside(self, meaning: Meaning) -> list[Meaning]:
        """Counts and sequence accuracy that are logged beside a token accuracy; their keys differ in the last part only."""
        name = next((name for name in _ACCURACIES if meaning.key.lower().endswith(name)), None)
        if name is None or meaning.terms != (("correct", ""),):
            return []
        prefix = meaning.key[: -len(name)]
        return [
            Meaning(
                prefix + other, ((value, ""),), phase=meaning.phase, is_fraction=value == "sequence_correct"
            )
            for value, names in _BESIDE.items()
            for other in names
            if prefix + other in self.columns and prefix + other not in self.meanings
        ]

    def _known(self, meaning: Meaning) -> Known:
        column = self.columns[meaning.key]
        # Float32 arithmetic, too: what is left of a mass next to 1 is all rounding.
        interval = Interval.around(column.value, column.precision + FLOAT * (1 + np.abs(column.value)))
        if meaning.transform != "identity":
            interval = _undone(interval, CAPS.get(meaning.transform, ()))
        values, populations = zip(*meaning.terms, strict=True)
        return Known(
            meaning.key,
            "+".join(values),
            "+".join(populations),
            meaning.transform,
            meaning.is_fraction,
            interval,
        )


def is_cap(value: Float, caps: tuple[float, ...]) -> NDArray[np.bool_]:
    """Whether values are exactly where perplexities are cut off."""
    return np.logical_or.reduce(
        [np.abs(value - cap) <= 1e-6 * cap for cap in caps] or [np.zeros(value.shape, bool)]
    )


def _undone(ppl: Interval, caps: tuple[float, ...]) -> Interval:
    """The logarithm of a perplexity; anything above where it is capped."""
    with np.errstate(divide="ignore"):
        found = ppl.clipped(0.0).rising(np.log)
    return Interval(found.value, found.low, np.where(is_cap(ppl.value, caps), np.inf, found.high))
