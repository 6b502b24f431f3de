"""What a trainer with each registered convention would log: one entry of plain loops each.

`AVERAGES` gives the number before the key's own exponential, `FINISHED` what is logged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import audit_tokens as seen
from audit_oracles import (
    MICRO,
    POOLED,
    Key,
    Oracle,
    added_over_own,
    all_real,
    and_step_before,
    bfloat16,
    by_micro_then_step,
    by_row,
    first_labels,
    last_micro,
    last_step,
    later,
    mean,
    n_positions,
    n_predicted,
    n_rows,
    n_unrepeated,
    of_finite_batches,
    of_first_ranks,
    of_groups,
    of_rank_0,
    over,
    own,
    per_batch,
    samples,
    scored_on,
    sequence_right,
    split,
    weighted,
    weighted_exp,
    weighted_mean,
    with_empty,
    with_repeats,
)
from audit_run import MICROS, WORLD, K
from audit_tokens import Line, Of, Token

EPSILON, Z, OFFSET, FACTOR = 0.1, 1e-3, 0.0731, 1.37
"""Values of the parameters that the audit has to find."""

BASES: dict[str, Oracle] = {
    "": lambda line, key: over(own(line, key), key),
    "step-mean-": lambda line, key: mean(of_groups(line, key, "step")),
    "rank-mean-": lambda line, key: mean(of_groups(line, key, "step", "rank")),
    "micro-mean-": lambda line, key: mean(of_groups(line, key, *MICRO)),
    "eval-batch-": lambda line, key: weighted(line, key, n_rows, *MICRO),
    "eval-batch-pooled-": lambda line, key: weighted(line, key, n_rows, *POOLED),
}
"""Averages that are known to have been scaled, by the beginning of the hypothesis' id."""

SCALED: dict[str, Callable[[Line], float]] = {
    "times-accumulation": lambda line: MICROS,
    "over-accumulation": lambda line: 1 / MICROS,
    "times-accumulation-after-first": lambda line: later(line, MICROS),
    "times-world": lambda line: WORLD,
    "over-world": lambda line: 1 / WORLD,
}


def scaled(base: Oracle, factor: Callable[[Line], float]) -> Oracle:
    return lambda line, key: factor(line) * base(line, key)


def each_exp(*by: str, cap: float = math.inf) -> Oracle:
    """Mean over groups of exp(token mean)."""
    return lambda line, key: mean(min(math.exp(value), cap) for value in of_groups(line, key, *by))


def other(of: Of) -> Oracle:
    """Another value over the same tokens."""
    return lambda line, key: added_over_own(line, key, of)


def those(chosen: Callable[[Token], bool]) -> Oracle:
    """The same value over the key's own tokens that are chosen."""
    return lambda line, key: over((token for token in own(line, key) if chosen(token)), key)


def any_of(chosen: Callable[[Token], bool]) -> Oracle:
    """The same value over any tokens that are chosen, labelled or not."""
    return lambda line, key: over((t for t in line.rows if chosen(t) and not t.is_repeated), key)


def top(count: int, *, renormalised: bool) -> Oracle:
    return other(lambda token: seen.top_entropy(token, count, renormalised=renormalised))


def scale(beta: float) -> Oracle:
    return other(lambda token: seen.scaled_nll(token, beta))


def denominated(line: Line, key: Key, count: float) -> float:
    return sum(map(key.of, own(line, key))) / count


def first_labels_by_step(line: Line, key: Key) -> float:
    return mean(
        sum(map(key.of, tokens))
        / (len(tokens) + first_labels(b for b in line.batches if b.step == tokens[0].batch.step))
        for tokens in split(own(line, key), "step")
    )


def composite(line: Line, key: Key) -> float:
    tokens = own(line, key)
    return mean(seen.nll(t) for t in tokens if not seen.is_coord(t)) + mean(
        seen.coord_loss(t) for t in tokens if seen.is_coord(t)
    )


AVERAGES: dict[str, Oracle] = {
    "micro-mean": BASES["micro-mean-"],
    "micro-mean-by-step": by_micro_then_step,
    "step-mean": BASES["step-mean-"],
    "rank-mean": BASES["rank-mean-"],
    "rank-means": lambda line, key: mean(of_groups(line, key, "rank")),
    "micro-pooled": lambda line, key: mean(of_groups(line, key, *POOLED)),
    "sample-mean": lambda line, key: mean(mean(map(key.of, row)) for row in samples(line, key)),
    "eval-batch": BASES["eval-batch-"],
    "eval-batch-pooled": BASES["eval-batch-pooled-"],
    "eval-batch-kept": lambda line, key: weighted_mean(
        with_repeats(line, key), line, key, n_unrepeated, *MICRO
    ),
    "eval-batch-finite": of_finite_batches,
    "micro-pooled-cut": lambda line, key: mean(
        over(micro, key) for micro in split(of_first_ranks(line, key), *POOLED)
    ),
    "pad-weight": lambda line, key: weighted(line, key, n_positions, *MICRO),
    "pad-weight-pooled": lambda line, key: weighted(line, key, n_positions, *POOLED),
    "micro-mean-empty-0": lambda line, key: mean(with_empty(line, key, *MICRO)),
    "micro-pooled-empty-0": lambda line, key: mean(with_empty(line, key, *POOLED)),
    "micro-mean-by-step-empty-0": lambda line, key: mean(
        mean(with_empty(Line(0, [b for b in line.batches if b.step == step], []), key, *MICRO))
        for step in sorted({batch.step for batch in line.batches})
    ),
    "rank-0": lambda line, key: over(of_rank_0(line, key), key),
    "rank-0-step-mean": lambda line, key: mean(
        over(step, key) for step in split(of_rank_0(line, key), "step")
    ),
    "rank-0-micro-mean": lambda line, key: mean(
        over(one, key) for one in split(of_rank_0(line, key), *POOLED)
    ),
    "last-micro": lambda line, key: over(last_micro(line, key), key),
    "last-micro-by-step": lambda line, key: mean(
        over(step, key) for step in split(last_micro(line, key), "step")
    ),
    "last-micro-of-line": lambda line, key: over(
        [token for token in last_step(line, key) if token.batch.micro == MICROS - 1], key
    ),
    "last-step": lambda line, key: over(last_step(line, key), key),
    "last-step-micro-mean": lambda line, key: mean(
        over(one, key) for one in split(last_step(line, key), *MICRO)
    ),
    "line-before": lambda line, key: over(and_step_before(line, key), key),
    "line-before-step-mean": lambda line, key: mean(
        over(g, key) for g in split(and_step_before(line, key), "step")
    ),
    "duplicates": lambda line, key: over((t for t in line.rows if t.is_labelled and key.member(t)), key),
    "prompt-tokens": any_of(lambda token: not token.is_pad),
    "padding": any_of(lambda token: True),
    "no-eos": those(lambda token: token.id != seen.EOS),
    "no-special": those(lambda token: not seen.is_special(token)),
    "no-boundary": those(lambda token: not token.is_boundary),
    "with-boundary": any_of(lambda token: token.is_labelled or token.is_boundary),
    "no-image": those(lambda token: not seen.is_image(token)),
    "with-image": any_of(lambda token: token.is_labelled or seen.is_image(token)),
    "type-mask-previous": any_of(lambda token: token.is_labelled and token.is_reasoning(-1)),
    "type-mask-following": any_of(lambda token: token.is_labelled and token.is_reasoning(1)),
    "overall-for-type": any_of(lambda token: token.is_labelled),
    "no-shift": lambda line, key: scored_on(line, key, 0),
    "double-shift": lambda line, key: scored_on(line, key, 2),
    "label-smoothing": other(
        lambda token: (1 - EPSILON) * seen.nll(token) + EPSILON * seen.uniform_nll(token)
    ),
    "z-loss": other(lambda token: seen.nll(token) + Z * seen.lse(token.x) ** 2),
    "constant-offset": other(lambda token: seen.nll(token) + OFFSET),
    "constant-factor": other(lambda token: seen.nll(token) * FACTOR),
    "logits-times-0.25": scale(0.25),
    "logits-times-0.5": scale(0.5),
    "logits-times-0.75": scale(0.75),
    "logits-times-1.5": scale(1.5),
    "logits-times-2": scale(2.0),
    "clamped-logits": other(seen.clamped_nll),
    "composite": composite,
    "outside-group": those(lambda token: not seen.is_coord(token)),
    "entropy-top5": top(5, renormalised=False),
    "entropy-top10": top(10, renormalised=False),
    "entropy-top20": top(20, renormalised=False),
    "entropy-top5-renormalised": top(5, renormalised=True),
    "entropy-top10-renormalised": top(10, renormalised=True),
    "entropy-top20-renormalised": top(20, renormalised=True),
    "entropy-topk": top(K, renormalised=False),
    "entropy-topk-renormalised": top(K, renormalised=True),
    "binary-entropy": other(lambda token: seen.binary_entropy(token) * math.log(2)),
    "binary-entropy-bits": other(seen.binary_entropy),
    "binary-entropy-in-nats": other(lambda token: seen.binary_entropy(token) * math.log(2)),
    "full-for-binary-entropy": other(seen.entropy),
    "surprisal-for-entropy": other(seen.nll),
    "ties-are-hits": other(seen.hit_tied),
    "ties-are-hits-top5": other(lambda token: seen.hit_tied(token, 5)),
    "top5-for-top1": other(seen.correct_top5),
    "sequence-accuracy": lambda line, key: sequence_right(samples(line, key)),
    "sequence-accuracy-unmasked": lambda line, key: sequence_right(by_row(all_real(line))),
    "per-position": lambda line, key: denominated(line, key, n_positions(line.batches)),
    "per-predicted": lambda line, key: denominated(line, key, n_predicted(line.batches)),
    "micro-mean-per-position": lambda line, key: per_batch(line, key, n_positions),
    "micro-mean-per-predicted": lambda line, key: per_batch(line, key, n_predicted),
    "first-labels-in-count": lambda line, key: denominated(
        line, key, len(own(line, key)) + first_labels(line.batches)
    ),
    "first-labels-in-count-step-mean": first_labels_by_step,
    "per-byte": lambda line, key: denominated(line, key, sum(map(seen.n_bytes, own(line, key)))),
    "sequence-sum": lambda line, key: denominated(line, key, n_rows(line.batches)),
    "weighted": lambda line, key: (
        sum(t.weight * key.of(t) for t in own(line, key)) / sum(t.weight for t in own(line, key))
    ),
    "weighted-over-tokens": lambda line, key: mean(t.weight * key.of(t) for t in own(line, key)),
    **{
        prefix + name: scaled(base, factor)
        for prefix, base in BASES.items()
        for name, factor in SCALED.items()
    },
}
"""Hypothesis to the mean that is logged, or whose exponential is."""

FINISHED: dict[str, Oracle] = {
    "mean-exp-micro": each_exp(*MICRO),
    "mean-exp-micro-pooled": each_exp(*POOLED),
    "mean-exp-step": each_exp("step"),
    "mean-exp-rank": each_exp("step", "rank"),
    "mean-exp-sample": lambda line, key: mean(math.exp(mean(map(key.of, row))) for row in samples(line, key)),
    "percent": lambda line, key: 100 * over(own(line, key), key),
    "mean-exp-micro-capped": each_exp(*MICRO, cap=1e6),
    "mean-exp-eval-batch": weighted_exp,
    "cap-at-e20": lambda line, key: math.exp(min(20.0, over(own(line, key), key))),
    "uncapped": lambda line, key: math.exp(over(own(line, key), key)),
    "cap-at-1e6": lambda line, key: min(math.exp(over(own(line, key), key)), 1e6),
    "power-of-2": lambda line, key: 2.0 ** over(own(line, key), key),
    "exp-of-bits": lambda line, key: math.exp(over(own(line, key), key) / math.log(2)),
    "bits": lambda line, key: over(own(line, key), key) / math.log(2),
    "bfloat16": lambda line, key: bfloat16(over(own(line, key), key)),
    "bfloat16-micro-mean": lambda line, key: mean(bfloat16(value) for value in of_groups(line, key, *MICRO)),
}
"""Hypothesis to what is logged."""


def micro_mean_of(tokens: Sequence[Token], of: Of) -> float:
    """Plain mean over micro-batches of one rank each."""
    return mean(mean(map(of, group)) for group in split(tokens, *MICRO))


PAIRS: dict[str, Oracle] = {
    "step-mean+prompt-tokens": lambda line, key: mean(
        over(step, key) for step in split(all_real(line), "step")
    ),
    "micro-mean+bits": lambda line, key: micro_mean_of(own(line, key), key.of) / math.log(2),
    "step-mean+no-special": lambda line, key: mean(
        over(step, key) for step in split([t for t in own(line, key) if not seen.is_special(t)], "step")
    ),
    "micro-mean+label-smoothing": lambda line, key: micro_mean_of(
        own(line, key), lambda t: (1 - EPSILON) * seen.nll(t) + EPSILON * seen.uniform_nll(t)
    ),
}
"""Two hypotheses at once to what is logged as the loss."""


def series(hypothesis: str, lines: Sequence[Line], key: Key) -> list[float]:
    """What is logged under a hypothesis; "definition" for the key's own."""
    if hypothesis in {**FINISHED, **PAIRS}:
        return [{**FINISHED, **PAIRS}[hypothesis](line, key) for line in lines]
    oracle = BASES[""] if hypothesis == "definition" else AVERAGES[hypothesis]
    return [key.finish(oracle(line, key)) for line in lines]
