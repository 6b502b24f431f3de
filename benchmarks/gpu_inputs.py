"""Fresh logits for gpu.py, its contestants, and the truth in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitbox.dumps.spec import BETAS, RecordSpec, build_spec

K = 32
CHECKED = 64
"""Rows that are compared with float64."""
TOLERANCE = 5e-6
"""Of numbers, relative or absolute; the format asks for 1e-6 on the whole."""


@dataclass(frozen=True)
class Case:
    """Logits [N, V], labels [N], and the spec with its two groups."""

    logits: Tensor
    gold: Tensor
    spec: RecordSpec

    @classmethod
    def make(cls, tokens: int, width: int, dtype: torch.dtype, device: str, seed: int) -> Case:
        """A broad bulk and some dozens far above it; the first rows are all equal, partly masked, and few-valued."""
        generator = torch.Generator(device).manual_seed(seed)
        logits = torch.empty(tokens, width, dtype=dtype, device=device)
        for rows in logits.split(512):
            noise = torch.randn(rows.shape, generator=generator, device=device) * 2
            best = torch.randint(width, (len(rows), 48), generator=generator, device=device)
            noise.scatter_add_(1, best, torch.rand(best.shape, generator=generator, device=device) * 14)
            rows.copy_(noise)
        logits[0] = 1.0
        logits[1, width // 3 :] = -torch.inf
        logits[2] = logits[2].round()
        gold = torch.randint(width, (tokens,), generator=generator, device=device)
        gold[1] = width // 4
        gold[3::2] = logits[3::2].argmax(dim=1)
        groups = {
            "row": range(width - min(1000, width // 2), width),
            "spread": list(range(0, width, max(1, width // 200)))[:200],
        }
        spec = build_spec(width, K, groups, None, None, probes=False, lse_beta="always", scope="supervised")
        return cls(logits, gold, spec)

    def ids(self, name: str) -> Tensor:
        """Ids of a group."""
        return torch.tensor(list(self.spec.group(name).ids), device=self.logits.device)


def naive(case: Case) -> dict[str, Tensor]:
    """What one writes down first: every quantity on its own, on a float32 copy."""
    x, gold = case.logits.float(), case.gold.unsqueeze(1)
    log_p = x.log_softmax(dim=1)
    p = log_p.exp()
    at_gold = x.gather(1, gold)
    equal = x == at_gold
    top = x.topk(K, dim=1)
    ids = torch.arange(x.shape[1], device=x.device)
    found = {
        "nll": -log_p.gather(1, gold),
        "lse": x.logsumexp(dim=1),
        "entropy": -torch.special.xlogy(p, p).sum(dim=1),
        "mean_logit": x.mean(dim=1),
        "n_gt": (x > at_gold).sum(dim=1),
        "n_eq": equal.sum(dim=1),
        "n_eq_before": (equal & (ids < gold)).sum(dim=1),
        "top_ids": top.indices,
        "top_gap": top.values[:, :1] - top.values,
        "tail_mass": 1 - p.gather(1, top.indices).sum(dim=1),
    }
    for group in case.spec.groups:
        mask = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        mask[case.ids(group.name)] = True
        found[f"logmass_{group.name}"] = (p * mask).sum(dim=1).log()
    return found


def compiled(case: Case) -> Callable[[], tuple[Any, ...]]:
    """Shifted sums that a compiler can fuse, slices and gathers for the groups, and topk beside it."""
    row = case.spec.group("row").ids
    assert isinstance(row, range)
    start, stop, spread = row.start, row.stop, case.ids("spread")

    def sums(logits: Tensor, gold: Tensor) -> tuple[Tensor, ...]:
        x, at_gold = logits.float(), logits.gather(1, gold.unsqueeze(1))
        m = x.amax(dim=1, keepdim=True)
        d = (x - m).clamp(min=-1e4)
        e = d.exp()
        s = e.sum(dim=1)
        equal = logits == at_gold
        before = torch.arange(logits.shape[1], device=logits.device) < gold.unsqueeze(1)
        finite = x.abs() < torch.inf
        return (
            s.log() + m[:, 0] - at_gold[:, 0].float(),
            s.log() - (d * e).sum(dim=1) / s,
            (logits > at_gold).sum(dim=1),
            equal.sum(dim=1),
            (equal & before).sum(dim=1),
            torch.where(finite, x, 0.0).sum(dim=1) / finite.sum(dim=1),
            e[:, start:stop].sum(dim=1) / s,
            (logits[:, spread].float() - m).exp().sum(dim=1) / s,
        )

    fused = torch.compile(sums, dynamic=False)
    return lambda: (*fused(case.logits, case.gold), torch.topk(case.logits, K, dim=1))


def peers(case: Case) -> Iterator[tuple[str, Callable[[], Any], str]]:
    """(name, call, what it gives) of kernels that can be imported here; none gives all that a record holds."""
    x, gold = case.logits, case.gold
    yield "cross_entropy", lambda: torch.nn.functional.cross_entropy(x, gold, reduction="none"), "torch: nll"
    if not x.is_cuda:
        return

    def flashinfer() -> Any:
        from flashinfer import top_k

        return top_k(x, K, sorted=True)

    def quack() -> Any:
        from quack.cross_entropy import cross_entropy_fwd

        return cross_entropy_fwd(x, gold, return_lse=True)

    def liger() -> Any:
        from liger_kernel.transformers.functional import liger_cross_entropy

        with torch.no_grad():
            return liger_cross_entropy(x, gold)

    def flash_attention() -> Any:
        from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

        return cross_entropy_loss(x, gold)

    yield "flashinfer", flashinfer, "top-k, ties as they come"
    yield "quack", quack, "nll, lse"
    yield "flash-attn", flash_attention, "nll, lse"
    yield "liger", liger, "mean nll"  # the last: some versions write gradients into their input


@dataclass(frozen=True)
class Check:
    """One column against float64: the greatest error (relative above 1, else absolute), or the share of unequal rows."""

    name: str
    error: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the error is allowed; NaN is not."""
        return self.error <= self.limit


def checked(case: Case, found: dict[str, Tensor]) -> list[Check]:
    """Our columns against `truth`, on the first rows, which hold the hard cases, and on later ones."""
    count = case.logits.shape[0]
    rows = torch.linspace(0, count - 1, min(CHECKED, count), device=case.logits.device).long()
    rows[: min(3, count)] = torch.arange(min(3, count), device=rows.device)
    return [_compared(name, found[name][rows], right) for name, right in truth(case, rows).items()]


def _compared(name: str, ours: Tensor, right: Tensor) -> Check:
    if not right.is_floating_point():
        wrong = (ours.long() != right).reshape(len(right), -1).any(dim=1).double().mean().item()
        return Check(name, wrong, 0.0)
    ours = ours.double()
    error = (ours - right).abs() / right.abs().clamp(min=1)
    error = torch.where(ours == right, 0.0, error)  # both infinite
    worst = error.max().item()
    return Check(name, worst, 2**-11 if name == "top_gap" else TOLERANCE)


def truth(case: Case, rows: Tensor) -> dict[str, Tensor]:
    """The columns in float64, by definition; ids by a stable sort of all logits."""
    x, gold = case.logits[rows].double(), case.gold[rows].unsqueeze(1)
    lse = x.logsumexp(dim=1)
    log_p = x - lse.unsqueeze(1)
    p = log_p.exp()
    at_gold = x.gather(1, gold)
    equal = x == at_gold
    order = x.sort(dim=1, descending=True, stable=True)
    best = order.indices[:, :K]
    finite = x.isfinite()
    found = {
        "nll": -log_p.gather(1, gold)[:, 0],
        "top_nll": lse - order.values[:, 0],
        "lse": lse,
        "mean_logit": torch.where(finite, x, 0.0).sum(dim=1) / finite.sum(dim=1),
        "n_finite": finite.sum(dim=1),
        "n_gt": (x > at_gold).sum(dim=1),
        "n_eq": equal.sum(dim=1) - 1,
        "n_eq_before": (equal & (torch.arange(x.shape[1], device=x.device) < gold)).sum(dim=1),
        "entropy": -torch.special.xlogy(p, p).sum(dim=1),
        "top_ids": best,
        "top_gap": order.values[:, :1] - order.values[:, :K],
        "tail_mass": p.scatter(1, best, 0.0).sum(dim=1),
        "lse_beta": torch.stack([(beta * x).logsumexp(dim=1) for beta in BETAS], dim=1),
    }
    found |= {
        f"logmass_{group.name}": log_p[:, case.ids(group.name)].logsumexp(dim=1) for group in case.spec.groups
    }
    return found
