"""Statistics of shards of the vocabulary, merged, against the unsharded reduction; two and four gloo ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from sharded_cases import CASES, Case
from torch import Tensor

from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder, VocabShard
from logitbox.dumps.reduce import GroupIndex, reduce_logits
from logitbox.dumps.reduce.partial import Partial, ShardView, summarise
from logitbox.errors import InputError

HERE = Path(__file__).resolve().parent
EXACT = (
    "top_ids",
    "top_gap",
    "n_gt",
    "n_eq",
    "n_eq_before",
    "n_finite",
    "bins_bin",
    "listed_bin",
    "list_length",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks made: one process group for all tests."""
    made = tmp_path_factory.mktemp("sharded")
    script = [sys.executable, "-W", "ignore", str(HERE / "sharded_ranks.py"), str(made)]
    done = subprocess.run(
        script,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return made


def whole(case: Case) -> dict[str, Tensor]:
    logits = case.logits[..., : case.vocab]
    beta = case.spec.lse_beta == "always"
    return reduce_logits(logits, case.rows, case.chosen_targets, GroupIndex(case.spec), lse_beta=beta)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_shards_give_what_the_whole_gives(case: Case, folder: Path) -> None:
    found, wanted = torch.load(folder / f"{case.name}.pt"), whole(case)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        if name in EXACT:
            assert torch.equal(found[name].nan_to_num(), value.nan_to_num()), name
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6, equal_nan=True, msg=name)


def test_the_cases_hold_what_they_are_for() -> None:
    found = {case.name: whole(case) for case in CASES}
    assert (found["ties"]["n_eq"] > 3).any()
    assert (found["ties"]["n_eq_before"] > 1).any()
    assert found["masked shards"]["nll"].isinf().any()
    assert not found["masked shards"]["lse"].isnan().any()
    assert found["odd values"]["lse"].isnan().any()
    assert found["odd values"]["lse"].isinf().any()


def edges(case: Case, rank: int) -> tuple[int, int]:
    start, local = case.shard(rank)
    return start, local.shape[-1]


def test_what_travels_is_small() -> None:
    """Bytes a row and rank at the defaults: k = 32, two groups, bf16, V = 152k."""
    case = Case(
        "bytes",
        (76_000, 76_000),
        vocab=152_000,
        k=32,
        dtype=torch.bfloat16,
        shape=(2, 3),
        options={"groups": {"a": range(1000), "b": (5, 9)}, "probes": False, "lse_beta": "never"},
    )
    start, local = case.shard(0)
    view = ShardView(case.spec, start, local.shape[-1])
    gold = torch.zeros(6, 1)
    sent = summarise(local, torch.arange(6), case.targets, gold, view, lse_beta=False).pack(32)
    assert sent.dtype == torch.uint8
    assert sent.shape[1] == 32 * (2 + 4) + 3 * 4 + 4 * 4 + 2 * 4 == 228


def test_bytes_hold_all_there_is() -> None:
    case = CASES[0]
    start, local = case.shard(1)
    view = ShardView(case.spec, start, local.shape[-1])
    gold = torch.zeros(45, 1)
    one = summarise(local, torch.arange(45), case.targets, gold, view, lse_beta=True)
    again = Partial.unpack(one.pack(50), one, 50, view.k)
    for name in one.__dataclass_fields__:
        assert torch.equal(getattr(one, name), getattr(again, name)), name


@pytest.mark.parametrize("name", ["bins", "listed", "late"])
def test_a_view_finds_the_ids_of_a_group(name: str) -> None:
    case = next(case for case in CASES if case.name == "ragged")
    group = case.spec.group(name)
    row = torch.full((len(group.ids),), -1)
    for rank in range(4):
        view = ShardView(case.spec, *edges(case, rank))
        places, columns = view.bins(group, torch.device("cpu"))
        assert (row[places] == -1).all()
        row[places] = torch.arange(view.start, view.start + view.width)[columns]
    assert row.tolist() == list(group.ids)


def said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"said{rank}.json").read_text()) for rank in range(4)]


def unsharded(path: Path, seeds: dict[int, int]) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Rows and metrics of the micro-batches that `sharded_ranks` records; `seeds` by step."""
    with Recorder(path, 61, groups={"g": range(10, 40)}, ordered={"g": {}}, k=6, probes=True) as rec:
        for step, seed in seeds.items():
            made = torch.Generator().manual_seed(seed)
            labels = torch.randint(0, 61, (3, 8), generator=made)
            labels[:, :2] = -100
            rec.record(torch.randn(3, 8, 61, generator=made) * 3, labels, step)
        values = rec.metrics()
    return open_dump(path).tokens.collect(), values


def test_one_of_each_group_writes(folder: Path, tmp_path: Path) -> None:
    dump = open_dump(folder / "pairs")
    assert dump.verify().ok
    rows = dump.tokens.collect()
    assert rows["rank"].unique().sort().to_list() == [0, 2]
    for rank, seeds in ((0, {1: 10, 2: 20}), (2, {1: 11, 2: 21})):
        wanted, _ = unsharded(tmp_path / str(rank), seeds)
        found = rows.filter(pl.col("rank") == rank).drop("rank")
        assert_frame_equal(found, wanted.drop("rank"), rel_tol=1e-6, abs_tol=1e-6)
    batches = dump.batches.collect()
    assert batches.select("rank", "step", "n_recorded").rows() == [
        (rank, step, count) for rank in (0, 2) for step, count in ((1, 24), (2, 24), (3, 0))
    ]


def test_metrics_count_every_token_once(folder: Path, tmp_path: Path) -> None:
    everyone = [one["metrics"] for one in said(folder)]
    assert all(one == everyone[0] for one in everyone)
    _, wanted = unsharded(tmp_path / "all", {1: 10, 2: 20, 3: 11, 4: 21})
    for key in ("nll", "token_acc", "n_tokens", "entropy"):
        if key in wanted:
            assert everyone[0][key] == pytest.approx(wanted[key], rel=1e-6), key
    assert everyone[0]["n_tokens"] == 4 * 18


def test_dtensors(folder: Path, tmp_path: Path) -> None:
    rows = open_dump(folder / "dtensor").tokens.collect()
    assert rows["rank"].unique().to_list() == [0]
    wanted, _ = unsharded(tmp_path / "d", {1: 1, 2: 1, 3: 1})
    assert_frame_equal(rows, wanted, rel_tol=1e-6, abs_tol=1e-6)


def test_shards_that_do_not_fit_are_told_on_every_rank(folder: Path) -> None:
    messages = [one["errors"] for one in said(folder)]
    assert all(one == messages[0] for one in messages)
    gap, overlap, twice = messages[0]
    assert "ids 0 to 14, 15 to 29, 30 to 44, 45 to 59, which do not make up a vocabulary of 61" in gap
    assert "gaps and overlaps" in overlap
    assert "0 to 60, 0 to 60" in twice


def test_a_dropped_batch_keeps_nobody_waiting(folder: Path) -> None:
    assert open_dump(folder / "drop").tokens.collect()["step"].unique().to_list() == [2]


def test_what_is_no_shard(path: Path) -> None:
    logits, labels = torch.randn(2, 4, 9), torch.zeros(2, 4, dtype=torch.long)
    with Recorder(path, 9) as rec:
        with pytest.raises(InputError, match=r"vocab_parallel is 3; give VocabShard\(start, group\)"):
            rec.record(logits, labels, vocab_parallel=3)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"torch\.distributed is not initialised"):
            rec.record(logits, labels, vocab_parallel=VocabShard(0))
