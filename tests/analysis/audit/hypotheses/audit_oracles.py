"""Logged keys, and the plain loops over tokens and logits that trainers' conventions are made of.

Nothing here knows of reductions, cells or tallies.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import audit_tokens as seen
from audit_run import MICROS, NO_LABEL, STEPS_OF_EPOCH, Batch
from audit_tokens import Line, Of, Token, targets


@dataclass(frozen=True)
class Key:
    """A logged key: mean of a value over labelled tokens, of all or of one type, and perhaps e to it."""

    phase: str
    of: Of
    value: str
    transform: str = "identity"
    cap: float = math.inf
    member: Callable[[Token], bool] = lambda token: True
    of_type: str = ""

    def finish(self, mean: float) -> float:
        """What is logged of a mean."""
        return mean if self.transform == "identity" else min(math.exp(mean), self.cap)


KEYS: dict[str, Key] = {
    "loss": Key("train", seen.nll, "nll"),
    "token_acc": Key("train", seen.correct, "correct"),
    "token_acc_top5": Key("train", seen.correct_top5, "correct_top5"),
    "entropy": Key("train", seen.entropy, "entropy"),
    "train_entropy": Key(
        "train",
        seen.binary_entropy,
        "binary_entropy",
        member=lambda t: not seen.is_special(t),
        of_type=".plain",
    ),
    "perplexity": Key("train", seen.nll, "nll", "exp"),
    "eval_loss": Key("eval", seen.nll, "nll"),
    "eval_token_acc": Key("eval", seen.correct, "correct"),
    "eval_perplexity": Key("eval", seen.nll, "nll", "exp"),
    "eval_reasoning_token_acc": Key(
        "eval", seen.correct, "correct", member=lambda t: t.is_reasoning(), of_type="reasoning"
    ),
    "val_reasoning_perplexity": Key(
        "eval",
        seen.nll,
        "nll",
        "exp_cap_1e6",
        cap=1e6,
        member=lambda t: t.is_reasoning() and not seen.is_special(t),
        of_type="reasoning",
    ),
    "predict_loss": Key("predict", seen.nll, "nll"),
    "test_ppl": Key("test", seen.nll, "nll", "exp"),
    "test_reasoning_perplexity": Key(
        "test",
        seen.nll,
        "nll",
        "exp_cap_1e6",
        cap=1e6,
        member=lambda t: t.is_reasoning() and not seen.is_special(t),
        of_type="reasoning",
    ),
}
"""Keys of the cases."""

Oracle = Callable[[Line, Key], float]

MICRO = ("step", "micro", "rank")
POOLED = ("step", "micro")


def mean(values: Iterable[float]) -> float:
    """Plain mean; NaN of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def own(line: Line, key: Key) -> list[Token]:
    """The tokens a key is about by its name."""
    return [token for token in with_repeats(line, key) if not token.is_repeated and not token.is_lost]


def with_repeats(line: Line, key: Key) -> list[Token]:
    """The same, with those of samples that the sampler repeated, and those whose logits are not finite."""
    return [token for token in line.rows if token.is_labelled and key.member(token)]


def split(tokens: Sequence[Token], *by: str) -> list[list[Token]]:
    """Tokens of each step, micro-batch, rank; those without tokens are left out."""
    groups: dict[tuple[int, ...], list[Token]] = {}
    for token in tokens:
        groups.setdefault(tuple(getattr(token.batch, name) for name in by), []).append(token)
    return list(groups.values())


def of_groups(line: Line, key: Key, *by: str) -> list[float]:
    """Token mean of each group."""
    return [mean(map(key.of, group)) for group in split(own(line, key), *by)]


def over(tokens: Iterable[Token], key: Key) -> float:
    """Mean of the key's value over other tokens than its own."""
    return mean(key.of(token) for token in tokens)


def by_micro_then_step(line: Line, key: Key) -> float:
    return mean(
        mean(mean(map(key.of, micro)) for micro in split(step, "micro", "rank"))
        for step in split(own(line, key), "step")
    )


def samples(line: Line, key: Key) -> list[list[Token]]:
    """Tokens of each row."""
    rows: dict[tuple[int, int], list[Token]] = {}
    for token in own(line, key):
        rows.setdefault((id(token.batch), token.row), []).append(token)
    return list(rows.values())


def weighted(line: Line, key: Key, weigh: Callable[[list[Batch]], float], *by: str) -> float:
    """Mean of groups' token means, each weighted by something of its batches."""
    return weighted_mean(own(line, key), line, key, weigh, *by)


def weighted_mean(
    tokens: list[Token], line: Line, key: Key, weigh: Callable[[list[Batch]], float], *by: str
) -> float:
    total = size = 0.0
    for group in split(tokens, *by):
        moment = [getattr(group[0].batch, name) for name in by]
        weight = weigh([b for b in line.batches if [getattr(b, name) for name in by] == moment])
        total += weight * mean(map(key.of, group))
        size += weight
    return total / size


def n_rows(batches: list[Batch]) -> float:
    return sum(batch.labels.shape[0] for batch in batches)


def n_positions(batches: list[Batch]) -> float:
    return sum(batch.labels.size for batch in batches)


def n_predicted(batches: list[Batch]) -> float:
    return sum(batch.labels[:, 1:].size for batch in batches)


def n_unrepeated(batches: list[Batch]) -> float:
    return sum((~batch.duplicate.any(axis=1)).sum() for batch in batches)


def of_first_ranks(line: Line, key: Key) -> list[Token]:
    """Without rank 1 in the last step of an epoch, and in the last batch of the test."""

    def is_cut(batch: Batch) -> bool:
        if batch.phase == "train":
            return batch.rank > 0 and batch.step % STEPS_OF_EPOCH == 0
        return batch.phase == "test" and batch.rank > 0 and batch.micro == MICROS - 1

    return [token for token in own(line, key) if not is_cut(token.batch)]


def of_finite_batches(line: Line, key: Key) -> float:
    """Batches' token means, weighted by their rows, those with a token that is not finite left out."""
    total = size = 0.0
    for group in split(with_repeats(line, key), *MICRO):
        if not any(token.is_lost for token in group):
            rows = n_rows([group[0].batch])
            total, size = total + rows * mean(map(key.of, group)), size + rows
    return total / size


def with_empty(line: Line, key: Key, *by: str) -> list[float]:
    """Token mean of each group, 0 for those without labels."""
    moments = {tuple(getattr(batch, name) for name in by) for batch in line.batches}
    return of_groups(line, key, *by) + [0.0] * (len(moments) - len(split(own(line, key), *by)))


def of_rank_0(line: Line, key: Key) -> list[Token]:
    return [token for token in own(line, key) if token.batch.rank == 0]


def last_micro(line: Line, key: Key) -> list[Token]:
    return [token for token in own(line, key) if token.batch.micro == MICROS - 1]


def last_step(line: Line, key: Key) -> list[Token]:
    last = max(batch.step for batch in line.batches)
    return [token for token in own(line, key) if token.batch.step == last]


def and_step_before(line: Line, key: Key) -> list[Token]:
    """The line's tokens and those of the step before it."""
    last = max((batch.step for batch in line.before), default=0)
    more = [t for batch in line.before if batch.step == last for t in targets(batch)]
    return own(line, key) + [t for t in more if t.is_labelled and key.member(t)]


def per_batch(line: Line, key: Key, count: Callable[[list[Batch]], float]) -> float:
    """Mean over micro-batches of Σ over labelled tokens ÷ some count of the batch."""
    tokens = own(line, key)
    return mean(
        sum(key.of(token) for token in tokens if token.batch is batch) / count([batch])
        for batch in line.batches
    )


def first_labels(batches: Iterable[Batch]) -> int:
    return sum(int((batch.labels[:, 0] != NO_LABEL).sum()) for batch in batches)


def scored_on(line: Line, key: Key, offset: int) -> float:
    """Logits of t against the label at t + offset, wherever there is one."""
    found: list[float] = []
    for batch in line.batches:
        for row in range(batch.labels.shape[0]):
            for t in range(batch.labels.shape[1]):
                at = t + offset
                is_there = at < batch.labels.shape[1] and batch.labels[row, at] != NO_LABEL
                if is_there and not batch.duplicate[row, at]:
                    x, label = [float(v) for v in batch.logits[row, t]], int(batch.labels[row, at])
                    found.append(seen.nll_of(x, label) if key.value == "nll" else seen.best(x)[0] == label)
    return mean(found)


def added_over_own(line: Line, key: Key, of: Of) -> float:
    """Another value over the key's own tokens."""
    return mean(map(of, own(line, key)))


def sequence_right(rows: Iterable[list[Token]]) -> float:
    return mean(float(all(seen.correct(token) for token in row)) for row in rows)


def all_real(line: Line) -> list[Token]:
    return [token for token in line.rows if not token.is_pad and not token.is_repeated]


def by_row(tokens: Iterable[Token]) -> list[list[Token]]:
    rows: dict[tuple[int, int], list[Token]] = {}
    for token in tokens:
        rows.setdefault((id(token.batch), token.row), []).append(token)
    return list(rows.values())


def bfloat16(value: float) -> float:
    """Rounded to the upper 16 bits of a float32, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return struct.unpack("<f", struct.pack("<I", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16))[0]


def later(line: Line, factor: float) -> float:
    """The factor, in all lines but the first."""
    return factor if line.number else 1.0


def weighted_exp(line: Line, key: Key) -> float:
    """exp(token mean) of each batch, weighted by its rows."""
    total = size = 0.0
    for group in split(own(line, key), *MICRO):
        rows = n_rows([group[0].batch])
        total += rows * math.exp(mean(map(key.of, group)))
        size += rows
    return total / size
