"""Tokens of a made run, and what a trainer computes of each: plain Python on float64 logits, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from audit_run import (
    BINS,
    BYTES,
    EOS,
    EVERY,
    IMAGE,
    NO_LABEL,
    PARTS,
    SIGMA,
    SPECIAL,
    STEPS,
    Batch,
    V,
    batches_of,
)


@dataclass(frozen=True, eq=False)
class Token:
    """Target t of a row, with the logits that predict it (those of t − 1)."""

    batch: Batch
    row: int
    t: int

    @cached_property
    def x(self) -> list[float]:
        """Logits."""
        return [float(value) for value in self.batch.logits[self.row, self.t - 1]]

    @property
    def id(self) -> int:
        """The token itself, label or not."""
        return int(self.batch.ids[self.row, self.t])

    @property
    def is_labelled(self) -> bool:
        """Whether its label is not −100."""
        return bool(self.batch.labels[self.row, self.t] != NO_LABEL)

    @property
    def is_pad(self) -> bool:
        """Whether the attention mask is 0."""
        return not self.batch.mask[self.row, self.t]

    @property
    def is_repeated(self) -> bool:
        """Whether a sampler repeated its sample."""
        return bool(self.batch.duplicate[self.row, self.t])

    @property
    def is_lost(self) -> bool:
        """Whether its logits are not finite."""
        return not all(map(math.isfinite, self.x))

    @property
    def is_boundary(self) -> bool:
        """Whether a packed document begins here."""
        return self.batch.place[self.row, self.t] == 0

    @property
    def weight(self) -> float:
        """Of its loss."""
        return float(self.batch.weight[self.row, self.t])

    def is_reasoning(self, offset: int = 0) -> bool:
        """Type of the token `offset` places further on; none beyond the row."""
        at = self.t + offset
        return 0 <= at < self.batch.ids.shape[1] and bool(self.batch.reasoning[self.row, at])

    def label_beside(self, offset: int) -> int | None:
        """Label `offset` places further on, if there is one."""
        at = self.t + offset
        if not 0 <= at < self.batch.ids.shape[1] or self.batch.labels[self.row, at] == NO_LABEL:
            return None
        return int(self.batch.labels[self.row, at])


@dataclass(frozen=True, eq=False)
class Line:
    """What one logged line is about: the micro-batches since the line before."""

    number: int
    batches: list[Batch]
    before: list[Batch]

    @cached_property
    def rows(self) -> list[Token]:
        """Every target, also of prompts, padding and repeated samples."""
        return [token for batch in self.batches for token in targets(batch)]


def targets(batch: Batch) -> Iterator[Token]:
    """Every target of a micro-batch: all but the first token of every row."""
    for row in range(batch.ids.shape[0]):
        for t in range(1, batch.ids.shape[1]):
            yield Token(batch, row, t)


def lines_of(run: list[Batch], phase: str) -> list[Line]:
    """A line every other step: training's two steps, or the one evaluation."""
    found: list[Line] = []
    for number, step in enumerate(range(EVERY, STEPS + 1, EVERY)):
        first = step - EVERY + 1 if phase == "train" else step
        before = list(batches_of(run, phase, first - EVERY, first - 1)) if phase == "train" else []
        found.append(Line(number, list(batches_of(run, phase, first, step)), before))
    return found


def lse(x: Iterable[float]) -> float:
    """ln Σ eˣ."""
    values = list(x)
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def probabilities(x: list[float]) -> list[float]:
    """Softmax."""
    whole = lse(x)
    return [math.exp(value - whole) for value in x]


def nll_of(x: list[float], label: int) -> float:
    """−ln p of a label."""
    return lse(x) - x[label]


def best(x: list[float], count: int = 1) -> list[int]:
    """The best ids, the lowest first among equals."""
    return sorted(range(V), key=lambda i: (-x[i], i))[:count]


def entropy_of(p: Iterable[float]) -> float:
    """−Σ p ln p."""
    return -sum(value * math.log(value) for value in p if value > 0)


@cache
def nll(token: Token) -> float:
    """−ln p(gold), nats."""
    return nll_of(token.x, token.id)


@cache
def correct(token: Token) -> float:
    """Whether the arg-max is gold."""
    return float(best(token.x)[0] == token.id)


@cache
def correct_top5(token: Token) -> float:
    """Whether gold is among the five best."""
    return float(token.id in best(token.x, 5))


def hit_tied(token: Token, count: int = 1) -> float:
    """Whether fewer than `count` logits are above gold's."""
    return float(sum(value > token.x[token.id] for value in token.x) < count)


@cache
def entropy(token: Token) -> float:
    """Of the whole vocabulary, nats."""
    return entropy_of(probabilities(token.x))


@cache
def binary_entropy(token: Token) -> float:
    """Of the best token against all others, bits."""
    p = max(probabilities(token.x))
    return entropy_of([p, 1 - p]) / math.log(2)


def top_entropy(token: Token, count: int, *, renormalised: bool) -> float:
    """Of the `count` best tokens alone, nats."""
    p = sorted(probabilities(token.x), reverse=True)[:count]
    whole = sum(p) if renormalised else 1.0
    return entropy_of([value / whole for value in p])


@cache
def uniform_nll(token: Token) -> float:
    """Mean over the vocabulary of −ln p."""
    return sum(nll_of(token.x, i) for i in range(V)) / V


def scaled_nll(token: Token, beta: float) -> float:
    """nll of logits times `beta`."""
    return nll_of([beta * value for value in token.x], token.id)


def clamped_nll(token: Token) -> float:
    """nll of logits clamped to ±50."""
    return nll_of([min(max(value, -50.0), 50.0) for value in token.x], token.id)


@cache
def coord_loss(token: Token) -> float:
    """Loss of the ordered group: soft cross-entropy, W1 and gate, each times its weight."""
    inside = token.x[V - BINS :]
    gold = token.id - (V - BINS)
    weights = [math.exp(-0.5 * ((i - gold) / SIGMA) ** 2) for i in range(BINS)]
    target = [weight / sum(weights) for weight in weights]
    log_p = [value - lse(inside) for value in inside]
    cumulated = np.cumsum([math.exp(value) - q for value, q in zip(log_p, target, strict=True)])
    parts = {
        "soft_ce": -sum(q * value for q, value in zip(target, log_p, strict=True)),
        "w1": float(np.abs(cumulated).sum()),
        "gate": lse(token.x) - lse(inside),
    }
    return sum(PARTS[name] * part for name, part in parts.items())


def n_bytes(token: Token) -> int:
    """Bytes of its text."""
    return BYTES[token.id]


def is_special(token: Token) -> bool:
    """End of sequence, or a token of the template."""
    return token.id in (EOS, SPECIAL)


def is_image(token: Token) -> bool:
    """A placeholder of an image."""
    return token.id == IMAGE


def is_coord(token: Token) -> bool:
    """Gold is in the ordered group."""
    return token.id >= V - BINS


Of = Callable[[Token], float]
