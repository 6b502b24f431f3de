"""`torch.use_deterministic_algorithms(True)`: CUDA then refuses float cumsum, so it must not be asked for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from logitbox.dumps.dump import open_dump
from logitbox.dumps.losses import composite_loss
from logitbox.dumps.ordered import wasserstein1
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.spec import OrderedSpec

V, GROUP = 60, range(10, 47)
OPTIONS: dict[str, Any] = {
    "groups": {"coord": GROUP, "yes": [1], "no": [2]},
    "ordered": {"coord": {"sigma": 1.5}},
    "answers": ["yes", "no"],
    "detailed": True,
    "k": 12,
}


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture
def no_float_cumsum(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA does it."""
    real: Callable[..., Tensor] = Tensor.cumsum

    def refusing(x: Tensor, *given: Any, **named: Any) -> Tensor:
        if x.is_floating_point():
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")
        return real(x, *given, **named)

    monkeypatch.setattr(Tensor, "cumsum", refusing)


@pytest.mark.usefixtures("deterministic", "no_float_cumsum")
@pytest.mark.parametrize("n_bins", [1, 2, 3, 37, 64, 1000])
def test_w1(n_bins: int) -> None:
    p, q = torch.randn(2, 5, n_bins, dtype=torch.float64).softmax(-1)
    bins = np.arange(n_bins)
    expected = [wasserstein_distance(bins, bins, a, b) for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    assert wasserstein1(p, q, OrderedSpec()).numpy() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.usefixtures("deterministic")
def test_gradients_of_w1() -> None:
    logits, q = torch.randn(3, 9, dtype=torch.float64, requires_grad=True), torch.randn(3, 9).double()
    assert torch.autograd.gradcheck(
        lambda x: wasserstein1(x.softmax(1), q.softmax(1), OrderedSpec()), (logits,)
    )


@pytest.mark.usefixtures("deterministic", "no_float_cumsum")
def test_recording_and_the_loss(tmp_path: Path) -> None:
    record_and_train(tmp_path, "cpu")


def record_and_train(path: Path, device: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 15, V).to(device).requires_grad_()
    labels = torch.randint(0, V, (4, 15)).to(device)
    with Recorder(path / "dump", V, **OPTIONS) as rec:
        rec.record(logits, labels, sample=torch.zeros(4, 15, dtype=torch.long, device=device))
        values = rec.metrics()
    loss = composite_loss(logits, labels, GROUP, {"sigma": 1.5})
    loss.total.backward()
    assert logits.grad is not None
    assert loss.total.item() == pytest.approx(values["coord_softce_w1/composite_loss"], rel=1e-5)
    rows = open_dump(path / "dump").tokens.collect()
    p = logits.detach().double().cpu()[:, :-1].flatten(0, 1).softmax(-1).sort(descending=True).values
    for count in (2, 5, 10):
        assert rows[f"top{count}_prob"].to_numpy() == pytest.approx(p[:, :count].sum(1).numpy(), abs=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.usefixtures("deterministic")
def test_on_cuda(tmp_path: Path) -> None:
    record_and_train(tmp_path, "cuda")
