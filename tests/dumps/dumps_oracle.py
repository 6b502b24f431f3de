"""What the columns must hold, computed the slow and obvious way: float64, one row at a time."""

from __future__ import annotations

import math

import numpy as np
import torch

from logitbox.dumps.spec import BETAS, RecordSpec, build_spec


def spec_of(vocab_size: int, k: int | None = None, **options: object) -> RecordSpec:
    given = {"groups": None, "ordered": None, "types": None, "probes": False, "lse_beta": "always"}
    return build_spec(vocab_size, k, **{**given, "scope": "supervised", **options})


def logsumexp(x: np.ndarray) -> float:
    best = float(np.max(x))
    if best == -math.inf:
        return -math.inf
    return best + math.log(math.fsum(np.exp(x - best)))


def nll(x: np.ndarray, gold: int) -> float:
    return logsumexp(x) - float(x[gold])


def best_ids(x: np.ndarray, k: int) -> np.ndarray:
    """Largest first, lowest id first among equals."""
    return np.lexsort((np.arange(len(x)), -(x + 0.0)))[:k]


def columns_of(x: np.ndarray, gold: int, k: int) -> dict[str, object]:
    """Every fixed computed column of one row of finite or −inf float64 logits."""
    lse = logsumexp(x)
    p = np.exp(x - lse)
    top = best_ids(x, k)
    finite = np.isfinite(x)
    ids = np.arange(len(x))
    return {
        "nll": nll(x, gold),
        "top_nll": lse - float(x.max()),
        "lse": lse,
        "mean_logit": float(x[finite].mean()),
        "n_finite": int(finite.sum()),
        "n_gt": int((x > x[gold]).sum()),
        "n_eq": int((x == x[gold]).sum()) - 1,
        "n_eq_before": int(((x == x[gold]) & (ids < gold)).sum()),
        "entropy": -math.fsum(p[p > 0] * (x[p > 0] - lse)),
        "top_ids": top.tolist(),
        "top_gap": (x.max() - x[top]).tolist(),
        "tail_mass": math.fsum(np.delete(p, top)),
        "lse_beta": [logsumexp(beta * x) for beta in BETAS],
    }


def as_float64(logits: torch.Tensor) -> np.ndarray:
    return logits.detach().double().numpy()
