"""Columns over several of the best tokens: for the detailed metrics of seed 001, and for trimmed lists."""

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


LENGTH, CUT_MASS = "list_length", "cut_mass"
"""Columns for the writer alone, which trims the lists by them; no columns of `tokens`."""


def cut_columns(log_p: Tensor, min_prob: float) -> dict[str, Tensor]:
    """How much of each list is kept, and the probability of what is not; from values not yet rounded to float16.

    The best token is always kept, and so are all of a row with NaN.

    Args:
        log_p: ln p of the k best tokens, best first, [rows, k].
        min_prob: tokens below this probability are cut.

    Returns:
        `list_length`, int32 [rows] from 1 to k; `cut_mass`, [rows] in the dtype of `log_p`.
    """
    p = log_p.exp()
    is_cut = p < min_prob
    is_cut[:, 0] = False
    return {
        LENGTH: (~is_cut).sum(dim=1).to(torch.int32),
        CUT_MASS: torch.where(is_cut, p, 0.0).sum(dim=1),
    }
