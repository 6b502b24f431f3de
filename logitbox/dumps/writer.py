"""The background writer: a bounded queue of jobs, a thread that turns them into shards.

The training loop only enqueues. An error of the thread is raised at the loop's next call. Shards hold whole
micro-batches, so that a sample of one step never straddles two shards.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, ParamSpec, Protocol

import pyarrow as pa

from logitbox.dumps.journal import JournalWriter
from logitbox.dumps.pending import PendingRows
from logitbox.dumps.shards import write_shard
from logitbox.errors import InputError, WriterError

P = ParamSpec("P")
OnFull = Literal["wait", "drop"]


class Job(Protocol):
    """Work for the writer thread."""

    def tables(self) -> Iterable[tuple[str, pa.Table]]:
        """(table name, rows) to append; runs on the writer thread and may wait for the device."""
        ...


@dataclass(frozen=True)
class WriterOptions:
    """When shards are cut and what happens when the queue is full."""

    shard_rows: int = 65_536
    flush_seconds: float = 60.0
    queue_size: int = 64
    on_full: OnFull = "wait"

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.on_full not in ("wait", "drop"):
            raise InputError(f"on_full is {self.on_full!r}; allowed are 'wait' and 'drop'")
        for name in ("queue_size", "shard_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not self.flush_seconds > 0:
            raise InputError(f"flush_seconds is {self.flush_seconds}; it must be above 0")


class Writer:
    """Owns one (session, rank): its thread, its shard numbers, its journal."""

    def __init__(self, dump: Path, owner: str, options: WriterOptions) -> None:
        self._dump, self._owner, self._options = dump, owner, options
        self._journal = JournalWriter(dump / "sessions" / owner)
        self._queue: queue.Queue[tuple[Job, bool] | threading.Event | None] = queue.Queue()
        self._slots = threading.Semaphore(options.queue_size)
        self._pending: dict[str, PendingRows] = defaultdict(PendingRows)
        self._next: dict[str, int] = defaultdict(int)
        self._error: Exception | None = None
        self._flushed = time.monotonic()
        self.dropped_calls = self.dropped_rows = 0
        self._told_calls = self._told_rows = 0
        self._pid = os.getpid()
        self._closing = False
        self._stopped = threading.Event()
        """Set by the thread itself: `is_alive` is wrong after a Ctrl-C in `join` (Python before 3.13)."""
        self._thread = threading.Thread(target=self._run, name=f"logitbox-writer-{owner}", daemon=True)
        self._thread.start()

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process that records: its copy of the Recorder has no thread."""
        return os.getpid() != self._pid

    @property
    def has_stopped(self) -> bool:
        """Whether the thread has ended."""
        return self._stopped.is_set()

    def admit(self, rows: int) -> bool:
        """Take a place in the queue for a micro-batch; False if it is full and `on_full` says to drop.

        Each place taken must be used by `put(…, has_slot=True)` or given back by `give_back`.

        Args:
            rows: token rows lost if it is dropped.

        Raises:
            WriterError: an earlier job failed; nothing after it was written.
        """
        self.check()
        if self._take_slot():
            return True
        self._count_drop(rows)
        return False

    def give_back(self) -> None:
        """Leave a place taken by `admit` unused."""
        self._slots.release()

    def put(self, job: Job, *, has_slot: bool = False) -> None:
        """Enqueue a job. Names and metadata are small: they need no place, and are never left out.

        Raises:
            WriterError: an earlier job failed; nothing after it was written.
        """
        self.check()
        self._queue.put((job, has_slot))

    def check(self) -> None:
        """Raise the writer thread's error, if it had one, or say that there is no thread."""
        if self.is_forked:
            raise WriterError(
                f"{self._dump}: this process was forked from the one that records (process {self._pid}), and has no "
                "writer. Record there, or make a Recorder in this process, on another folder"
            )
        if self._error is not None:
            raise WriterError(
                f"{self._dump}: recording stopped, the writer failed with {type(self._error).__name__}: {self._error}. "
                "Everything journaled so far can be read. Mend the cause and start a new Recorder, "
                "or pass enabled=False to train on without recording"
            ) from self._error
        if self._stopped.is_set() and not self._closing:
            raise WriterError(
                f"{self._dump}: recording stopped, the writer thread ended; start a new Recorder"
            )

    def flush(self) -> None:
        """Block until everything enqueued so far is in finished shards."""
        self.check()
        done = threading.Event()
        self._queue.put(done)
        while not done.wait(timeout=1.0):
            self.check()  # a thread that is gone
        self.check()

    def close(self) -> None:
        """Write what is left, end the journal and stop the thread; then raise a pending error.

        A wait that Ctrl-C ended is taken up again by another call. In a forked child there is nothing to do.
        """
        if self.is_forked:
            return
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        while not self._stopped.wait(timeout=1.0):
            pass
        self._journal.close()
        self.check()

    def _take_slot(self) -> bool:
        if self._options.on_full == "drop":
            return self._slots.acquire(blocking=False)
        while not self._slots.acquire(timeout=1.0):
            self.check()  # a writer that failed meanwhile
        return True

    def _count_drop(self, rows: int) -> None:
        self.dropped_calls += 1
        self.dropped_rows += rows
        if self.dropped_calls == 1:
            warnings.warn(
                f"{self._dump}: the writer is behind and on_full='drop': micro-batches are left out, and counted",
                stacklevel=4,
            )

    def _run(self) -> None:
        try:
            while self._serve():
                pass
            self._guarded(self._flush)
            self._guarded(self._end)
        finally:
            self._stopped.set()

    def _serve(self) -> bool:
        """Do what comes next in the queue; False at its end."""
        try:
            item = self._queue.get(timeout=self._patience())
        except queue.Empty:
            self._guarded(self._flush)
            return True
        if item is None:
            return False
        if isinstance(item, threading.Event):
            self._guarded(self._flush)
            item.set()
            return True
        job, has_slot = item
        if has_slot:
            self._slots.release()
        self._guarded(self._take, job)
        return True

    def _patience(self) -> float | None:
        """Seconds until what is pending must be written; None if nothing is."""
        if self._error is not None or not self._most():
            return None
        return max(0.0, self._flushed + self._options.flush_seconds - time.monotonic())

    def _guarded(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        if self._error is not None:
            return
        try:
            work(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 (whatever it is, the training loop must hear of it)
            self._error = error

    def _most(self) -> int:
        """Pending rows of the table that has most."""
        return max((pending.rows for pending in self._pending.values()), default=0)

    def _take(self, job: Job) -> None:
        try:
            built = list(job.tables())  # all or none: a token row without its batch would be half a record
        except Exception:
            self._flush()  # a bad job must not cost the rows accepted before it
            raise
        if not self._most():
            self._flushed = time.monotonic()  # the oldest pending row is as old as this
        for name, table in built:
            if table.num_rows:
                self._pending[name].add(table)
        if self._most() >= self._options.shard_rows or self._patience() == 0.0:
            self._flush()

    def _flush(self) -> None:
        for name, pending in self._pending.items():
            if not pending.rows:
                continue
            entry = write_shard(pending.joined(), self._dump / name / self._owner, name, self._next[name])
            self._journal.shard(entry)
            self._next[name] += 1
            pending.clear()
        calls, rows = self.dropped_calls - self._told_calls, self.dropped_rows - self._told_rows
        if calls:
            self._journal.append({"event": "dropped", "calls": calls, "rows": rows})
            self._told_calls, self._told_rows = self._told_calls + calls, self._told_rows + rows
        self._flushed = time.monotonic()

    def _end(self) -> None:
        self._journal.append({"event": "close"})
