"""Calibration of a dump split by columns of every kind, with subsets of nothing but NaN, and without intervals."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
import torch
from analysis_oracle import V

from logitbox.analysis.calibration import calibration, dumped, from_arrays, partials
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


@pytest.fixture(scope="module")
def many_columns(tmp_path_factory):
    """Columns of every kind of value, with nulls; two sessions, of which the first has an ordered group."""
    path = tmp_path_factory.mktemp("dumps") / "d"
    torch.manual_seed(1)
    number = range(12)
    samples = {
        "sample": [*range(6)] * 2,
        "dataset": ["a"] * 6 + ["b"] * 6,
        "source": ["x", "y", None] * 4,
        "when": [None, *(date(2020, 1, 1 + i % 2) for i in number[1:])],
        "score": [0.1, float("nan"), None] * 4,
        "flag": [True, False, None] * 4,
        "number": pl.Series([1, None] * 6, dtype=pl.UInt8),
        "at": [datetime(2020, 1, 1 + i % 2, tzinfo=ZoneInfo("Europe/Berlin")) for i in number],
        "took": [timedelta(seconds=i % 2) for i in number],
        "kind": pl.Series(["x", "y", None] * 4, dtype=pl.Categorical),
    }
    with Recorder(path, V, groups={"co": range(5, 40)}, ordered={"co": {}}) as rec:
        rec.samples(pl.DataFrame(samples))
        for dataset, step in (("a", 1), ("b", 1), ("a", 2), ("b", 2)):
            x = 3 * torch.randn(6, 5, V)
            where = {"dataset": dataset, "step": step, "sample": range(6)}
            rec.record(x, x.argmax(-1), phase="eval", shift=False, **where)
    with Recorder(path, V) as rec:
        x = 3 * torch.randn(3, 5, V)
        rec.record(x, x.argmax(-1), phase="eval", step=3, epoch=4, sample=range(100, 103), shift=False)
    return open_dump(path)


@pytest.fixture(scope="module")
def counted(many_columns):
    """Tokens, by a table that nothing splits."""
    return calibration(many_columns).of().n


@pytest.mark.parametrize(
    "by",
    [
        *(["sample"], ["dataset"], ["pos"], ["step"], ["epoch"], ["rank"], ["gold"], ["co_bin"]),  # of tokens
        *(["source"], ["when"], ["score"], ["flag"], ["number"], ["at"], ["took"], ["kind"]),  # of samples
        *(
            ["position"],
            ["gold_frequency"],
            ["dataset", "sample", "number"],
            ["position", "sample", "source"],
        ),
    ],
    ids="-".join,
)
def test_a_further_pass_reads_the_tokens_of_every_condition(many_columns, counted, by):
    """Against `n`, which comes from the sums, and the sum over all subsets."""
    table = calibration(many_columns, by, intervals=False)
    rows = table.frame.filter(type="").select("n", *by).rows(named=True)
    for row in rows[:: max(1, len(rows) // 12)]:
        found = table.of("eval", **{name: row[name] for name in by})
        assert found.heat.tokens == found.n == row["n"]
    assert sum(row["n"] for row in rows) == counted == 135
    for dataset in ("a", "b"):
        narrowed = table.of("eval", dataset=dataset)
        assert narrowed.heat.tokens == narrowed.n == 60


def test_subgroups_of_nothing_but_nan_are_told(tmp_path):
    nan, gold = torch.full((2, 4, V), torch.nan), torch.zeros(2, 4, dtype=torch.long)
    with Recorder(tmp_path / "d", V) as rec:
        rec.samples(
            pl.DataFrame({"sample": range(4), "dataset": [""] * 4, "source": ["x", "x", "lost", "lost"]})
        )
        rec.record(torch.randn(2, 4, V), gold, phase="eval", sample=[0, 1], shift=False)
        rec.record(nan, gold, phase="eval", sample=[2, 3], shift=False)
        rec.record(nan, gold, phase="val", sample=[2, 3], shift=False)
    dump = open_dump(tmp_path / "d")
    table = calibration(dump, "source")
    assert "no tokens to calibrate in eval · source lost (8 non-finite left out)" in str(table)
    assert str(table).count("val") == str(table).count("eval ·") + 1 + 1  # "eval" holds "val" too
    lost = table.of("eval", source="lost")
    assert (lost.n, lost.left_out, lost.value("brier")) == (0, 8, None)
    assert str(lost).startswith("eval · source lost: no tokens to calibrate (8 ")
    several = calibration(dump, "sample")
    assert "eval · sample 2 (4 non-finite left out), eval · sample 3 (4 non-finite left out)" in str(several)
    assert table.frame.filter(type="").height == 1
    with pytest.raises(InputError, match="source is 'none'; there are 'lost', 'x'"):
        table.of("eval", source="none")


def test_a_dump_of_nothing_but_nan(tmp_path):
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(torch.full((3, V), torch.nan), torch.zeros(3, dtype=torch.long), phase="val", shift=False)
    table = calibration(open_dump(tmp_path / "d"))
    assert str(table).startswith("val: no tokens to calibrate (3 non-finite left out)")
    assert (table.of().n, table.of().left_out, table.frame.height, table.worst().height) == (0, 3, 0, 0)


def test_without_intervals_no_sums_for_them_are_kept(dump):
    full, lean = calibration(dump, "step"), calibration(dump, "step", intervals=False)
    assert lean.scan.partial.binned.is_empty()
    assert not full.scan.partial.binned.is_empty()
    without = [name for name in full.frame.columns if name not in dumped._NOISY]
    assert lean.frame.select(without).equals(full.frame.select(without))
    assert lean.table.equals(full.table)
    assert lean.of("train", step=2).interval("overconfidence") is None
    assert lean.of("train", step=2).ece == full.of("train", step=2).ece
    with pytest.raises(InputError, match="intervals=False"):
        lean.worst()


def test_one_token_samples_are_counted_however_many(tmp_path, monkeypatch):
    """More than can be told apart are put together, and still known to be one token each."""
    monkeypatch.setattr(partials, "MOST_CLUSTERS", 50)
    torch.manual_seed(0)
    with Recorder(tmp_path / "d", V, shard_rows=60) as rec:
        for start in range(0, 240, 60):
            x = torch.randn(60, V)
            sample = range(start, start + 60)
            rec.record(x, x.argmax(-1), phase="eval", sample=sample, shift=False)
            rec.record(x, x.argmax(-1), phase="often", sample=range(60), step=start, shift=False)
    dump = open_dump(tmp_path / "d")
    alone, often = calibration(dump).of("eval"), calibration(dump).of("often")
    assert alone.n == often.n == 240
    assert len(alone.evidence.clusters) <= 50
    assert alone.evidence.clusters.total == 240
    assert often.evidence.clusters.total == len(often.evidence.clusters) <= 50
    assert dict(calibration(dump).frame.filter(type="").select("phase", "clusters").rows())["eval"] == 240
    arrays = from_arrays(
        np.exp(-dump.tokens.filter(phase="eval").collect()["top_nll"].cast(pl.Float64).to_numpy()),
        np.ones(240, bool),
    )
    assert alone.kuiper_p == pytest.approx(arrays.kuiper_p, rel=0.05)
