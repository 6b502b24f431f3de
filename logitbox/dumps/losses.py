"""The training loss of seed 000 as differentiable torch: a trainer can train on what the recorder reports.

Cross-entropy on ordinary tokens and, on tokens of an ordered group (such as 1000 coordinate bins),
soft_ce_weight · soft CE + w1_weight · W1 + gate_weight · gate. Nothing here waits for a device.

Logits may be of any float dtype; results are float32 (float64 for float64 logits). Logits of −inf (a masked
vocabulary) are legal: gradients are finite wherever the loss is. Where gold's own logit is −inf, its
cross-entropy or soft CE is +inf; where the whole group's are, the gate is +inf, and soft CE and W1 are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitbox.dumps.flags import IGNORED
from logitbox.dumps.lossinput import GroupColumns, check_labels, check_shapes, ordered_spec, targets_of
from logitbox.dumps.ordered import distances, gate, group_scores, log_sum
from logitbox.dumps.spec import Group, OrderedSpec
from logitbox.dumps.transfer import to_device

Options = OrderedSpec | Mapping[str, Any]


@dataclass(frozen=True)
class OrderedLosses:
    """Losses of positions whose gold is in the group, each of shape [N], in nats.

    Attributes:
        soft_ce: −Σ q ln p, for the Gaussian target q and the prediction p within the group.
        w1: Σ|CDF_p − CDF_q| in bins, or in shares of the range with `normalize_w1`.
        gate: −ln(mass of the group in the whole vocabulary).
        total: Σ weight · part; a part whose weight is 0 does not enter, even where it is infinite.
    """

    soft_ce: Tensor
    w1: Tensor
    gate: Tensor
    total: Tensor


@dataclass(frozen=True)
class CompositeLoss:
    """Scalars, in nats; each mean has its own denominator, and is 0 where nothing is averaged.

    Attributes:
        total: `base + ordered`: the loss to train on.
        base: mean cross-entropy of the supervised targets outside the group.
        ordered: mean weighted loss of the targets inside it (`OrderedLosses.total`).
        soft_ce: mean of this part alone, not weighted; so are `w1` and `gate`.
        w1: in bins, or in shares of the range.
        gate: −ln(mass of the group).
        n_base: int64, number of targets behind `base`.
        n_ordered: int64, number of targets behind the other means.
    """

    total: Tensor
    base: Tensor
    ordered: Tensor
    soft_ce: Tensor
    w1: Tensor
    gate: Tensor
    n_base: Tensor
    n_ordered: Tensor


def ordered_losses(
    logits: Tensor, gold: Tensor, group: Group | range | Sequence[int], options: Options
) -> OrderedLosses:
    """Losses of an ordered group, position by position.

    Args:
        logits: float, shape [N, V]; row i predicts `gold[i]`.
        gold: integer, shape [N], token ids inside the group.
        group: token ids in the order of the bins.
        options: an `OrderedSpec`, or its fields as a dict.

    Raises:
        InputError: shapes or dtypes that do not fit, a bad group or option, or gold outside the group. The
            last is checked on the CPU only; on a device, such rows are NaN.
    """
    check_shapes(logits, gold, "gold", flat=True)
    spec, columns = ordered_spec(group, options), GroupColumns.build(group, logits.shape[1])
    bins, inside = columns.bins(to_device(gold.long(), logits.device))
    columns.check_gold(gold, inside)
    distance = distances(logits)
    losses = _losses(columns.of(logits), columns.of(distance), log_sum(distance, spec.gate_at), bins, spec)
    return OrderedLosses(**{name: torch.where(inside, x, torch.nan) for name, x in vars(losses).items()})


def composite_loss(
    logits: Tensor,
    labels: Tensor,
    group: Group | range | Sequence[int],
    options: Options,
    *,
    shift: bool = True,
    ignore_index: int = IGNORED,
) -> CompositeLoss:
    """The loss of a batch: mean over ordinary targets plus mean over targets in the group.

    The means run over all tokens of the batch, whatever their rows, so packed rows need nothing special (give
    the first token of each packed document the label `ignore_index`). Ignored positions never enter,
    whatever their logits; a term without targets is 0 with gradient 0. On the CPU the group's rows are
    picked out by index; a device would have to be waited for, so there all rows are computed and masked.

    Args:
        logits: float, shape [B, T, V] or [N, V].
        labels: integer, shape [B, T] or [N].
        group: token ids in the order of the bins.
        options: an `OrderedSpec`, or its fields as a dict.
        shift: row t of [B, T, V] predicts label t + 1; rows of [N, V] always predict their own label.
        ignore_index: label of positions that are not supervised.

    Raises:
        InputError: as for `ordered_losses`; labels outside the vocabulary are told on the CPU, on a device
            they make `base` NaN.
    """
    check_shapes(logits, labels, "labels")
    check_labels(labels, logits.shape[-1], ignore_index)
    spec, columns = ordered_spec(group, options), GroupColumns.build(group, logits.shape[-1])
    flat, targets = targets_of(logits, labels, shift=shift, ignore_index=ignore_index)
    supervised = targets != ignore_index
    bins, inside = columns.bins(targets)
    ordered, ordinary = supervised & inside, supervised & ~inside

    distance = distances(flat).masked_fill_(~supervised.unsqueeze(1), 0.0)
    lse = log_sum(distance, 1.0)
    base = _mean(_nll(distance, lse, targets), ordinary)
    gate_lse = lse if spec.gate_at == 1.0 else log_sum(distance, spec.gate_at)
    # Only these rows are scored (on a device, all are): group logits and distances, shape [rows, n_bins].
    rows = _rows(ordered)
    chosen, gate_lse, bins = (_take(values, rows) for values in (ordered, gate_lse, bins))
    x, d = (_zeroed(_take(columns.of(values), rows), chosen) for values in (flat, distance))
    losses = _losses(x, d, gate_lse, bins, spec)
    means = {name: _mean(values, chosen) for name, values in vars(losses).items()}
    total = means.pop("total")
    return CompositeLoss(
        total=base + total, base=base, ordered=total, **means, n_base=ordinary.sum(), n_ordered=ordered.sum()
    )


def _losses(
    group_logits: Tensor, group_distances: Tensor, gate_lse: Tensor, bins: Tensor, spec: OrderedSpec
) -> OrderedLosses:
    """The parts and their weighted sum, from the group's columns of logits and distances."""
    scores, _ = group_scores(group_logits, bins, spec)
    parts = {**scores, "gate": gate(gate_lse, group_distances, spec)}
    total = torch.zeros_like(parts["gate"])
    for name, weight in spec.weights.items():
        total = total + weight * parts[name]
    return OrderedLosses(**parts, total=total)


def _nll(distance: Tensor, lse: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, shape [N]; NaN where the target is no id of the vocabulary."""
    size = distance.shape[1]
    at_gold = distance.gather(1, targets.clamp(0, size - 1).unsqueeze(1)).squeeze(1)
    return torch.where((targets >= 0) & (targets < size), lse - at_gold, torch.nan)


def _rows(wanted: Tensor) -> Tensor | None:
    """Indices of the wanted rows on the CPU; elsewhere None, for all."""
    return wanted.nonzero().squeeze(1) if wanted.device.type == "cpu" else None


def _take(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)


def _zeroed(values: Tensor, chosen: Tensor) -> Tensor:
    """Rows that do not count as 0, before they are used: leaving out their loss alone makes 0 · NaN of gradients."""
    return torch.where(chosen.unsqueeze(1), values, 0.0)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)
