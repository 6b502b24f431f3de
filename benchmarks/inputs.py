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

BINS, SIGMA = 1000, 2.0
"""Of the ordered group of coordinates."""
BEST = (1, 2, 5, 10)
TYPES = ("desc", "format", "reasoning", "tool_call")


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


@dataclass(frozen=True)
class Case:
    """One micro-batch: logits [1, T + 1, V], labels, masks of token types, and the coordinate ids."""

    logits: Tensor
    labels: Tensor
    types: dict[str, Tensor]
    coord: range

    @classmethod
    def make(cls, tokens: int, width: int) -> Case:
        """A quarter of the gold tokens are coordinates, the types are random."""
        batch = next(synthetic_batches(1, tokens, width))
        generator = torch.Generator().manual_seed(1)
        coord = range(width - BINS, width)
        labels, shape = batch.labels.clone(), batch.labels.shape
        inside = torch.rand(shape, generator=generator) < 0.25
        labels[inside] = torch.randint(coord.start, coord.stop, shape, generator=generator)[inside]
        half, call = (torch.rand(shape, generator=generator) < 0.5 for _ in range(2))
        types = {"desc": ~inside & half, "format": ~inside & ~half, "reasoning": ~call, "tool_call": call}
        return cls(batch.logits, labels, types, coord)


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


def usual_metrics(case: Case) -> dict[str, Tensor]:
    """Loss and accuracy, as most trainers log them."""
    x, gold = case.logits[0, :-1].float(), case.labels[0, 1:]
    return {
        "loss": torch.nn.functional.cross_entropy(x, gold),
        "acc": (x.argmax(dim=-1) == gold).float().mean(),
    }


def naive_metrics(case: Case) -> dict[str, Tensor]:
    """The metrics of all three seeds as a trainer would write them, means on the device."""
    x, gold = case.logits[0, :-1].float(), case.labels[0, 1:]
    log_p = torch.log_softmax(x, dim=-1)
    p = log_p.exp()
    best = p.topk(max(BEST), dim=-1).values
    top = x.argmax(dim=-1)
    in_coord, top_in_coord = ((ids >= case.coord.start) & (ids < case.coord.stop) for ids in (gold, top))
    rest = 1 - best.sum(dim=-1)
    each = {
        "nll": -log_p.gather(1, gold[:, None])[:, 0],
        "acc": (top == gold).float(),
        "acc_top5": (x.topk(5, dim=-1).indices == gold[:, None]).any(dim=-1).float(),
        "full_entropy": -(p * log_p).sum(dim=-1),
        "entropy": -(
            torch.special.xlogy(best[:, 0], best[:, 0]) + torch.special.xlogy(1 - best[:, 0], 1 - best[:, 0])
        ),
        "top10_entropy": -(torch.special.xlogy(best, best).sum(dim=-1) + torch.special.xlogy(rest, rest)),
        **{f"top{n}_prob": best[:, :n].sum(dim=-1) for n in BEST},
        "mass": p[:, case.coord.start : case.coord.stop].sum(dim=-1),
        "flip_in": (top_in_coord & ~in_coord).float(),
        "flip_out": (in_coord & ~top_in_coord).float(),
    }
    each |= ordered_metrics(x, gold, case.coord)
    masks = {name: mask[0, 1:] for name, mask in case.types.items()}
    masks |= {"all": torch.ones_like(in_coord), "coord": in_coord, "text": ~in_coord}
    return {
        f"{kind}_{name}": (values * mask).sum() / mask.sum()
        for kind, mask in masks.items()
        for name, values in each.items()
    }


def ordered_metrics(x: Tensor, gold: Tensor, coord: range) -> dict[str, Tensor]:
    """Soft cross-entropy, W1 and gate of every row; meaningless where gold is no coordinate."""
    z = x[:, coord.start : coord.stop]
    bins = torch.arange(BINS)
    q = torch.softmax(-0.5 * ((bins - (gold - coord.start)[:, None]) / SIGMA) ** 2, dim=-1)
    log_p = torch.log_softmax(z, dim=-1)
    p = log_p.exp()
    return {
        "soft_ce": -(q * log_p).sum(dim=-1),
        "w1": (p.cumsum(dim=-1) - q.cumsum(dim=-1)).abs().sum(dim=-1),
        "gate": x.logsumexp(dim=-1) - z.logsumexp(dim=-1),
        "bin_error": ((p * bins).sum(dim=-1) - (gold - coord.start)).abs(),
    }
