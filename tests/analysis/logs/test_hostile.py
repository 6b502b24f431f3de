"""Logs as they come: torn, mixed, in other codes and other countries' numbers."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from read_text import cells, read

from logitbox.analysis.logs import read_logged, reading
from logitbox.errors import InputError

ROW = "{'loss': 1.5, 'grad_norm': 2.0, 'epoch': 0.1}"
TWO = {(1, "loss"): ("train", 1.5), (2, "loss"): ("train", 1.25)}


@pytest.mark.parametrize(
    "torn",
    [
        "{'loss': 1.4, 'grad",
        "{'loss': 1.4, 'grad_WARNING: clipped\nnorm': 2.0}",
        "{'loss': 1.4, WARNING: clipped\n 'grad_norm': 2.0}",
        "{'loss': 1.4, {'eval_los: 3",
        "{'loss': 1.4, 'epoch': 0.1, 'loss': 1.3}",
        "{'loss': 1.4, 'epoch': [0.1",
    ],
)
def test_torn_rows_are_counted(tmp_path, torn):
    for text in (f"{ROW}\n{torn}", f"{torn}\n{ROW}"):
        logged = read(tmp_path, "x.log", text)
        assert cells(logged) == {(None, "loss"): ("train", 1.5), (None, "grad_norm"): ("train", 2.0)}
        assert logged.notes == ("1 row that breaks off left out",)


def test_what_python_prints_of_arrays(tmp_path):
    text = (
        "{'loss': np.float64(1.23), 'a': tensor(1.2, device='cuda:0'), 'b': np.float32(nan), 'c': array(0.5, dtype=float32),"
        " 'd': tensor(0.6931, grad_fn=<NllLossBackward0>), 'e': tensor([1.0, 2.0]), 'f': True}"
    )
    logged = read(tmp_path, "x.log", text)
    values = {key: value for (_, key), (_, value) in cells(logged).items()}
    assert np.isnan(values.pop("b"))
    assert values == {"loss": 1.23, "a": 1.2, "c": 0.5, "d": 0.6931}
    assert len(logged.notes) == 2  # the two that are none


def test_strings_with_colours_and_progress_bars(tmp_path):
    text = (
        " 3%|▎ | 1/30 [00:10<05:00]\r\x1b[32m{'loss': '0.7027', 'learning_rate': '2e-05', 'epoch': '0.01'}\x1b[0m\r\n"
        " 6%|▎ | 2/30\r{'loss': '0.7', 'learning_rate': '1e-05', 'epoch': '0.02'}\r\n"
    )
    loss = read(tmp_path, "x.log", text).frame.filter(key="loss")
    assert loss.select("epoch", "value", "precision").rows() == [(0.01, 0.7027, 5e-5), (0.02, 0.7, 5e-5)]


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_codes_and_ends_of_lines(tmp_path, code, end):
    texts = {
        "x.csv": ["step,loss", "1,1.5", "2,1.25"],
        "x.jsonl": ['{"step": 1, "loss": 1.5}', '{"step": 2, "loss": 1.25}'],
        "x.log": ["{'step': 1, 'loss': 1.5}", "{'step': 2, 'loss': 1.25}"],
    }
    for name, lines in texts.items():
        path = tmp_path / name
        path.write_bytes(end.join(lines).encode(code))
        logged = read_logged(path)
        assert cells(logged) == TWO
        assert logged.notes == ()


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ('step;"loss, total";loss\n1;;1,5\n2;;1,25\n', ("2 numbers with a decimal comma",)),
        ("step\tloss\n1\t1,5\n2\t1,25\n", ("2 numbers with a decimal comma",)),
        ('"step";"loss"\n"1";"1.5"\n"2";"1.25"\n', ()),
        (
            "step,loss,loss\n1,9,1.5\n2,9,1.25\n",
            ("1 column of the same name as another: the last one counts",),
        ),
    ],
)
def test_tables(tmp_path, text, notes):
    logged = read(tmp_path, "x.csv", text)
    assert cells(logged) == TWO
    assert logged.notes == notes


def test_commas_between_thousands_are_no_decimals(tmp_path):
    logged = read(tmp_path, "x.csv", "step;loss;n\n1;1.5;1,024\n2;1.25;2,048\n")
    assert cells(logged) == TWO
    assert logged.notes == ("2 values without a number left out (n)",)


def test_a_chart_without_bounds(tmp_path):
    logged = read(tmp_path, "x.csv", '"Step","a - train/loss","b - c - train/loss"\n1,1.5,2.5\n2,1.25,\n')
    assert cells(logged) == {(1, "train/loss"): ("train", 1.5), (2, "train/loss"): ("train", 1.25)}
    assert cells(logged, run=1) == {(1, "train/loss"): ("train", 2.5)}
    assert logged.notes == ("run 1 is a", "run 2 is b - c")


def test_every_spelling_of_nan(tmp_path):
    text = '{"loss": NaN, "a": "nan", "b": "NAN", "c": -Infinity, "d": "-inf", "e": "Inf", "f": "1.#QNAN", "g": true, "h": null}'
    logged = read(tmp_path, "x.json", text)
    values = {key: str(value) for (_, key), (_, value) in cells(logged).items()}
    assert values == {"loss": "nan", "a": "nan", "b": "nan", "c": "-inf", "d": "-inf", "e": "inf"}
    assert logged.frame["precision"].to_list() == [0.0] * 6
    assert logged.notes == ("2 values without a number left out (f, g)", "1 null value left out")


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_a_key_twice_in_one_object(tmp_path, name):
    text = '{"step": 1, "loss": 9, "loss": 8, "loss": 1.5}\n' + '{"step": 2, "loss": 1.25}' * (
        name == "x.jsonl"
    )
    logged = read(tmp_path, name, text)
    assert cells(logged)[1, "loss"] == ("train", 1.5)
    assert logged.notes == (
        "2 values under a key that the same object has again (loss): the last one counts",
    )


def test_steps_beyond_sense(tmp_path):
    steps = ["-5", "99999999999999999999999", "9007199254740991", '"1e400"', '"1e3"', "true"]
    logged = read(
        tmp_path, "x.jsonl", "\n".join(f'{{"step": {s}, "loss": {i}}}' for i, s in enumerate(steps))
    )
    assert logged.frame["step"].to_list() == [-5, None, 9007199254740991, None, 1000, None]
    assert logged.frame["run"].to_list() == [0, 0, 0, 0, 1, 1]
    assert logged.notes[-1].startswith("2 rows with a step that is no whole number")


def test_an_epoch_before_the_values_of_its_step(tmp_path):
    text = "step,key,value\n5,epoch,0.5\n5,loss,1.5\n5,lr,0.1\n6,loss,1.25\n6,lr,0.1\n6,epoch,0.6\n"
    rows = read(tmp_path, "x.csv", text).frame.select("row", "step", "epoch", "key").rows()
    assert {row[1:] for row in rows} == {(5, 0.5, "loss"), (5, 0.5, "lr"), (6, 0.6, "loss"), (6, 0.6, "lr")}
    assert len({row[0] for row in rows}) == 2


def test_keys_of_any_kind_stay_as_they_are(tmp_path):
    names = ["<script>alert(1)</script>", "\x1b[31mloss\x1b[0m", "a\0b", "x" * 10_000]
    logged = read(tmp_path, "x.json", json.dumps(dict.fromkeys(names, 0.5)))
    assert logged.frame["key"].to_list() == names


def test_wide_rows_and_deep_ones(tmp_path):
    start = time.process_time()
    wide = [{"step": s, **{f"k{i}": i / s for i in range(5_000)}} for s in (1, 2)]
    assert read(tmp_path, "x.json", json.dumps(wide)).frame.height == 10_000
    assert read_logged([{"step": 1, "loss": i / 7} for i in range(3_000)]).runs == tuple(range(3_000))
    deep = '{"a":' * 50_000
    for text in (deep, deep + "1" + "}" * 50_000, '{"a":' * 400 + '{"loss": 1}' + "}" * 400):
        with pytest.raises(InputError, match=r"no JSON|holds no logged"):
            read(tmp_path, "y.json", text)
    assert time.process_time() - start < 5


def test_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_LARGEST", 10)
    with pytest.raises(InputError, match="more than 10 bytes, too many for a log of scalars"):
        read(tmp_path, "x.log", ROW)
