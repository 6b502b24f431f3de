"""Whole numbers as people have them, and small tables that are checked before they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import logitbox as lb
from logitbox.errors import DamagedDumpError, InputError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume_from": "a"}, "resume_from is 'a'; give a whole number, 0 or more"),
        ({"resume_from": -1}, "resume_from is -1; give a whole number, 0 or more"),
        ({"every": 1.5}, r"every is 1.5; give a whole number, 1 or more"),
        ({"k": 5.0}, r"k is 5.0; give a whole number, 1 or more"),
        ({"k": True}, r"k is True; give a whole number, 1 or more"),
        ({"accumulation": 0}, "accumulation is 0; give a whole number, 1 or more"),
        ({"types": "coord"}, r"types is 'coord'; give a list of names: \['coord'\]"),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lb.Recorder(tmp_path / "d", 9, **options)
    assert not (tmp_path / "d").exists()


def test_numpy_integers_are_whole_numbers(tmp_path: Path) -> None:
    options = {
        "k": np.int64(4),
        "every": np.int32(2),
        "accumulation": np.int64(3),
        "resume_from": torch.tensor(5),
    }
    with lb.Recorder(tmp_path / "d", 9, vocab_size=np.int64(12), **options) as rec:
        rec.record(torch.randn(2, 12), torch.tensor([1, 11]))
    session = lb.open(tmp_path / "d").sessions[0]
    assert (session.spec.k, session.every, session.accumulation, session.resume_from) == (4, 2, 3, 5)
    assert session.spec.vocab_size == 12


@pytest.mark.parametrize("table", ["samples", "batches", "scalars", "vocab"])
def test_altered_small_table_is_never_read(tmp_path: Path, table: str) -> None:
    with lb.Recorder(tmp_path / "d", ["a", "b", "c"]) as rec:
        rec.record(torch.randn(2, 3), torch.tensor([0, 2]))
        rec.scalars(0, {"loss": 1.0})
    file = next((tmp_path / "d" / table).glob("*/*.parquet"))
    data = bytearray(file.read_bytes())
    data[4] ^= 1
    file.write_bytes(data)
    dump = lb.open(tmp_path / "d")
    with pytest.raises(DamagedDumpError, match=rf"{table}/.*altered.*--skip-damaged"):
        getattr(dump, table)
    assert getattr(lb.open(tmp_path / "d", damaged="skip"), table).collect().is_empty()
