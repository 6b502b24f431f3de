"""One run of a log against a dump: every key's lines, aligned and judged."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log1p

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.audit.evidence import Evidence
from logitbox.analysis.audit.fitting import Values
from logitbox.analysis.audit.judging import Found, judge, search
from logitbox.analysis.audit.micros import Micros, micros_of, streams_of
from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.audit.predicting import Lines
from logitbox.analysis.audit.result import KeyVerdict
from logitbox.analysis.audit.windows import (
    Alignment,
    Windows,
    eval_windows,
    guess_steps,
    ordered_alignments,
    train_windows,
)
from logitbox.analysis.logs.frame import Logged

Noise = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def usual_noise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far float32 arithmetic of trainer and Recorder may be apart: 10⁻⁶ + 2·10⁻⁶ |value|."""
    return 1e-6 + 2e-6 * np.abs(values)


@dataclass(frozen=True, eq=False)
class Against:
    """A run's lines beside a dump.

    Attributes:
        logged: the log.
        run: which of its runs.
        evidence: sums of the dump.
        noise: value to what arithmetic may be off by.
    """

    logged: Logged
    run: int
    evidence: Evidence
    noise: Noise
    _lines_of: dict[Hashable, Lines] = field(default_factory=dict[Hashable, Lines])

    def verdicts(self, meanings: Mapping[str, Meaning]) -> Iterator[KeyVerdict]:
        """A verdict on every key, in the order of `meanings`."""
        streams: dict[tuple[str, str], Micros] = {}
        chosen: dict[tuple[str, str], Alignment] = {}
        for key, meaning in meanings.items():
            stream = self._stream(meaning)
            if stream is None:
                yield KeyVerdict(key, self.run, "cannot tell", about=_unrecorded(meaning, self.evidence))
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
            for phase, dataset in streams_of(self.evidence)
            if phase == meaning.phase and meaning.dataset in (None, dataset)
        ]
        return found[0] if len(found) == 1 else None

    def _alignment(self, meanings: Sequence[Meaning], micros: Micros) -> Alignment:
        """The way of counting steps under which most keys are explained; the usual one where it makes no difference."""
        options = ordered_alignments(meanings[0].phase == "train")
        scores = [self._score(meanings, micros, option) for option in options]
        return options[max(range(len(options)), key=lambda i: (scores[i], -i))]

    def _score(
        self, meanings: Sequence[Meaning], micros: Micros, alignment: Alignment
    ) -> tuple[int, int, float]:
        """(keys explained, lines covered, −Σ ln(1 + misfit) of what comes closest)."""
        explained = covered = 0
        nearness = 0.0
        for meaning in meanings:
            lines, at, values, _ = self._lines(meaning, micros, alignment)
            if len(at):
                found = search(meaning, lines, at, values, simple=True)
                explained += bool(found.agrees or found.fitting)
                covered += len(at)
                nearness -= min((log1p(one.misfit) for one in found.best), default=0.0)
        return explained, covered, nearness

    def _verdict(self, meaning: Meaning, micros: Micros, alignment: Alignment) -> KeyVerdict:
        lines, at, values, skipped = self._lines(meaning, micros, alignment)
        if not len(at):
            about = _uncovered(meaning, skipped, covered=int(lines.windows["line"].covered.sum()))
            return KeyVerdict(meaning.key, self.run, "cannot tell", n_skipped=skipped, about=about)
        found: Found = search(meaning, lines, at, values)
        told = alignment.about if alignment.shift else ""
        return judge(meaning, self.run, found, values, skipped, told)

    def _lines(
        self, meaning: Meaning, micros: Micros, alignment: Alignment
    ) -> tuple[Lines, NDArray[np.int64], Values, int]:
        """(lines, those that can be compared, what was logged there, how many cannot)."""
        rows = (
            self.logged.frame.filter((pl.col("run") == self.run) & (pl.col("key") == meaning.key))
            .unique(["step"] if self._has_steps(meaning.key) else ["row"], keep="last", maintain_order=True)
            .sort("step", maintain_order=True)
        )
        is_train = meaning.phase == "train"
        steps = _steps(rows, micros, self.logged.meta.get("logging_steps"), is_train=is_train)
        rows = rows.head(len(steps))
        same = (id(micros), alignment, steps.tobytes())  # keys that are logged together share all predictions
        if same not in self._lines_of:
            windows = _windows(steps, micros, alignment, is_train=is_train)
            self._lines_of[same] = Lines(micros, windows, self.evidence.setup, is_train)
        lines = self._lines_of[same]
        value = rows["value"].to_numpy()
        at = np.flatnonzero(lines.windows["line"].covered & np.isfinite(value))
        precision = rows["precision"].to_numpy()[at]
        value = value[at]
        values = Values(steps[at], value, precision, precision + self.noise(value))
        return lines, at, values, len(steps) - len(at)

    def _has_steps(self, key: str) -> bool:
        here = self.logged.frame.filter((pl.col("run") == self.run) & (pl.col("key") == key))
        return here["step"].null_count() == 0


def _windows(
    steps: NDArray[np.int64], micros: Micros, alignment: Alignment, *, is_train: bool
) -> dict[str, Windows]:
    if not is_train:
        same = eval_windows(steps, micros, alignment)
        return {"line": same, "line+1": same}
    return {
        name: train_windows(steps, micros, alignment, more) for name, more in (("line", 0), ("line+1", 1))
    }


def _steps(rows: pl.DataFrame, micros: Micros, logging: float | None, *, is_train: bool) -> NDArray[np.int64]:
    if rows["step"].null_count() == 0:
        return rows["step"].to_numpy().astype(np.int64)
    return guess_steps(rows.height, micros.steps, logging, is_train=is_train)


def _unrecorded(meaning: Meaning, evidence: Evidence) -> str:
    known = ", ".join(f"{phase} {dataset!r}" if dataset else phase for phase, dataset in streams_of(evidence))
    which = f"{meaning.phase} {meaning.dataset!r}" if meaning.dataset else meaning.phase
    return f"the dump holds no tokens of {which}, or of several sets that the key could be about; it holds {known}"


def _uncovered(meaning: Meaning, skipped: int, covered: int) -> str:
    if covered:
        return f"NaN or infinite in all {covered:,} lines that the dump covers"
    if meaning.phase != "train":
        return f"none of its {skipped:,} lines is of a recorded evaluation"
    return (
        f"the dump does not cover the steps of any of its {skipped:,} lines: record every step (every=1), or log at every "
        "recorded step"
    )
