"""Every metric, once: key, quantity, population, reduction. Adding one is one entry here.

Keys are those of seed 000, bare for the train phase and with `<phase>_` before them for any other. Formulas of the
quantities are in `logitbox.dumps.measures` and `logitbox.analysis.populations`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from logitbox.analysis.populations import ALL, Populations, finite_of
from logitbox.dumps.spec import RecordSpec

Reduction = Literal["token_mean", "exp_token_mean", "count"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        key: name without phase prefix.
        quantity: what is averaged (a column of the tally), or "n"/"n_nonfinite"/"n_duplicate" for counts.
        population: over which supervised tokens.
        reduction: `token_mean` Σx/n; `exp_token_mean` its exponential; `count` the sum itself.
        about: formula and unit in words.
        group: heading under which reports list it.
        low, high: the metric's range, to which intervals are clipped.
        only_with: a quantity; tokens of sessions that did not record it are no part of the metric.
    """

    key: str
    quantity: str
    population: str
    reduction: Reduction
    about: str
    group: str
    low: float = 0.0
    high: float = float("inf")
    only_with: str = ""


_BASIC: tuple[tuple[str, str, Reduction, str, float, float], ...] = (
    (
        "token_acc",
        "correct",
        "token_mean",
        "share of tokens whose arg-max (lowest id among ties) is gold",
        0,
        1,
    ),
    ("token_acc_top5", "correct_top5", "token_mean", "share of tokens with gold among the five best", 0, 1),
    ("nll", "nll", "token_mean", "mean −ln p(gold), nats", 0, float("inf")),
    ("perplexity", "nll", "exp_token_mean", "exp(mean nll)", 1, float("inf")),
    (
        "entropy",
        "entropy",
        "token_mean",
        "mean Shannon entropy over the full vocabulary, nats",
        0,
        float("inf"),
    ),
    ("confidence", "confidence", "token_mean", "mean probability of the arg-max", 0, 1),
)


def basic_metrics(population: str = ALL) -> Iterator[Metric]:
    """Accuracy, nll and their kin over one population, under their bare keys."""
    for key, quantity, reduction, about, low, high in _BASIC:
        yield Metric(key, quantity, population, reduction, about, "tokens", low, high)
    yield Metric("n_tokens", "n", population, "count", "supervised tokens with finite values", "tokens")
    yield Metric(
        "n_nonfinite", "n_nonfinite", population, "count", "tokens left out: NaN or infinite", "tokens"
    )
    about = "tokens left out: repeated by a distributed sampler to fill its last batch"
    yield Metric("n_duplicate", "n_duplicate", population, "count", about, "tokens")


def metrics_of(spec: RecordSpec) -> list[Metric]:
    """Every metric that a session with this spec can have, in the order they are listed."""
    populations = Populations(spec)
    found = list(basic_metrics())
    for name in populations.types:
        found += _type_metrics(name)
    for group in spec.groups:
        rest = populations.rest(group.name)
        found.append(_renamed(f"{rest}_token_acc", "correct", rest, "token types"))
        others = [name for name in populations.types if name != group.name]
        found += _monitor_metrics(group.name, rest, others)
    for name in spec.ordered:
        found += _ordered_metrics(name)
    return found


def _renamed(key: str, quantity: str, population: str, group: str) -> Metric:
    about = next(about for _, q, _, about, _, _ in _BASIC if q == quantity)
    return Metric(key, quantity, population, "token_mean", f"{population} tokens: {about}", group, 0, 1)


def _type_metrics(name: str) -> Iterator[Metric]:
    group = "token types"
    share = f"share of supervised tokens that are {name}"
    yield Metric(f"{name}_token_frac", f"is_{name}", ALL, "token_mean", share, group, 0, 1)
    yield _renamed(f"{name}_token_acc", "correct", name, group)
    yield _renamed(f"{name}_token_acc_top5", "correct_top5", name, group)
    for key, quantity, reduction, about, low, high in _BASIC[2:5]:
        yield Metric(f"{name}_{key}", quantity, name, reduction, f"{name} tokens: {about}", group, low, high)


def _monitor_metrics(group: str, rest: str, types: list[str]) -> Iterator[Metric]:
    """Seed 000's monitors in both directions: arg-max flips, and probability mass inside the group."""
    prefix = f"{group}_monitor"
    away, heading = f"{prefix}/flip_{group}_to_non{group}", f"{group} monitor"
    about = f"gold in {group}: share of tokens whose arg-max is not"
    yield Metric(away, f"top_out_{group}", group, "token_mean", about, heading, 0, 1)
    for name in (rest, *types):
        about = f"{name} tokens: share whose arg-max is in {group} though gold is not"
        yield Metric(
            f"{prefix}/flip_{name}_to_{group}", f"top_in_{group}", name, "token_mean", about, heading, 0, 1
        )
    for name in (group, rest, *types):
        about = f"{name} tokens: mean softmax mass inside {group}"
        key = f"{prefix}/{group}_vocab_mass_at_gt_{name}"
        yield Metric(key, f"mass_{group}", name, "token_mean", about, heading, 0, 1)


_ORDERED: tuple[tuple[str, str, str, float], ...] = (
    ("loss", "loss", "weighted sum of soft_ce, w1 and gate", float("inf")),
    ("soft_ce", "soft_ce", "cross-entropy against the Gaussian target, nats", float("inf")),
    ("w1", "w1", "Σ|CDF_p − CDF_q|, bins (÷ bins if normalize_w1)", float("inf")),
    ("gate", "gate", "−ln mass inside the group at the gate temperature, nats", float("inf")),
)


def _ordered_metrics(name: str) -> Iterator[Metric]:
    """Means over the tokens whose loss is finite; the others are counted."""
    prefix, heading, known = f"{name}_softce_w1", f"{name} loss", finite_of(name)
    for key, quantity, about, high in _ORDERED:
        about_gold = f"gold in {name}: {about}"
        yield Metric(
            f"{prefix}/{key}", f"{name}.{quantity}", known, "token_mean", about_gold, heading, 0, high
        )
    mass = f"gold in {name}: mean mass inside the group at the gate temperature"
    yield Metric(f"{prefix}/{name}_vocab_mass", f"{name}.gate_mass", known, "token_mean", mass, heading, 0, 1)
    about_count = f"tokens with gold in {name}"
    yield Metric(
        f"{prefix}/{name}_tokens", "n", name, "count", about_count, heading, only_with=f"{name}.gate"
    )
    lost, about_lost = (
        f"{name}.nonfinite",
        f"of them left out of this loss: it is NaN or infinite ({name} masked)",
    )
    yield Metric(f"{prefix}/n_nonfinite", lost, name, "count", about_lost, heading, only_with=lost)
    for key, quantity, about in (
        (f"{name}_bin_error", "bin_error", "mean |expected bin − gold bin|, bins"),
        (f"{name}_top_bin_error", "top_bin_error", "mean |arg-max bin − gold bin|, bins"),
    ):
        yield Metric(key, f"{name}.{quantity}", known, "token_mean", about, heading)
