"""Both metrics, the best temperature and intervals from full logits in float64. Nothing of logitbox is used."""

from dataclasses import dataclass

import inversion
import numpy as np
import torch
from scipy.optimize import root_scalar

LABELLED = inversion.LENGTH - 1
"""Tokens a sample; the first has no prediction."""


@dataclass(frozen=True)
class Reference:
    """Tokens by sample and position, [n] each, and the best temperature with the nll it gives."""

    nll: np.ndarray
    right: np.ndarray
    rank: np.ndarray
    temperature: float
    at_best: np.ndarray


def reference(evaluation, start):
    """All of a side; Newton's method finds the one optimum of a convex function wherever it starts."""
    at_last = []
    rows = _rows(evaluation)

    def slope(beta):
        at_last[:], first, second = _at_beta(rows, beta)
        return first, second

    best = root_scalar(slope, fprime=True, x0=1 / start, method="newton", rtol=1e-3)
    assert best.converged
    nll, right, rank = _at_one(rows)
    # The last step was below a thousandth: it moves nll at its least by less than a millionth.
    return Reference(nll, right, rank, 1 / best.root, np.array(at_last))


def _rows(evaluation):
    """[(logits [tokens, V], gold [tokens, 1])], a sample each: larger float64 arrays cost page faults."""
    return [
        (logits[0, :-1], evaluation.input_ids[rows, 1:].reshape(-1, 1))
        for rows, logits in evaluation.batches(rows=1)
    ]


def _at_beta(rows, beta):
    """(nll [n], d/dβ Σ nll, d²/dβ² Σ nll) of logits · β."""
    nll, slope, curvature = [], 0.0, 0.0
    for logits, ids in rows:
        x = logits.double()
        gold = x.gather(1, ids)[:, 0]
        lse = torch.logsumexp(beta * x, dim=1)
        px = (beta * x - lse[:, None]).exp_() * x
        mean = px.sum(dim=1)
        nll.append(lse - beta * gold)
        slope += float((mean - gold).sum())
        curvature += float(((px * x).sum(dim=1) - mean**2).sum())
    return torch.cat(nll).numpy(), slope, curvature


def _at_one(rows):
    """(nll, whether the arg-max is gold, rank of gold from 0), [n] each."""
    found = []
    for logits, ids in rows:
        x = logits.double()
        gold = x.gather(1, ids)
        nll = torch.logsumexp(x, dim=1) - gold[:, 0]
        found.append((nll, x.argmax(dim=1) == ids[:, 0], (x > gold).sum(dim=1)))
    return tuple(torch.cat(part).numpy() for part in zip(*found, strict=True))


def clustered(values):
    """(mean, half a 95 % interval) over samples of one length."""
    means = values.reshape(-1, LABELLED).mean(axis=1)
    return means.mean(), 1.96 * means.std(ddof=1) / np.sqrt(len(means))
