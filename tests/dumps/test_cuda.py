"""The same record from a CUDA device as from the CPU, without one wait in the training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

V = 300
OPTIONS = {
    "groups": {"bins": range(10, 60), "listed": [7, 200, 3]},
    "ordered": {"bins": {}, "listed": {"temperature": 1.5}},
    "types": ["a"],
    "probes": True,
    "lse_beta": "always",
}


@pytest.fixture
def no_waiting() -> Iterator[Callable[[str], None]]:
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


def batches() -> list[dict[str, torch.Tensor]]:
    made: list[dict[str, torch.Tensor]] = []
    for _ in range(3):
        labels = torch.randint(0, V, (4, 9))
        ids = labels.clone()
        labels[:, :3] = -100
        mask = torch.ones(4, 9, dtype=torch.long)
        mask[1, 6:] = 0
        made.append(
            {
                "logits": torch.randn(4, 9, V).mul(4).bfloat16(),
                "labels": labels.masked_fill(mask == 0, -100),
                "input_ids": ids,
                "attention_mask": mask,
                "weight": torch.rand(4, 9),
            }
        )
    return made


def record(rec: Recorder, batch: dict[str, torch.Tensor], step: int) -> None:
    rec.record(**batch, types={"a": batch["labels"] > 100}, step=step, loss=batch["weight"].sum())


def test_cuda_records_what_the_cpu_records(
    recorder: Callable[..., Recorder], tmp_path: Path, no_waiting: Callable[[str], None]
) -> None:
    made = batches()
    with recorder(V, at=tmp_path / "cpu", **OPTIONS) as rec:
        for step, batch in enumerate(made):
            record(rec, batch, step)
    rec = recorder(V, at=tmp_path / "cuda", **OPTIONS)
    on_device = [{name: value.cuda() for name, value in batch.items()} for batch in made]
    torch.cuda.synchronize()
    no_waiting("error")
    for step, batch in enumerate(on_device):
        record(rec, batch, step)
        for value in batch.values():  # the caller's tensors are the caller's again
            value.zero_()
    no_waiting("default")
    rec.close()
    cpu, cuda = (open_dump(tmp_path / name) for name in ("cpu", "cuda"))
    want, got = cpu.tokens.collect(), cuda.tokens.collect()
    assert want.height > 0
    exact = [name for name, dtype in want.schema.items() if not (dtype.is_float() or dtype == pl.List)]
    exact += ["top_ids", "top_gap"]
    assert_frame_equal(got.select(exact), want.select(exact), check_exact=True)
    assert_frame_equal(got, want, rel_tol=2e-5, abs_tol=2e-6)
    assert_frame_equal(cuda.samples.collect(), cpu.samples.collect())
    assert_frame_equal(cuda.batches.collect(), cpu.batches.collect(), rel_tol=1e-5)
