"""Hypotheses about what is done to the average: exponentials, caps, units, rounding."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.entries import Hypothesis
from logitbox.analysis.audit.hypotheses.links import seen_in

_MEAN_EXP = (
    "too high, wherever the groups differ: the mean of exponentials is above the exponential of the mean"
)

_EXP = ("exp", "exp_cap_1e6")
"""Transforms of perplexities."""

SCALINGS: tuple[Hypothesis, ...] = (
    *(
        Hypothesis(
            id=f"mean-exp-{name}",
            catalogue=("EXP-MEAN",),
            kind="convention",
            about=f"the mean of exp(loss) over {groups}, not exp of the mean",
            misleads=_MEAN_EXP,
            fix="average the loss over all tokens and take the exponential once",
            evidence=seen_in("keras#13537", "read: evaluate mean_perplexity"),
            reduction=reduction,
            transform="mean_exp",
            transforms=_EXP,
            applies=applies,
            case=case,
        )
        for name, groups, reduction, applies, case in (
            ("micro", "micro-batches", "micro-mean", ("micro-batches",), "perplexity"),
            (
                "micro-pooled",
                "micro-batches, each over all ranks",
                "micro-pooled",
                ("ranks", "micro-batches"),
                "perplexity",
            ),
            ("step", "steps", "step-mean", ("steps",), "perplexity"),
            ("rank", "steps and ranks", "rank-mean", ("ranks",), "perplexity"),
            (
                "eval-batch",
                "batches, weighted by their rows",
                "eval-batch",
                ("micro-batches",),
                "eval_perplexity",
            ),
        )
    ),
    Hypothesis(
        id="mean-exp-micro-capped",
        catalogue=("EXP-MEAN", "seed-001"),
        kind="convention",
        about="the mean over micro-batches of exp(loss), each at most 10⁶",
        misleads=f"{_MEAN_EXP}; one capped micro-batch outweighs all others",
        fix="average the loss over all tokens and take the exponential once",
        evidence=("public code of the project's seed 001",),
        reduction="micro-mean",
        transform="mean_exp_cap_1e6",
        transforms=_EXP,
        applies=("micro-batches",),
        case="test_ppl",
    ),
    Hypothesis(
        id="cap-at-e20",
        catalogue=("CAP20",),
        kind="convention",
        about="exp(min(20, loss)), at most 485165195.4",
        misleads="too low wherever the loss is above 20; a plateau there",
        fix="look at the loss where perplexity stands still",
        evidence=seen_in("read: Megatron-LM 001b00c"),
        transform="exp_cap_20",
        transforms=_EXP,
        case="test_ppl",
    ),
    Hypothesis(
        id="cap-at-1e6",
        catalogue=("seed-001",),
        kind="convention",
        about="exp(loss), at most 10⁶",
        misleads="too low wherever the loss is above 13.8; a plateau there",
        fix="look at the loss where perplexity stands still",
        evidence=("the project's seed 001",),
        transform="exp_cap_1e6",
        transforms=("exp",),
        case="test_ppl",
    ),
    Hypothesis(
        id="uncapped",
        catalogue=("seed-001",),
        kind="convention",
        about="exp(loss) without the cap of 10⁶",
        misleads="above the capped one wherever the loss is above 13.8",
        fix="none is needed; compare it with uncapped perplexities only",
        evidence=("the project's seed 001 states the cap",),
        transform="exp",
        transforms=("exp_cap_1e6",),
        case="test_reasoning_perplexity",
    ),
    Hypothesis(
        id="bits",
        catalogue=("BASE2",),
        kind="convention",
        about="in bits, not nats",
        misleads="higher, by 1/ln 2 = 1.4427",
        fix="say bits in the name, or multiply by ln 2",
        evidence=seen_in("FS#466,1553", "evaluate#242"),
        values=("nll", "entropy"),
        transform="bits",
        transforms=("identity",),
        case="loss",
    ),
    Hypothesis(
        id="power-of-2",
        catalogue=("BASE2",),
        kind="bug",
        about="2 to the loss in nats, where the exponential would be right",
        misleads="too low: the power ln 2 = 0.693 of the perplexity",
        fix="use exp for nats, 2^x only for bits",
        evidence=seen_in("FS#466,1553", "evaluate#242"),
        transform="power_2",
        transforms=_EXP,
        case="perplexity",
    ),
    Hypothesis(
        id="exp-of-bits",
        catalogue=("BASE2",),
        kind="bug",
        about="exp of the loss in bits, where 2^x would be right",
        misleads="too high: the power 1/ln 2 = 1.443 of the perplexity",
        fix="use exp for nats, 2^x only for bits",
        evidence=seen_in("FS#466,1553", "evaluate#242"),
        transform="exp_of_bits",
        transforms=_EXP,
        case="perplexity",
    ),
    Hypothesis(
        id="bfloat16",
        catalogue=("BF16",),
        kind="convention",
        about="rounded to bfloat16, which has 8 significant bits",
        misleads="off by up to 0.4 %, either way; progress shows as steps",
        fix="keep the running sum and what is logged in float32",
        evidence=seen_in("optax#1020", "modalities#464", "xla#2425"),
        transform="bfloat16",
        transforms=("identity",),
        case="loss",
    ),
    Hypothesis(
        id="bfloat16-micro-mean",
        catalogue=("BF16", "MB-MEAN"),
        kind="convention",
        about="the plain mean of the micro-batches' token means, each rounded to bfloat16",
        misleads="off by up to 0.4 %, and tokens of short micro-batches weigh more, either way",
        fix="reduce sums and counts in float32 and divide once",
        evidence=seen_in("optax#1020", "modalities#464", "xla#2425"),
        reduction="micro-mean",
        transform="mean_bfloat16",
        transforms=("identity",),
        applies=("micro-batches",),
        case="loss",
    ),
)
"""Other transforms than the name's own."""
