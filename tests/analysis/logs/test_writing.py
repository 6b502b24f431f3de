"""The same rows in every text format; and texts that want to do harm."""

from __future__ import annotations

import csv
import io
import json
import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.logs.formats.dicts import dicts_in
from logitbox.analysis.logs.reading import read_logged

KEYS = ["loss", "eval_loss", "eval/accuracy", "grad_norm", "rewards/margins", 'it\'s "quoted"']
NUMBERS = st.one_of(st.floats(), st.floats(0, 10).map(lambda x: round(x, 4)), st.integers(-(10**6), 10**6))


@st.composite
def histories(draw):
    rows = draw(
        st.lists(
            st.dictionaries(st.sampled_from(KEYS[:5]), NUMBERS, min_size=1)
            | st.fixed_dictionaries(
                {"loss": NUMBERS, "epoch": st.floats(0, 9), "learning_rate": st.floats(0, 1)}
            ),
            min_size=1,
            max_size=8,
        )
    )
    steps = draw(st.lists(st.integers(0, 20) | st.none(), min_size=len(rows), max_size=len(rows)))
    return [row if step is None else row | {"step": step} for row, step in zip(rows, steps, strict=True)]


def as_csv(rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


WRITERS = {
    "a.json": json.dumps,
    "b.json": lambda rows: json.dumps({"log_history": rows}, indent=2),
    "c.jsonl": lambda rows: "\n".join(map(json.dumps, rows)),
    "d.log": lambda rows: "\n".join(f"INFO | {row}\r 3%|  | {{x}}" for row in rows),
    "e.md": lambda rows: "".join(map(str, rows)),
    "f.txt": lambda rows: "\n".join(f"[rank0] {json.dumps(row)}" for row in rows),
    "g.csv": as_csv,
    "h.ipynb": lambda rows: json.dumps(
        {
            "nbformat": 4,
            "cells": [{"outputs": [{"output_type": "stream", "text": [f"{row}\n" for row in rows]}]}],
        }
    ),
}


@given(histories())
@settings(max_examples=25, deadline=None)
def test_every_format_reads_back_the_same(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("logs")
    in_memory = read_logged(rows)
    order = ["row", "key"]
    expected = in_memory.frame.sort(order)
    assert expected.height <= sum(name not in ("step", "epoch") for row in rows for name in row)
    for name, write in WRITERS.items():
        path = folder / name
        path.write_text(write(rows), encoding="utf-8", newline="")
        got = read_logged(path)
        assert got.frame.sort(order).equals(expected, null_equal=True), name
        assert got.notes == in_memory.notes


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=8), st.none() | st.booleans() | st.floats() | st.text(max_size=8), min_size=1
        ),
        max_size=5,
    )
)
@settings(max_examples=50, deadline=None)
def test_dicts_are_found_as_python_prints_them(rows):
    """Keys and texts with escapes are left as they are printed; all else is what Python's own parser says."""
    plain = [
        row
        for row in rows
        if all(name and repr(name)[1:-1] == name and "'" not in name and '"' not in name for name in row)
        and all(repr(value)[1:-1] == value for value in row.values() if isinstance(value, str))
    ]
    found = list(dicts_in("x".join(f"{row}" for row in plain)))
    assert found == [{k: repr(v) if isinstance(v, float) else v for k, v in row.items()} for row in plain]


@given(st.text(st.sampled_from(list("{}[]()'\":,\\ \n1.e-naf")), max_size=300))
@settings(max_examples=150, deadline=None)
def test_no_text_is_an_error(text):
    for row in dicts_in(text):
        assert row


@pytest.mark.parametrize(
    "text",
    [
        "{'a':",
        "{'a': ['",
        "{'a': {'a': [",
        "{'",
        "{'{\"",
        "{",
        "{'a': tensor(",
        "{'a': 1,",
        "{'" + "k" * 299,
        "{'a':'" + "k" * 4999,
    ],
)
def test_time_is_linear(text):
    """A text four times as long takes not sixteen times as long."""

    def seconds(n):
        long, start = text * (n // len(text)), time.process_time()
        assert list(dicts_in(long)) == []
        return time.process_time() - start

    seconds(1000)
    assert seconds(60_000) < 10 * seconds(15_000) + 0.1


def test_nothing_is_evaluated():
    assert list(dicts_in("{'loss': __import__('os').abort(), 'b': 2}")) == []
    assert list(dicts_in("{'loss': f(__import__('os').abort()), 'b': 2}")) == [
        {"loss": "__import__", "b": "2"}
    ]


def test_many_rows_are_read_fast():
    rows = [{"step": i, **{f"key_{k}": i + k / 7 for k in range(20)}} for i in range(300)]
    start = time.process_time()
    frame = read_logged(rows).frame
    assert frame.height == 6_000
    assert frame["run"].max() == 0
    assert frame.schema["value"] == pl.Float64
    assert time.process_time() - start < 2
