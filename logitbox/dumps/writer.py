"""The background writer: a bounded queue of jobs, a thread that turns them into shards.

The training loop only enqueues. An error of the thread is raised at the loop's next call. Shards hold whole
micro-batches, so that a sample of one step never straddles two shards.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from logitbox.dumps.journal import JournalWriter
from logitbox.dumps.shards import write_shard
from logitbox.errors import WriterError

OnFull = Literal["wait", "drop"]


class Job(Protocol):
    """Work for the writer thread."""

    @property
    def rows(self) -> int:
        """Rows that are lost if the job is dropped."""
        ...

    def tables(self) -> Iterable[tuple[str, pa.Table]]:
        """(table name, rows) to append; runs on the writer thread and may wait for the device."""
        ...


@dataclass(frozen=True)
class WriterOptions:
    """When shards are cut and what happens when the queue is full."""

    shard_rows: int = 65_536
    flush_seconds: float = 300.0
    queue_size: int = 64
    on_full: OnFull = "wait"


class Writer:
    """Owns one (session, rank): its thread, its shard numbers, its journal."""

    def __init__(self, dump: Path, owner: str, options: WriterOptions) -> None:
        self._dump, self._owner, self._options = dump, owner, options
        self._journal = JournalWriter(dump / "sessions" / owner)
        self._queue: queue.Queue[Job | threading.Event | None] = queue.Queue(options.queue_size)
        self._pending: dict[str, list[pa.Table]] = defaultdict(list)
        self._next: dict[str, int] = defaultdict(int)
        self._error: Exception | None = None
        self._flushed = time.monotonic()
        self.dropped_calls = self.dropped_rows = 0
        self._told_calls = self._told_rows = 0
        self._thread = threading.Thread(target=self._run, name=f"logitbox-writer-{owner}", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> bool:
        """Enqueue a job; False if it was dropped (`on_full="drop"`).

        Raises:
            WriterError: an earlier job failed; nothing after it was written.
        """
        self.check()
        if self._options.on_full == "drop":
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                self._count_drop(job)
                return False
            return True
        self._put_waiting(job)
        return True

    def check(self) -> None:
        """Raise the writer thread's error, if it had one."""
        if self._error is not None:
            raise WriterError(
                f"{self._dump}: recording stopped, the writer failed with {type(self._error).__name__}: {self._error}. "
                "Everything journaled so far can be read. Mend the cause and start a new Recorder, "
                "or pass enabled=False to train on without recording"
            ) from self._error

    def flush(self) -> None:
        """Block until everything enqueued so far is in finished shards."""
        done = threading.Event()
        self._put_waiting(done)
        done.wait()
        self.check()

    def close(self) -> None:
        """Write what is left, end the journal and stop the thread; then raise a pending error."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._journal.close()
        self.check()

    def _put_waiting(self, item: Job | threading.Event) -> None:
        while True:
            self.check()
            try:
                self._queue.put(item, timeout=1.0)  # wakes up to notice a writer that failed meanwhile
            except queue.Full:
                continue
            return

    def _count_drop(self, job: Job) -> None:
        if self.dropped_calls == 0:
            warnings.warn(
                f"{self._dump}: the writer is behind and on_full='drop': micro-batches are left out, and counted",
                stacklevel=4,
            )
        self.dropped_calls += 1
        self.dropped_rows += job.rows

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                self._guarded(self._flush)
                item.set()
            elif self._error is None:
                self._guarded(self._take, item)
        self._guarded(self._flush)
        self._guarded(self._end)

    def _guarded(self, work: object, *args: object) -> None:
        if self._error is not None or not callable(work):
            return
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001 (whatever it is, the training loop must hear of it)
            self._error = error

    def _take(self, job: Job) -> None:
        for name, table in job.tables():
            if table.num_rows:
                self._pending[name].append(table)
        rows = sum(table.num_rows for table in self._pending["tokens"])
        waited = time.monotonic() - self._flushed
        if rows >= self._options.shard_rows or waited >= self._options.flush_seconds:
            self._flush()

    def _flush(self) -> None:
        for name, tables in self._pending.items():
            if not tables:
                continue
            table = pa.concat_tables(tables, promote_options="default").combine_chunks()
            entry = write_shard(table, self._dump / name / self._owner, name, self._next[name])
            self._journal.shard(entry)
            self._next[name] += 1
            tables.clear()
        calls, rows = self.dropped_calls - self._told_calls, self.dropped_rows - self._told_rows
        if calls:
            self._journal.append({"event": "dropped", "calls": calls, "rows": rows})
            self._told_calls, self._told_rows = self._told_calls + calls, self._told_rows + rows
        self._flushed = time.monotonic()

    def _end(self) -> None:
        self._journal.append({"event": "close"})
