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
    distance = _running_sum(widened(p) - widened(q)).abs().sum(dim=1)
    return (distance / p.shape[1] if spec.normalize_w1 else distance).to(p.dtype)


def _running_sum(x: Tensor) -> Tensor:
    """Sums of the first 1, 2, … columns. Where determinism is asked for, CUDA refuses `cumsum`: doubling strides then."""
    if not torch.are_deterministic_algorithms_enabled():
        return x.cumsum(dim=1)
    stride = 1
    while stride < x.shape[1]:
        x = x + torch.nn.functional.pad(x[:, :-stride], (stride, 0))
        stride *= 2
    return x


def widened(x: Tensor) -> Tensor:
    """`x` in float64; on Apple's mps, which has none, in float32."""
    return x.float() if x.device.type == "mps" else x.double()


def group_scores(
    group_logits: Tensor, gold_bin: Tensor, spec: OrderedSpec
) -> tuple[dict[str, Tensor], Tensor]:
    """(`soft_ce` and `w1`, each of shape [rows]; softmax(group logits / temperature), [rows, n_bins], float64).

    Everything is summed in float64; the scores are float32, for float64 logits float64. Gradients flow; where
    a score is finite they are finite, even if some logits are −inf. soft CE is +inf where a bin that the
    target wants has a logit of −inf; both scores are NaN where all bins have.

    Args:
        group_logits: float, shape [rows, n_bins], in bin order; a constant offset per row does not matter.
        gold_bin: int64, shape [rows], values in 0 … n_bins − 1.
        spec: what the scores depend on.
    """
    log_p = (widened(group_logits) / spec.temperature).log_softmax(dim=1)
    p = log_p.exp()
    q = gaussian_target(gold_bin, group_logits.shape[1], spec, log_p.dtype)
    scores = {"soft_ce": soft_cross_entropy(log_p, q), "w1": wasserstein1(p, q, spec)}
    return {name: score.to(_result_dtype(group_logits)) for name, score in scores.items()}, p


def gate(all_lse: Tensor, group_distances: Tensor, spec: OrderedSpec) -> Tensor:
    """−ln(mass of the group) at the gate temperature T, in nats and never below 0, shape [rows].

    −(logsumexp over the group − logsumexp over the vocabulary) of logits / T.

    Args:
        all_lse: `log_sum` of the vocabulary's `distances` at `spec.gate_at`, shape [rows].
        group_distances: the group's columns of the distances, shape [rows, n_bins].
        spec: gives the gate temperature.
    """
    return (all_lse - log_sum(group_distances, spec.gate_at)).clamp(min=0.0)


def distances(logits: Tensor) -> Tensor:
    """Logits less the row's largest, [rows, V], in float32 (float64 for float64): exponentials keep their digits.

    To autograd the largest is a constant: an offset changes no score.
    """
    return logits - logits.detach().amax(dim=1, keepdim=True).to(_result_dtype(logits))


def log_sum(values: Tensor, temperature: float) -> Tensor:
    """logsumexp(values / temperature) over the last dimension."""
    return torch.logsumexp(values if temperature == 1.0 else values / temperature, dim=-1)


def ordered_columns(group_logits: Tensor, gold_bin: Tensor, spec: OrderedSpec) -> dict[str, Tensor]:
    """`soft_ce` and `w1` (see `group_scores`), `bin` (arg-max, lowest among equals) and `mean` (expected bin).

    Arguments are those of `group_scores`; each column is of shape [rows].
    """
    columns, p = group_scores(group_logits, gold_bin, spec)
    n_bins = p.shape[1]
    bins = torch.arange(n_bins, device=p.device)
    is_max = group_logits == group_logits.amax(dim=1, keepdim=True)
    columns["mean"] = (p * bins.to(p.dtype)).sum(dim=1).to(_result_dtype(group_logits))
    columns["bin"] = torch.where(is_max, bins, n_bins).amin(dim=1).clamp(max=n_bins - 1).to(torch.int32)
    return columns


def _result_dtype(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
