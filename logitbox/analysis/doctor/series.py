"""What the doctor looks at: values of keys over a run, with their intervals, and what is known about the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

SCHEMA = {
    "key": pl.String,
    "step": pl.Int64,
    "epoch": pl.Float64,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}
"""Columns of a series frame; step or epoch null where unknown, low and high null where there is no interval."""


_NAMED = 2
"""Slashes of a key that ends in a name: val/per_dataset_accuracy/SOURCE."""


@dataclass(frozen=True)
class Point:
    """One value of one key.

    Attributes:
        key: its key; of a quantity made of several keys, the quantity in words.
        step: optimizer step, or None.
        epoch: epoch as it was logged, or None.
        value: finite.
        low: lower end of its 95 % interval, or None.
        high: upper end.
        n: how many samples or tokens it is of, or None.
    """

    key: str
    step: int | None
    epoch: float | None
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def when(self) -> float:
        """What puts points in order: the step, or the epoch where steps are unknown."""
        return float(self.step) if self.step is not None else self.epoch or 0.0

    @property
    def is_exact(self) -> bool:
        """Whether it is a count, with nothing around it."""
        return self.low == self.value == self.high

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Facts:
    """What is known about a run.

    Attributes:
        source: where the numbers are from, in words.
        classes: how many classes there are to choose from (for tokens: the vocabulary), or None.
        phase: the evaluation phase that is judged, or "".
        has_logits: False for logs alone.
        missing: key, or the part of it before "/*", to why it is not there.
        notes: sentences about how the numbers were read.
    """

    source: str
    classes: int | None = None
    phase: str = ""
    has_logits: bool = False
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Series:
    """Values of keys over a run, as a frame of `SCHEMA`, and facts about the run."""

    frame: pl.DataFrame
    facts: Facts

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """All keys that have a value."""
        return tuple(self._points)

    @cached_property
    def _points(self) -> dict[str, list[Point]]:
        found: dict[str, list[Point]] = {}
        for row in self.frame.iter_rows(named=True):
            if row["value"] is None or not math.isfinite(row["value"]):
                continue
            known = {name: _finite(row[name]) for name in ("epoch", "low", "high")}
            point = Point(key=row["key"], step=row["step"], value=row["value"], n=row["n"], **known)
            found.setdefault(row["key"], []).append(point)
        return {key: _in_order(points) for key, points in found.items()}

    def points(self, key: str) -> list[Point]:
        """Values of one key in the order of the run; of several at one step the last one.

        The name after the second slash (a source, a bucket) is found without regard to case.
        """
        if key in self._points or key.count("/") < _NAMED:
            return self._points.get(key, [])
        wanted = key.casefold()
        return next((points for name, points in self._points.items() if name.casefold() == wanted), [])

    def nonfinite(self, key: str) -> str:
        """What values of a key were that are none: "NaN", "infinite", or both."""
        lost = self.frame.filter(pl.col("key") == key)["value"].drop_nulls()
        kinds = [
            word for word, found in (("NaN", lost.is_nan()), ("infinite", lost.is_infinite())) if found.any()
        ]
        return " or ".join(kinds or ["NaN", "infinite"])

    def members(self, family: str) -> dict[str, list[Point]]:
        """Of "name/*" every key "name/…" by what stands for the star, and its values."""
        prefix = family.removesuffix("*")
        return {
            key.removeprefix(prefix): points for key, points in self._points.items() if key.startswith(prefix)
        }

    def why_missing(self, key: str) -> str:
        """Why a key has no values, in words."""
        family = key.rsplit("/", 1)[0] + "/*"
        if not key.endswith("*") and key.count("/") > 1 and (others := self.members(family)):
            return f"no {key} among {', '.join(list(others)[:5])}"
        for name, reason in self.facts.missing.items():
            if key == name or (name.endswith("*") and key.startswith(name.removesuffix("*"))):
                return f"no {key}: {reason}"
        return f"no {key}" + ("" if self.facts.has_logits else " in the log")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _in_order(points: Sequence[Point]) -> list[Point]:
    """By step (or epoch); a later row replaces an earlier one of the same moment, as after a resume."""
    return [kept for _, kept in sorted({point.when: point for point in points}.items())]


def series_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame of `SCHEMA`; names that are left away are null."""
    return pl.DataFrame([{name: row.get(name) for name in SCHEMA} for row in rows], schema=SCHEMA)


def with_epochs(frame: pl.DataFrame, steps_per_epoch: float | None) -> pl.DataFrame:
    """Epochs from steps where they are not known and the user says how many steps make one."""
    if steps_per_epoch is None:
        return frame
    return frame.with_columns(pl.col("epoch").fill_null(pl.col("step") / steps_per_epoch))


def with_points_at(frame: pl.DataFrame, extra: pl.DataFrame) -> pl.DataFrame:
    """The frame and, of `extra`, the keys it does not have."""
    new = extra.filter(~pl.col("key").is_in(frame["key"].unique().to_list()))
    return pl.concat([frame, new]) if new.height else frame
