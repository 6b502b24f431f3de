"""Dumps, frames and rows in memory; steps; and what is no log."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from read_text import cells, read

from logitbox.analysis.logs import Logged, read_logged
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


def test_dump(tmp_path):
    with Recorder(tmp_path / "dump", vocab=4) as rec:
        rec.scalars(1, {"loss": 1.2345678, "lr": 1e-4})
        rec.scalars(2, {"eval_loss": 1.5})
        rec.scalars(2, {"loss": 1.25}, phase="holdout")
    for given in (open_dump(tmp_path / "dump"), tmp_path / "dump", str(tmp_path / "dump")):
        logged = read_logged(given)
        assert logged.format == "scalars of a dump"
        assert cells(logged) == {
            (1, "loss"): ("train", 1.2345678),
            (1, "lr"): ("train", 1e-4),
            (2, "eval_loss"): ("eval", 1.5),
            (2, "loss"): ("holdout", 1.25),
        }
        assert logged.frame["row"].to_list() == [0, 0, 1, 2]


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas"])
def test_frames(kind):
    rows = [{"step": 1, "loss": 1.5}, {"step": 2, "eval_loss": 0.123456789, "run": None}]
    if kind == "pandas":
        frame = pytest.importorskip("pandas").DataFrame(rows)
    else:
        frame = pl.DataFrame(rows) if kind == "polars" else pl.LazyFrame(rows)
    logged = read_logged(frame)
    assert cells(logged) == {(1, "loss"): ("train", 1.5), (2, "eval_loss"): ("eval", 0.123456789)}
    assert bool(logged.notes) == (kind == "pandas")


def test_float32_has_fewer_digits():
    values = np.float32([0.7, 0.123456789])
    logged = read_logged(pl.DataFrame({"step": [1, 2], "loss": values}))
    exact = [0.7, 0.123456789]
    for value, precision, meant in zip(logged.frame["value"], logged.frame["precision"], exact, strict=True):
        assert abs(value - meant) <= precision < 1e-7


def test_what_is_read_already():
    logged = read_logged([{"step": 1, "loss": 1.0}])
    assert read_logged(logged) is logged
    assert isinstance(logged, Logged)


def test_step_key(tmp_path):
    text = "step,Tokens seen,loss\n1,1000,2.5\n2,2000,1.5\n"
    assert cells(read(tmp_path, "a.csv", text, step_key="tokens seen")) == {
        (1000, "loss"): ("train", 2.5),
        (2000, "loss"): ("train", 1.5),
    }
    with pytest.raises(
        InputError, match=r"step_key is 'x', which no row of .*a.csv has; it has step, Tokens seen, loss"
    ):
        read(tmp_path, "a.csv", text, step_key="x")


def test_steps_that_are_none():
    logged = read_logged(
        [{"step": 1.5, "loss": 1.0}, {"step": math.nan, "loss": 2.0}, {"step": "3", "loss": 4.0}]
    )
    assert logged.frame["step"].to_list() == [None, None, 3]
    assert logged.notes == ("2 rows with a step that is no whole number: read as without step",)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.json", "{a", "line 1: no JSON"),
        ("x.jsonl", '{"loss": 1}\n{"loss": \n{"loss": 2}\n', "line 2: no JSON"),
        ("x.json", "[" * 100_000, "line 1: no JSON"),
        ("x.log", "epoch 1: loss 2.3", "holds no logged rows; expected are dicts"),
        ("x.csv", "a,b\n", "holds no logged rows"),
        ("x.csv", "a,b\nx,y\n", "holds no logged numbers"),
        ("x.csv", "a,b\n" + "1" * 200_000 + ",2\n", "is no CSV"),
        ("x.ipynb", '{"nbformat": 4, "cells": []}', "holds no logged rows"),
    ],
)
def test_what_is_no_log(tmp_path, name, text, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path, name, text)


def test_what_cannot_be_opened(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{}", encoding="utf-8")
    (tmp_path / "x.log").write_bytes(b"\xff\xff")
    for given, said in [
        (tmp_path / "none.json", "is neither a dump"),
        (tmp_path, "is a folder without a dump .*; give one of its files: trainer_state.json"),
        (tmp_path / "x.log", "is no text"),
        (
            "{'loss': 1.5}\n" * 1000,
            r"^\"\{'loss'.* is no path \(File name too long\); give a trainer_state.json",
        ),
        (3, "cannot read a int as a log; give a path"),
        ([], "cannot read a list of no rows"),
        ([{"loss": 1}, 3], "cannot read a list of int"),
        ([{"name": "x"}], "holds no logged numbers"),
    ]:
        with pytest.raises(InputError, match=said):
            read_logged(given)


def test_text_of_other_codes(tmp_path):
    path = tmp_path / "x.log"
    path.write_bytes("{'loss': 1.5}\r\n".encode("utf-16"))
    assert cells(read_logged(path)) == {(None, "loss"): ("train", 1.5)}
    path.write_bytes(b"{'loss': 1.5}" + b" " * 200 + "█".encode()[:2])
    logged = read_logged(path)
    assert cells(logged) == {(None, "loss"): ("train", 1.5)}
    assert logged.notes == ("1 character in no UTF-8 read as unknown",)


def test_line_separators_within_json(tmp_path):
    logged = read(
        tmp_path, "x.jsonl", '{"step": 1, "loss": 1.5, "text": "a\u2028b"}\n{"step": 2, "loss": 1.0}\n'
    )
    assert logged.frame["value"].to_list() == [1.5, 1.0]
