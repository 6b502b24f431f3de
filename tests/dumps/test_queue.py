"""Training and the writer: the queue between them, full and not."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder

V = 20
IGNORED = -100
Make = Callable[..., Recorder]


def some(rows: int = 2, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, width, V), torch.randint(0, V, (rows, width))


# Values.


class Held:
    """A job that keeps the writer busy until it is let go (or gives up, so that a bug cannot hang the tests)."""

    rows = 3

    def __init__(self) -> None:
        self.started, self.go = threading.Event(), threading.Event()
        self.gave_up = False

    def tables(self) -> list[Any]:
        self.started.set()
        self.gave_up = not self.go.wait(10)
        return []


@pytest.fixture
def held() -> Held:
    return Held()


def busy(rec: Recorder, held: Held) -> None:
    rec._writer.put(held)
    assert held.started.wait(10)


def test_training_does_not_wait_while_the_queue_has_room(recorder: Make, path: Path, held: Held) -> None:
    rec = recorder(V, queue_size=20)
    busy(rec, held)
    for step in range(20):
        rec.record(*some(), step=step)
        rec.scalars(step, {"loss": 1.0})
        rec.samples({"sample": [step]})
    held.go.set()
    rec.close()
    assert not held.gave_up  # all that happened while the writer did nothing
    assert open_dump(path).tokens.collect()["step"].to_list() == [s for s in range(20) for _ in range(6)]


def test_full_queue_waits(recorder: Make, path: Path, held: Held) -> None:
    rec = recorder(V, queue_size=2)
    busy(rec, held)
    rec.record(*some(), step=0)
    rec.record(*some(), step=1)
    timer = threading.Timer(0.3, held.go.set)
    started = time.perf_counter()
    timer.start()
    rec.record(*some(), step=2)
    assert time.perf_counter() - started >= 0.3
    rec.close()
    timer.join()
    assert open_dump(path).tokens.collect()["step"].unique().sort().to_list() == [0, 1, 2]


def test_full_queue_drops_counts_and_tells(recorder: Make, path: Path, held: Held) -> None:
    rec = recorder(V, queue_size=2, on_full="drop")
    busy(rec, held)
    rec.record(*some(), step=0)
    rec.record(*some(), step=1)
    with pytest.warns(UserWarning, match=r"micro-batches are left out, and counted"):
        rec.record(*some(), step=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        rec.record(*some(3), step=3)
    rec.scalars(3, {"loss": 1.0})  # small things are never left out
    rec.samples({"key": ["a"]})
    held.go.set()
    rec.flush()
    rec.record(*some(), step=4)
    rec.close()
    dump = open_dump(path)
    assert dump.tokens.collect()["step"].unique().sort().to_list() == [0, 1, 4]
    assert dump.scalars.collect().height == 1
    check = dump.verify()
    assert (check.dropped_calls, check.dropped_rows) == (2, 6 + 9)
    assert (dump.inventory.dropped_calls, dump.inventory.dropped_rows) == (2, 15)
