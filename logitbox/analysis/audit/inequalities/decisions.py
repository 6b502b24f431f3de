"""Seed 003: probabilities of the answers at decision slots."""

from __future__ import annotations

from logitbox.analysis.audit.inequalities.entries import Inequality

_SLOT = "Look at whether all are of the same slots and of all forms of an answer, and for an answer's probability counted twice."
_PAIRS = (("accept", "reject"), ("yes", "no"))
"""Decisions that have no third answer."""


def _pair(one: str, other: str) -> tuple[Inequality, ...]:
    answers = {"mass": "decision_mass@{p}", "one": f"mass_{one}@{{p}}", "other": f"mass_{other}@{{p}}"}
    best = {"confidence": "decision_confidence@{p}", "mass": "decision_mass@{p}", "one": f"mass_{one}@{{p}}",
            "other": f"mass_{other}@{{p}}"}  # fmt: skip
    return (
        Inequality(
            f"decision-sum-{one}-{other}",
            answers,
            lambda at: at["mass"],
            lambda at: at["one"] + at["other"],
            f"mass of the decision = p({one}) + p({other})",
            "The mass of a decision is that of its answers together.",
            _SLOT,
            relation="=",
        ),
        Inequality(
            f"decision-half-{one}-{other}",
            best,
            lambda at: at["confidence"],
            lambda at: at["mass"] * 0.5,
            "confidence ≥ mass/2",
            "The likelier of two answers has at least half of what both have.",
            _SLOT,
        ),
    )


INEQUALITIES: tuple[Inequality, ...] = (
    *(entry for pair in _PAIRS for entry in _pair(*pair)),
    Inequality(
        "decision-mass",
        {"mass": "decision_mass@{p}", "one": "mass_{a}@{p}", "other": "mass_{b}@{p}"},
        lambda at: at["mass"],
        lambda at: at["one"] + at["other"],
        "mass of the decision ≥ p of any two answers together",
        "The mass of a decision is that of all its answers.",
        _SLOT,
        when=lambda names: names["a"] < names["b"] and {names["a"], names["b"]} not in map(set, _PAIRS),
    ),
    Inequality(
        "decision-confidence",
        {"mass": "decision_mass@{p}", "confidence": "decision_confidence@{p}"},
        lambda at: at["mass"],
        lambda at: at["confidence"],
        "mass of the decision ≥ confidence",
        "The likeliest answer is one of the answers.",
        _SLOT,
    ),
    Inequality(
        "decision-likeliest",
        {"confidence": "decision_confidence@{p}", "one": "mass_{a}@{p}"},
        lambda at: at["confidence"],
        lambda at: at["one"],
        "confidence ≥ p of any answer",
        "The mean of the greatest is at least the greatest mean.",
        _SLOT,
    ),
)  # fmt: skip
