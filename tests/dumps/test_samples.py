"""Who a sample is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from logitbox.dumps.dump import open_dump
from logitbox.dumps.naming import index_within
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

V = 20
Make = Callable[..., Recorder]
ROWS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]])


def put(rec: Recorder, ids: torch.Tensor, **given: Any) -> None:
    rec.record(torch.randn(*ids.shape, V), ids, **given)


def keys_of(path: Path) -> list[str]:
    """Key of each recorded row's sample, a row a time."""
    dump = open_dump(path)
    joined = dump.tokens.join(dump.samples, on=["sample", "dataset"], how="left", maintain_order="left")
    return joined.collect()["key"].to_list()


def lines(keys: list[str], per_row: int = 3) -> list[str]:
    """One key per batch row; its tokens must agree."""
    grouped = [keys[i : i + per_row] for i in range(0, len(keys), per_row)]
    assert all(len(set(group)) == 1 for group in grouped)
    return [group[0] for group in grouped]


def test_content_key_is_the_same_everywhere(recorder: Make, path: Path, tmp_path: Path) -> None:
    with recorder(V) as rec:
        for step, phase, dataset in [(0, "train", ""), (1, "train", ""), (1, "eval", "a"), (9, "eval", "b")]:
            put(rec, ROWS, input_ids=ROWS, step=step, phase=phase, dataset=dataset)
    with recorder(V, at=tmp_path / "other", rank=3, world=4, session="0001-a") as rec:
        put(rec, ROWS.flip(0), input_ids=ROWS.flip(0), step=77)
    first = lines(keys_of(path))
    assert first[:3] == first[3:6] == first[6:9] == first[9:12]
    assert first[2] == first[0] + "#2"
    assert first[1] not in first[0]
    assert lines(keys_of(tmp_path / "other")) == [first[0], first[1], first[2]]


def test_second_time_in_a_pass_is_told_apart_across_batches_and_datasets(recorder: Make, path: Path) -> None:
    one = ROWS[:1]
    with recorder(V) as rec:
        for dataset in ("a", "b", "a", "b", "a"):  # interleaved: the counts of a pass go on
            put(rec, one, phase="eval", dataset=dataset, input_ids=one)
        rec.start_pass("eval", "a")
        put(rec, one, phase="eval", dataset="a", input_ids=one)
    keys = lines(keys_of(path))
    base = keys[0]
    assert keys == [base, base, base + "#2", base + "#2", base + "#3", base]


def test_labels_name_a_sample_where_no_input_ids_are_given(recorder: Make, path: Path) -> None:
    labels = torch.tensor([[-100, 2, 3, 4, -100], [2, 3, 4, -100, -100], [-100, -100, 2, 3, 9]])
    with recorder(V) as rec:
        put(rec, labels, shift=False)
    dump = open_dump(path)
    keys = lines(keys_of(path))
    assert keys[1] == keys[0] + "#2"  # the same labels, wherever the padding is
    assert keys[2][:8] != keys[0][:8]
    assert dump.samples.collect()["input_ids"].null_count() == 3


def test_given_ids(recorder: Make, path: Path) -> None:
    forms: list[Any] = [
        [7, 8, 9],
        torch.tensor([7, 8, 9]),
        np.array([7, 8, 9]),
        (7, 8, 9),
        torch.tensor([7, 8, 9]).int(),
    ]
    with recorder(V) as rec:
        for form in forms:
            put(rec, ROWS, sample=form, input_ids=ROWS)
    dump = open_dump(path)
    assert dump.tokens.collect()["sample"].to_list() == [7, 7, 7, 8, 8, 8, 9, 9, 9] * len(forms)
    samples = dump.samples.collect()
    assert samples.select("sample", "key").rows() == [(7, "7"), (8, "8"), (9, "9")]
    assert samples["input_ids"].to_list() == ROWS.tolist()


def test_given_keys(recorder: Make, path: Path) -> None:
    with recorder(V) as rec:
        put(rec, ROWS, sample=["a", "b", "a/2"])
        put(rec, ROWS[:2], sample=np.array(["b", "a"]))
        rec.samples({"key": ["a", "b"], "source": ["web", "book"]})
    assert lines(keys_of(path)) == ["a", "b", "a/2", "b", "a"]
    samples = open_dump(path).samples.collect()
    assert dict(samples.select("key", "source").iter_rows()) == {"a": "web", "b": "book", "a/2": None}


def test_ids_per_token(recorder: Make, path: Path) -> None:
    """Packed by the caller: ids move with the targets, places count within the sample."""
    ids = torch.tensor([[1, 2, 3, 4, 5, 0], [6, 7, 8, 0, 0, 0]])
    mask = (ids != 0).long()
    sample = torch.tensor([[70, 70, 71, 71, 71, 71], [71, 71, 72, 72, 72, 72]])  # 71 goes on in the next row
    with recorder(V) as rec:
        put(rec, ids.masked_fill(mask == 0, -100), sample=sample, input_ids=ids, attention_mask=mask)
        put(rec, ids, sample=sample + 100, position_ids=torch.arange(6).expand(2, 6) % 3)
    dump = open_dump(path)
    rows = dump.tokens.collect()
    assert rows["sample"].to_list()[:6] == [70, 71, 71, 71, 71, 72]
    assert rows["pos"].to_list()[:6] == [1, 0, 1, 2, 4, 0]
    assert rows["pos"].to_list()[6:11] == [1, 2, 0, 1, 2]  # the caller's positions, where given
    tokens = {row["sample"]: row["input_ids"] for row in dump.samples.collect().to_dicts()}
    assert (tokens[70], tokens[71], tokens[72]) == ([1, 2], [3, 4, 5, 6, 7], [8])
    assert [tokens[s][p] for s, p in rows[:6].select("sample", "pos").iter_rows()] == rows["gold"][
        :6
    ].to_list()


def test_one_id_for_a_packed_row(recorder: Make, path: Path) -> None:
    """The caller calls the whole row one sample: places must not start anew, or rows would share an identity."""
    positions = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3], [0, 0, 0, 1]])
    with recorder(V) as rec:
        put(rec, ROWS, sample=[1, 2, 1], input_ids=ROWS, position_ids=positions)
    assert open_dump(path).tokens.collect()["pos"].to_list() == [1, 2, 3] * 3


def test_flat_rows_with_samples_count_places(recorder: Make, path: Path) -> None:
    labels = torch.tensor([3, 4, -100, 5, 6, 7])
    sample = [8, 9, 8, 8, 9, 8]
    with recorder(V) as rec:
        rec.record(torch.randn(6, V), labels, sample=sample)
        rec.record(torch.randn(6, V), labels, sample=sample, input_ids=torch.arange(6))
        rec.record(torch.randn(2, V), labels[:2], sample=[8, 9], position_ids=torch.tensor([40, 41]))
    rows = open_dump(path).tokens.collect()
    assert rows["pos"].to_list()[:5] == [0, 0, 2, 1, 3]  # the ignored row of sample 8 has its place too
    assert rows["pos"].to_list()[10:] == [40, 41]
    tokens = dict(open_dump(path).samples.collect().select("sample", "input_ids").iter_rows())
    assert tokens == {8: None, 9: None} or tokens == {8: [0, 2, 3, 5], 9: [1, 4]}


def test_flat_rows_without_samples_are_each_their_own(recorder: Make, path: Path) -> None:
    with recorder(V) as rec:
        for step in (1, 2):
            rec.record(torch.randn(3, V), torch.tensor([1, 1, 2]), step=step, phase="eval")
            rec.record(torch.randn(3, V), torch.tensor([1, 1, 2]), step=step)
    dump = open_dump(path)
    samples = dump.tokens.collect().partition_by("phase", "step", as_dict=True)
    evals = [samples["eval", step]["sample"].to_list() for step in (1, 2)]
    train = [samples["train", step]["sample"].to_list() for step in (1, 2)]
    assert len(set(evals[0])) == 3
    assert evals[0] == evals[1]  # the third of an evaluation set stays the third
    assert not set(train[0]) & set(train[1])


def test_keys_of_the_caller_win(recorder: Make, path: Path) -> None:
    with recorder(V) as rec:
        rec.samples({"sample": [0, 1], "key": ["eval-0", "eval-1"]})
        put(rec, ROWS[:2], sample=[0, 1], input_ids=ROWS[:2])
    with recorder(V) as rec:  # another session, or another rank, that was not told the keys
        put(rec, ROWS, sample=[0, 1, 2])
    assert lines(keys_of(path)) == ["eval-0", "eval-1", "eval-0", "eval-1", "2"]


FRAMES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "dict": lambda columns: columns,
    "polars": pl.DataFrame,
    "pandas": pd.DataFrame,
    "arrow": pa.table,
    "categorical": lambda columns: pl.DataFrame(columns).with_columns(pl.col("source").cast(pl.Categorical)),
    "pandas categories": lambda columns: pd.DataFrame(columns).astype(
        {"source": "category", "mine": "category"}
    ),
}


@pytest.mark.parametrize("form", FRAMES)
def test_frames(recorder: Make, path: Path, form: str) -> None:
    columns = {
        "sample": [1, 2], "source": ["web", "book"], "group": ["x", "y"], "length": [3.0, 4.5], "mine": ["p", "q"],
    }  # fmt: skip
    with recorder(V, length_unit="s") as rec:
        rec.samples(FRAMES[form](columns))
    dump = open_dump(path)
    rows = (
        dump.samples.select("sample", "key", "dataset", "source", "group", "length", "mine").collect().rows()
    )
    assert rows == [(1, "1", "", "web", "x", 3.0, "p"), (2, "2", "", "book", "y", 4.5, "q")]
    assert dump.sessions[0].length_unit == "s"


def test_later_values_replace_and_complete_earlier_ones(recorder: Make, path: Path) -> None:
    with recorder(V, shard_rows=1) as rec:
        rec.samples({"sample": [1, 2], "source": ["web", "web"], "mine": [1, 2]})
        rec.samples({"sample": [1], "source": ["book"], "mine": [None]})
        rec.samples({"sample": [2], "other": [True]})
    rows = open_dump(path).samples.select("sample", "source", "mine", "other").collect().rows()
    assert rows == [(1, "book", 1, None), (2, "web", 2, True)]


BAD: list[tuple[Any, str]] = [
    ({"source": ["web"]}, "one of 'sample' (the id passed to record) or 'key' is needed"),
    ({"sample": [1, None]}, "samples column 'sample' has 1 nulls"),
    ({"key": ["a", None]}, "samples column 'key' has 1 nulls"),
    ({"sample": ["a"]}, "samples column 'sample' cannot be read as int64"),
    ({"sample": [1], "length": ["long"]}, "samples column 'length' cannot be read as double"),
    ({"sample": [1, 2], "source": ["web"]}, "cannot be read as a table"),
    ([1, 2], "samples are a list that cannot be read as a table"),
    ({"sample": [1], "mine": ["text"]}, "samples column 'mine' cannot be read as int64"),
]


@pytest.mark.parametrize(("frame", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_frames_are_refused_at_once(recorder: Make, path: Path, frame: Any, message: str) -> None:
    with recorder(V) as rec:
        rec.samples({"sample": [5], "mine": [1]})
        with pytest.raises(InputError) as caught:
            rec.samples(frame)
        assert message in str(caught.value)
        rec.samples({"sample": [6], "mine": [2]})
    assert open_dump(path).samples.select("sample", "mine").collect().rows() == [(5, 1), (6, 2)]


def test_index_within_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 30))
        owner, counted = rng.integers(-3, 4, n), rng.random(n) < 0.7
        want = [sum(bool(counted[j]) for j in range(i) if owner[j] == owner[i]) for i in range(n)]
        assert index_within(owner, counted).tolist() == want
