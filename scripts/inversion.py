"""Real models and real texts on which accuracy and cross-entropy rank models differently.

The texts are the openings of the topics of Python's language reference, as `pydoc` ships it. The last layers of
SmolLM2 are trained on some topics; a copy is kept after a few passes and another after many. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTH = 48
"""Tokens of a topic; shorter ones are left out."""
LAYERS = 4
"""Trained, counted from the last; those below are shared."""
EPOCHS = {"trimmed": 2, "overfit": 8}
"""Passes over the training texts after which a copy is kept."""
LEARNING_RATE = 1e-3
BATCH = 6
KEPT, LOWERED = 16_000, 15.0


@dataclass(frozen=True)
class Evaluation:
    """One model on the held-out topics.

    Args:
        name: of its dump.
        keys: the topics.
        input_ids: [samples, LENGTH].
        hidden: what its head reads, [samples, LENGTH, width].
        head: hidden states to logits.
        is_trimmed: whether its vocabulary is.
    """

    name: str
    keys: tuple[str, ...]
    input_ids: Tensor
    hidden: Tensor
    head: torch.nn.Linear
    is_trimmed: bool

    def batches(self, rows: int = 3) -> Iterator[tuple[slice, Tensor]]:
        """(samples, their logits [rows, LENGTH, vocabulary])."""
        for start in range(0, len(self.keys), rows):
            some = slice(start, min(start + rows, len(self.keys)))
            with torch.inference_mode():
                logits = self.head(self.hidden[some])
                logits = trim(logits) if self.is_trimmed else logits
            yield some, logits


def trim(logits: Tensor) -> Tensor:
    """Rare tokens lowered; what a mask does that is not −inf."""
    logits[..., KEPT:] -= LOWERED
    return logits


def openings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Topic to its first tokens, [LENGTH]; of topics that share a line of text only the first stays."""
    from pydoc_data.topics import topics

    found: dict[str, Tensor] = {}
    seen: set[str] = set()
    for key in sorted(topics):
        ids = tokenizer.encode(topics[key].lstrip("\n"))[:LENGTH]
        lines = {
            line for line in str(tokenizer.decode(ids)).splitlines() if len(line) > 40 and line.strip("*")
        }
        if len(ids) == LENGTH and not lines & seen:
            found[key] = torch.tensor(ids)
        seen |= lines
    return found


def split(texts: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(to train on, held out): three and five of every eight."""
    numbered = list(enumerate(texts.items()))
    train, held_out = (
        dict(item for i, item in numbered if (i % 8 in {0, 3, 6}) is wanted) for wanted in (True, False)
    )
    return train, held_out


def evaluations(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Evaluation]:
    """The base model, and its two trained copies."""
    train, held_out = split(openings(tokenizer))
    ids, seen = torch.stack(list(held_out.values())), torch.stack(list(train.values()))
    below, last = _hidden(model, ids)
    keys, head = tuple(held_out), model.lm_head
    found = [Evaluation("base", keys, ids, last, head, is_trimmed=False)]
    for epoch, upper in _trained(model, seen):
        for name, wanted in EPOCHS.items():
            if epoch == wanted:
                with torch.inference_mode():
                    hidden = upper(inputs_embeds=below, use_cache=False).last_hidden_state
                found.append(Evaluation(name, keys, ids, hidden, head, is_trimmed=name == "trimmed"))
    return found


def _hidden(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(what the trained layers read, what the head reads), [rows, LENGTH, width] each."""
    with torch.inference_mode():
        states = model.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    return states[-1 - LAYERS], states[-1]


def _trained(model: PreTrainedModel, ids: Tensor) -> Iterator[tuple[int, Any]]:
    """(passes so far, the upper layers as they are by then)."""
    below = _hidden(model, ids)[0].clone()
    upper = deepcopy(model.model)
    upper.layers = upper.layers[-LAYERS:]
    upper.config.num_hidden_layers = LAYERS
    weights = [*upper.layers.parameters(), upper.norm.weight]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    chance = torch.Generator().manual_seed(0)
    head = model.lm_head.weight.detach()
    for epoch in range(1, max(EPOCHS.values()) + 1):
        for rows in torch.randperm(len(ids), generator=chance).split(BATCH):
            hidden = upper(inputs_embeds=below[rows], use_cache=False).last_hidden_state[:, :-1]
            logits = (hidden @ head.T).flatten(0, 1)
            torch.nn.functional.cross_entropy(logits, ids[rows, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        yield epoch, upper
