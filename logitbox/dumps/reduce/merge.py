"""Whole records of the statistics of all shards of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logitbox.dumps.best import best_columns, cut_columns
from logitbox.dumps.ordered import gate, ordered_columns, widened
from logitbox.dumps.reduce import GroupIndex, Targets
from logitbox.dumps.reduce.partial import Partial, gate_temperatures
from logitbox.dumps.topk import topk_lowest_id

Slices = dict[str, Tensor]
"""Ordered group to its logits of all shards, [rows, bins], in bin order."""


@dataclass(frozen=True)
class Gathered:
    """What there is of the same rows: the shards' statistics, the labels' logits, the ordered groups' logits."""

    parts: Sequence[Partial]
    """In the order of the vocabulary: among equal logits of the gathered best the first has the lowest id."""
    targets: Targets
    label_logits: Tensor
    """Of gold, and of left and right where these are scored, [rows, 1 or 3]."""
    slices: Slices


@dataclass(frozen=True)
class _Scale:
    """How the shards' sums, each relative to its own maximum, are brought to that of the whole row."""

    m: Tensor
    """The row's largest logit, [rows, 1]."""
    offset: Tensor
    """Each shard's largest less it, [shards, rows, 1]; 0 where they are equal, also if both are infinite."""
    is_void: Tensor
    """The shard has nothing but −inf where others have more, bool."""

    def sum(self, terms: Sequence[Tensor]) -> Tensor:
        """Σ over shards of what was already rescaled, void shards left out."""
        return torch.where(self.is_void, 0.0, torch.stack(list(terms))).sum(dim=0)

    def log_sum(self, parts: Sequence[Tensor], power: float | Tensor = 1.0) -> Tensor:
        """Logarithm of Σ over shards of e^{part + power · offset}, [rows, n]."""
        moved = torch.stack([widened(part) for part in parts]) + power * self.offset
        return torch.where(self.is_void, -torch.inf, moved).logsumexp(dim=0)


def merge(gathered: Gathered, groups: GroupIndex, *, lse_beta: bool) -> dict[str, Tensor]:
    """The columns that `reduce_logits` would give for the whole rows."""
    parts, spec = gathered.parts, groups.spec
    dtype = torch.promote_types(parts[0].top_logits.dtype, torch.float32)
    candidates = torch.cat([part.top_logits for part in parts], dim=1).to(dtype)
    best, places = topk_lowest_id(candidates, spec.k)
    scale = _scale(parts, best[:, :1])
    e = (widened(candidates) - scale.m).exp().scatter(1, places, 0.0)
    tail = scale.sum([widened(part.tail) * scale.offset[i].exp() for i, part in enumerate(parts)])
    tail = (tail + e.sum(dim=1, keepdim=True)).squeeze(1)
    rest = tail + (widened(best[:, 1:]) - scale.m).exp().sum(dim=1)
    ln_s, s = rest.log1p(), 1.0 + rest
    m = scale.m.squeeze(1)
    columns = {
        "top_nll": ln_s,
        "lse": m + ln_s,
        "entropy": ln_s - _shifted(parts, scale) / s,
        "top_ids": torch.cat([part.top_ids for part in parts], dim=1).gather(1, places),
        "top_gap": (best[:, :1] - best).to(torch.float16),
        "tail_mass": tail / s,
    }
    columns |= _label_columns(gathered, m, ln_s) | _count_columns(parts)
    columns |= _group_columns(gathered, scale, ln_s, groups)
    log_p = widened(best) - scale.m - ln_s.unsqueeze(1)
    if wanted := spec.best_columns:
        columns |= best_columns(log_p, tail / s, wanted)
    if spec.min_prob is not None:
        columns |= cut_columns(log_p, spec.min_prob)
    if lse_beta:
        betas = groups.betas(ln_s)
        columns["lse_beta"] = scale.log_sum([part.betas for part in parts], betas) + scale.m * betas
    return {name: value.float() if value.dtype == torch.float64 else value for name, value in columns.items()}


def _scale(parts: Sequence[Partial], m: Tensor) -> _Scale:
    own = torch.stack([part.top_logits[:, :1].to(m.dtype) for part in parts])
    is_void = (own == -torch.inf) & (m > -torch.inf)
    offset = torch.where(own == m, 0.0, widened(own) - widened(m))
    return _Scale(widened(m), torch.where(is_void, -torch.inf, offset), is_void)


def _shifted(parts: Sequence[Partial], scale: _Scale) -> Tensor:
    """Σ (x−m) e^{x−m} over all shards, [rows]."""
    terms: list[Tensor] = []
    for part, offset in zip(parts, scale.offset, strict=True):
        inside = (
            (widened(part.top_logits) - widened(part.top_logits[:, :1])).exp()[:, 1:].sum(1, keepdim=True)
        )
        s = 1.0 + inside + widened(part.tail)
        terms.append(offset.exp() * (widened(part.shifted) + offset * s))
    return scale.sum(terms).squeeze(1)


def _label_columns(gathered: Gathered, m: Tensor, ln_s: Tensor) -> dict[str, Tensor]:
    """`nll`, and the label-shift probes."""
    names = ["nll"]
    names += ["nll_unshifted"] if gathered.targets.left is not None else []
    names += ["nll_next"] if gathered.targets.right is not None else []
    scores = m.unsqueeze(1) - widened(gathered.label_logits) + ln_s.unsqueeze(1)
    return {name: scores[:, i] for i, name in enumerate(names)}


def _count_columns(parts: Sequence[Partial]) -> dict[str, Tensor]:
    counts = torch.stack([part.counts for part in parts]).sum(dim=0).to(torch.int32)
    above, equal, before, finite = counts.unbind(dim=1)
    total = torch.stack([widened(part.total) for part in parts]).sum(dim=0).squeeze(1)
    ranks = {"n_gt": above, "n_eq": (equal - 1).clamp(min=0), "n_eq_before": before, "n_finite": finite}
    return {**ranks, "mean_logit": total / finite}


def _group_columns(gathered: Gathered, scale: _Scale, ln_s: Tensor, groups: GroupIndex) -> dict[str, Tensor]:
    """Mass columns of all groups, and the scores of the ordered ones."""
    spec, parts = groups.spec, gathered.parts
    columns: dict[str, Tensor] = {}
    if spec.groups:
        logmass = scale.log_sum([part.groups for part in parts]) - ln_s.unsqueeze(1)
        names = [f"logmass_{group.name}" for group in spec.groups]
        columns |= dict(zip(names, logmass.clamp(max=0.0).unbind(dim=1), strict=True))
    temperatures = gate_temperatures(spec)
    for name, options in spec.ordered.items():
        values = gathered.slices[name]
        bins, _ = groups.bins(gathered.targets.gold, spec.group(name))
        scores = {"gate": -columns[f"logmass_{name}"]} | ordered_columns(values, bins, options)
        if options.gate_at != 1.0:
            i = temperatures.index(options.gate_at)
            over = [part.gates[:, i : i + 1] for part in parts]
            everything = scale.log_sum(over, 1.0 / options.gate_at).squeeze(1)
            scores["gate"] = gate(everything, widened(values) - scale.m, options)
        columns |= {f"{name}_{score}": value for score, value in scores.items()}
    return columns
