"""An open recording: all that a Recorder does but taking micro-batches."""

from __future__ import annotations

import atexit
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from logitbox.dumps.definitions.values import StepReduction
from logitbox.dumps.intake import Intake
from logitbox.dumps.live import LiveMetrics
from logitbox.dumps.locks import RankLock
from logitbox.dumps.spec import RecordSpec
from logitbox.dumps.transfer import HostCopier
from logitbox.dumps.usertables import SampleColumns, SamplesJob, scalars_job
from logitbox.dumps.writer import Writer
from logitbox.errors import InputError


class Recording:
    """What is told beside the micro-batches, the live metrics, and the end. `Recorder` makes and fills it."""

    path: Path
    enabled: bool
    spec: RecordSpec
    _closed: bool
    _lock: RankLock
    _writer: Writer
    _intake: Intake
    _live: LiveMetrics
    _sample_columns: SampleColumns
    _copier: HostCopier

    def start_pass(self, phase: str, dataset: str = "") -> None:
        """Say that the next `record` of this phase and dataset begins a new pass over the data.

        Needed only where the same step is evaluated twice in a row; a pass also begins by itself when the
        step changed, a training batch came in between (for evaluations) or the given `micro` went back.
        """
        if self.enabled:
            self._intake.clock.new_pass(phase, dataset)

    def scalars(self, step: int, values: Mapping[str, Any], phase: str = "train") -> None:
        """Keep what the trainer itself logged, one row a key. Nothing waits for values that are tensors on a device."""
        if self._is_open():
            self._writer.put(scalars_job(step, values, phase, time.time(), self.spec, self._copier))

    def samples(self, frame: Any) -> None:
        """Keep metadata of samples: `sample` or `key`, and any of `dataset`, `source`, `group`, `length`, others.

        Token rows join them on (sample, dataset). Without a column `dataset` the samples belong to dataset "".

        Args:
            frame: a polars, pandas or pyarrow table, or a dict of lists.
        """
        if self._is_open():
            self._writer.put(SamplesJob(self._sample_columns.table(frame), self._intake.book))

    def metrics(
        self,
        prefix: str | None = None,
        *,
        phase: str | None = None,
        reduction: StepReduction = "token_mean",
        all_reduce: bool = False,
    ) -> dict[str, float | None]:
        """Every metric of what was recorded since the last call, as a plain dict ready for a trainer's log.

        Keys and values are those of `logitbox.metrics(dump)`; `docs/metrics.md` lists them. This is the one call
        that waits for the device.

        Args:
            prefix: put before every key; by default that of the key's seed and phase (nothing or `train_` for
                train, `eval_` or `val_` for eval). It also chooses the phase it names (`eval_`, `eval/`, `eval_x_` are of
                eval), so that the others run on, also where that one has nothing to read.
            phase: the one phase to read; by default all, or the one of `prefix`; where that names none, the only one.
            reduction: "token_mean", Σ over tokens / tokens; or "step_mean", the mean over logging steps of each
                step's value.
            all_reduce: sum over all ranks first; every rank must call it.

        Returns:
            Key to value. None where it is over no tokens; `null_reasons` then says why.

        Raises:
            InputError: an unknown reduction, or a prefix that could be of several phases.
        """
        if not self.enabled:
            return {}
        return self._live.read(prefix, phase=phase, reduction=reduction, all_reduce=all_reduce)

    @property
    def null_reasons(self) -> dict[str, str]:
        """Why values of the last `metrics()` are None, by key."""
        return dict(self._live.reasons)

    def flush(self) -> None:
        """Block until everything recorded so far is in finished shards."""
        if self._is_open():
            self._writer.flush()

    def close(self) -> None:
        """Write what is left and release the dump. Safe to call twice.

        Raises:
            WriterError: the background writer failed.
        """
        if self._closed or not self.enabled:
            return
        try:
            self._writer.close()
        finally:
            if (
                self._writer.has_stopped
            ):  # else Ctrl-C ended the wait: another close(), at the latest at exit, goes on
                self._closed = True
                atexit.unregister(self.close)
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "off" if not self.enabled else "closed" if self._closed else "open"
        return f"Recorder({str(self.path)!r}, V={self.spec.vocab_size}, k={self.spec.k}, {state})"

    def _is_open(self) -> bool:
        if self.enabled and self._closed:
            raise InputError(f"{self!r} is closed; make a new Recorder to append another session")
        return self.enabled
