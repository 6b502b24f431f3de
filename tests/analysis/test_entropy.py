"""`high_entropy` against a plain sort, and the text it shows."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from analysis_oracle import V

from logitbox.analysis.entropy import high_entropy
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import DamagedDumpError, InputError

WORDS = [f" w{i}" for i in range(V - 1)] + ["<b>\n"]


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (
            {},
            lambda t: (
                (t["phase"], t["dataset"], t["step"]) in {("eval", "a", 6), ("eval", "b", 3), ("val", "", 7)}
            ),
        ),
        ({"phase": "eval"}, lambda t: (t["dataset"], t["step"]) in {("a", 6), ("b", 3)}),
        ({"phase": "train"}, lambda t: t["phase"] == "train" and t["step"] == 5),
        ({"phase": "train", "step": 2}, lambda t: t["phase"] == "train" and t["step"] == 2),
        ({"step": None}, lambda t: t["phase"] != "train"),
        ({"phase": "train", "step": None}, lambda t: t["phase"] == "train"),
    ],
)
def test_the_same_tokens_as_a_sort_of_all(dump, tokens, options, chosen):
    mine = [t for t in tokens if chosen(t)]
    good = [t for t in mine if t["finite"]]
    expected = sorted((t["entropy"] for t in good), reverse=True)
    for n in (1, 7, 10_000):
        result = high_entropy(dump, n, **options)
        assert result.frame["entropy"].to_numpy() == pytest.approx(np.array(expected[:n]), rel=1e-5, abs=1e-6)
        assert f"({len(mine) - len(good)} non-finite left out)" in str(result) or len(mine) == len(good)
    for row, token in zip(high_entropy(dump, 3, **options).frame.iter_rows(named=True),
                          sorted(good, key=lambda t: -t["entropy"]), strict=False):  # fmt: skip
        assert row["gold"] == token["gold"]
        assert row["p_gold"] == pytest.approx(token["p"][token["gold"]], rel=1e-4)
        assert row["p_top"] == pytest.approx(token["confidence"], rel=1e-4)
        assert row["key"] == str(token["sample"])
        assert row["source"] == token["source"]


def test_errors(dump, tmp_path):
    with pytest.raises(InputError, match="phase is 'tset'; the dump has eval, train, val"):
        high_entropy(dump, phase="tset")
    with pytest.raises(
        InputError, match="step is 99; of phase eval, val the nearest recorded steps are 3, 6, 7"
    ):
        high_entropy(dump, step=99)
    with pytest.raises(InputError, match="step is 'first'; give a number, 'last', or None"):
        high_entropy(dump, step="first")
    with pytest.raises(InputError, match="n is 0"):
        high_entropy(dump, 0)
    with Recorder(tmp_path / "empty", V):
        pass
    with pytest.raises(InputError, match="holds no token rows yet"):
        high_entropy(open_dump(tmp_path / "empty"))


def test_only_the_last_pass_counts_as_last(tmp_path):
    with Recorder(tmp_path / "d", V) as rec:
        for scale in (0.0, 1.0):
            rec.start_pass("eval")
            rec.record(torch.randn(2, 5, V) * scale, torch.randint(0, V, (2, 5)), phase="eval", sample=[0, 1])
    dump = open_dump(tmp_path / "d")
    assert high_entropy(dump).frame.height == 8
    assert high_entropy(dump).frame["entropy"].max() < np.log(V) - 0.01
    assert high_entropy(dump, 16, step=0).frame.height == 16


def test_ties_come_in_recording_identity_order(tmp_path):
    with Recorder(tmp_path / "d", V, shard_rows=4) as rec:
        for micro in range(3):
            rec.record(torch.zeros(2, 5, V), torch.full((2, 5), 7), sample=[1, 0], micro=micro)
    first = high_entropy(open_dump(tmp_path / "d"), 6).frame
    assert first.select("key", "pos").rows() == [("0", 1), ("0", 2), ("0", 3), ("0", 4), ("1", 1), ("1", 2)]
    for _ in range(3):
        assert high_entropy(open_dump(tmp_path / "d"), 6).frame.equals(first)


def context(ids, pos):
    return "".join(WORDS[i] for i in ids[max(0, pos - 24) : pos])


def test_text_after_left_padding_and_packing(tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(1, V, (2, 12))
    mask = torch.ones_like(ids)
    ids[0, :4] = 0
    mask[0, :4] = 0
    labels = ids.masked_fill(mask == 0, -100)
    with Recorder(tmp_path / "pad", WORDS) as rec:
        rec.record(torch.randn(2, 12, V), labels, input_ids=ids, attention_mask=mask, sample=[10, 11])
    kept = {"10": ids[0, 4:].tolist(), "11": ids[1].tolist()}
    check(high_entropy(open_dump(tmp_path / "pad"), 100).frame, kept)
    packed = torch.randint(1, V, (1, 12))
    position = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    with Recorder(tmp_path / "pack", WORDS) as rec:
        rec.record(torch.randn(1, 12, V), packed.clone(), input_ids=packed, position_ids=position)
    dump = open_dump(tmp_path / "pack")
    keys = dict(dump.samples.select("key", "input_ids").collect().rows())
    assert sorted(map(list, keys.values())) == sorted([packed[0, :5].tolist(), packed[0, 5:].tolist()])
    check(high_entropy(dump, 100).frame, keys)


def check(frame, ids_of):
    assert frame.height > 5
    for row in frame.iter_rows(named=True):
        ids = ids_of[row["key"]]
        assert ids[row["pos"]] == row["gold"]
        assert row["gold_text"] == WORDS[row["gold"]].replace("\n", "\\n")
        assert row["context"] == context(ids, row["pos"])
        first, probability = row["alternatives"].split(" · ")[0].rsplit(" ", 1)
        assert first == row["top_text"]
        assert float(probability) == pytest.approx(row["p_top"], abs=6e-4)
        assert [one["text"] for one in row["best"]] == [
            WORDS[one["id"]].replace("\n", "\\n") for one in row["best"]
        ]
        assert row["best"][0]["p"] == pytest.approx(row["p_top"], rel=1e-6)
        at = [i for i, one in enumerate(row["best"]) if one["id"] == row["gold"]]
        assert at == [row["rank"]] if row["rank"] < len(row["best"]) else at == []


def test_no_context_where_one_id_was_given_to_two_texts(tmp_path):
    """Only one of them is kept as the sample's tokens; a chance hit in it must not show the wrong text."""
    with Recorder(tmp_path / "d", WORDS) as rec:
        for ids in (torch.tensor([[1, 2, 3, 4, 9]]), torch.tensor([[5, 2, 3, 7, 8]])):
            rec.record(torch.randn(1, 5, V), ids.clone(), input_ids=ids, sample=[0])
    assert set(high_entropy(open_dump(tmp_path / "d"), 100).frame["context"]) == {""}


def test_html_is_escaped(tmp_path):
    with Recorder(tmp_path / "d", WORDS) as rec:
        rec.record(torch.zeros(1, V), torch.tensor([V - 1]), phase="<i>x</i>")
    result = high_entropy(open_dump(tmp_path / "d"))
    page = result._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>\\n" not in page
    assert "<i>x" not in page
    assert "\n" not in str(result)
    assert result.to_frame() is result.frame
    assert isinstance(result.frame, pl.DataFrame)
    with pytest.raises(AttributeError):
        result.frame = None


def test_altered_rows_are_not_shown(tmp_path):
    with Recorder(tmp_path / "d", WORDS) as rec:
        rec.record(torch.randn(8, V), torch.arange(8))
    file = next((tmp_path / "d" / "tokens").glob("*/*.parquet"))
    data = bytearray(file.read_bytes())
    data[4] ^= 1  # the same length, so that opening does not notice
    file.write_bytes(data)
    with pytest.raises(DamagedDumpError, match=r"tokens/.*altered"):
        high_entropy(open_dump(tmp_path / "d"))
