"""Scores of an ordered vocabulary group, such as 1000 coordinate bins (seed 000).

The functions are plain differentiable torch: what the recorder reports is what a trainer can train on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitbox.dumps.spec import OrderedSpec


def gaussian_target(
    gold_bin: Tensor, n_bins: int, spec: OrderedSpec, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Target distribution q, shape [rows, n_bins]: a Gaussian at the gold bin, cut off and renormalised.

    Args:
        gold_bin: int64, shape [rows], values in 0 … n_bins − 1.
        n_bins: number of bins.
        spec: gives `sigma` and `truncate`.
        dtype: dtype of the result.
    """
    distance = torch.arange(n_bins, device=gold_bin.device, dtype=dtype) - gold_bin.unsqueeze(1).to(dtype)
    logits = -0.5 * (distance / spec.sigma).square()
    if spec.truncate is not None:
        logits = logits.masked_fill(distance.abs() > spec.truncate, -torch.inf)
    return logits.softmax(dim=1)


def soft_cross_entropy(log_p: Tensor, q: Tensor) -> Tensor:
    """−Σ q ln p in nats, shape [rows]; bins with q = 0 contribute 0 even where p = 0."""
    return -torch.where(q > 0, q * log_p, 0.0).sum(dim=1)


def wasserstein1(p: Tensor, q: Tensor, spec: OrderedSpec) -> Tensor:
    """W1 = Σ|CDF_p − CDF_q| in bins, shape [rows]; divided by the number of bins if so specified.

    Over 1000 bins the rounding of float32 sums reaches 2.5e-4 bins, so p and q are best given in float64; the
    sums are taken in it in any case (where the device has it).
    """
    distance = (widened(p) - widened(q)).cumsum(dim=1).abs().sum(dim=1)
    return (distance / p.shape[1] if spec.normalize_w1 else distance).to(p.dtype)


def widened(x: Tensor) -> Tensor:
    """`x` in float64; on Apple's mps, which has none, in float32."""
    return x.float() if x.device.type == "mps" else x.double()


def ordered_columns(group_logits: Tensor, gold_bin: Tensor, spec: OrderedSpec) -> dict[str, Tensor]:
    """`soft_ce`, `w1`, `bin` (arg-max, lowest among equals) and `mean` (expected bin), each of shape [rows].

    Args:
        group_logits: float, shape [rows, n_bins], in bin order; a constant offset per row does not matter.
        gold_bin: int64, shape [rows].
        spec: what the scores depend on.
    """
    n_bins = group_logits.shape[1]
    z = widened(group_logits)
    log_p = (z / spec.temperature).log_softmax(dim=1)
    p = log_p.exp()
    q = gaussian_target(gold_bin, n_bins, spec, log_p.dtype)
    bins = torch.arange(n_bins, device=p.device)
    is_max = group_logits == group_logits.amax(dim=1, keepdim=True)
    scores = {
        "soft_ce": soft_cross_entropy(log_p, q),
        "w1": wasserstein1(p, q, spec),
        "mean": (p * bins.to(p.dtype)).sum(dim=1),
    }
    dtype = torch.promote_types(group_logits.dtype, torch.float32)
    columns = {name: score.to(dtype) for name, score in scores.items()}
    columns["bin"] = torch.where(is_max, bins, n_bins).amin(dim=1).clamp(max=n_bins - 1).to(torch.int32)
    return columns
