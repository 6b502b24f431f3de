"""What the sections share: sums of every shard, made once, and calibration at chosen steps."""

from __future__ import annotations

import shutil

import pytest
import torch

import logitbox as lb
from logitbox.analysis import tally
from logitbox.analysis.calibration import partials
from logitbox.analysis.tallying import tally_dump
from logitbox.dumps.recorder import Recorder
from logitbox.reports import streams
from logitbox.reports.streams import gather

V = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Training and two evaluations, several shards."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("streams") / "run"
    with Recorder(path, V, types=["low"], shard_rows=40) as rec:
        for step in range(3):
            for phase, dataset in (("train", ""), ("eval", "a"), ("eval", "b")):
                labels = torch.randint(0, V, (3, 9))
                where = {"step": step, "phase": phase, "dataset": dataset}
                rec.record(torch.randn(3, 9, V), labels, types={"low": labels < 6}, **where)
    return path


def test_every_shard_is_read_twice_at_most(made, tmp_path, monkeypatch):
    """Once for the tally and once for calibration, of all streams and steps together; never again from the cache."""
    path = tmp_path / "copy"
    shutil.copytree(made, path, ignore=shutil.ignore_patterns("tallies"))
    read: list[str] = []
    told: list[tuple[int, int]] = []
    for place in (tally, partials):
        real = place.read_rows
        monkeypatch.setattr(
            place, "read_rows", lambda task, needed, real=real: read.append(task.name) or real(task, needed)
        )
    names = [shard.name for shard in lb.open(path).shards("tokens")]
    lb.report(lb.open(path), tmp_path / "r.html", progress=lambda *at: told.append(at))
    assert sorted(read) == sorted(names * 2)
    assert told == [(i + 1, 2 * len(names)) for i in range(2 * len(names))]
    lb.report(lb.open(path), tmp_path / "r.html")
    assert len(read) == 2 * len(names)


def test_calibration_is_of_the_last_step_and_over_steps(made):
    dump = lb.open(made)
    material = gather(dump, tally_dump(dump))
    whole = lb.calibration(dump, ["dataset", "step"])
    for stream in material.streams:
        shown = stream.calibration.of(stream.phase)
        alone = whole.of(stream.phase, dataset=stream.dataset, step=stream.step)
        assert (shown.n, shown.ece) == (alone.n, alone.ece)
        steps = stream.calibration_by_step.frame["step"].to_list()
        recorded = (
            whole.frame.filter(phase=stream.phase, dataset=stream.dataset)["step"].unique().sort().to_list()
        )
        assert steps == (recorded[-1:] if stream.phase == "train" else recorded)


def test_of_many_steps_some_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MAX_STEPS", 4)
    torch.manual_seed(1)
    with Recorder(tmp_path / "d", V) as rec:
        for step in range(0, 110, 10):
            rec.record(torch.randn(2, 5, V), torch.randint(0, V, (2, 5)), step=step)
    (stream,) = gather(lb.open(tmp_path / "d"), tally_dump(lb.open(tmp_path / "d"))).streams
    assert stream.calibration_by_step.frame["step"].to_list() == [0, 30, 60, 100]
    assert stream.calibration_by_step.frame["ece_low"].null_count() == 0
    assert stream.step == 100
