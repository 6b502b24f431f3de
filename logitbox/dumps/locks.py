"""One writer per (dump, rank). The lock dies with its process, so a crashed run never blocks the next."""

from __future__ import annotations

import fcntl
import os
import socket
import warnings
from functools import cache
from pathlib import Path
from typing import IO
from weakref import WeakSet

from logitbox.errors import LockedError


class RankLock:
    """An advisory lock on `DUMP/locks/r<rank>.lock`, held until `release` or the end of the process.

    Raises:
        LockedError: another live Recorder holds it.
    """

    def __init__(self, dump: Path, rank: int) -> None:
        folder = dump / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        self._stream: IO[str] = (folder / f"r{rank}.lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.seek(0)
            owner = self._stream.read().strip() or "an unknown process"
            self._stream.close()
            raise LockedError(
                f"{dump}: rank {rank} is being recorded by {owner}. Close that Recorder, record to another "
                "folder, or initialise torch.distributed first if this is one of several ranks"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{dump}: this file system has no locks ({error}); two Recorders would collide", stacklevel=4
            )
        self._stream.seek(0)
        self._stream.truncate()
        self._stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._stream.flush()
        _held.add(self)
        _close_in_forks()

    def release(self) -> None:
        """Let the next Recorder in."""
        _held.discard(self)
        self._stream.close()


_held: WeakSet[RankLock] = WeakSet()


@cache
def _close_in_forks() -> None:
    """Once per process: forked children (data loader workers) let go of the locks.

    A lock is held as long as any copy of its descriptor is open; a worker that outlives a killed trainer
    would keep the next run out.
    """
    os.register_at_fork(after_in_child=_release_all)


def _release_all() -> None:
    for lock in list(_held):
        lock.release()
