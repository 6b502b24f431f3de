"""Cross-entropy against accuracy, top-k accuracy and ranks."""

from __future__ import annotations

from math import log

from logitbox.analysis.audit.inequalities.entries import At, Inequality
from logitbox.analysis.audit.inequalities.interval import Interval

LN2 = log(2)

LABELS = (
    "Look first for micro-batches without any label: they have no loss, but count as accuracy 0 (their evaluation loss is NaN, "
    "too). Then whether the loss is plain cross-entropy (label smoothing raises it; focal, weighted, binary or distillation "
    "losses can lower it), then whether both are of the same tokens (prompt, padding, end tokens)."
)
_TOP_K = "Look at which of the accuracies counts ties as hits or other tokens, and whether both are averaged the same way."


def _ce_top_k(at: At) -> Interval:
    # Each accuracy stands once, so that no rounding is counted twice.
    ln_k = log(at.k + 1)
    return ln_k + at["top_k"] * (LN2 - ln_k) - at["acc"] * LN2


INEQUALITIES: tuple[Inequality, ...] = (
    Inequality(
        "ce-accuracy",
        {"ce": "nll@{p}", "acc": "correct@{p}"},
        lambda at: at["ce"],
        lambda at: (1 - at["acc"]) * LN2,
        "CE ≥ (1 − acc)·ln 2",
        "A wrong arg-max leaves the gold token a probability of at most ½, so that each wrong token costs at least ln 2.",
        LABELS,
    ),
    Inequality(
        "ce-top-k",
        {"ce": "nll@{p}", "acc": "correct@{p}", "top_k": "correct_top{k}@{p}"},
        lambda at: at["ce"],
        _ce_top_k,
        "CE ≥ (A_k − A_1)·ln 2 + (1 − A_k)·ln(k + 1)",
        "A gold token of rank r has a probability of at most 1/r: ln 2 for those among the k best, ln(k + 1) for all others.",
        LABELS,
        when=lambda names: int(names["k"]) > 1,
    ),
    Inequality(
        "ce-top-k-alone",
        {"ce": "nll@{p}", "top_k": "correct_top{k}@{p}"},
        lambda at: at["ce"],
        lambda at: (1 - at["top_k"]) * log(at.k + 1),
        "CE ≥ (1 − A_k)·ln(k + 1)",
        "A gold token that is not among the k best has a probability of at most 1/(k + 1).",
        LABELS,
    ),
    Inequality(
        "top-k-accuracy",
        {"top_k": "correct_top{k}@{p}", "acc": "correct@{p}"},
        lambda at: at["top_k"],
        lambda at: at["acc"],
        "A_k ≥ A_1",
        "The best token is among the k best.",
        _TOP_K,
    ),
    Inequality(
        "top-k-order",
        {"top_k": "correct_top{k}@{p}", "top_j": "correct_top{j}@{p}"},
        lambda at: at["top_k"],
        lambda at: at["top_j"],
        "A_k ≥ A_j for k > j",
        "The j best tokens are among the k best.",
        _TOP_K,
        when=lambda names: int(names["k"]) > int(names["j"]),
    ),
    Inequality(
        "mrr-accuracy",
        {"mrr": "reciprocal_rank@{p}", "acc": "correct@{p}"},
        lambda at: at["mrr"],
        lambda at: at["acc"],
        "MRR ≥ A_1",
        "A hit has the reciprocal rank 1.",
        _TOP_K,
    ),
    Inequality(
        "accuracy-mrr",
        {"acc": "correct@{p}", "mrr": "reciprocal_rank@{p}"},
        lambda at: (1 + at["acc"]) * 0.5,
        lambda at: at["mrr"],
        "(1 + A_1)/2 ≥ MRR",
        "A miss has a reciprocal rank of at most ½.",
        _TOP_K,
    ),
    Inequality(
        "mrr-ce",
        {"mrr": "reciprocal_rank@{p}", "ce": "nll@{p}#identity"},
        lambda at: at["mrr"],
        lambda at: (-at["ce"]).exp(),
        "MRR ≥ e^−CE",
        "A token of rank r has a probability of at most 1/r, and the mean probability of gold is at least e^−CE.",
        LABELS,
    ),
    Inequality(
        "ece-overconfident",
        {"ece": "ece@{p}", "confidence": "confidence@{p}", "acc": "correct@{p}"},
        lambda at: at["ece"],
        lambda at: at["confidence"] - at["acc"],
        "ECE ≥ mean p₁ − acc",
        "The gaps of the bins, whatever their signs, add up to at least the gap of all tokens together.",
        "Look for confidences of exactly 0 or 1 that no bin takes, and at bins that are weighted equally.",
    ),
    Inequality(
        "ece-underconfident",
        {"ece": "ece@{p}", "confidence": "confidence@{p}", "acc": "correct@{p}"},
        lambda at: at["ece"],
        lambda at: at["acc"] - at["confidence"],
        "ECE ≥ acc − mean p₁",
        "The gaps of the bins, whatever their signs, add up to at least the gap of all tokens together.",
        "Look for confidences of exactly 0 or 1 that no bin takes, and at bins that are weighted equally.",
    ),
    Inequality(
        "sequence-accuracy",
        {"acc": "correct@", "n": "n_tokens@", "sequences": "sequence_correct@", "m": "n_sequences@"},
        lambda at: (1 - at["acc"]) * at["n"],
        lambda at: (1 - at["sequences"]) * at["m"],
        "(1 − acc)·tokens ≥ (1 − acc of sequences)·sequences",
        "A sequence that is not all right has at least one wrong token.",
        "Look at whether both are of the same sequences and tokens, and for accuracies that are means of means: pool hits and counts.",
        convicts=False,
    ),
)  # fmt: skip
