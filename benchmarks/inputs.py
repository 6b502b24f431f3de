"""Logits to measure with, and what a trainer would write without logitbox."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import smollm2

BETAS = (0.25, 0.5, 0.75, 1.5, 2.0)
WIDE = 151_936
"""Vocabulary of the Qwen models, among the largest in use."""


@dataclass(frozen=True)
class Batch:
    """Logits [B, T, V] and labels [B, T], unshifted; padding is -100."""

    logits: Tensor
    labels: Tensor

    @property
    def tokens(self) -> int:
        """Supervised tokens that have logits."""
        return int((self.labels[:, 1:] != -100).sum())

    def to(self, dtype: torch.dtype) -> Batch:
        """The same batch with rounded logits."""
        return Batch(self.logits.to(dtype), self.labels)


def text_batches(count: int) -> Iterator[Batch]:
    """SmolLM2's logits over licence and source text, about 950 tokens a batch, V = 49,152."""
    tokenizer, model = smollm2.load_tokenizer(), smollm2.load_model()
    for batch in list(smollm2.text_batches(tokenizer, smollm2.passages()))[:count]:
        with torch.inference_mode():
            logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits
        yield Batch(logits.clone(), batch.labels)


def synthetic_batches(count: int, tokens: int = 256, width: int = WIDE) -> Iterator[Batch]:
    """Random logits shaped like a language model's: a broad bulk and, in each row, a few dozen far above it."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        logits = torch.randn(1, tokens + 1, width, generator=generator) * 2
        best = torch.randint(width, (1, tokens + 1, 48), generator=generator)
        logits.scatter_add_(2, best, torch.rand(best.shape, generator=generator) * 14)
        yield Batch(logits, best[:, :, 0].roll(1, 1))


def usual(batch: Batch, k: int) -> dict[str, Tensor]:
    """What trainers log today, and the top k: much less than a record holds."""
    labels = batch.labels[:, 1:].flatten()
    keep = labels != -100
    x = batch.logits[:, :-1].flatten(0, 1)[keep].float()
    log_p = x.log_softmax(dim=-1)
    p = log_p.exp()
    gold = labels[keep].unsqueeze(1)
    return {
        "nll": -log_p.gather(1, gold).squeeze(1),
        "correct": x.argmax(dim=-1, keepdim=True) == gold,
        "confidence": p.amax(dim=-1),
        "entropy": -(p * log_p).sum(dim=-1),
        "top_ids": x.topk(k, dim=-1).indices,
    }


def naive(batch: Batch, k: int, groups: dict[str, list[int]], *, lse_beta: bool) -> dict[str, Tensor]:
    """The same quantities in the obvious torch calls, on the rows that are supervised."""
    labels = batch.labels[:, 1:].flatten()
    keep = labels != -100
    x = batch.logits[:, :-1].flatten(0, 1)[keep].float()
    gold = labels[keep].unsqueeze(1)
    log_p = x.log_softmax(dim=-1)
    p = log_p.exp()
    gold_logit = x.gather(1, gold)
    top = x.topk(k, dim=-1)
    equal = x == gold_logit
    out = {
        "nll": -log_p.gather(1, gold).squeeze(1),
        "lse": x.logsumexp(dim=-1),
        "mean_logit": x.mean(dim=-1),
        "n_finite": x.isfinite().sum(dim=-1),
        "entropy": -(p * log_p).sum(dim=-1),
        "correct": x.argmax(dim=-1, keepdim=True) == gold,
        "n_gt": (x > gold_logit).sum(dim=-1),
        "n_eq": equal.sum(dim=-1) - 1,
        "n_eq_before": (equal & (torch.arange(x.shape[1]) < gold)).sum(dim=-1),
        "top_ids": top.indices,
        "top_gap": (top.values[:, :1] - top.values).half(),
        "tail_mass": 1 - p.gather(1, top.indices).sum(dim=-1),
    }
    out |= {f"logmass_{name}": p[:, ids].sum(dim=-1).log() for name, ids in groups.items()}
    if lse_beta:
        out["lse_beta"] = torch.stack([(beta * x).logsumexp(dim=-1) for beta in BETAS], dim=1)
    return out
