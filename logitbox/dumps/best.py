"""Columns over several of the best tokens, for the detailed metrics of seed 001."""

from __future__ import annotations

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor


def best_columns(log_p: Tensor, tail_mass: Tensor, wanted: Mapping[str, int]) -> dict[str, Tensor]:
    """Accumulated probabilities, and the entropy of the best tokens and all others as one.

    Args:
        log_p: ln p of the k best tokens, best first, [rows, k].
        tail_mass: probability outside them, [rows].
        wanted: column to the number of tokens it is over: `topk_entropy` in bits, else probabilities in [0, 1].
    """
    p = log_p.exp()
    columns: dict[str, Tensor] = {}
    for name, count in wanted.items():
        if name != "topk_entropy":
            # A running sum would serve all counts, but CUDA has no deterministic one.
            columns[name] = p[:, :count].sum(dim=1).clamp(max=1.0)
            continue
        best, log_best = p[:, :count], log_p[:, :count]
        others = tail_mass + p[:, count:].sum(dim=1)
        inside = torch.where(best > 0, best * log_best, 0.0).sum(dim=1)
        columns[name] = -(inside + torch.special.xlogy(others, others)) / log(2)
    return columns
