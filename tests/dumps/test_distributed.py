"""Two processes record one dump."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import polars as pl

from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder

RANK = textwrap.dedent("""
    import json, sys
    import torch
    import torch.distributed as dist
    from logitbox.dumps.recorder import Recorder

    rank, path, rendezvous = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    said = {}
    try:
        with Recorder(path, ["a", "b", "c", "d", "e"]) as rec:
            torch.manual_seed(rank)
            n = 3 if rank == 0 else 11
            rec.record(torch.randn(n, 5) * 3, torch.arange(n) % 5, step=1)
            if rank == 1:  # rank 0 has nothing to evaluate
                rec.record(torch.randn(2, 5), torch.tensor([1, 2]), step=1, phase="eval")
            said = {"metrics": rec.metrics(all_reduce=True), "session": rec.session.session}
            said["empty"] = rec.metrics(all_reduce=True)
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said))
    dist.destroy_process_group()
""")


def both(path: Path, tmp_path: Path) -> list[dict[str, Any]]:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(path), str(tmp_path / "rendezvous")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outcomes = [process.communicate(timeout=60) for process in ranks]
    for process, (_, stderr) in zip(ranks, outcomes, strict=True):
        assert process.returncode == 0, stderr
    return [json.loads(out.splitlines()[-1]) for out, _ in outcomes]


def test_two_ranks_share_a_session(path: Path, tmp_path: Path) -> None:
    first, second = both(path, tmp_path)
    assert first["session"] == second["session"]
    dump = open_dump(path)
    assert [s.owner for s in dump.sessions] == [f"{first['session']}-r0", f"{first['session']}-r1"]
    assert [s.world for s in dump.sessions] == [2, 2]
    assert dump.verify().ok
    assert dump.verify().unfinished == ()
    rows = dump.tokens.collect()
    assert rows["rank"].to_list() == [0] * 3 + [1] * 13
    assert len(dump.shards("vocab")) == 1
    train = rows.filter(pl.col("phase") == "train")
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["n_tokens"] == 14
    assert math.isclose(first["metrics"]["nll"], train["nll"].cast(pl.Float64).mean(), rel_tol=1e-9)
    correct = (train["n_gt"] + train["n_eq_before"]) == 0
    assert math.isclose(first["metrics"]["token_acc"], correct.mean())
    per_rank = train.group_by("rank").agg(pl.col("nll").mean())["nll"].mean()
    assert not math.isclose(
        first["metrics"]["nll"], per_rank, rel_tol=1e-3
    )  # the mean of means is another number
    assert first["metrics"]["eval_n_tokens"] == 2
    assert first["empty"] == second["empty"] == {}


def test_rank_zero_that_cannot_open_the_dump_keeps_nobody_waiting(path: Path, tmp_path: Path) -> None:
    with Recorder(path, 5, rank=0, world=2, session="0001-a"):
        said = both(path, tmp_path)
    assert said[0]["error"].startswith("LockedError")
    assert "rank 0 could not open the dump" in said[1]["error"]
    assert [session.owner for session in open_dump(path).sessions] == ["0001-a-r0"]
