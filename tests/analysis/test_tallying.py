"""Running the tally: executors, the cache, damage."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import polars as pl
import pytest
import torch
from analysis_oracle import V

from logitbox.analysis import tallying
from logitbox.analysis.metrics import metrics, metrics_of_tally
from logitbox.analysis.passes import tasks_of
from logitbox.analysis.reading import ShardTask
from logitbox.analysis.tally import tally_shard
from logitbox.analysis.tallying import tally_dump
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import DamagedDumpError, InputError

PARTS = ("cells",)


def same_bits(a, b):
    for part in PARTS:
        left, right = getattr(a, part), getattr(b, part)
        assert left.equals(right, null_equal=True), part
        for name, dtype in left.schema.items():
            if dtype == pl.Float64:
                assert left[name].to_numpy().tobytes() == right[name].to_numpy().tobytes()


@pytest.fixture
def path(recorded, tmp_path):
    copied = tmp_path / "copy"
    shutil.copytree(recorded[0], copied)
    shutil.rmtree(copied / "tallies", ignore_errors=True)
    return copied


def tasks(dump):
    return tasks_of(dump, (), ShardTask)


def test_the_same_to_the_bit_on_every_executor_and_from_the_cache(path):
    dump, told = open_dump(path), []
    serial = tally_dump(dump, progress=lambda done, total: told.append((done, total)))
    assert told == [(i + 1, len(tasks(dump))) for i in range(len(tasks(dump)))]
    same_bits(serial, tally_dump(dump))  # from the cache
    for make in (
        lambda: ThreadPoolExecutor(2),
        lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")),
    ):
        shutil.rmtree(path / "tallies")
        told.clear()
        with make() as executor:
            same_bits(
                serial,
                tally_dump(dump, executor=executor, progress=lambda *at: told.append(at)),
            )
        assert len(told) == len(tasks(dump))


def test_forked_processes_are_refused_before_they_can_hang(path):
    with (
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor,
        pytest.raises(InputError, match=r'mp_context=multiprocessing.get_context\("spawn"\)'),
    ):
        tally_dump(open_dump(path), executor=executor)


def test_only_new_shards_are_tallied(path, monkeypatch):
    calls = []
    counted = replace(tallying.TALLY, of_shard=lambda task: calls.append(task.name) or tally_shard(task))
    monkeypatch.setattr(tallying, "TALLY", counted)
    tally_dump(open_dump(path))
    count = len(calls)
    assert count == len(open_dump(path).shards("tokens"))
    tally_dump(open_dump(path))
    assert len(calls) == count
    with Recorder(path, V) as rec:
        rec.record(torch.randn(2, 5, V), torch.randint(0, V, (2, 5)), phase="eval", step=9)
    added = tally_dump(open_dump(path))
    assert len(calls) == count + 1
    assert added.cells.filter(step=9, type="")["n"].item() == 8
    metrics(open_dump(path), "source")  # other keys, other tallies
    assert len(calls) == 2 * (count + 1)
    # Setting training back hides rows, so the sessions concerned are tallied anew.
    with Recorder(path, V, resume_from=1) as rec:
        rec.record(torch.randn(2, 5, V), torch.randint(0, V, (2, 5)), step=1)
    again = tally_dump(open_dump(path))
    assert again.cells.filter(phase="train", type="")["step"].max() == 1


def test_new_sources_are_seen_in_spite_of_the_cache(path):
    before = metrics(open_dump(path), "source").frame
    with Recorder(path, V) as rec:
        rec.samples({"sample": [3, 5], "source": ["new", "new"]})
        rec.record(torch.randn(1, 3, V), torch.randint(0, V, (1, 3)), sample=[3])
    after = metrics(open_dump(path), "source").frame
    assert "new" not in before["source"].to_list()
    assert "new" in after["source"].to_list()


def odd_bodies(body):
    """What is whole but no tally: nothing, too many frames, another frame, other bytes."""
    stream = io.BytesIO()
    pl.DataFrame({"type": [""], "x": [1]}).write_ipc(stream)
    other = len(stream.getvalue()).to_bytes(8, "little") + stream.getvalue()
    return (b"", body * 2, other + body, other, other * 3, b"x" * 99, body[:-20])


def test_a_broken_or_missing_cache_is_harmless(path):
    dump = open_dump(path)
    fresh = tally_dump(dump)
    stored = sorted((path / "tallies").iterdir())
    assert [file.suffix for file in stored] == [".tally"] * len(tasks(dump))
    data = stored[0].read_bytes()
    for broken in (
        b"",
        b"x" * 10,
        data[:-1],
        data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        data + b"x",
        stored[1].read_bytes()[:32] + data[32:],
        *(hashlib.sha256(body).digest() + body for body in odd_bodies(data[32:])),
    ):
        stored[0].write_bytes(broken)
        same_bits(fresh, tally_dump(dump))
        assert stored[0].read_bytes() == data
    shutil.rmtree(path / "tallies")
    (path / "tallies").write_text("in the way")  # as good as read-only, also for root
    same_bits(fresh, tally_dump(dump))
    assert (path / "tallies").read_text() == "in the way"


def test_a_cache_that_cannot_be_written_leaves_nothing_behind(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    dump = open_dump(path)
    tally_dump(dump)
    assert list((path / "tallies").iterdir()) == []


def test_altered_and_missing_shards_are_errors(path):
    dump = open_dump(path)
    shard = dump.shards("tokens")[2].path
    data = shard.read_bytes()
    shard.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    with pytest.raises(DamagedDumpError, match=r"shard tokens/.*000002.parquet is altered.*logitbox verify"):
        tally_dump(dump)
    with ThreadPoolExecutor(1) as executor, pytest.raises(DamagedDumpError, match="is altered"):
        tally_dump(dump, executor=executor)
    shard.unlink()
    with pytest.raises(DamagedDumpError, match="cannot be read"):
        tally_dump(dump)
    skipped = open_dump(path, damaged="skip")
    assert str(metrics(skipped)).endswith("1 damaged shards left out")


def test_metrics_of_a_tally_that_lacks_the_column(dump):
    with pytest.raises(
        InputError, match=r"by names 'source', but this tally is split by phase, dataset, pass, step"
    ):
        metrics_of_tally(tally_dump(dump), dump, "source")


def test_two_data_sets_may_use_the_same_sample_ids(tmp_path):
    with Recorder(tmp_path / "d", V) as rec:
        for dataset in ("a", "b"):
            rec.record(
                torch.randn(2, 5, V),
                torch.randint(0, V, (2, 5)),
                sample=[0, 1],
                dataset=dataset,
                phase="eval",
            )
        rec.samples({"sample": [0, 1, 0, 1], "dataset": ["a", "a", "b", "b"], "source": ["w", "x", "y", "z"]})
    dump = open_dump(tmp_path / "d")
    frame = metrics(dump, ["dataset", "source"]).frame.filter(key="eval_n_tokens")
    assert frame.select("dataset", "source", "value").rows() == [
        ("a", "w", 4.0), ("a", "x", 4.0), ("b", "y", 4.0), ("b", "z", 4.0)
    ]  # fmt: skip
    assert tally_dump(dump).cells.filter(type="")["clusters"].to_list() == [2, 2]


def test_a_manifest_that_promises_columns_the_shards_lack(path):
    """The error names the shard and the column."""
    manifest = min((path / "sessions").glob("*/session.json"))
    told = json.loads(manifest.read_text())
    spec = told["record"]
    spec["groups"].append({**spec["groups"][0], "name": "extra"})
    manifest.write_text(json.dumps(told))
    with pytest.raises(
        DamagedDumpError, match=r"shard tokens/\S+ has no column 'logmass_extra'.*session.json"
    ):
        tally_dump(open_dump(path))
