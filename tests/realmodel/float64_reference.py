"""Every column of the `tokens` table, written out a second time: plain float64 formulas on full logits.

Nothing of logitbox is used. Rows are taken in chunks, because a float64 copy of the logits would be large.
"""

import math
from itertools import pairwise

import numpy as np
import torch

BETAS = (0.25, 0.5, 0.75, 1.5, 2.0)
CHUNK = 64


def target_rows(labels, input_ids, mask):
    """One dict per logit row that is recorded with shift=True, scope="supervised", probes=True."""
    for b in range(labels.shape[0]):
        own = [int(label) for label in labels[b]]
        ids = [int(token) for token in input_ids[b]]
        real = [int(bit) for bit in mask[b]]
        first, T = real.index(1), len(own)
        for i in range(T):  # logit row i predicts token i + 1
            target = own[i + 1] if i + 1 < T else -100
            left, right = own[i], own[i + 2] if i + 2 < T else -100
            if target == left == right == -100:
                continue
            exists, supervised = i + 1 < T, target != -100
            yield {
                "b": b,
                "row": b * T + i,
                "pos": i + 1 - first,
                "gold": target if supervised else ids[i + 1] if exists else -1,
                "left": left,
                "right": right,
                "supervised": supervised,
                "pad": exists and not real[i + 1],
                "exists": exists,
            }


def columns(logits, rows, k, groups, ordered):
    """The computed columns for chosen rows.

    Args:
        logits: any float dtype, [N, V].
        rows: what `target_rows` yields.
        ordered: name to a dict with ids, sigma, truncate, temperature, gate_temperature.
    """
    parts = [_chunk(logits, rows[i : i + CHUNK], k, groups, ordered) for i in range(0, len(rows), CHUNK)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _chunk(logits, rows, k, groups, ordered):
    x = logits[[row["row"] for row in rows]].double()
    gold = torch.tensor([row["gold"] for row in rows])
    lse = torch.logsumexp(x, dim=1)
    log_p = x - lse[:, None]
    p = log_p.exp()
    m = x.max(dim=1).values
    out = {
        "lse": lse,
        "top_nll": lse - m,
        "mean_logit": x.mean(dim=1),
        "n_finite": torch.isfinite(x).sum(dim=1),
        "entropy": -(p * log_p).sum(dim=1),
        "lse_beta": torch.stack([torch.logsumexp(beta * x, dim=1) for beta in BETAS], dim=1),
    }
    out |= {f"logmass_{name}": torch.logsumexp(x[:, list(ids)], dim=1) - lse for name, ids in groups.items()}
    out |= _gold(x, log_p, gold)
    out |= {
        name: _neighbour(log_p, rows, side)
        for name, side in (("nll_unshifted", "left"), ("nll_next", "right"))
    }
    for name, options in ordered.items():
        out |= {f"{name}_{key}": value for key, value in _ordered(x, gold, **options).items()}
    return {name: np.asarray(value) for name, value in out.items()} | _top(x.numpy(), p.numpy(), k)


def _gold(x, log_p, gold):
    """The columns that need a gold token; NaN or −1 where there is none."""
    known = gold >= 0
    at = gold.clamp(min=0)[:, None]
    equal = x == x.gather(1, at)
    lower = torch.arange(x.shape[1]) < gold[:, None]
    counts = {
        "n_gt": (x > x.gather(1, at)).sum(dim=1),
        "n_eq": equal.sum(dim=1) - 1,
        "n_eq_before": (equal & lower).sum(dim=1),
    }
    nll = torch.where(known, -log_p.gather(1, at)[:, 0], math.nan)
    return {"nll": nll} | {name: torch.where(known, count, -1) for name, count in counts.items()}


def _neighbour(log_p, rows, side):
    return [-float(log_p[i, row[side]]) if row[side] >= 0 else math.nan for i, row in enumerate(rows)]


def _top(x, p, k):
    """The k best by (logit, then lowest id)."""
    ids = np.stack([_best(row, k) for row in x])
    values, mass = np.take_along_axis(x, ids, 1), np.take_along_axis(p, ids, 1)
    outside = p.copy()
    np.put_along_axis(outside, ids, 0.0, 1)
    assert np.allclose(outside.sum(1) + mass.sum(1), 1)
    return {"top_ids": ids, "top_gap": values[:, :1] - values, "tail_mass": outside.sum(1)}


def _best(row, k):
    at_least = np.flatnonzero(row >= np.partition(row, -k)[-k])  # with every tie at the last place
    return at_least[np.lexsort((at_least, -row[at_least]))][:k]


def _ordered(x, gold, ids, sigma, truncate, temperature, gate_temperature):
    """Scores of an ordered group whose ids are consecutive; NaN (−1) where gold is outside."""
    K = len(ids)
    bins = np.arange(K)
    z = x[:, ids[0] : ids[-1] + 1].numpy()
    p = np.exp(z / temperature - np.logaddexp.reduce(z / temperature, axis=1)[:, None])
    out = {name: np.full(len(x), math.nan) for name in ("gate", "soft_ce", "w1", "mean")}
    out["bin"] = np.full(len(x), -1)
    for i in np.flatnonzero((gold.numpy() >= ids[0]) & (gold.numpy() <= ids[-1])):
        distance = bins - (int(gold[i]) - ids[0])
        q = np.where(np.abs(distance) <= truncate, np.exp(-0.5 * (distance / sigma) ** 2), 0)
        q /= q.sum()
        at = x[i].numpy() / gate_temperature
        out["gate"][i] = np.logaddexp.reduce(at) - np.logaddexp.reduce(z[i] / gate_temperature)
        out["soft_ce"][i] = -(q * np.log(p[i])).sum()
        out["w1"][i] = np.abs(np.cumsum(p[i]) - np.cumsum(q)).sum()
        out["bin"][i] = np.flatnonzero(z[i] == z[i].max())[0]
        out["mean"][i] = (p[i] * bins).sum()
    return out


def expected_calibration_error(confidence, correct, bins=15):
    """Σ share of tokens · |accuracy − mean confidence| over equal bins of (0, 1]."""
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total
