"""Seed 001: detailed metrics of agent fine-tuning, over all tokens, reasoning and tool calls, without special tokens.

The seed's entropy is that of the top-1 probability against all else, in bits. The exact entropy of the same tokens
stands beside it as `full_entropy` (of all tokens, special ones included, in nats).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf, log

from logitbox.dumps.definitions.entries import ALL, Metric, Population, Quantity, Reduction
from logitbox.dumps.definitions.rows import Array, Rows
from logitbox.dumps.definitions.tokens import belongs, has_group
from logitbox.dumps.detailed import AGENT_TYPES, BEST
from logitbox.dumps.flags import Flag
from logitbox.dumps.spec import RecordSpec

PERPLEXITY_CAP = 1e6
HEADING = "detailed metrics"

_EXCLUDED = Flag.SPECIAL | Flag.BOS | Flag.EOS | Flag.PAD
_GAPS = ("top_nll", "top_gap", "tail_mass")


def is_on(spec: RecordSpec) -> bool:
    """The seed's switch `enable_detailed_metrics`."""
    return spec.detailed.enable_detailed_metrics


def split_by(spec: RecordSpec) -> list[str]:
    """The declared types that have metrics of their own, unless `enable_token_classification` is off."""
    return [
        name for name in AGENT_TYPES if name in spec.types.names and spec.detailed.enable_token_classification
    ]


def plain(population: str) -> str:
    """Name of a population without its special tokens."""
    return f"{population}.plain"


def gaps_needed(spec: RecordSpec) -> int:
    """How many of the best tokens the definitions look at, where they are not recorded as columns."""
    return min(spec.k, max(*BEST, spec.detailed.entropy_k))


def populations(spec: RecordSpec) -> Iterator[Population]:
    """All tokens and each of the types, without special tokens."""
    if not is_on(spec):
        return
    yield Population(
        plain(ALL),
        "supervised tokens that are not special",
        ("flags",),
        lambda rows: ~rows.flagged(_EXCLUDED),
    )
    for name in split_by(spec):
        yield Population(
            plain(name),
            f"supervised {name} tokens that are not special",
            ("flags", "gold" if has_group(spec, name) else "types"),
            lambda rows, name=name: belongs(rows, name) & ~rows.flagged(_EXCLUDED),
        )


def quantities(spec: RecordSpec) -> Iterator[Quantity]:
    """Binary entropy, accumulated probabilities, top-k entropy; those that k recorded tokens allow."""
    if not is_on(spec):
        return
    yield Quantity(
        "binary_entropy", "−p log₂ p − (1−p) log₂(1−p), p = p(arg-max), bits", ("top_nll",), _binary_entropy
    )
    for count in BEST:
        name = f"top{count}_prob"
        if spec.reaches(count):
            formula = f"Σ p of the {count} best tokens"
            yield _exact_or(Quantity(name, formula, _GAPS, _accumulated(count)), name, spec)
    k = spec.detailed.entropy_k
    if spec.reaches(k):
        formula = f"−Σ p log₂ p of the {k} best tokens and of all others as one, bits"
        # Sessions may differ in k, which must not be pooled.
        yield _exact_or(Quantity(f"top{k}_entropy", formula, _GAPS, _topk_entropy(k)), "topk_entropy", spec)


def _exact_or(from_gaps: Quantity, column: str, spec: RecordSpec) -> Quantity:
    """A column where the session has it, exact; else made of `top_gap`, which is rounded to float16."""
    if column not in spec.best_columns:
        return from_gaps
    return Quantity(from_gaps.name, from_gaps.formula, (column,), lambda rows: rows[column])


def _binary_entropy(rows: Rows) -> Array:
    """From ln p, so that it is exact where p is close to 1."""
    xp, top_nll = rows.xp, rows["top_nll"]
    p, other = xp.exp(-top_nll), -xp.expm1(-top_nll)
    # x ln x → 0 as x → 0; `where` alone would still evaluate ln 0.
    return (p * top_nll - other * xp.log(xp.where(other > 0, other, 1.0))) / log(2)


def _probabilities(rows: Rows, count: int) -> tuple[Array, Array]:
    """(ln p, p) of the best `count` tokens, [rows, ≤ count]; p = 0 where a list was shorter."""

    def make() -> tuple[Array, Array]:
        log_p = -(rows["top_nll"][:, None] + rows["top_gap"])
        return log_p, rows.xp.exp(log_p)

    log_p, p = rows.once("probabilities", make)
    return log_p[:, :count], p[:, :count]


def _kept(rows: Rows) -> Array:
    """How many of the best tokens are recorded: k, unless lists were trimmed."""
    if "kept" not in rows:
        return rows.spec.k
    return rows["kept"]


def _reach(rows: Rows, count: int) -> bool:
    """Whether all lists reach to `count`, or to the end of the vocabulary."""
    return "kept" not in rows or not (rows["kept"] < min(count, rows.spec.vocab_size)).any()


def _others(rows: Rows, count: int) -> Array:
    """Probability outside the `count` best tokens, within what the exact mass outside all k of them allows.

    Those recorded in between have at most the probability of the last of the `count` each. So next to nothing
    stays next to nothing, where 1 − Σ p of rounded values would be anything up to their rounding.
    """
    _, p = _probabilities(rows, count)
    tail = rows["tail_mass"]
    between = (_kept(rows) - p.shape[1]) * p[:, -1]
    return rows.xp.clip(1.0 - p.sum(1), tail, tail + between)


def _accumulated(count: int) -> Callable[[Rows], Array]:
    return lambda rows: 1.0 - _others(rows, count) if _reach(rows, count) else None


def _topk_entropy(k: int) -> Callable[[Rows], Array]:
    def value(rows: Rows) -> Array:
        if not _reach(rows, k):
            return None
        xp = rows.xp
        log_p, p = _probabilities(rows, k)
        best = -(p * xp.where(p > 0, log_p, 0.0)).sum(1)
        others = _others(rows, k)
        return (best - others * xp.log(xp.where(others > 0, others, 1.0))) / log(2)

    return value


def metrics(spec: RecordSpec) -> Iterator[Metric]:
    """`{,reasoning_,tool_call_}{entropy,perplexity,top1_prob,…}`; `train_` or `val_` comes before them."""
    if not is_on(spec):
        return
    k = spec.detailed.entropy_k
    shown: tuple[tuple[str, str, Reduction, str, float, float], ...] = (
        ("entropy", "binary_entropy", "token_mean", "mean entropy of top-1 against all else, bits", 0, 1),
        ("perplexity", "nll", "exp_token_mean", "exp(mean nll), at most 10⁶", 1, PERPLEXITY_CAP),
        ("top1_prob", "confidence", "token_mean", "mean probability of the arg-max", 0, 1),
        *(
            (f"top{n}_prob", f"top{n}_prob", "token_mean", f"mean probability of the {n} best together", 0, 1)
            for n in BEST
        ),
        (
            f"top{k}_entropy",
            f"top{k}_entropy",
            "token_mean",
            f"mean entropy of the {k} best and the rest, bits",
            0,
            inf,
        ),
    )
    for population in (ALL, *split_by(spec)):
        who = f"{population} tokens" if population else "tokens"
        for key, quantity, reduction, about, low, high in shown:
            yield Metric(
                f"{population}_{key}" if population else key,
                quantity,
                plain(population),
                reduction,
                f"{who} without special ones: {about}",
                HEADING,
                "001",
                low,
                high,
            )
