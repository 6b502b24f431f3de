"""TensorBoard event files, written by TensorBoard's own writer."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from logitbox import cli
from logitbox.analysis.doctor import doctor
from logitbox.analysis.logs import read_logged
from logitbox.errors import InputError

event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
from tensorboard.compat.proto import summary_pb2  # noqa: E402
from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: E402
from tensorboard.util.tensor_util import make_tensor_proto  # noqa: E402


def event(step, **values):
    """An event with simple values (floats) and tensors (arrays)."""
    summary = summary_pb2.Summary()
    for tag, given in values.items():
        one = summary.value.add(tag=tag.replace("__", "/"))
        if isinstance(given, float):
            one.simple_value = given
        else:
            one.tensor.CopyFrom(make_tensor_proto(given))
    return event_pb2.Event(step=step, wall_time=1.0, summary=summary).SerializeToString()


def write(path, events):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for one in (event_pb2.Event(file_version="brain.Event:2").SerializeToString(), *events):
            writer.write(one)
    return path


NAME = "events.out.tfevents.1.host"
EVENTS = [
    event(5, train__loss=1.4224),
    event(5, train__epoch=0.5),
    event(5, hist=np.zeros(4, np.float32), text=np.array([b"x"])),
    event(10, train__loss=float("nan"), eval__loss=np.array(0.123456789012345)),
    event(10, eval__n=np.array([3]), eval__acc=np.float32(0.7)),
]


def test_one_file(tmp_path):
    logged = read_logged(write(tmp_path / NAME, EVENTS))
    rows = {(row["step"], row["key"]): row for row in logged.frame.iter_rows(named=True)}
    assert set(rows) == {
        (5, "train/loss"),
        (10, "train/loss"),
        (10, "eval/loss"),
        (10, "eval/n"),
        (10, "eval/acc"),
    }
    loss = rows[5, "train/loss"]
    assert (loss["value"], loss["precision"], loss["epoch"], loss["phase"]) == (1.4224, 5e-5, 0.5, "train")
    assert np.isnan(rows[10, "train/loss"]["value"])
    assert rows[10, "eval/loss"]["value"] == 0.123456789012345
    assert rows[10, "eval/acc"]["phase"] == "eval"
    assert rows[10, "eval/n"]["value"] == 3
    assert logged.format == "TensorBoard event file"
    assert logged.notes == ("2 summaries without a number left out",)


def test_folders(tmp_path):
    write(tmp_path / "a" / NAME, [event(1, loss=2.0), event(2, loss=1.5)])
    write(tmp_path / "b" / NAME, [event(1, loss=3.0), event(2, loss=2.5)])
    write(tmp_path / "b" / f"{NAME}.2", [event(2, loss=2.75), event(3, loss=2.25)])
    logged = read_logged(tmp_path)
    got = [logged.frame.filter(run=run)["value"].to_list() for run in logged.runs]
    assert got == [[2.0, 1.5], [3.0, 2.5], [2.75, 2.25]]
    assert logged.format == "TensorBoard event files"
    assert logged.notes[:2] == ("run 1 is a", "run 2 is b")
    assert logged.notes[2].startswith("run 3 begins at row 4: resumed at step 2, after 2")


@pytest.mark.parametrize("is_folder", [False, True])
def test_doctor_reads_it(tmp_path, is_folder, capsys):
    path = write(tmp_path / "runs" / NAME, EVENTS)
    path = path.parent if is_folder else path
    assert cli.run(["doctor", str(path), "--json"]) == 0
    assert "train/loss" in capsys.readouterr().out
    series = doctor(path, "classification").series.filter(key="train/loss")
    assert series["step"].to_list()[0] == 5
    assert series["value"].to_list()[0] == pytest.approx(1.4224)


def test_files_that_are_cut_short_or_none(tmp_path):
    path = write(tmp_path / NAME, EVENTS)
    path.write_bytes(path.read_bytes()[:-10])
    assert read_logged(path).frame.height >= 1
    path.write_bytes(b"no events at all, only words")
    with pytest.raises(InputError, match=r"no event file|no logged rows"):
        read_logged(path)
    with pytest.raises(InputError, match="is a folder without a dump or TensorBoard scalars"):
        read_logged(tmp_path)


def test_without_the_package(tmp_path, monkeypatch):
    path = write(tmp_path / NAME, EVENTS)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    with pytest.raises(InputError, match=r"pip install 'logitbox\[tensorboard\]'"):
        read_logged(path)
