"""One writer per (dump, rank)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from logitbox.dumps.dump import open_dump
from logitbox.dumps.locks import RankLock
from logitbox.dumps.recorder import Recorder
from logitbox.errors import LockedError

HOLDER = textwrap.dedent("""
    import os, sys, time
    from pathlib import Path
    from logitbox.dumps.locks import RankLock
    lock = RankLock(Path(sys.argv[1]), 0)
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(30)  # a data loader worker that outlives the trainer
        os._exit(0)
    print("held", flush=True)
    time.sleep(30)
""")


def hold(path: Path, how: str = "plain") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    assert process.stdout is not None
    process.wait()
    process.stdout.close()


def test_second_recorder_in_the_same_process(recorder: Callable[..., Recorder], path: Path) -> None:
    first = recorder(5)
    with pytest.raises(
        LockedError, match=rf"rank 0 is being recorded by process {os.getpid()} on .*Close that"
    ):
        Recorder(path, 5)
    first.record(torch.randn(2, 5), torch.tensor([1, 2]))
    first.close()
    assert open_dump(path).tokens.collect().height == 2
    assert len(open_dump(path).sessions) == 1  # the refused one left no session behind
    recorder(5).close()


def test_other_ranks_are_free(recorder: Callable[..., Recorder]) -> None:
    recorder(5, rank=0, world=2, session="0001-a")
    recorder(5, rank=1, world=2, session="0001-a")


def test_second_process_and_takeover_after_a_kill(path: Path) -> None:
    path.mkdir()
    owner = hold(path)
    try:
        with pytest.raises(LockedError, match=rf"by process {owner.pid} on "):
            RankLock(path, 0)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        RankLock(path, 0).release()
    finally:
        end(owner)


def test_takeover_while_a_forked_worker_of_the_dead_owner_lives(path: Path) -> None:
    path.mkdir()
    owner = hold(path, "fork")
    try:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        deadline = time.monotonic() + 10  # a busy machine may start the worker late
        while True:
            try:
                RankLock(path, 0).release()
                break
            except LockedError:
                assert time.monotonic() < deadline, "the worker still holds the lock"
                time.sleep(0.02)
    finally:
        end(owner)


def test_fork_leaves_the_parents_lock_alone(path: Path) -> None:
    path.mkdir()
    lock = RankLock(path, 0)
    code = f"import os; from pathlib import Path; from logitbox.dumps.locks import RankLock; RankLock(Path({str(path)!r}), 0)"
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "LockedError" in again.stderr
    lock.release()


def test_file_system_without_locks_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    path.mkdir()
    monkeypatch.setattr("logitbox.dumps.locks.fcntl.flock", refuse)
    with pytest.warns(UserWarning, match=r"this file system has no locks .*two Recorders would collide"):
        RankLock(path, 0).release()
