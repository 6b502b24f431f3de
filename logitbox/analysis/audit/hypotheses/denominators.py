"""Hypotheses about what the sum is divided by, and constant factors on it."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.entries import Hypothesis, Parameter
from logitbox.analysis.audit.hypotheses.links import seen_in
from logitbox.analysis.audit.hypotheses.reductions import FACTORS, scaled_name

_TOO_LONG = "too low: the mean shrinks by the share of positions without a label"

COUNTS: tuple[Hypothesis, ...] = (
    *(
        Hypothesis(
            id=name,
            catalogue=("IGN-WRONG", "SUM/ALL"),
            kind="bug",
            about=f"{about}, so that an ignored label (−100) counts as a token of value 0",
            misleads=_TOO_LONG,
            fix="divide by the number of labels that are not −100, after the shift",
            evidence=seen_in("Fast-LLM#426"),
            reduction=name,
            applies=applies,
            case=case,
        )
        for name, about, applies, case in (
            ("per-position", "the sum over labelled tokens divided by all positions", (), "token_acc"),
            (
                "per-predicted",
                "the sum over labelled tokens divided by all predicted positions",
                (),
                "token_acc",
            ),
            (
                "micro-mean-per-position",
                "the plain mean of micro-batches, each divided by all its positions",
                ("micro-batches",),
                "loss",
            ),
            (
                "micro-mean-per-predicted",
                "the plain mean of micro-batches, each divided by all its predicted positions",
                ("micro-batches",),
                "loss",
            ),
        )
    ),
    *(
        Hypothesis(
            id=name,
            catalogue=("DENOM+ROW",),
            kind="bug",
            about=f"{about} labels before the shift, of which a row's first counts though nothing predicts it",
            misleads="too low, by the share of first labels among those counted",
            fix="count labels[:, 1:], as transformers 5.23.0 does",
            evidence=seen_in("HF#46204", "read: transformers 4.46.3, 4.47.1, 4.50.0"),
            values=("nll",),
            reduction=name,
            needs="probes=True",
            applies=applies,
            case="loss",
        )
        for name, about, applies in (
            ("first-labels-in-count", "the sum over the window, divided by the number of", ()),
            (
                "first-labels-in-count-step-mean",
                "the plain mean of steps, each divided by the number of",
                ("steps",),
            ),
        )
    ),
    Hypothesis(
        id="per-byte",
        catalogue=("UNIT",),
        kind="convention",
        about="the sum over tokens divided by the bytes of their text",
        misleads="not per token: lower, by the bytes that a token has",
        fix="name it per byte; compare it only with numbers per byte of the same text",
        evidence=seen_in("LMH#1544,2170"),
        values=("nll",),
        reduction="per-byte",
        needs="vocab=<a tokenizer or the token strings>",
        case="eval_loss",
    ),
    Hypothesis(
        id="sequence-sum",
        catalogue=("UNIT",),
        kind="convention",
        about="the sum over tokens divided by the number of sequences",
        misleads="not per token: higher, by the tokens that a sequence has, so that it grows with their length",
        fix="divide by tokens, or name it per sequence",
        evidence=seen_in("LMH#1544,2170"),
        reduction="sequence-sum",
        case="eval_loss",
    ),
    Hypothesis(
        id="weighted",
        catalogue=("inequality-1",),
        kind="convention",
        about="the weighted mean Σ w·nll ÷ Σ w, with the loss weights of the tokens",
        misleads="tokens of large weight dominate; it cannot be held against an unweighted accuracy",
        fix="log the unweighted mean beside it",
        evidence=("inequality 1 of the evidence catalogue, weighted form",),
        values=("nll",),
        value="weighted_nll",
        reduction="per-weight",
        needs="record(weight=…)",
        case="loss",
    ),
    Hypothesis(
        id="weighted-over-tokens",
        catalogue=("inequality-1",),
        kind="convention",
        about="the weighted sum Σ w·nll divided by the number of tokens",
        misleads="scaled by the mean weight, either way",
        fix="divide by Σ w, or log the unweighted mean beside it",
        evidence=("inequality 1 of the evidence catalogue, weighted form",),
        values=("nll",),
        value="weighted_nll",
        needs="record(weight=…)",
        case="loss",
    ),
)
"""Other denominators than the number of labelled tokens."""

_SCALED_BY: dict[str, tuple[tuple[str, ...], str, str, tuple[str, ...], tuple[str, ...]]] = {
    "times-accumulation": (
        ("×GA",),
        "too high, as many times as a step has micro-batches",
        "divide by the accumulation steps once",
        seen_in("HF#37766,35204,35438,46731,47261"),
        ("token-mean", "step-mean", "rank-mean", "micro-mean"),
    ),
    "over-accumulation": (
        ("÷GA", "÷MB twice"),
        "too low, as many times as a step has micro-batches",
        "divide by the accumulation steps once, not again where it is logged",
        seen_in("SLAM-LLM#144", "HF#11919", "espnet#5090", "SW#10084", "verl#4711,4294"),
        ("token-mean", "step-mean", "rank-mean", "micro-mean"),
    ),
    "times-world": (
        ("×WORLD", "×CP/SP"),
        "too high, as many times as there are ranks",
        "gather numerator and denominator alike; with transformers, update to a version later than 4.47",
        seen_in("HF#35078,48706,48167", "SW#9152", "read: transformers 4.46.3, 4.47.1"),
        ("eval-batch", "eval-batch-pooled", "token-mean", "step-mean", "micro-mean"),
    ),
    "over-world": (
        ("×WORLD",),
        "too low, as many times as there are ranks",
        "divide by the number of ranks once",
        seen_in("HF#35078"),
        ("eval-batch", "token-mean", "step-mean", "micro-mean"),
    ),
    "times-accumulation-after-first": (
        ("ACC-STEPS",),
        "too high, as many times as a step has micro-batches, in every line but the first",
        "update ms-swift to a version later than 2.6.1",
        seen_in("read: ms-swift 2.6.1"),
        ("step-mean", "micro-mean"),
    ),
}
"""Factor to catalogue, misleads, fix, evidence and the averages it is known of."""


_BASES: dict[str, str] = {
    "token-mean": "the token mean",
    "step-mean": "the plain mean of the steps' token means",
    "rank-mean": "the plain mean of each step's and rank's token means",
    "micro-mean": "the plain mean of the micro-batches' token means",
    "eval-batch": "the mean of the batches' token means, weighted by rows,",
    "eval-batch-pooled": "the mean of the batches' token means over all ranks, weighted by rows,",
}
"""Averages in words."""


def _applies(base: str) -> tuple[str, ...]:
    if base.startswith("eval"):
        return ("evaluation",)
    return ("steps",) if base == "step-mean" else ()


def _scaled(factor: str, base: str) -> Hypothesis:
    catalogue, misleads, fix, evidence, _ = _SCALED_BY[factor]
    name = scaled_name(base, factor)
    kinds = ("accumulation",) if "accumulation" in factor else ("ranks",)
    return Hypothesis(
        id=name,
        catalogue=catalogue,
        kind="bug",
        about=f"{_BASES[base]} {FACTORS[factor][1]}",
        misleads=misleads,
        fix=fix,
        evidence=evidence,
        reduction=name,
        applies=(*kinds, *_applies(base)),
        case="eval_loss" if base.startswith("eval") else "loss",
    )


SCALES: tuple[Hypothesis, ...] = (
    *(_scaled(factor, base) for factor, entry in _SCALED_BY.items() for base in entry[-1]),
    Hypothesis(
        id="constant-factor",
        catalogue=("×CP/SP", "÷GA"),
        kind="convention",
        about="the name's own average times a constant that nothing recorded tells",
        misleads="off by that factor in every line",
        fix="look for a loss weight, or a division by a configured number of shards, micro-batches or tokens",
        evidence=seen_in("HF#48167,11919", "SW#9152,10084"),
        values=("nll", "entropy"),
        parameter=Parameter("factor − 1", "base", low=-1.0, least=1e-3),
        combines=False,
        case="loss",
    ),
)
"""Constant factors."""

DENOMINATORS: tuple[Hypothesis, ...] = (*COUNTS, *SCALES)
