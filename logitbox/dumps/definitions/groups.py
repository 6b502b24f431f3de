"""Seed 000: vocabulary groups such as coordinates. Monitors of flips and mass; the loss of ordered groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from logitbox.dumps.definitions.entries import Metric, Population, Quantity
from logitbox.dumps.definitions.rows import Array, Rows
from logitbox.dumps.definitions.tokens import described, renamed, type_metrics, type_names
from logitbox.dumps.spec import OrderedSpec, RecordSpec


def rest_of(spec: RecordSpec, group: str) -> str:
    """Name of the tokens whose gold is outside a group: `text` for coord; a declared type keeps its name."""
    first = "text" if group == "coord" else f"non_{group}"
    taken = type_names(spec)
    return next(
        (name for name in (first, f"non_{group}", f"outside_{group}") if name not in taken),
        f"not_in_{group}_group",
    )


def finite_of(ordered: str) -> str:
    """Name of the population whose gold is in an ordered group and whose loss there is finite."""
    return f"{ordered}.finite"


def monitored(spec: RecordSpec) -> list[str]:
    """Groups that flips are watched of: all but the answers of a decision."""
    return [group.name for group in spec.groups if group.name not in spec.answers]


def populations(spec: RecordSpec) -> Iterator[Population]:
    """The rest of groups, and the tokens with a finite loss of every ordered one."""
    for name in dict.fromkeys([*monitored(spec), *spec.ordered]):
        yield Population(
            rest_of(spec, name),
            f"supervised tokens with gold outside {name}",
            ("gold",),
            lambda rows, name=name: ~rows.inside(name),
        )
    for name in spec.ordered:
        yield Population(
            finite_of(name),
            f"supervised tokens with gold in {name} and a finite loss there",
            ("gold", *(f"{name}_{part}" for part in ("mean", *spec.ordered[name].weights))),
            lambda rows, name=name: rows.inside(name) & _loss_is_finite(rows, name),
        )


def quantities(spec: RecordSpec) -> Iterator[Quantity]:
    """For a group G: its mass; arg-max in G though gold is not; gold in G though the arg-max is not."""
    for group in spec.groups:
        name, column = group.name, f"logmass_{group.name}"
        yield Quantity(
            f"mass_{name}",
            f"P({name}) = Σ p inside {name}",
            (column,),
            lambda rows, column=column: rows.xp.exp(rows[column]),
        )
    for name in monitored(spec):
        yield Quantity(
            f"top_in_{name}",
            f"[arg-max in {name}, gold not]",
            ("top_ids", "gold"),
            lambda rows, name=name: rows.inside(name, "top_1") & ~rows.inside(name),
        )
        yield Quantity(
            f"top_out_{name}",
            f"[gold in {name}, arg-max not]",
            ("top_ids", "gold"),
            lambda rows, name=name: rows.inside(name) & ~rows.inside(name, "top_1"),
        )
    for name, options in spec.ordered.items():
        yield from _ordered_quantities(name, options)


def _ordered_quantities(name: str, options: OrderedSpec) -> Iterator[Quantity]:
    parts = options.weights
    finite = ("gold", *(f"{name}_{part}" for part in ("mean", *parts)))
    total = " + ".join(f"{weight:g}·{part}" for part, weight in parts.items()) or "0"

    def entry(quantity: str, formula: str, column: str, value: Callable[[Rows], Array]) -> Quantity:
        def where_known(rows: Rows) -> Array:
            return _where(rows, rows.inside(name) & _loss_is_finite(rows, name), value(rows))

        needs = [*finite, *([f"{name}_{column}"] if column else [])]
        return Quantity(f"{name}.{quantity}", formula, tuple(dict.fromkeys(needs)), where_known)

    yield Quantity(
        f"{name}.nonfinite",
        "[loss is NaN or infinite]",
        finite,
        lambda rows: rows.inside(name) & ~_loss_is_finite(rows, name),
    )
    yield entry(
        "gate", "−ln Σ p inside, at the gate temperature, nats", "gate", lambda rows: rows[f"{name}_gate"]
    )
    yield entry("soft_ce", "−Σ q ln p over the bins, nats", "soft_ce", lambda rows: rows[f"{name}_soft_ce"])
    unit = "Σ|CDF_p − CDF_q| ÷ bins" if options.normalize_w1 else "Σ|CDF_p − CDF_q|, bins"
    yield entry("w1", unit, "w1", lambda rows: rows[f"{name}_w1"])
    yield entry(
        "loss", total, "", lambda rows: sum(weight * rows[f"{name}_{part}"] for part, weight in parts.items())
    )
    yield entry("gate_mass", "e^(−gate)", "gate", lambda rows: rows.xp.exp(-rows[f"{name}_gate"]))
    yield entry(
        "bin_error",
        "|expected bin − gold bin|, bins",
        "mean",
        lambda rows: abs(rows[f"{name}_mean"] - rows.bin(name)),
    )
    yield entry(
        "top_bin_error",
        "|arg-max bin − gold bin|, bins",
        "bin",
        lambda rows: abs(rows[f"{name}_bin"] - rows.bin(name)),
    )


def _where(rows: Rows, mask: Array, values: Array) -> Array:
    """`values` where the mask holds, else 0, also where a value there is NaN; broadcasts a plain number."""
    return rows.xp.where(mask, values, 0.0)


def _loss_is_finite(rows: Rows, name: str) -> Array:
    """Rows whose ordered loss and expected bin are numbers; meaningless where gold is outside the group."""
    finite = rows.xp.isfinite(rows[f"{name}_mean"])
    for part in rows.spec.ordered[name].weights:
        finite = finite & rows.xp.isfinite(rows[f"{name}_{part}"])
    return finite


def metrics(spec: RecordSpec) -> Iterator[Metric]:
    """Metrics of every type, monitors of every group, and the losses of the ordered ones."""
    names = described(spec)
    for name in names:
        yield from type_metrics(spec, name)
    for name in monitored(spec):
        rest = rest_of(spec, name)
        yield renamed(f"{rest}_token_acc", "correct", rest)
        yield from _monitor_metrics(name, rest, [other for other in names if other != name])
    for name in spec.ordered:
        yield from _ordered_metrics(name, spec)


def _monitor_metrics(group: str, rest: str, types: list[str]) -> Iterator[Metric]:
    """Monitors in both directions: arg-max flips, and probability mass inside the group."""
    prefix, heading = f"{group}_monitor", f"{group} monitor"

    def monitor(key: str, quantity: str, population: str, about: str) -> Metric:
        return Metric(f"{prefix}/{key}", quantity, population, "token_mean", about, heading, "000", 0, 1)

    about = f"gold in {group}: share of tokens whose arg-max is not"
    yield monitor(f"flip_{group}_to_non{group}", f"top_out_{group}", group, about)
    for name in (rest, *types):
        about = f"{name} tokens: share whose arg-max is in {group} though gold is not"
        yield monitor(f"flip_{name}_to_{group}", f"top_in_{group}", name, about)
    for name in (group, rest, *types):
        about = f"{name} tokens: mean softmax mass inside {group}"
        yield monitor(f"{group}_vocab_mass_at_gt_{name}", f"mass_{group}", name, about)


_ORDERED: tuple[tuple[str, str, str], ...] = (
    ("loss", "weighted sum of soft_ce, w1 and gate", "yes (train)"),
    ("soft_ce", "cross-entropy against the Gaussian target, nats", "yes (train), × soft_ce_weight"),
    ("w1", "Σ|CDF_p − CDF_q|, bins (÷ bins if normalize_w1)", "yes (train), × w1_weight"),
    ("gate", "−ln mass inside the group at the gate temperature, nats", "yes (train) if gate_weight ≠ 0"),
)


def _ordered_metrics(name: str, spec: RecordSpec) -> Iterator[Metric]:
    """Means over the tokens whose loss is finite; the others are counted."""
    prefix, heading, known = f"{name}_softce_w1", f"{name} loss", finite_of(name)

    # A negative weight, which is allowed, can make the loss negative.
    lowest = -inf if min(spec.ordered[name].weights.values(), default=0) < 0 else 0.0

    def mean(key: str, quantity: str, about: str, high: float, in_loss: str) -> Metric:
        column, low = f"{name}.{quantity}", lowest if quantity == "loss" else 0.0
        return Metric(key, column, known, "token_mean", about, heading, "000", low, high, in_loss=in_loss)

    for part, about, in_loss in _ORDERED:
        yield mean(f"{prefix}/{part}", part, f"gold in {name}: {about}", inf, in_loss)
    mass = f"gold in {name}: mean mass inside the group at the gate temperature"
    yield mean(f"{prefix}/{name}_vocab_mass", "gate_mass", mass, 1, "no")
    for key, counted, about, only_with in (
        (f"{name}_tokens", "n", f"tokens with gold in {name}", f"{name}.gate"),
        ("n_nonfinite", f"{name}.nonfinite", "of them left out of this loss: it is NaN or infinite", ""),
    ):
        yield Metric(
            f"{prefix}/{key}",
            counted,
            name,
            "count",
            about,
            heading,
            "000",
            only_with=only_with or counted,
        )
    for key, quantity, about in (
        (f"{name}_bin_error", "bin_error", "mean |expected bin − gold bin|, bins"),
        (f"{name}_top_bin_error", "top_bin_error", "mean |arg-max bin − gold bin|, bins"),
    ):
        yield Metric(key, f"{name}.{quantity}", known, "token_mean", about, heading)
    yield from _composite(name, rest_of(spec, name), heading, lowest)


def _composite(name: str, rest: str, heading: str, lowest: float) -> Iterator[Metric]:
    """The seed's training loss: cross-entropy outside the group plus the group's loss, each over its own tokens."""
    base = f"{name}_softce_w1/base_loss"
    about = f"{rest} tokens: mean −ln p(gold) over the full vocabulary, nats"
    yield Metric(
        base,
        "nll",
        rest,
        "token_mean",
        about,
        heading,
        "000",
        only_with=f"{name}.gate",
        in_loss="yes (train)",
    )
    about = f"{rest} cross-entropy + {name} loss, each a mean over its own tokens: what the seed trains on"
    yield Metric(
        f"{name}_softce_w1/composite_loss",
        "",
        name,
        "sum_of_means",
        about,
        heading,
        "000",
        lowest,
        in_loss="is the loss",
        parts=(base, f"{name}_softce_w1/loss"),
    )
