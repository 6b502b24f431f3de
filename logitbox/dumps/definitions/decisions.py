"""Seed 003: a decision between answers (accept / reject, A / B / C / D, yes / no), at one slot of a sample."""

from __future__ import annotations

from collections.abc import Iterator

from logitbox.dumps.definitions.entries import Metric, Quantity
from logitbox.dumps.definitions.rows import Array, Rows
from logitbox.dumps.spec import DECISION, RecordSpec

HEADING = "decision"

ACCURACY = "decision_correct"
CONFIDENCE = "decision_confidence"


def quantities(spec: RecordSpec) -> Iterator[Quantity]:
    """Mass of all answers together, of the likeliest one, and whether that one is gold's."""
    if not spec.answers:
        return
    masses = tuple(f"logmass_{name}" for name in spec.answers)
    answers = ", ".join(spec.answers)
    yield Quantity("decision_mass", f"Σₐ P(a), a in {answers}", masses, lambda rows: sum(_masses(rows)))
    yield Quantity(CONFIDENCE, f"maxₐ P(a), a in {answers}", masses, lambda rows: rows.xp.exp(_best(rows)[0]))
    yield Quantity(ACCURACY, "[gold in arg-maxₐ P(a), the first among equals]", ("gold", *masses), _is_right)
    yield Quantity(
        "decision_elsewhere", f"[arg-max of the vocabulary in none of {answers}]", ("top_ids",), _is_elsewhere
    )


def _masses(rows: Rows) -> list[Array]:
    return [rows.xp.exp(rows[f"logmass_{name}"]) for name in rows.spec.answers]


def _best(rows: Rows) -> tuple[Array, Array]:
    """(ln mass of the likeliest answer, its number; −1 where no answer has any mass)."""
    xp, first = rows.xp, rows[f"logmass_{rows.spec.answers[0]}"]
    best, number = xp.full_like(first, -float("inf")), xp.full_like(first, -1.0)
    for index, name in enumerate(rows.spec.answers):
        mass = rows[f"logmass_{name}"]
        better = mass > best
        best, number = xp.where(better, mass, best), xp.where(better, float(index), number)
    return best, number


def _is_right(rows: Rows) -> Array:
    _, number = _best(rows)
    right = ~rows.everywhere
    for index, name in enumerate(rows.spec.answers):
        right = right | ((number == index) & rows.inside(name))
    return right


def _is_elsewhere(rows: Rows) -> Array:
    elsewhere = rows.everywhere
    for name in rows.spec.answers:
        elsewhere = elsewhere & ~rows.inside(name, "top_1")
    return elsewhere


def metrics(spec: RecordSpec) -> Iterator[Metric]:
    """`avg_p_<answer>`, and `decision_*`, over the decision slots."""
    if not spec.answers:
        return
    shown = [
        (f"avg_p_{name}", f"mass_{name}", f"mean probability of {name}, all its forms together")
        for name in spec.answers
    ]
    shown += [
        ("decision_prob_mass", "decision_mass", "mean probability of all answers together"),
        ("decision_confidence", CONFIDENCE, "mean probability of the likeliest answer"),
        ("decision_accuracy", ACCURACY, "share of slots where the likeliest answer is gold's"),
        ("decision_elsewhere", "decision_elsewhere", "share of slots where the likeliest token is no answer"),
    ]
    for key, quantity, about in shown:
        yield Metric(key, quantity, DECISION, "token_mean", f"decision slots: {about}", HEADING, "003", 0, 1)
    yield Metric(
        "decision_slots", "n", DECISION, "count", "decision slots with finite values", HEADING, "003"
    )
