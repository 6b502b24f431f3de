"""Two processes record one dump."""

from __future__ import annotations

import json
import math
import select
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from logitbox.analysis.metrics import metrics, metrics_of_tally
from logitbox.analysis.tallying import tally_dump
from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.recorder import Recorder

RANK = textwrap.dedent("""
    import json, sys
    import torch
    import torch.distributed as dist
    from logitbox.dumps.recorder import Recorder

    rank = int(sys.argv[1])
    for line in sys.stdin:
        path, rendezvous, body = json.loads(line)
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
        names = {**globals(), "said": {}}
        try:
            exec(body, names)
        except Exception as error:
            names["said"] = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(names["said"]), flush=True)
        dist.destroy_process_group()
""")

SHARED = """
with Recorder(path, ["a", "b", "c", "d", "e"]) as rec:
    torch.manual_seed(rank)
    n = 3 if rank == 0 else 11
    rec.record(torch.randn(n, 5) * 3, torch.arange(n) % 5, step=1)
    if rank == 1:  # rank 0 has nothing to evaluate
        rec.record(torch.randn(2, 5), torch.tensor([1, 2]), step=1, phase="eval")
    said = {"metrics": rec.metrics(all_reduce=True), "session": rec.session.session}
    said["empty"] = rec.metrics(all_reduce=True)
"""


Both = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ranks() -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes for all tests, as each takes seconds to import torch. Every test has a group of its own."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        yield started
        for process in started:
            process.communicate(timeout=60)
            assert process.returncode == 0
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture
def both(path: Path, tmp_path: Path, ranks: list[subprocess.Popen[str]]) -> Both:
    """A function that runs a body on both ranks, and gives what they said."""

    def run(body: str = SHARED) -> list[dict[str, Any]]:
        for process in ranks:
            assert process.stdin is not None
            process.stdin.write(json.dumps([str(path), str(tmp_path / "rendezvous"), body]) + "\n")
            process.stdin.flush()
        return [answer(process) for process in ranks]

    return run


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, "a rank keeps waiting"
    line = process.stdout.readline()
    assert line, "a rank ended: its error was printed"
    return json.loads(line)


def test_two_ranks_share_a_session(path: Path, both: Both) -> None:
    first, second = both()
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


def test_rank_zero_that_cannot_open_the_dump_keeps_nobody_waiting(path: Path, both: Both) -> None:
    with Recorder(path, 5, rank=0, world=2, session="0001-a"):
        said = both()
    assert said[0]["error"].startswith("LockedError")
    assert "rank 0 could not open the dump" in said[1]["error"]
    assert [session.owner for session in open_dump(path).sessions] == ["0001-a-r0"]


UNLIKE = """
V = 40
options = dict(
    vocab=V, k=10, groups={"coord": range(10, 25)}, ordered={"coord": {"sigma": 1.0}}, types=["desc", "reasoning"],
    answers={"accept": [30, 31], "reject": [32]},
)
with Recorder(path, **options) as rec:
    torch.manual_seed(7 + rank)

    def put(step, phase="train", dataset="", rows=2, has_desc=True):
        logits, labels = torch.randn(rows, 9, V) * 3, torch.randint(0, V, (rows, 9))
        logits[torch.rand(rows, 9) < 0.1] = torch.nan
        masks = {"desc": (torch.rand(rows, 9) < 0.5) & has_desc, "reasoning": torch.rand(rows, 9) < 0.5}
        duplicate = torch.arange(rows)[:, None].expand(rows, 9) == 3  # the last of four
        rec.record(logits, labels, step, phase, dataset, types=masks, flags={"duplicate": duplicate})

    for reduction in ("token_mean", "step_mean"):
        first = 0 if reduction == "token_mean" else 10
        put(first, rows=2 + rank)
        if rank == 0:
            put(first + 1, has_desc=False)      # a step that the other did not have
            put(first + 1, "eval", "only0")     # a data set too
        else:
            put(first + 2, rows=4)
            put(first + 2, "val")               # and a phase
        put(first + 2, "eval", "both", rows=1 + 3 * rank)
        rec.metrics(phase="nothing", all_reduce=True)
        said[reduction] = rec.metrics(reduction=reduction, all_reduce=True)
        said[reduction + " reasons"] = rec.null_reasons
        if rank == 1:
            put(first + 5)
        said[reduction + " prefix"] = rec.metrics("", reduction=reduction, all_reduce=True)  # rank 0 has nothing
    put(30, "train")
    put(30, "eval")
    try:
        rec.metrics("mine/", all_reduce=True)
    except Exception as error:
        said["ambiguous"] = str(error)
    said["after"] = rec.metrics(all_reduce=True)["n_tokens"]
"""


def test_ranks_that_saw_different_things_give_what_the_dump_gives(path: Path, both: Both) -> None:
    first, second = both(UNLIKE)
    assert "error" not in first, first["error"]
    assert first == second
    dump = open_dump(path)
    assert metrics(dump, "step")["step"].n_unique() == 9
    for reduction, start in (("token_mean", 0), ("step_mean", 10)):
        expected = pooled(dump, range(start, start + 5), reduction)
        found, reasons = first[reduction], first[f"{reduction} reasons"]
        assert set(found) == set(expected)
        for key, value in found.items():
            wanted, reason = expected[key]
            assert reasons.get(key) == reason, key
            assert value == (None if wanted is None else pytest.approx(wanted, rel=1e-12, abs=1e-15)), key
        assert sum(value is not None for value in found.values()) > 150
        later = pooled(dump, range(start + 5, start + 6), reduction)
        told = first[f"{reduction} prefix"]
        assert told["n_tokens"] == later["n_tokens"][0] > 0
        assert told["perplexity"] == pytest.approx(later["train_perplexity"][0], rel=1e-12)
    assert "prefix 'mine/' could be of any of the phases eval, train" in first["ambiguous"]
    rows = dump.tokens.filter(pl.col("step") == 30, pl.col("phase") == "train").collect()
    assert first["after"] == ((rows["flags"] & (1024 + 512)) == 0).sum()


def pooled(dump: Dump, steps: range, reduction: str) -> dict[str, tuple[float | None, str | None]]:
    """Key to (value, reason) of the dump, all ranks together, were it of these steps only."""
    tally = tally_dump(dump)
    cells = tally.cells.filter(pl.col("step").is_between(steps.start, steps.stop - 1))
    frame = metrics_of_tally(replace(tally, cells=cells), dump, (), reduction).frame
    return {row["key"]: (row["value"], row["reason"]) for row in frame.iter_rows(named=True)}
