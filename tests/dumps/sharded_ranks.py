"""Four gloo ranks, forked from one process, that hold shards of the vocabulary: `python sharded_ranks.py FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sharded_cases import CASES
from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh

from logitbox.dumps.recorder import Recorder
from logitbox.dumps.reduce import GroupIndex
from logitbox.dumps.reduce.sharded import Shards, VocabShard
from logitbox.errors import InputError

V, WORLD = 61, 4
OPTIONS: dict[str, Any] = {"groups": {"g": range(10, 40)}, "ordered": {"g": {}}, "k": 6, "probes": True}


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a micro-batch."""
    made = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, V, (3, 8), generator=made)
    labels[:, :2] = -100
    return torch.randn(3, 8, V, generator=made) * 3, labels


def reduce_cases(rank: int, pair: Any, folder: Path) -> None:
    """Every case, by all ranks or by the first two."""
    for case in CASES:
        if rank >= case.world:
            continue
        start, local = case.shard(rank)
        before = local.clone()
        rows = Shards(case.spec).rows(local, VocabShard(start, pair if case.world == 2 else None))
        found = rows.reduce(
            case.rows, case.chosen_targets, GroupIndex(case.spec), lse_beta=case.spec.lse_beta == "always"
        )
        assert rows.writes == (rank == 0)
        assert bool(found) == (rank == 0)
        assert torch.equal(local.nan_to_num(), before.nan_to_num())
        if found:
            torch.save(found, folder / f"{case.name}.pt")


def record_pairs(rank: int, groups: list[Any], folder: Path) -> dict[str, Any]:
    """Two data-parallel pairs, each with the vocabulary cut in two."""
    replica, half = divmod(rank, 2)
    cut = slice(0, 31) if half == 0 else slice(31, V)
    with Recorder(folder / "pairs", V, **OPTIONS) as rec:
        for step in (1, 2):
            logits, labels = batch(10 * step + replica)
            rec.record(
                logits[..., cut],
                labels,
                step,
                vocab_parallel=VocabShard(cut.start, groups[replica]),
                loss=1.0,
            )
        rec.record(
            logits[..., cut],
            torch.full_like(labels, -100),
            3,
            vocab_parallel=VocabShard(cut.start, groups[replica]),
        )
        return {"metrics": rec.metrics(all_reduce=True)}


def record_dtensors(rank: int, folder: Path) -> None:
    """The vocabulary cut in four as torch cuts it (16, 16, 16, 13); then a mesh of 2 × 2; then replicas."""
    flat, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    with Recorder(folder / "dtensor", V, **OPTIONS) as rec:
        logits, labels = batch(1)
        rec.record(
            DTensor.from_local(
                logits.chunk(4, -1)[rank], flat, [Shard(-1)], shape=logits.shape, stride=logits.stride()
            ),
            labels,
            1,
        )
        half = logits.chunk(2, -1)[rank % 2]
        rec.record(
            DTensor.from_local(
                half,
                square,
                [Replicate(), Shard(2)],
                shape=logits.shape,
                stride=logits.stride(),
                run_check=False,
            ),
            labels,
            2,
        )
        rec.record(DTensor.from_local(logits, flat, [Replicate()], run_check=False), labels, 3)


def tell_errors(rank: int, folder: Path) -> list[str]:
    """Messages, the same on all ranks; and none of them waits for another."""
    said: list[str] = []
    with Recorder(folder / f"errors{rank}", V, session="0001-a", rank=rank, world=WORLD) as rec:
        logits, labels = batch(1)
        for start, width in ((rank * 15, 15), (rank * 16, 20), (0, V)):
            try:
                rec.record(logits[..., :width], labels, vocab_parallel=VocabShard(start))
            except InputError as error:
                said.append(str(error))
    return said


def drop_one(rank: int, folder: Path) -> dict[str, Any]:
    """A full queue drops the first micro-batch on the rank that writes; the others are served all the same."""
    cut = slice(20 * rank, min(20 * rank + 20, V))
    with Recorder(folder / "drop", V, **OPTIONS) as rec:
        logits, labels = batch(1)
        admit = rec._writer.admit
        rec._writer.admit = lambda rows: False  # type: ignore[method-assign]
        rec.record(logits[..., cut], labels, 1, vocab_parallel=VocabShard(cut.start))
        rec._writer.admit = admit  # type: ignore[method-assign]
        rec.record(logits[..., cut], labels, 2, vocab_parallel=VocabShard(cut.start))
    return {}


def run(rank: int, folder: Path) -> dict[str, Any]:
    """All of it."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    reduce_cases(rank, pairs[0], folder)
    said = record_pairs(rank, pairs, folder)
    record_dtensors(rank, folder)
    said["errors"] = tell_errors(rank, folder)
    drop_one(rank, folder)
    dist.barrier()
    dist.destroy_process_group()
    return said


def main() -> None:
    """Fork the ranks: torch is imported once."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    children: list[int] = []
    for rank in range(WORLD):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                (folder / f"said{rank}.json").write_text(json.dumps(run(rank, folder)))
                status = 0
            except BaseException:  # noqa: BLE001 (a child must not go on as its parent)
                traceback.print_exc()
            os._exit(status)
        children.append(child)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    main()
