"""The composite loss of the demo: cross-entropy on text, distribution losses on coordinates."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class CoordLossConfig:
    """The coordinate loss: ``soft_ce_weight * softCE + w1_weight * W1 + gate_weight * gate``.

    Attributes:
        sigma: standard deviation of the Gaussian target, in bins.
        truncate: the target is zero beyond this many bins from the label.
        temperature: divides the logits before softmax, in all three parts.
        normalize_w1: divide W1 by the number of bins.
        soft_ce_weight: small, because boxes are learned long before names; at 1.0 they take all the gradient.
        w1_weight: large when W1 is normalized: W1 is then a share of the range, about 0.01 in the end.
        gate_weight: weight of -ln(probability inside the bins).
    """

    sigma: float = 2.0
    truncate: int = 16
    temperature: float = 1.0
    normalize_w1: bool = True
    soft_ce_weight: float = 0.1
    w1_weight: float = 2.0
    gate_weight: float = 1.0

    def parameters(self) -> dict[str, float | int | bool]:
        """Return the fields as the dict that ``Recorder(ordered={"coord": ...})`` takes."""
        return asdict(self)


@dataclass(frozen=True)
class LossParts:
    """Scalar tensors. ``total = text_ce + coord``; ``coord`` is the weighted sum of the last three."""

    total: Tensor
    text_ce: Tensor
    coord: Tensor
    soft_ce: Tensor
    w1: Tensor
    gate: Tensor


def composite_loss(logits: Tensor, labels: Tensor, coord_ids: range, config: CoordLossConfig) -> LossParts:
    """Compute the training loss of a batch.

    Args:
        logits: float ``[B, T, V]``; position t predicts token t + 1.
        labels: int64 ``[B, T]``, not shifted, -100 ignored. Both kinds of token must be present.
        coord_ids: the ids of the ordered bins, contiguous.
        config: weights and target of the coordinate loss.

    Returns:
        Means in nats (W1: in bins, or in shares of the range): text over text tokens, coord over coord tokens.
    """
    flat, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    is_coord = (targets >= coord_ids.start) & (targets < coord_ids.stop)
    is_text = (targets >= 0) & ~is_coord
    text_ce = functional.cross_entropy(flat[is_text], targets[is_text])
    soft_ce, w1, gate = (
        part.mean() for part in coord_parts(flat[is_coord], targets[is_coord], coord_ids, config)
    )
    coord = config.soft_ce_weight * soft_ce + config.w1_weight * w1 + config.gate_weight * gate
    return LossParts(text_ce + coord, text_ce, coord, soft_ce, w1, gate)


def coord_parts(
    logits: Tensor, targets: Tensor, coord_ids: range, config: CoordLossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return soft cross-entropy, W1 and gate, each ``[N]``, of coord positions.

    Args:
        logits: float ``[N, V]`` at the positions that predict a coord token.
        targets: int64 ``[N]``, ids inside ``coord_ids``.
        coord_ids: the ids of the ordered bins.
        config: temperature and target.
    """
    scaled = logits / config.temperature
    inside = scaled[:, coord_ids.start : coord_ids.stop]
    inside_mass = inside.logsumexp(dim=-1)
    log_predicted = inside - inside_mass[:, None]
    wanted = gaussian_target(targets - coord_ids.start, len(coord_ids), config)
    soft_ce = -(wanted * log_predicted).sum(dim=-1)
    w1 = (log_predicted.exp() - wanted).cumsum(dim=-1).abs().sum(dim=-1)
    if config.normalize_w1:
        w1 = w1 / len(coord_ids)
    return soft_ce, w1, scaled.logsumexp(dim=-1) - inside_mass


def gaussian_target(bins: Tensor, count: int, config: CoordLossConfig) -> Tensor:
    """Return float32 ``[N, count]``: a Gaussian at each of ``bins`` (int64 ``[N]``), truncated, summing to 1."""
    distance = torch.arange(count, device=bins.device)[None, :] - bins[:, None]
    weight = torch.exp(-0.5 * (distance / config.sigma) ** 2)
    weight = weight.masked_fill(distance.abs() > config.truncate, 0.0)
    return weight / weight.sum(dim=-1, keepdim=True)
