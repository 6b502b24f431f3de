"""What every dump has: accuracy, cross-entropy, entropy and confidence, of all tokens and of every type."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from logitbox.dumps.definitions.entries import ALL, Metric, Population, Quantity, Reduction
from logitbox.dumps.definitions.rows import Array, Rows
from logitbox.dumps.flags import Flag
from logitbox.dumps.spec import DECISION, RecordSpec

_RANK = ("n_gt", "n_eq_before")

TYPED = ".typed"
"""Name of the population of tokens whose types are known; groups are told by gold everywhere."""


def rank_of_gold(rows: Rows) -> Array:
    """Rank of the gold token, 0 the best; among equal logits the lowest id comes first."""
    return rows["n_gt"] + rows["n_eq_before"]


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("nll", "−ln p(gold), nats", ("nll",), lambda rows: rows["nll"]),
    Quantity("entropy", "−Σᵥ p ln p over the vocabulary, nats", ("entropy",), lambda rows: rows["entropy"]),
    Quantity("correct", "[rank of gold < 1]", _RANK, lambda rows: rank_of_gold(rows) < 1),
    Quantity("correct_top5", "[rank of gold < 5]", _RANK, lambda rows: rank_of_gold(rows) < 5),
    Quantity("confidence", "p(arg-max)", ("top_nll",), lambda rows: rows.xp.exp(-rows["top_nll"])),
)

SHOWN: tuple[tuple[str, str, Reduction, str, float, float], ...] = (
    (
        "token_acc",
        "correct",
        "token_mean",
        "share of tokens whose arg-max (lowest id among ties) is gold",
        0,
        1,
    ),
    ("token_acc_top5", "correct_top5", "token_mean", "share of tokens with gold among the five best", 0, 1),
    ("nll", "nll", "token_mean", "mean −ln p(gold), nats", 0, inf),
    ("exp_nll", "nll", "exp_token_mean", "exp(mean nll): perplexity, not capped", 1, inf),
    ("full_entropy", "entropy", "token_mean", "mean entropy over the full vocabulary, nats", 0, inf),
    ("confidence", "confidence", "token_mean", "mean probability of the arg-max", 0, 1),
)
"""Key, quantity, reduction, about, low, high."""

_SEED = {"token_acc", "token_acc_top5"}


def populations(spec: RecordSpec) -> Iterator[Population]:
    """All supervised tokens, then one population per token type and per vocabulary group."""
    yield Population(ALL, "supervised tokens", (), lambda rows: rows.everywhere)
    for name in type_names(spec):
        is_group = has_group(spec, name)
        about = f"supervised tokens with gold in {name}" if is_group else f"supervised {name} tokens"
        needs = ("gold",) if is_group else ("types",)
        yield Population(name, about, needs, lambda rows, name=name: belongs(rows, name))
    if spec.types.names:
        about = "supervised tokens whose types are known"
        yield Population(TYPED, about, ("flags",), lambda rows: ~rows.flagged(Flag.UNTYPED))


def has_group(spec: RecordSpec, name: str) -> bool:
    """Whether a vocabulary group is called that."""
    return any(group.name == name for group in spec.groups)


def belongs(rows: Rows, name: str) -> Array:
    """bool: the row is of a token type or group. A group decides where a type has its name too."""
    return rows.inside(name) if has_group(rows.spec, name) else rows.of_type(name)


def type_names(spec: RecordSpec) -> tuple[str, ...]:
    """Token types and groups, each once."""
    return tuple(dict.fromkeys([*spec.types.names, *(group.name for group in spec.groups)]))


def described(spec: RecordSpec) -> list[str]:
    """Types and groups with metrics of their own: all but answers and their slots, which have seed 003's."""
    taken = {DECISION, *spec.answers} if spec.answers else set[str]()
    return [name for name in type_names(spec) if name not in taken]


def quantities(spec: RecordSpec) -> Iterator[Quantity]:
    """What every session has."""
    del spec
    yield from QUANTITIES


def metrics(spec: RecordSpec) -> Iterator[Metric]:
    """Of all tokens; the types' own are in `type_metrics`."""
    del spec
    yield from basic_metrics()


def basic_metrics(population: str = ALL) -> Iterator[Metric]:
    """Accuracy, nll and their kin over one population, under their bare keys."""
    for key, quantity, reduction, about, low, high in SHOWN:
        family = "000" if key in _SEED else "logitbox"
        yield Metric(key, quantity, population, reduction, about, "tokens", family, low, high)
    for key, about in (
        ("n_tokens", "supervised tokens with finite values"),
        ("n_nonfinite", "tokens left out: NaN or infinite"),
        ("n_duplicate", "tokens left out: repeated by a distributed sampler to fill its last batch"),
    ):
        yield Metric(key, "n" if key == "n_tokens" else key, population, "count", about, "tokens")


def renamed(key: str, quantity: str, population: str) -> Metric:
    """A share of one type's tokens, under a key of its own."""
    about = next(about for _, q, _, about, _, _ in SHOWN if q == quantity)
    return Metric(
        key, quantity, population, "token_mean", f"{population} tokens: {about}", "token types", "000", 0, 1
    )


def type_metrics(spec: RecordSpec, name: str) -> Iterator[Metric]:
    """Share of the tokens, accuracies (seed 000's keys), and our own metrics of one type."""
    group = "token types"
    among, told = (ALL, "") if has_group(spec, name) else (TYPED, ", where types are known")
    share = f"share of supervised tokens that are {name}{told}"
    yield Metric(f"{name}_token_frac", f"is_{name}", among, "token_mean", share, group, "000", 0, 1)
    yield renamed(f"{name}_token_acc", "correct", name)
    yield renamed(f"{name}_token_acc_top5", "correct_top5", name)
    for key, quantity, reduction, about, low, high in SHOWN[2:5]:
        about_type = f"{name} tokens: {about}"
        yield Metric(f"{name}_{key}", quantity, name, reduction, about_type, group, low=low, high=high)


def finite(rows: Rows) -> Array:
    """Rows with finite values; the others are left out of every sum, and counted."""
    return ~rows.flagged(Flag.NONFINITE)


def duplicate(rows: Rows) -> Array:
    """Rows that a sampler repeated to fill its last batch: left out of every sum, and counted."""
    return rows.flagged(Flag.DUPLICATE)
