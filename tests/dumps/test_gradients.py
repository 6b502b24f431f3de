"""The gradient norm, and that it reaches `scalars`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from logitbox.dumps.dump import open_dump
from logitbox.dumps.gradients import grad_norm, record_grad_norm
from logitbox.errors import InputError

MakeRecorder = Callable[..., object]


def trained() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3), nn.Linear(3, 2))
    for unused in model[3].parameters():
        unused.requires_grad_(requires_grad=False)
    model[:3](torch.randn(4, 5)).square().sum().backward()
    return model


def test_it_is_what_clipping_returns() -> None:
    model = trained()
    total = math.sqrt(
        sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None)
    )
    found = grad_norm(model.parameters())
    assert found.shape == ()
    assert not found.requires_grad
    assert float(found) == pytest.approx(total, rel=1e-6)
    assert float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)) == pytest.approx(total, rel=1e-6)
    assert float(grad_norm(model.parameters())) == pytest.approx(0.5, rel=1e-4)


def test_gradients_of_16_bits_are_summed_in_float32() -> None:
    weight = nn.Parameter(torch.zeros(100_000, dtype=torch.bfloat16))
    weight.grad = torch.full_like(weight, 0.01)
    element = float(weight.grad[0])
    assert float(grad_norm(weight)) == pytest.approx(
        element * math.sqrt(100_000), rel=2e-4
    )  # bfloat16 errs by 2e-3


def test_no_gradient_is_0_and_a_sparse_one_counts() -> None:
    assert float(grad_norm(nn.Linear(2, 2).parameters())) == 0
    assert float(grad_norm([])) == 0
    table = nn.Embedding(6, 2, sparse=True)
    table(torch.tensor([1, 1, 3])).sum().backward()
    assert float(grad_norm(table.parameters())) == pytest.approx(math.sqrt(2 * 2**2 + 2 * 1))


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(InputError, match=r"hold a str; give tensors, such as model\.parameters\(\)"):
        grad_norm(["weight"])


def test_it_is_recorded(recorder: MakeRecorder, path: Path) -> None:
    model = trained()
    rec = recorder(vocab=3)
    norm = record_grad_norm(rec, 7, model.parameters())
    rec.close()
    row = open_dump(path).scalars.collect().row(0, named=True)
    assert (row["step"], row["phase"], row["key"]) == (7, "train", "grad_norm")
    assert row["value"] == float(norm)


def test_later_steps_do_not_change_it(recorder: MakeRecorder, path: Path) -> None:
    model, rec = trained(), recorder(vocab=3)
    norm = record_grad_norm(rec, 0, model.parameters())
    before = float(norm)
    norm.zero_()
    rec.close()
    assert open_dump(path).scalars.collect()["value"].to_list() == [before]


def test_a_recorder_that_is_off_records_nothing(recorder: MakeRecorder, path: Path) -> None:
    assert float(record_grad_norm(recorder(vocab=3, enabled=False), 0, trained().parameters())) > 0
    assert not path.exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_waits(recorder: MakeRecorder, path: Path) -> None:
    model = nn.Linear(64, 64, device="cuda")
    model(torch.randn(8, 64, device="cuda")).square().sum().backward()
    rec = recorder(vocab=3)
    record_grad_norm(rec, 0, model.parameters())  # pinned memory and the side stream are made now
    rec.flush()
    torch.cuda.set_sync_debug_mode("error")
    try:
        norm = record_grad_norm(rec, 1, model.parameters())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    rec.close()
    assert open_dump(path).scalars.collect()["value"][-1] == float(norm)
