"""What a bad call, a fork or Ctrl-C may cost: never the rows that were accepted before."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from logitbox.dumps.dump import open_dump
from logitbox.dumps.pending import PendingRows
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError, WriterError

V = 12
Make = Callable[..., Recorder]


def put(rec: Recorder, step: int, **given: Any) -> None:
    rec.record(torch.randn(4, V), torch.arange(4), step=step, **given)


class BadJob:
    """Fails after its first table."""

    def tables(self) -> Any:
        yield "scalars", pa.table({"step": [1]})
        raise InputError("label 99 is outside")


def test_a_bad_job_costs_only_itself(recorder: Make, path: Path) -> None:
    rec = recorder(V)
    put(rec, 0)
    rec._writer.put(BadJob())
    with pytest.raises(WriterError, match=r"InputError: label 99 is outside"):
        rec.close()
    dump = open_dump(path)
    assert dump.tokens.collect()["step"].to_list() == [0] * 4
    assert dump.batches.collect().height == 1
    assert dump.shards("scalars") == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sample": [2**70, 1, 2, 3]}, f"sample id is {2**70}; allowed are"),
        ({"micro": 2**40}, f"micro is {2**40}; allowed are 0 to {2**31 - 1}"),
        ({"micro": -1}, "micro is -1"),
        ({"step": "x"}, "step is 'x'; give an integer"),
        ({"step": 2**63}, f"step is {2**63}; allowed are"),
        ({"step": 0.5}, "step is 0.5; give an integer"),
        ({"phase": None}, "phase is None; give a string"),
        ({"dataset": 3}, "dataset is 3; give a string"),
        ({"epoch": "x"}, "epoch is 'x'; give a number"),
    ],
)
def test_what_fits_no_column_is_refused_at_once(
    recorder: Make, path: Path, given: dict[str, Any], message: str
) -> None:
    with recorder(V) as rec:
        put(rec, 0)
        with pytest.raises(InputError) as caught:
            put(rec, **{"step": 0, **given})
        assert message in str(caught.value)
        put(rec, 0)
    assert open_dump(path).batches.collect()["micro"].to_list() == [0, 1]


@pytest.mark.parametrize("what", ["record", "flush"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of any fork with threads
def test_a_forked_child_is_told_and_does_not_hang(recorder: Make, path: Path, what: str) -> None:
    rec = recorder(V)
    put(rec, 0)
    rec.flush()
    logits, labels = torch.randn(4, V), torch.arange(4)
    child = os.fork()
    if child == 0:
        try:
            rec.record(logits, labels) if what == "record" else rec.flush()
        except WriterError as error:
            rec.close()  # does nothing
            os._exit(7 if "forked" in str(error) else 8)
        os._exit(9)
    deadline = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    if done[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(done[1]) == 7
    put(rec, 1)
    rec.close()
    assert open_dump(path).tokens.collect().height == 8


def test_ctrl_c_in_close_leaves_it_to_the_next_close(
    recorder: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rec = recorder(V)
    gate = threading.Event()

    class Slow:
        def tables(self) -> tuple[()]:
            gate.wait(20)
            return ()

    rec._writer.put(Slow())
    put(rec, 0)
    stopped = rec._writer._stopped

    def interrupted(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stopped, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rec.close()
    assert "open" in repr(rec)
    gate.set()
    rec.close()
    assert "closed" in repr(rec)
    assert open_dump(path).tokens.collect().height == 4
    assert open_dump(path).inventory.unfinished() == []


def test_a_session_cannot_sort_before_those_present(recorder: Make) -> None:
    recorder(V, rank=0, world=2, session="0005-a").close()
    recorder(V, rank=1, world=2, session="0005-a").close()  # the same session, another rank
    for name in ("0004-b", "0005-b"):
        with pytest.raises(InputError, match=r"its number must be above 5"):
            recorder(V, session=name)
    recorder(V, session="0006-b").close()


def test_dropped_calls_are_not_in_the_live_metrics(recorder: Make, path: Path) -> None:
    rec = recorder(V, on_full="drop", queue_size=1)
    gate = threading.Event()

    class Slow:
        def tables(self) -> tuple[()]:
            gate.wait(20)
            return ()

    rec._writer.put(Slow())
    put(rec, 0)
    with pytest.warns(UserWarning, match="on_full='drop'"):
        put(rec, 1)
    assert rec.metrics()["n_tokens"] == 4
    gate.set()
    rec.close()
    dump = open_dump(path)
    assert dump.tokens.collect()["step"].to_list() == [0] * 4
    assert (dump.inventory.dropped_calls, dump.inventory.dropped_rows) == (1, 4)


def test_many_tiny_tables_become_few_in_order() -> None:
    pending = PendingRows()
    for i in range(10_000):
        pending.add(pa.table({"x": [i]}))
    assert pending.rows == 10_000
    assert sum(len(level) for level in pending._levels) < 3 * 64
    assert pending.joined()["x"].to_pylist() == list(range(10_000))


def test_interleaved_evaluation_phases_are_one_pass_each(recorder: Make, path: Path) -> None:
    with recorder(V) as rec:
        for _ in range(3):
            put(rec, 5, phase="eval")
            put(rec, 5, phase="ema")
        put(rec, 5)
        put(rec, 5, phase="eval")
    rows = open_dump(path).batches.select("phase", "pass", "micro").collect().rows()
    assert [r for r in rows if r[0] == "eval"] == [
        ("eval", 0, 0),
        ("eval", 0, 1),
        ("eval", 0, 2),
        ("eval", 1, 0),
    ]
    assert [r for r in rows if r[0] == "ema"] == [("ema", 0, 0), ("ema", 0, 1), ("ema", 0, 2)]
