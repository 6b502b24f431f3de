"""The reference reduction: logits in, one exact record per row out. Any device, any float dtype.

Rows are taken in chunks, so that no second [tokens, vocabulary] tensor ever exists. Arithmetic is float32
(float64 for float64 logits); the row's largest logit m is subtracted before any exponential.
Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from logitbox.dumps.best import best_columns, cut_columns
from logitbox.dumps.ordered import gate, log_sum, ordered_columns
from logitbox.dumps.reduce.groups import GroupIndex, Targets, plain_arithmetic
from logitbox.dumps.spec import OrderedSpec, RecordSpec
from logitbox.dumps.topk import TILE, topk_lowest_id

CHUNK_BYTES_CPU = 32 << 20
"""Memory a chunk takes at its peak: small enough for a CPU's cache while a row is passed over a dozen times."""
CHUNK_BYTES_DEVICE = 512 << 20

_FAR = -1.0e4
"""Logit distances below this have an exponential of exactly 0 at every β recorded; 0·(−inf) is avoided."""


def reduce_logits(
    logits: Tensor, rows: Tensor | None, targets: Targets, groups: GroupIndex, *, lse_beta: bool
) -> dict[str, Tensor]:
    """Every computed column of the `tokens` table for the chosen rows.

    Args:
        logits: float, shape [N, V] or [B, T, V] (N = B·T), strided as it may be; read only.
        rows: int64 indices into the N rows, or None for all of them.
        targets: one label per chosen row; with `left`/`right` the label-shift probes are computed.
        groups: the session's spec and its groups on this device.
        lse_beta: also compute logsumexp(β·logits) at the five inverse temperatures.

    Returns:
        Column name to tensor of shape [rows] or [rows, width]. Where `gold` is −1 the gold-dependent
        columns are meaningless, and so are ordered columns where gold is outside the group.
    """
    flat = _flat(logits.detach())
    count = logits.shape[:-1].numel() if rows is None else rows.shape[0]
    with plain_arithmetic(logits.device):
        parts = [
            _reduce_chunk(_take(flat, rows, part), _slice(targets, part), groups, lse_beta=lse_beta)
            for part in _chunks(count, logits, groups.spec)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _chunks(count: int, logits: Tensor, spec: RecordSpec) -> Iterator[slice]:
    budget = CHUNK_BYTES_CPU if logits.device.type == "cpu" else CHUNK_BYTES_DEVICE
    step = max(1, budget // _peak_bytes(logits, spec))
    yield from (slice(start, start + step) for start in range(0, max(count, 1), step))


def _peak_bytes(logits: Tensor, spec: RecordSpec) -> int:
    """Memory that one row takes at most while it is reduced: its logits in the computing dtype, and temporaries.

    Measured in float32: 9 times the row where `topk_lowest_id` sorts all of it by 8-byte keys, else 4 times.
    """
    width, wide = logits.shape[-1], logits.dtype == torch.float64
    whole_row = -(-width // TILE) <= 2 * spec.k
    inside = max((len(spec.group(name).ids) for name in spec.ordered), default=0)
    return width * (8 if wide else 4) * (9 if whole_row else 4) + 80 * inside


def _flat(logits: Tensor) -> Tensor:
    """[B, T, V] as [B·T, V] where that needs no copy (`logits[:, :-1]` would), else unchanged."""
    try:
        return logits.view(-1, logits.shape[-1])
    except RuntimeError:
        return logits


def _take(logits: Tensor, rows: Tensor | None, part: slice) -> Tensor:
    """A private copy of a chunk's rows in the computing dtype."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if logits.ndim == 3:
        count, width = logits.shape[:-1].numel(), logits.shape[1]
        index = torch.arange(count, device=logits.device)[part] if rows is None else rows[part]
        return logits[index // width, index % width].to(dtype)
    chosen = logits[part] if rows is None else logits.index_select(0, rows[part])
    return chosen.to(dtype, copy=rows is None)


def _slice(targets: Targets, part: slice) -> Targets:
    left, right = (None if t is None else t[part] for t in (targets.left, targets.right))
    return Targets(targets.gold[part], left, right)


def _reduce_chunk(x: Tensor, targets: Targets, groups: GroupIndex, *, lse_beta: bool) -> dict[str, Tensor]:
    spec = groups.spec
    top_logits, top_ids = topk_lowest_id(x, spec.k)
    m = top_logits[:, :1]
    buffer = torch.empty_like(x)
    gold_logit = _at(x, targets.gold)
    columns = _rank_columns(x, gold_logit, targets.gold, buffer) | _finite_columns(x, buffer)
    neighbours = {"nll_unshifted": targets.left, "nll_next": targets.right}
    probes = {name: m - _at(x, label) for name, label in neighbours.items() if label is not None}

    scores = {
        name: _ordered_scores(x, targets.gold, name, options, groups)
        for name, options in spec.ordered.items()
    }
    d = x.sub_(m)  # x is a private copy; from here on it holds the distances below the best logit
    group_lse = {group.name: torch.logsumexp(groups.columns(d, group), dim=1) for group in spec.groups}
    ordered = {name: found | _gate(d, name, groups) for name, found in scores.items()}
    d.clamp_(min=_FAR)
    e = torch.exp(d, out=buffer)
    t = (d * e).sum(dim=1)
    e.scatter_(1, top_ids, 0.0)
    tail = e.sum(dim=1)
    rest = tail + (top_logits[:, 1:] - m).exp().sum(dim=1)
    ln_s, s = rest.log1p(), 1.0 + rest

    columns |= {
        "nll": ((m - gold_logit).squeeze(1) + ln_s),
        "top_nll": ln_s,
        "lse": m.squeeze(1) + ln_s,
        "entropy": ln_s - t / s,
        "top_ids": top_ids.to(torch.int32),
        "top_gap": (m - top_logits).to(torch.float16),
        "tail_mass": tail / s,
    }
    columns |= {name: gap.squeeze(1) + ln_s for name, gap in probes.items()}
    columns |= _group_columns(group_lse, ordered, ln_s)
    if wanted := spec.best_columns:
        columns |= best_columns(top_logits - m - ln_s.unsqueeze(1), tail / s, wanted)
    if spec.min_prob is not None:
        columns |= cut_columns(top_logits - m - ln_s.unsqueeze(1), spec.min_prob)
    if lse_beta:
        columns["lse_beta"] = _lse_beta(d, m, buffer, groups.betas(d))
    return {name: value.float() if value.dtype == torch.float64 else value for name, value in columns.items()}


def _at(x: Tensor, ids: Tensor) -> Tensor:
    """x[row, ids[row]], shape [rows, 1]; some column of the row where the id is outside the vocabulary.

    Ids on a device are checked later, by the writer: an index error here would end the CUDA context.
    """
    return x.gather(1, ids.clamp(0, x.shape[1] - 1).unsqueeze(1))


def _rank_columns(x: Tensor, gold_logit: Tensor, gold: Tensor, buffer: Tensor) -> dict[str, Tensor]:
    """How many logits lie above gold's, equal it, and equal it with a lower id; int32.

    Comparisons are written as 0.0/1.0 into a float buffer: summing floats is vectorised where summing
    booleans is not, and sums of up to 2^24 ones are exact in float32.
    """
    n_gt = torch.gt(x, gold_logit, out=buffer).sum(dim=1)
    equal = torch.eq(x, gold_logit, out=buffer)
    n_eq = equal.sum(dim=1) - 1
    before = torch.arange(x.shape[1], device=x.device) < gold.unsqueeze(1)
    n_eq_before = equal.mul_(before).sum(dim=1)
    ranks = {"n_gt": n_gt, "n_eq": n_eq.clamp(min=0), "n_eq_before": n_eq_before}
    return {name: count.to(torch.int32) for name, count in ranks.items()}


def _finite_columns(x: Tensor, buffer: Tensor) -> dict[str, Tensor]:
    """Number of finite logits and their mean (NaN where none is)."""
    finite = x.abs() < torch.inf
    n_finite = buffer.copy_(finite).sum(dim=1)
    mean = torch.where(finite, x, 0.0).sum(dim=1) / n_finite
    return {"n_finite": n_finite.to(torch.int32), "mean_logit": mean}


def _ordered_scores(
    x: Tensor, gold: Tensor, name: str, options: OrderedSpec, groups: GroupIndex
) -> dict[str, Tensor]:
    group = groups.spec.group(name)
    bins, _ = groups.bins(gold, group)
    return ordered_columns(groups.columns(x, group), bins, options)


def _gate(d: Tensor, name: str, groups: GroupIndex) -> dict[str, Tensor]:
    """The gate, where it is not taken at T = 1."""
    at = groups.spec.ordered[name].gate_at
    if at == 1.0:
        return {}
    inside = groups.columns(d, groups.spec.group(name))
    return {"gate": gate(log_sum(d, at), inside, groups.spec.ordered[name])}


def _group_columns(
    group_lse: dict[str, Tensor], ordered: dict[str, dict[str, Tensor]], ln_s: Tensor
) -> dict[str, Tensor]:
    """Mass columns of all groups, and the scores of the ordered ones under their column names."""
    logmass = {name: (lse - ln_s).clamp(max=0.0) for name, lse in group_lse.items()}
    columns = {f"logmass_{name}": value for name, value in logmass.items()}
    for name, scores in ordered.items():
        at_one = {"gate": -logmass[name]}  # at T = 1 the sums at hand serve
        columns |= {f"{name}_{score}": value for score, value in (at_one | scores).items()}
    return columns


def _lse_beta(d: Tensor, m: Tensor, buffer: Tensor, betas: Tensor) -> Tensor:
    """logsumexp(β·logits) for β = ¼, ½, ¾, 3/2, 2, shape [rows, 5]: powers 1, 2, 3, 6, 8 of e^{d/4}."""
    u = torch.exp(torch.mul(d, 0.25, out=buffer), out=buffer)
    squared = u * u
    sums = [u.sum(dim=1), squared.sum(dim=1)]
    cubed = u.mul_(squared)
    sums += [cubed.sum(dim=1), cubed.mul_(cubed).sum(dim=1)]
    fourth = squared.mul_(squared)
    sums.append(fourth.mul_(fourth).sum(dim=1))
    return torch.stack(sums, dim=1).log() + m * betas
