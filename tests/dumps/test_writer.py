"""What reaches the disk, and what survives when something goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from logitbox.dumps import files as files_module
from logitbox.dumps import shards as shards_module
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import WriterError

V = 12
Make = Callable[..., Recorder]


def put(rec: Recorder, step: int, rows: int = 4) -> None:
    rec.record(torch.randn(rows, V), torch.arange(rows), step=step)


def temporaries(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if ".tmp" in file.name]


def test_layout_on_disk(recorder: Make, path: Path) -> None:
    with recorder(
        ["a", "b", *"cdefghijkl"], types=["x"], groups={"g": [3, 1]}, every=2, accumulation=4
    ) as rec:
        put(rec, 0)
        rec.scalars(0, {"loss": 1})
        owner = rec.session.owner
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    shards = {
        f"{table}/{owner}/000000.parquet" for table in ("tokens", "samples", "batches", "scalars", "vocab")
    }
    folder = f"sessions/{owner}"
    assert files == shards | {
        "dump.json",
        "locks/r0.lock",
        f"{folder}/session.json",
        f"{folder}/journal.jsonl",
    }
    assert json.loads((path / "dump.json").read_text())["format"] == "logitbox/1"
    session = json.loads((path / folder / "session.json").read_text())
    assert session["record"]["groups"] == [{"name": "g", "ids": [3, 1]}]
    assert (session["every"], session["accumulation"], session["world"]) == (2, 4, 1)
    assert session["versions"]["torch"] == torch.__version__
    lines = [json.loads(line) for line in (path / folder / "journal.jsonl").read_text().splitlines()]
    assert lines[-1] == {"event": "close"}
    for line in lines[:-1]:
        data = (path / line["table"] / owner / line["name"]).read_bytes()
        assert (line["bytes"], line["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_other_tools_read_the_shards(recorder: Make, path: Path) -> None:
    with recorder(V, groups={"g": range(4)}, ordered={"g": {}}, probes=True, lse_beta="always") as rec:
        for step in range(3):
            put(rec, step)
    mine = open_dump(path).tokens.collect()
    (shard,) = open_dump(path).shards("tokens")
    ducks = duckdb.sql(f"select * from read_parquet('{shard.path}')").pl()
    pandas = pd.read_parquet(shard.path)
    for name in mine.columns:
        want = [None if v is None else np.asarray(v, dtype=object).tolist() for v in mine[name].to_list()]
        assert ducks[name].to_list() == want, name
        got = [v.tolist() if isinstance(v, np.ndarray) else v for v in pandas[name].to_numpy(dtype=object)]
        assert [None if v is None or v != v else v for v in got] == want, name
    meta = pq.read_metadata(shard.path)
    assert {meta.row_group(0).column(i).compression for i in range(meta.num_columns)} == {"ZSTD"}


def test_shards_hold_whole_batches(recorder: Make, path: Path) -> None:
    with recorder(V, shard_rows=10) as rec:
        for step in range(7):
            put(rec, step)
    dump = open_dump(path)
    assert [shard.entry.rows for shard in dump.shards("tokens")] == [12, 12, 4]
    assert dump.tokens.collect()["step"].to_list() == [s for s in range(7) for _ in range(4)]


def test_rows_are_written_in_time_also_when_nothing_follows(recorder: Make, path: Path) -> None:
    rec = recorder(V, flush_seconds=0.2)
    put(rec, 0)
    deadline = time.monotonic() + 10
    while not open_dump(path).shards("tokens") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert open_dump(path).tokens.collect().height == 4
    rec.close()


def test_flush_makes_rows_readable_and_the_session_goes_on(recorder: Make, path: Path) -> None:
    rec = recorder(V)
    put(rec, 0)
    assert open_dump(path).tokens.collect().height == 0
    rec.flush()
    dump = open_dump(path)
    assert dump.tokens.collect().height == 4
    assert dump.inventory.unfinished() == [rec.session.owner]
    put(rec, 1)
    rec.close()
    assert open_dump(path).tokens.collect()["step"].to_list() == [0] * 4 + [1] * 4
    assert open_dump(path).inventory.unfinished() == []


FAULTS = {
    "parquet": (shards_module.pq, "write_table"),
    "fsync": (os, "fsync"),
    "rename": (Path, "replace"),
}


@pytest.mark.parametrize("where", FAULTS)
def test_full_disk(recorder: Make, path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    rec = recorder(V)
    put(rec, 0)
    rec.flush()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    put(rec, 1)
    with monkeypatch.context() as patch:
        patch.setattr(*FAULTS[where], full)
        with pytest.raises(WriterError, match=r"recording stopped, .*OSError.*No space left on device"):
            rec.flush()
    with pytest.raises(WriterError, match=r"Everything journaled so far can be read"):
        put(rec, 2)
    with pytest.raises(WriterError, match=r"Mend the cause and start a new Recorder"):
        rec.close()
    rec.close()
    dump = open_dump(path)
    assert dump.tokens.collect()["step"].to_list() == [0] * 4
    assert temporaries(path) == []
    assert not dump.verify().damage
    assert dump.verify().unfinished == (rec.session.owner,)
    with recorder(V) as after:
        put(after, 3)
    assert open_dump(path).tokens.collect()["step"].to_list() == [0] * 4 + [3] * 4


def test_full_disk_is_told_by_the_next_record_not_by_the_failing_one(
    recorder: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rec = recorder(V, shard_rows=1)
    monkeypatch.setattr(shards_module.pq, "write_table", full)
    put(rec, 0)
    deadline = time.monotonic() + 10
    while rec._writer._error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    live = rec.metrics()["n_tokens"]
    with pytest.raises(WriterError, match=r"No space left on device"):
        put(rec, 1)
    assert live == 4
    assert rec.metrics() == {}  # the refused batch was not counted


def test_file_system_without_hard_links(recorder: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files_module.os, "link", refuse)
    for step in range(2):
        with recorder(V) as rec:
            put(rec, step)
    assert open_dump(path).tokens.collect().height == 8
    assert temporaries(path) == []


KILLED = textwrap.dedent("""
    import os, signal, sys
    import torch
    from logitbox.dumps import shards
    from logitbox.dumps.recorder import Recorder
    rec = Recorder(sys.argv[1], 12)
    for step in range(3):
        rec.record(torch.randn(4, 12), torch.arange(4), step=step)
        rec.flush()
    how = sys.argv[2]
    if how == "half a shard":
        whole = shards._write
        def half(table, stream):
            whole(table, stream)
            stream.truncate(100)
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        shards._write = half
    elif how == "no journal line":
        rec._writer._journal.shard = lambda entry: os.kill(os.getpid(), signal.SIGKILL)
    else:
        stream = rec._writer._journal._stream
        class Torn:
            def write(self, text):
                stream.write(text[: len(text) // 2])
                stream.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        rec._writer._journal._stream = Torn()
    rec.record(torch.randn(4, 12), torch.arange(4), step=3)
    rec.flush()
""")


@pytest.mark.parametrize("how", ["half a shard", "no journal line", "torn line"])
def test_killed_while_writing(recorder: Make, path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), how], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9, done.stderr
    dump = open_dump(path)
    owner = dump.sessions[0].owner
    assert dump.tokens.collect()["step"].to_list() == [s for s in range(3) for _ in range(4)]
    check = dump.verify()
    assert check.ok
    assert check.unfinished == (owner,)
    assert check.torn == ((owner,) if how == "torn line" else ())
    stray = "000003.parquet.tmp" if how == "half a shard" else "000003.parquet"
    (named,) = check.strays
    assert named.endswith(stray)
    assert (path / named).exists()
    with recorder(V) as rec:  # the lock died with its owner
        put(rec, 9)
    assert open_dump(path).tokens.collect()["step"].to_list()[12:] == [9] * 4


CRASHED = textwrap.dedent("""
    import sys
    import torch
    from logitbox.dumps.recorder import Recorder
    rec = Recorder(sys.argv[1], 12)
    rec.record(torch.randn(4, 12), torch.arange(4))
    raise RuntimeError("the model diverged")
""")


def test_script_that_crashes_without_closing_loses_nothing(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASHED, str(path)], capture_output=True, text=True, check=False
    )
    assert "the model diverged" in done.stderr
    dump = open_dump(path)
    assert dump.tokens.collect().height == 4
    assert dump.inventory.unfinished() == []


def test_user_columns_may_differ_within_a_shard(recorder: Make, path: Path) -> None:
    frames: list[Any] = [{"sample": [1], "a": [1]}, {"sample": [2], "b": ["x"]}, {"sample": [3], "a": [None]}]
    with recorder(V) as rec:
        for frame in frames:
            rec.samples(frame)
    rows = open_dump(path).samples.select("sample", "a", "b").collect().rows()
    assert rows == [(1, 1, None), (2, None, "x"), (3, None, None)]
    assert open_dump(path).samples.collect_schema()["a"] == pl.Int64
