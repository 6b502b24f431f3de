"""Per-token values: all registered quantities, and those that only a bug or another convention averages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.audit.hypotheses.clamped import nll_clamped
from logitbox.analysis.audit.hypotheses.entries import Value
from logitbox.analysis.audit.hypotheses.partial_entropy import partial_entropy, renormalised_entropy
from logitbox.analysis.reading import KEPT
from logitbox.dumps.definitions.registry import quantities_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.definitions.tokens import belongs, has_group, type_names
from logitbox.dumps.schema import GOLD_COLUMNS, table_schema
from logitbox.dumps.spec import BETAS, RecordSpec

Float = NDArray[np.float64]

GOLD_BYTES = "gold_bytes"
"""Bytes of the gold token's text: no column of `tokens`, but told like one; NaN where that is unknown."""

SEQUENCE_CORRECT = "sequence_correct"
"""[all of a sample's tokens in the population are right], as a value of each of them."""

SAMPLE_PERPLEXITY = "sample_perplexity"
"""exp(mean nll) of a sample's tokens in the population, as a value of each of them."""

_OF_GOLD = {*GOLD_COLUMNS, "gold"}
_LISTS = ("top_nll", "top_gap", "tail_mass", "entropy", "n_finite", KEPT)
_ALL_LOGITS = ("nll", "lse", "top_nll", "top_gap", "tail_mass", "n_finite", KEPT)

_ENDS = (("low", "least"), ("high", "most"))

BEST = (5, 10, 20)
"""Numbers of best tokens that entropies are cut to, beside k."""

VALUES: tuple[Value, ...] = (
    Value("hit_tied", "[no logit above gold's]", ("n_gt",), lambda rows: rows["n_gt"] == 0),
    Value("hit_tied_top5", "[fewer than 5 logits above gold's]", ("n_gt",), lambda rows: rows["n_gt"] < 5),
    Value(
        "uniform_nll",
        "lse − mean logit = −meanᵥ ln p over the finite logits, nats",
        ("lse", "mean_logit"),
        lambda rows: rows["lse"] - rows["mean_logit"],
    ),
    Value("lse2", "lse²", ("lse",), lambda rows: rows["lse"] ** 2),
    Value("weight", "loss weight", ("weight",), lambda rows: rows["weight"]),
    Value("weighted_nll", "weight · nll, nats", ("weight", "nll"), lambda rows: rows["weight"] * rows["nll"]),
    Value(
        "nll_unshifted",
        "−ln p of the label one place to the left, nats",
        ("nll_unshifted",),
        lambda rows: rows["nll_unshifted"],
    ),
    Value(
        "correct_unshifted",
        "[that label has the largest logit]",
        ("nll_unshifted", "top_nll"),
        lambda rows: _is_best(rows, "nll_unshifted"),
    ),
    Value(
        "nll_next",
        "−ln p of the label one place to the right, nats",
        ("nll_next",),
        lambda rows: rows["nll_next"],
    ),
    Value(
        "correct_next",
        "[that label has the largest logit]",
        ("nll_next", "top_nll"),
        lambda rows: _is_best(rows, "nll_next"),
    ),
    Value(
        "binary_entropy_nats",
        "−p ln p − (1−p) ln(1−p), p = p(arg-max), nats",
        ("top_nll",),
        lambda rows: _binary_entropy(rows["top_nll"]),
    ),
    Value(
        "bytes", "bytes of the gold token; 0 of special ones", (GOLD_BYTES,), lambda rows: rows[GOLD_BYTES]
    ),
    *(
        Value(
            f"nll_clamped.{side}",
            f"−ln p(gold) of logits clamped to ±50, at {end}, nats",
            _ALL_LOGITS,
            lambda rows, place=place: rows.once("clamped", lambda: nll_clamped(rows))[place],
        )
        for place, (side, end) in enumerate(_ENDS)
    ),
    *(
        Value(
            f"nll_beta_{beta:g}",
            f"−ln p(gold) of logits times {beta:g}, nats",
            ("nll", "lse", "lse_beta"),
            # x of gold is lse − nll.
            lambda rows, i=i, beta=beta: rows["lse_beta"][:, i] - beta * (rows["lse"] - rows["nll"]),
        )
        for i, beta in enumerate(BETAS)
    ),
)
"""Those that every session may have. `values_of` adds the entropies of the best tokens."""


def values_of(spec: RecordSpec) -> tuple[Value, ...]:
    """Every value that a session's columns give, registered quantities left out."""
    columns = {*table_schema("tokens", spec).names, KEPT, GOLD_BYTES}
    return tuple(value for value in (*VALUES, *_entropies(spec)) if columns.issuperset(value.needs))


def columns_of(spec: RecordSpec) -> list[str]:
    """Columns of `tokens`, and `KEPT`, that all values of a session read."""
    names = [name for value in (*quantities_of(spec), *values_of(spec)) for name in value.needs]
    return [name for name in dict.fromkeys(names) if name != GOLD_BYTES]


def evaluate(rows: Rows) -> dict[str, Float]:
    """All values, and `is_<type>`, float64 [rows]; NaN where one is not known. Nothing that trimmed lists do not tell."""
    is_known = rows["gold"] >= 0
    found: dict[str, Float] = {}
    for entry in (*quantities_of(rows.spec), *values_of(rows.spec)):
        value = entry.value(rows)
        if value is not None:
            found[entry.name] = np.asarray(value, dtype=np.float64)
            if not _OF_GOLD.isdisjoint(entry.needs) and not is_known.all():
                found[entry.name] = np.where(is_known, found[entry.name], np.nan)
    for name in type_names(rows.spec):
        unknown = ~is_known & has_group(rows.spec, name)
        found[f"is_{name}"] = np.where(unknown, np.nan, belongs(rows, name))
    return found


def _entropies(spec: RecordSpec) -> Iterator[Value]:
    """Entropies of the best tokens alone, each with its bounds: `top_gap` is rounded to float16."""
    for count in sorted({*BEST, spec.k}):
        if not spec.reaches(count):
            continue
        for name, about, bounds in (
            (f"entropy_top{count}", f"−Σ p ln p of the {count} best tokens", partial_entropy),
            (
                f"entropy_top{count}_renormalised",
                f"entropy of p over the {count} best tokens, made to add up to 1",
                renormalised_entropy,
            ),
        ):
            for place, (side, end) in enumerate(_ENDS):
                make = partial(_bound, bounds=bounds, count=count, place=place)
                yield Value(f"{name}.{side}", f"{about}, at {end}, nats", _LISTS, make)


def _bound(
    rows: Rows, *, bounds: Callable[[Rows, int], tuple[Float, Float]], count: int, place: int
) -> Float:
    return rows.once((bounds.__name__, count), lambda: bounds(rows, count))[place]


def _is_best(rows: Rows, probe: str) -> Float:
    """Whether the probe's label has the largest logit, others perhaps too; NaN where there is no such label."""
    return np.where(np.isnan(rows[probe]), np.nan, rows[probe] == rows["top_nll"])


def _binary_entropy(top_nll: Float) -> Float:
    """From −ln p, so that it is exact where p is close to 1."""
    other = -np.expm1(-top_nll)
    return np.exp(-top_nll) * top_nll - other * np.log(np.where(other > 0, other, 1.0))
