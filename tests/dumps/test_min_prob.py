"""Trimmed lists (`min_prob`) against float64, and read by everybody."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from dumps_oracle import as_float64, columns_of, spec_of

import logitbox as lb
from logitbox.analysis.certificates import certify
from logitbox.analysis.pairs.choice import choose
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.spec import RecordSpec
from logitbox.errors import InputError

Make = Callable[..., Recorder]
V, K, N = 600, 12, 200
LISTS = ("top_ids", "top_gap")


def logits_of(dtype: torch.dtype) -> torch.Tensor:
    """Rows from almost certain to almost even, some with masked ids; [N, V]."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, V, generator=generator) * torch.linspace(0.1, 9.0, N)[:, None]
    x[::7, 3:500] = -math.inf
    x[5, 2:] = -math.inf
    return x.to(dtype)


def labels_of(logits: torch.Tensor) -> torch.Tensor:
    """The second best id, so that gold is often cut."""
    return logits.float().topk(2, dim=1).indices[:, 1]


def token_files(path: Path) -> list[Path]:
    return sorted(path.glob("tokens/*/*.parquet"))


def record(
    make: Make, at: Path, dtype: torch.dtype, min_prob: float | None, **options: Any
) -> list[dict[str, Any]]:
    logits = logits_of(dtype)
    with make(V, k=K, at=at, min_prob=min_prob, lse_beta=True, **options) as rec:
        rec.record(logits, labels_of(logits), phase="eval", shift=False)
    (file,) = token_files(at)
    return pq.ParquetFile(file).read().to_pylist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("min_prob", [1e-5, 1e-3, 0.6])
def test_lists_hold_what_is_likely_and_tail_mass_the_rest(
    recorder: Make, path: Path, dtype: torch.dtype, min_prob: float
) -> None:
    rows = record(recorder, path, dtype, min_prob)
    lengths = set()
    for x, gold, row in zip(as_float64(logits_of(dtype)), labels_of(logits_of(dtype)), rows, strict=True):
        best = columns_of(x, int(gold), K)["top_ids"]
        p = np.exp(x - columns_of(x, int(gold), K)["lse"])
        n = max(1, int((p[best] >= min_prob).sum()))
        truth = columns_of(x, int(gold), n)
        lengths.add(n)
        assert row["top_ids"] == truth["top_ids"]
        assert row["top_gap"] == pytest.approx(truth["top_gap"], rel=2**-11)
        assert row["tail_mass"] == pytest.approx(truth["tail_mass"], abs=1e-6, rel=1e-6)
    assert lengths == {1} if min_prob > 0.5 else K in lengths and len(lengths) > 3


def test_all_other_columns_are_untouched(recorder: Make, tmp_path: Path) -> None:
    kinds = {"types": ["reasoning"], "groups": {"low": range(50)}}
    whole = record(recorder, tmp_path / "whole", torch.bfloat16, None, **kinds)
    trimmed = record(recorder, tmp_path / "trimmed", torch.bfloat16, 1e-4, **kinds)
    assert {"top2_prob", "topk_entropy", "lse_beta", "logmass_low"} < set(whole[0])
    for one, other in zip(whole, trimmed, strict=True):
        n = len(other["top_ids"])
        assert [one[name][:n] for name in LISTS] == [other[name] for name in LISTS]
        for row in (one, other):
            for name in (*LISTS, "tail_mass", "sample"):
                row.pop(name)
        assert one == other


def test_rows_that_are_no_distributions(recorder: Make, path: Path) -> None:
    logits = torch.randn(4, V)
    logits[1, 7] = math.nan
    logits[2, 7] = math.inf
    logits[3] = -math.inf
    with recorder(V, k=K, min_prob=0.9) as rec:
        rec.record(logits, torch.tensor([1, 2, 3, 4]), shift=False)
    lists = pq.ParquetFile(token_files(path)[0]).read(["top_ids"])["top_ids"].to_pylist()
    assert [len(ids) for ids in lists] == [1, K, 1, K]


@pytest.mark.parametrize("min_prob", [None, 1e-4])
def test_readers_agree_on_the_lists(recorder: Make, path: Path, min_prob: float | None) -> None:
    rows = record(recorder, path, torch.bfloat16, min_prob)
    (file,) = token_files(path)
    want = [(row["top_ids"], [float(gap) for gap in row["top_gap"]]) for row in rows]
    assert len({len(ids) for ids, _ in want}) > 3 or min_prob is None
    frame = pl.read_parquet(file)
    gaps = frame["top_gap"].cast(pl.List(pl.Float64))
    assert list(zip(frame["top_ids"].to_list(), gaps.to_list(), strict=True)) == want
    query = "select top_ids, top_gap::double[] from read_parquet(?)"
    assert duckdb.execute(query, [str(file)]).fetchall() == want
    table = pd.read_parquet(file)
    assert [(list(i), [float(g) for g in gap]) for i, gap in zip(*map(table.get, LISTS), strict=True)] == want


@pytest.mark.parametrize("min_prob", [None, 1e-4])
def test_hugging_face_datasets_reads_the_lists(
    recorder: Make, path: Path, tmp_path: Path, min_prob: float | None
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = record(recorder, path, torch.bfloat16, min_prob)
    found = datasets.Dataset.from_parquet(str(token_files(path)[0]), cache_dir=str(tmp_path / "cache"))
    assert found["top_ids"][:] == [row["top_ids"] for row in rows]
    assert found["top_gap"][:] == [row["top_gap"] for row in rows]


@pytest.mark.parametrize("min_prob", [1e-4, 0.5])
def test_analyses_read_trimmed_lists_exactly(recorder: Make, tmp_path: Path, min_prob: float) -> None:
    """Certificates hold, and metrics are those of whole lists, or are told to be unknown."""
    record(recorder, tmp_path / "whole", torch.float32, None)
    record(recorder, tmp_path / "trimmed", torch.float32, min_prob)
    dump = open_dump(tmp_path / "trimmed")
    result = certify(choose(dump, "eval", "all"))
    assert result.holds, result.broken
    whole, trimmed = (lb.metrics(lb.open(tmp_path / name)).frame for name in ("whole", "trimmed"))
    both = whole.join(trimmed, on="key", suffix="_trimmed")
    assert len(both) == len(whole)
    for key, value, other in both.select("key", "value", "value_trimmed").iter_rows():
        from_lists = key.endswith(("top2_prob", "top5_prob", "top10_prob", "top10_entropy"))
        assert other == value or (from_lists and other is None), key


def test_live_metrics_do_not_depend_on_it(recorder: Make, tmp_path: Path) -> None:
    logits = logits_of(torch.float32)
    found = []
    for name, min_prob in (("whole", None), ("trimmed", 0.1)):
        with recorder(V, k=K, at=tmp_path / name, min_prob=min_prob) as rec:
            rec.record(logits, labels_of(logits), shift=False)
            found.append(rec.metrics())
    assert found[0] == found[1]


@pytest.mark.parametrize("value", [0, 1, -1e-5, 1.5, math.nan, math.inf, "1e-5", True])
def test_bad_values_are_named(value: Any, path: Path) -> None:
    with pytest.raises(InputError, match=r"min_prob is .*above 0 and below 1"):
        Recorder(path, V, min_prob=value)
    assert not path.exists()


def test_the_session_says_so(recorder: Make, path: Path) -> None:
    record(recorder, path, torch.float32, 1e-5)
    (file,) = path.glob("sessions/*/session.json")
    assert json.loads(file.read_text())["record"]["min_prob"] == 1e-5
    written = spec_of(V, K, min_prob=1e-5).to_json()
    assert RecordSpec.from_json(written).min_prob == 1e-5
    assert RecordSpec.from_json({k: v for k, v in written.items() if k != "min_prob"}).min_prob is None
    with pytest.raises(InputError, match="min_prob"):
        RecordSpec.from_json(written | {"min_prob": 2})
