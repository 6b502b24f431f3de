"""What the demo's trainer logs, with the averaging habits of real trainers."""

from statistics import fmean

import torch
from torch import Tensor

from logitbox.dumps.losses import CompositeLoss


class LogWindow:
    """Collects micro-batches between two log lines.

    ``means`` is an average of averages: each micro-batch counts the same, however many tokens it has. Many
    trainers log this way, and scenes with one and with two digits make the token counts ragged, so the logged
    ``token_acc`` differs a little from the share of tokens that were right. That is on purpose: it is there
    for an audit to find.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._right = 0
        self._tokens = 0

    @torch.no_grad()
    def add(self, parts: CompositeLoss, logits: Tensor, labels: Tensor) -> None:
        """Add a micro-batch: logits ``[B, T, V]`` and unshifted labels ``[B, T]``, -100 ignored."""
        targets = labels[:, 1:]
        hits = (logits[:, :-1].argmax(dim=-1) == targets)[targets >= 0]
        self._right += int(hits.sum())
        self._tokens += hits.numel()
        self._rows.append(
            {
                "loss": float(parts.total),
                "token_acc": float(hits.float().mean()),
                "coord_softce_w1/loss": float(parts.ordered),
                "coord_softce_w1/soft_ce": float(parts.soft_ce),
                "coord_softce_w1/w1": float(parts.w1),
                "coord_softce_w1/gate": float(parts.gate),
            }
        )

    def means(self) -> dict[str, float]:
        """Return each key's mean over the micro-batches added so far."""
        return {key: fmean(row[key] for row in self._rows) for key in self._rows[0]}

    def pooled_accuracy(self) -> float:
        """Return the share of right tokens among all tokens added so far."""
        return self._right / self._tokens
