"""One run of a log against a dump: every key's lines, aligned and judged."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log1p

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.audit.evidence import Evidence
from logitbox.analysis.audit.fitting import Values
from logitbox.analysis.audit.judging import judge
from logitbox.analysis.audit.micros import Micros, micros_of, streams_of
from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.audit.predicting import Lines
from logitbox.analysis.audit.result import KeyVerdict
from logitbox.analysis.audit.searching import Found, is_likely, search
from logitbox.analysis.audit.windows import (
    Alignment,
    Windows,
    eval_windows,
    guess_steps,
    lacks_lines,
    ordered_alignments,
    train_windows,
)
from logitbox.analysis.logs.frame import Logged

Noise = Callable[[NDArray[np.float64], str], NDArray[np.float64]]
"""Logged values and the key's transform to how far arithmetic may move them."""


def usual_noise(values: NDArray[np.float64], transform: str = "identity") -> NDArray[np.float64]:
    """How far float32 arithmetic of trainer and Recorder may be apart: 10⁻⁶ + 2·10⁻⁶ |value|.

    An exponential is as far off, relatively, as its exponent is.
    """
    off = 1e-6 + 2e-6 * np.abs(values)
    if transform == "identity":
        return off
    exponent = np.log(np.maximum(np.abs(values), 1.0))
    return np.maximum(off, np.abs(values) * (1e-6 + 2e-6 * exponent))


@dataclass(frozen=True, eq=False)
class Against:
    """A run's lines beside a dump.

    Attributes:
        logged: the log.
        run: which of its runs.
        evidence: sums of the dump.
        noise: value and transform to what arithmetic may be off by.
    """

    logged: Logged
    run: int
    evidence: Evidence
    noise: Noise
    _lines_of: dict[Hashable, Lines] = field(default_factory=dict[Hashable, Lines])
    _placed: dict[str, tuple[NDArray[np.int64], pl.DataFrame]] = field(
        default_factory=dict[str, tuple[NDArray[np.int64], pl.DataFrame]]
    )
    _found: dict[tuple[str, Alignment], Found] = field(default_factory=dict[tuple[str, Alignment], Found])

    def verdicts(self, meanings: Mapping[str, Meaning]) -> Iterator[KeyVerdict]:
        """A verdict on every key, in the order of `meanings`."""
        streams: dict[tuple[str, str], Micros] = {}
        chosen: dict[tuple[str, str], Alignment] = {}
        for key, meaning in meanings.items():
            stream = self._stream(meaning)
            if stream is None:
                about, skipped = self._unrecorded(meaning), self._rows[key].height
                yield KeyVerdict(key, self.run, "cannot tell", n_skipped=skipped, about=about)
                continue
            if stream not in streams:
                streams[stream] = micros_of(self.evidence, *stream)
                of_stream = [other for other in meanings.values() if self._stream(other) == stream]
                chosen[stream] = self._alignment(of_stream, streams[stream])
            yield self._verdict(meaning, streams[stream], chosen[stream])

    def _stream(self, meaning: Meaning) -> tuple[str, str] | None:
        """The recorded phase and dataset that a key is about; None where there is none, or several it could be."""
        found = [
            (phase, dataset)
            for phase, dataset in self._streams
            if phase == meaning.phase and meaning.dataset in (None, dataset)
        ]
        return found[0] if len(found) == 1 else None

    def _unrecorded(self, meaning: Meaning) -> str:
        known = ", ".join(f"{phase} {dataset!r}" if dataset else phase for phase, dataset in self._streams)
        here = [dataset for phase, dataset in self._streams if phase == meaning.phase]
        if len(here) > 1 and meaning.dataset is None:
            return f"it could be about any of {', '.join(map(repr, here))}; name the set in the key"
        which = f"{meaning.phase} {meaning.dataset!r}" if meaning.dataset else meaning.phase
        return f"the dump holds no tokens of {which}; it holds {known or 'none'}"

    def _alignment(self, meanings: Sequence[Meaning], micros: Micros) -> Alignment:
        """The way of counting steps under which most keys are explained; the usual one where it makes no difference."""
        options = ordered_alignments(meanings[0].phase == "train")
        scores: list[tuple[int, int, float]] = []
        for option in options:
            score, is_perfect = self._score(meanings, micros, option)
            scores.append(score)
            if is_perfect:
                break
        return options[max(range(len(scores)), key=lambda i: (scores[i], -i))]

    def _score(
        self, meanings: Sequence[Meaning], micros: Micros, alignment: Alignment
    ) -> tuple[tuple[int, int, float], bool]:
        """((keys explained, lines covered, −Σ ln(1 + misfit) of what comes closest), whether every line of every key agrees)."""
        explained = covered = 0
        nearness, is_perfect = 0.0, True
        for meaning in meanings:
            lines, at, values, skipped = self._lines(meaning, micros, alignment)
            is_perfect &= len(at) > 0 and not skipped
            if len(at):
                found = search(meaning, lines, at, values, simple=True)
                self._found[meaning.key, alignment] = found
                explained += found.agrees or is_likely(found, values)
                covered += len(at)
                nearness -= min((log1p(one.misfit) for one in found.best), default=0.0)
                is_perfect &= found.agrees
        return (explained, covered, nearness), is_perfect

    def _verdict(self, meaning: Meaning, micros: Micros, alignment: Alignment) -> KeyVerdict:
        lines, at, values, skipped = self._lines(meaning, micros, alignment)
        if not len(at):
            about = _uncovered(meaning, skipped, covered=int(lines.windows["line"].covered.sum()))
            return KeyVerdict(meaning.key, self.run, "cannot tell", n_skipped=skipped, about=about)
        found = self._found[meaning.key, alignment]
        if not found.agrees and not found.fitting:  # else nothing less simple would be tried
            found = search(meaning, lines, at, values)
        finite = ~_is_lossy(lines)[at]
        if not found.agrees and not found.fitting and 0 < finite.sum() < len(at):
            # What a trainer makes of tokens that are infinite or NaN is its own affair.
            at, values = at[finite], values.only(np.flatnonzero(finite))
            skipped += int((~finite).sum())
            found = search(meaning, lines, at, values)
        # Every way of counting steps was one more chance to fit.
        found = replace(found, n_tried=found.n_tried * len(ordered_alignments(lines.is_train)))
        verdict = judge(meaning, self.run, found, values, skipped, alignment.about if alignment.shift else "")
        rows = self._rows[meaning.key]
        return _of_guessed(verdict) if rows["step"].null_count() == rows.height else verdict

    def _lines(
        self, meaning: Meaning, micros: Micros, alignment: Alignment
    ) -> tuple[Lines, NDArray[np.int64], Values, int]:
        """(lines, those that can be compared, what was logged there, how many cannot)."""
        everything, is_train = self._rows[meaning.key], meaning.phase == "train"
        if meaning.key not in self._placed:
            self._placed[meaning.key] = _placed(everything, micros, self._between, is_train=is_train)
        steps, rows = self._placed[meaning.key]
        same = (id(micros), alignment, steps.tobytes())  # keys that are logged together share all predictions
        if same not in self._lines_of:
            windows = _windows(steps, micros, alignment, self._between, is_train=is_train)
            self._lines_of[same] = Lines(micros, windows, self.evidence.setup, is_train)
        lines = self._lines_of[same]
        value = rows["value"].to_numpy()
        is_clear = lines.windows["line"].covered & np.isfinite(value)
        if is_train:
            is_clear &= ~lacks_lines(steps, self._train_steps, self._between)
        at = np.flatnonzero(is_clear)
        precision = rows["precision"].to_numpy()[at]
        value = value[at]
        values = Values(steps[at], value, precision, precision + self.noise(value, meaning.transform))
        return lines, at, values, everything.height - len(at)

    @cached_property
    def _streams(self) -> Sequence[tuple[str, str]]:
        return streams_of(self.evidence)

    @cached_property
    def _rows(self) -> dict[str, pl.DataFrame]:
        """Key to its rows in this run."""
        here = self.logged.frame.filter(pl.col("run") == self.run)
        return {str(key[0]): rows for key, rows in here.partition_by("key", as_dict=True).items()}

    @cached_property
    def _train_steps(self) -> NDArray[np.int64]:
        """Steps at which anything of training was logged, ascending."""
        here = pl.col("run") == self.run, pl.col("phase") == "train", pl.col("step").is_not_null()
        return self.logged.frame.filter(*here)["step"].unique().sort().to_numpy()

    @property
    def _between(self) -> int | None:
        """Steps between lines, where the log tells them; a share of training below 1 tells nothing here."""
        told = self.logged.meta.get("logging_steps", 0.0)
        return int(told) if told >= 1 else None


def _windows(
    steps: NDArray[np.int64], micros: Micros, alignment: Alignment, between: int | None, *, is_train: bool
) -> dict[str, Windows]:
    if not is_train:
        same = eval_windows(steps, micros, alignment)
        return {"line": same, "line+1": same}
    return {
        name: train_windows(steps, micros, alignment, more, between)
        for name, more in (("line", 0), ("line+1", 1))
    }


def _placed(
    rows: pl.DataFrame, micros: Micros, between: int | None, *, is_train: bool
) -> tuple[NDArray[np.int64], pl.DataFrame]:
    """(step of every row that has one, those rows): the last row of every step.

    Where no row tells its step they are guessed; where only some do, the others are left out. A training value is NaN
    where it cannot be told which steps it is about: another at the same step differs, or the row before has no step.
    """
    if rows["step"].null_count() < rows.height:
        if is_train:
            is_torn = (pl.col("value").n_unique().over("step") > 1) | pl.col("step").is_null().shift(1)
            rows = rows.with_columns(value=pl.when(is_torn).then(np.nan).otherwise("value"))
        rows = rows.drop_nulls("step").unique("step", keep="last", maintain_order=True).sort("step")
        return rows["step"].to_numpy().astype(np.int64), rows
    steps = guess_steps(rows.height, micros.steps, between, is_train=is_train)
    return steps, rows.head(len(steps))


def _is_lossy(lines: Lines) -> NDArray[np.bool_]:
    """Lines with supervised tokens that are infinite or NaN, bool [lines]."""
    windows, found = lines.windows["line"], np.zeros(lines.count, dtype=np.bool_)
    found[windows.line[lines.micros.lossy[windows.micro]]] = True
    return found


def _of_guessed(one: KeyVerdict) -> KeyVerdict:
    """A verdict on lines whose steps were guessed: that nothing explains them may be the guess's fault."""
    guess = "the log tells no steps: its lines are taken to be evenly spaced, or evaluations in their order"
    alignment = "; ".join(text for text in (guess, one.alignment) if text)
    if one.verdict != "unexplained":
        return replace(one, alignment=alignment)
    about = f"{guess}, and under that {one.about}"
    return replace(
        one, verdict="cannot tell", about=about, tell_apart="log the step in every line", alignment=alignment
    )


def _uncovered(meaning: Meaning, skipped: int, covered: int) -> str:
    if covered:
        return f"NaN or infinite in all {covered:,} lines that the dump covers"
    if meaning.phase != "train":
        return f"none of its {skipped:,} lines is of a recorded evaluation"
    return (
        f"the dump does not cover the steps of any of its {skipped:,} lines wholly: record every step (every=1) on every "
        "rank, or log at every recorded step"
    )
