from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dumps_oracle import as_float64
from scipy.stats import wasserstein_distance

from logitbox.dumps.ordered import gaussian_target, ordered_columns, soft_cross_entropy, wasserstein1
from logitbox.dumps.spec import OrderedSpec

SPECS = [
    OrderedSpec(),
    OrderedSpec(sigma=0.5, truncate=0),
    OrderedSpec(sigma=3.0, truncate=4, temperature=1.7),
    OrderedSpec(sigma=20.0, truncate=7, temperature=0.4, normalize_w1=True),
]


def target(gold: int, n_bins: int, spec: OrderedSpec) -> np.ndarray:
    q = np.array(
        [
            math.exp(-0.5 * ((j - gold) / spec.sigma) ** 2)
            if spec.truncate is None or abs(j - gold) <= spec.truncate
            else 0.0
            for j in range(n_bins)
        ]
    )
    return q / q.sum()


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
@pytest.mark.parametrize("gold", [0, 1, 13, 29])
def test_target(gold: int, spec: OrderedSpec) -> None:
    got = gaussian_target(torch.tensor([gold]), 30, spec, torch.float64)
    assert np.allclose(got[0].numpy(), target(gold, 30, spec), atol=1e-14)


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_columns(spec: OrderedSpec) -> None:
    n_bins = 30
    logits, gold = torch.randn(8, n_bins).mul(3), torch.tensor([0, 1, 5, 12, 13, 28, 29, 7])
    got = ordered_columns(logits, gold, spec)
    bins = np.arange(n_bins)
    for i, row in enumerate(as_float64(logits)):
        p, q = softmax(row / spec.temperature), target(int(gold[i]), n_bins, spec)
        inside = q > 0
        distance = wasserstein_distance(bins, bins, p, q) / (n_bins if spec.normalize_w1 else 1)
        assert math.isclose(float(got["soft_ce"][i]), -(q[inside] * np.log(p[inside])).sum(), rel_tol=2e-6)
        assert math.isclose(float(got["w1"][i]), distance, rel_tol=1e-5, abs_tol=1e-6)
        assert math.isclose(float(got["mean"][i]), (p * bins).sum(), rel_tol=2e-6)
        assert int(got["bin"][i]) == int(row.argmax())


def test_arg_max_bin_takes_the_lowest_of_equals() -> None:
    got = ordered_columns(
        torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]]), torch.tensor([0, 0]), SPECS[0]
    )
    assert got["bin"].tolist() == [1, 0]


def test_masked_bins() -> None:
    """A bin without probability costs nothing where the target is 0, everything where it is not."""
    logits = torch.zeros(2, 6)
    logits[:, 5] = -torch.inf
    got = ordered_columns(logits, torch.tensor([0, 4]), OrderedSpec(sigma=1.0, truncate=1))
    assert math.isclose(float(got["soft_ce"][0]), math.log(5), rel_tol=1e-6)
    assert float(got["soft_ce"][1]) == math.inf


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_gradients(spec: OrderedSpec) -> None:
    gold = torch.tensor([0, 4, 9])
    q = gaussian_target(gold, 10, spec, torch.float64)
    logits = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: soft_cross_entropy((x / spec.temperature).log_softmax(1), q), logits
    )
    assert torch.autograd.gradcheck(
        lambda x: wasserstein1((x / spec.temperature).softmax(1), q, spec), logits
    )
    assert torch.autograd.gradcheck(
        lambda x: tuple(ordered_columns(x, gold, spec)[name] for name in ("soft_ce", "w1", "mean")), logits
    )


@pytest.mark.parametrize("off", [0.0, 0.7])
@pytest.mark.parametrize("base", [0.0, -60.0])
def test_a_thousand_bins_in_float32(off: float, base: float) -> None:
    """Sums over 1000 bins do not add up the rounding; a perfectly placed prediction costs nothing."""
    n_bins, spec = 1000, OrderedSpec()
    gold = torch.randint(0, n_bins, (200,))
    center = gold.double() + off * torch.randn(200, dtype=torch.float64)
    logits = (base - 0.5 * ((torch.arange(n_bins) - center.unsqueeze(1)) / spec.sigma) ** 2).float()
    got = ordered_columns(logits, gold, spec)
    assert got["w1"].dtype == torch.float32
    p = logits.double().softmax(dim=1)
    q = gaussian_target(gold, n_bins, spec, torch.float64)
    want = (p - q).cumsum(dim=1).abs().sum(dim=1)
    assert torch.allclose(got["w1"].double(), want, rtol=1e-6, atol=1e-6)
    if off == 0.0 and base == 0.0:
        assert float(got["w1"].max()) <= 1e-6
