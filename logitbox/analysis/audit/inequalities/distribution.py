"""Entropies, confidence and accumulated probabilities, against each other, cross-entropy and accuracy."""

from __future__ import annotations

import re
from math import log

import numpy as np

from logitbox.analysis.audit.inequalities.accuracy import LABELS, LN2
from logitbox.analysis.audit.inequalities.entries import ANY_FRACTION, At, Inequality
from logitbox.analysis.audit.inequalities.interval import Float, Interval

_ENTROPY = (
    "Look at the unit (nats or bits), at whether the entropy is of all tokens or of the supervised ones, shifted as the labels "
    "are, and at masked positions that hold a sentinel."
)
_SAME = "Look at whether both are of the same tokens, and at the unit (nats or bits)."
_BELOW_ZERO = re.compile(
    r"nll|entropy|binary_entropy|top\d+_entropy|.+\.(gate|soft_ce|w1|bin_error|top_bin_error)|ece"
)


def _plus(x: Float) -> Float:
    """Of x, x ln x; 0 at 0."""
    return np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0 * x)


def _binary(p: Float) -> Float:
    """Entropy of p against 1 − p, nats."""
    p = np.clip(p, 0.0, 1.0)
    return -_plus(p) - _plus(1 - p)


def _binary_of(p: Interval) -> Interval:
    """It rises up to ½ and falls after."""
    ends = _binary(p.low), _binary(p.high)
    peak = (p.low <= 0.5) & (p.high >= 0.5)
    return Interval(_binary(p.value), np.minimum(*ends), np.where(peak, LN2, np.maximum(*ends)))


def _most_entropy(at: At) -> Interval:
    """h(p₁) + (1 − p₁) ln(V − 1), which falls from p₁ = 1/V on; no p₁ is below."""
    others = log(max(at.vocab_size - 1, 1))
    return at["confidence"].clipped(1 / at.vocab_size, 1.0).falling(lambda p: _binary(p) + (1 - p) * others)


def _ce_by_entropy(at: At) -> Interval:
    """−q ln(1 − e^(−H/q)): rises in the share q of wrong tokens, falls in H."""

    def bound(q: Float, h: Float) -> Float:
        some = np.where(q > 0, q, 1.0)
        return np.where(q > 0, -some * np.log(-np.expm1(-h / some)), 0.0 * q)

    q, h = (1 - at["acc"]).clipped(0.0, 1.0), at["entropy"].clipped(1e-9)
    return Interval(bound(q.value, h.value), bound(q.low, h.high), bound(q.high, h.low))


def _floor(at: At) -> Interval:
    """Entropy of the smoothed target, nats."""
    v, e = at.vocab_size, at.facts.smoothing or 0.0
    gold, other = 1 - e + e / v, e / v
    floor = -gold * log(gold) - (v - 1) * other * log(other) if 0 < e < 1 and v > 1 else 0.0
    return 0.0 * at["ce"] + floor


INEQUALITIES: tuple[Inequality, ...] = (
    Inequality(
        "fraction-above-one",
        {"x": ANY_FRACTION},
        lambda at: 0.0 * at["x"] + 1.0,
        lambda at: at["x"],
        "1 ≥ x",
        "A share, an accuracy or a probability is at most 1.",
        "Look for percentages, sums instead of means, and a denominator that counts fewer tokens than the numerator.",
    ),
    Inequality(
        "fraction-below-zero",
        {"x": ANY_FRACTION},
        lambda at: at["x"],
        lambda at: 0.0 * at["x"],
        "x ≥ 0",
        "A share, an accuracy or a probability is at least 0.",
        "Look for sentinels such as −1 or −100 in the average.",
    ),
    Inequality(
        "below-zero",
        {"x": "{v}@{p}"},
        lambda at: at["x"],
        lambda at: 0.0 * at["x"],
        "x ≥ 0",
        "A cross-entropy, an entropy or a distance is at least 0 (and a perplexity at least 1).",
        "Look for a sentinel at padded positions that is summed along, and for a missing minus.",
        when=lambda names: _BELOW_ZERO.fullmatch(names["v"]) is not None,
    ),
    Inequality(
        "entropy-ceiling",
        {"entropy": "entropy@{p}"},
        lambda at: 0.0 * at["entropy"] + log(at.vocab_size),
        lambda at: at["entropy"],
        "ln V ≥ H",
        "No distribution over V tokens has more entropy than the uniform one.",
        "It is in bits, or a sum over tokens.",
        facts=("vocab_size",),
    ),
    Inequality(
        "entropy-confidence",
        {"entropy": "entropy@{p}", "confidence": "confidence@{p}"},
        lambda at: at["entropy"],
        lambda at: at["confidence"].minus_log(),
        "H ≥ −ln mean p₁",
        "No token's −ln p is below that of the likeliest, and the mean of −ln is at least −ln of the mean.",
        _ENTROPY,
    ),
    Inequality(
        "confidence-entropy",
        {"confidence": "confidence@{p}", "entropy": "entropy@{p}"},
        _most_entropy,
        lambda at: at["entropy"],
        "h(p₁) + (1 − p₁)·ln(V − 1) ≥ H",
        "Entropy is greatest where all other tokens share 1 − p₁ equally; that bound is concave, so it holds of the means.",
        _ENTROPY,
        facts=("vocab_size",),
    ),
    Inequality(
        "confidence-ce",
        {"confidence": "confidence@{p}", "ce": "nll@{p}#identity"},
        lambda at: at["confidence"],
        lambda at: (-at["ce"]).exp(),
        "mean p₁ ≥ e^−CE",
        "The arg-max is at least as likely as gold, whose mean probability is at least e^−CE.",
        LABELS,
    ),
    Inequality(
        "ce-entropy",
        {"ce": "nll@{p}", "acc": "correct@{p}", "entropy": "entropy@{p}"},
        lambda at: at["ce"],
        _ce_by_entropy,
        "CE ≥ −q·ln(1 − e^(−H/q)), q = 1 − acc",
        "Where the model is wrong, gold shares what the arg-max leaves, 1 − p₁ ≤ 1 − e^−H: sure and wrong is dear.",
        f"{_ENTROPY} {LABELS}",
    ),
    Inequality(
        "entropy-binary",
        {"entropy": "entropy@{p}", "binary": "binary_entropy@{p}"},
        lambda at: at["entropy"],
        lambda at: at["binary"] * LN2,
        "H ≥ H_binary·ln 2",
        "Telling only the arg-max from all others loses entropy.",
        _SAME,
    ),
    Inequality(
        "entropy-top-k",
        {"entropy": "entropy@{p}", "top": "top{k}_entropy@{p}"},
        lambda at: at["entropy"],
        lambda at: at["top"] * LN2,
        "H ≥ H_k·ln 2",
        "Taking all but the k best tokens as one loses entropy.",
        _SAME,
    ),
    Inequality(
        "top-k-binary",
        {"top": "top{k}_entropy@{p}", "binary": "binary_entropy@{p}"},
        lambda at: at["top"],
        lambda at: at["binary"],
        "H_k ≥ H_binary",
        "Telling only the arg-max from all others loses entropy.",
        _SAME,
    ),
    Inequality(
        "top-k-ceiling",
        {"top": "top{k}_entropy@{p}"},
        lambda at: 0.0 * at["top"] + log(at.k + 1) / LN2,
        lambda at: at["top"],
        "log₂(k + 1) ≥ H_k",
        "k tokens and the rest are k + 1 outcomes.",
        _SAME,
    ),
    Inequality(
        "binary-confidence",
        {"confidence": "confidence@{p}", "binary": "binary_entropy@{p}"},
        lambda at: _binary_of(at["confidence"]) * (1 / LN2),
        lambda at: at["binary"],
        "h(mean p₁)/ln 2 ≥ H_binary",
        "Binary entropy is concave: its mean is at most that of the mean.",
        _SAME,
    ),
    Inequality(
        "top-prob",
        {"top": "top{k}_prob@{p}", "confidence": "confidence@{p}"},
        lambda at: at["top"],
        lambda at: at["confidence"],
        "P_k ≥ p₁",
        "The best token is among the k best.",
        _SAME,
    ),
    Inequality(
        "top-prob-order",
        {"top_k": "top{k}_prob@{p}", "top_j": "top{j}_prob@{p}"},
        lambda at: at["top_k"],
        lambda at: at["top_j"],
        "P_k ≥ P_j for k > j",
        "The j best tokens are among the k best.",
        _SAME,
        when=lambda names: int(names["k"]) > int(names["j"]),
    ),
    Inequality(
        "top-prob-multiple",
        {"confidence": "confidence@{p}", "top": "top{k}_prob@{p}"},
        lambda at: at["confidence"] * float(at.k),
        lambda at: at["top"],
        "k·p₁ ≥ P_k",
        "None of the k best tokens is likelier than the best.",
        _SAME,
    ),
    Inequality(
        "confidence-floor",
        {"confidence": "confidence@{p}"},
        lambda at: at["confidence"],
        lambda at: 0.0 * at["confidence"] + 1 / at.vocab_size,
        "p₁ ≥ 1/V",
        "The likeliest of V tokens has at least its equal share.",
        "Look for probabilities that were masked or averaged over padded positions.",
        facts=("vocab_size",),
    ),
    Inequality(
        "smoothing-floor",
        {"ce": "nll@{p}#identity"},
        lambda at: at["ce"],
        _floor,
        "loss ≥ entropy of the smoothed target",
        "A loss with label smoothing cannot be below the entropy of its target: the logged one is without.",
        "The run says that it smooths its labels, the logged loss that it does not: see whether smoothing is on.",
        facts=("vocab_size", "smoothing"),
    ),
)  # fmt: skip
