"""Hypotheses about the value that every token adds: losses with something added, scaled logits, other entropies and hits."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.entries import Hypothesis, Parameter
from logitbox.analysis.audit.hypotheses.links import seen_in
from logitbox.dumps.spec import BETAS

LOSSES: tuple[Hypothesis, ...] = (
    Hypothesis(
        id="label-smoothing",
        catalogue=("SMOOTH",),
        kind="convention",
        about="the label-smoothed loss (1 − ε)·nll + ε·meanᵥ(−ln p)",
        misleads="usually too high: it never falls below ε·ln V, and its exponential is no perplexity",
        fix="log nll beside the smoothed loss",
        evidence=seen_in("OpenNMT-py#462", "tensor2tensor#117"),
        values=("nll",),
        parameter=Parameter("ε", "uniform_nll", minus_base=True, high=0.9, least=1e-4),
        case="loss",
    ),
    Hypothesis(
        id="z-loss",
        catalogue=("Z-LOSS",),
        kind="convention",
        about="nll + a·lse², the loss with the z-loss in it",
        misleads="too high, by a·mean lse²",
        fix="log nll and z-loss apart",
        evidence=seen_in("OLMo-core#702"),
        values=("nll",),
        parameter=Parameter("a", "lse2", least=1e-7),
        case="loss",
    ),
    Hypothesis(
        id="constant-offset",
        catalogue=("AUX", "KL-MIX"),
        kind="convention",
        about="nll plus a constant, as a router's auxiliary loss at balance or a KL term that hardly moves",
        misleads="too high, by coefficient × auxiliary loss",
        fix="log nll and what is added to it apart",
        evidence=seen_in("read: Mixtral in transformers 5.23.0, ms-swift 4.6.0"),
        values=("nll",),
        parameter=Parameter("offset", "1", least=1e-3),
        combines=False,
        case="loss",
    ),
    *(
        Hypothesis(
            id=f"logits-times-{beta:g}",
            catalogue=("SCALE",),
            kind="bug",
            about=f"nll of logits times {beta:g}, as where a scale or temperature is left out or applied twice",
            misleads="loss is off either way, while accuracy and ranks do not move",
            fix="compute the loss of the logits that the model really gives, after its scale or softcap",
            evidence=seen_in("unsloth#11277", "ml-cross-entropy#48"),
            values=("nll",),
            value=f"nll_beta_{beta:g}",
            needs="lse_beta='always'",
            case="eval_loss",
        )
        for beta in BETAS
    ),
    Hypothesis(
        id="clamped-logits",
        catalogue=("seed-001",),
        kind="bug",
        about="nll of logits that were clamped to ±50 first",
        misleads="wrong wherever a logit is beyond ±50, usually too high; a tie is made of all that are above",
        fix="do not clamp: log-softmax is stable by itself",
        evidence=("public code of the project's seed 001",),
        values=("nll",),
        value="nll_clamped",
        case="eval_loss",
    ),
    Hypothesis(
        id="composite",
        catalogue=("seed-000",),
        kind="convention",
        about="nll of the tokens outside the group + the group's own loss, each over its own tokens, a composite loss",
        misleads="not a cross-entropy: its exponential is no perplexity, and it cannot be held against the accuracy",
        fix="log both terms beside it",
        evidence=("the project's seed 000",),
        values=("nll",),
        terms=(("nll", "{rest}"), ("{group}.loss", "{group}.finite")),
        needs="ordered={…}",
        case="loss",
    ),
    Hypothesis(
        id="outside-group",
        catalogue=("seed-000",),
        kind="convention",
        about="nll of the tokens outside the ordered group alone, the base of a composite loss",
        misleads="tokens of the group are left out, either way",
        fix="name it the base loss",
        evidence=("the project's seed 000",),
        values=("nll",),
        terms=(("nll", "{rest}"),),
        needs="ordered={…}",
        case="loss",
    ),
)
"""Other losses than nll."""

_TOPK = "too low: what lies outside the best tokens is left out"


def _top_entropy(count: int | str, *, renormalised: bool) -> Hypothesis:
    """Of the best `count` tokens, or of as many as were recorded: "{k}"."""
    what = "made to add up to 1" if renormalised else "as they are"
    name = f"top{count}{'_renormalised' if renormalised else ''}"
    which = "recorded" if count == "{k}" else f"{count} best"
    return Hypothesis(
        id=f"entropy-{name.replace('_', '-').format(k='k')}",
        catalogue=("TOPK-H",),
        kind="convention",
        about=f"the entropy of the {which} tokens alone, their probabilities {what}",
        misleads=_TOPK,
        fix="compute the entropy over the full vocabulary, or name it top-k",
        evidence=seen_in("ART#555"),
        values=("entropy",),
        value=f"entropy_{name}",
        case="entropy",
    )


READINGS: tuple[Hypothesis, ...] = (
    *(_top_entropy(count, renormalised=again) for again in (False, True) for count in (5, 10, 20, "{k}")),
    *(
        Hypothesis(
            id=name,
            catalogue=("seed-001",),
            kind="convention",
            about=f"the entropy of the best token against all others, {unit}",
            misleads="never above ln 2 (1 bit): flat distributions look as sure as those between two tokens",
            fix="compute the entropy over the full vocabulary, or name it binary",
            evidence=("the project's seed 001",),
            values=("entropy",),
            value=value,
            case="entropy",
        )
        for name, unit, value in (
            ("binary-entropy", "in nats", "binary_entropy_nats"),
            ("binary-entropy-bits", "in bits", "binary_entropy"),
        )
    ),
    Hypothesis(
        id="binary-entropy-in-nats",
        catalogue=("seed-001", "BASE2"),
        kind="convention",
        about="the entropy of the best token against all others in nats, not in bits",
        misleads="lower than in bits, by ln 2",
        fix="divide by ln 2, or say nats",
        evidence=("the project's seed 001",),
        values=("binary_entropy",),
        value="binary_entropy_nats",
        case="train_entropy",
    ),
    Hypothesis(
        id="full-for-binary-entropy",
        catalogue=("seed-001",),
        kind="convention",
        about="the entropy over the full vocabulary in nats, not that of the best token against all others",
        misleads="higher wherever more than two tokens have some probability",
        fix="name it full entropy",
        evidence=("the project's seed 001",),
        values=("binary_entropy",),
        value="entropy",
        case="train_entropy",
    ),
    Hypothesis(
        id="surprisal-for-entropy",
        catalogue=("ENT-SENT",),
        kind="convention",
        about="the mean −ln p of the labels, an estimate of the entropy only where labels are drawn from the model",
        misleads="on given text this is the loss, and tells nothing of how sure the model is",
        fix="compute −Σ p ln p from the logits",
        evidence=seen_in("TRL#2281,2496,6121,6803"),
        values=("entropy",),
        value="nll",
        case="entropy",
    ),
    Hypothesis(
        id="ties-are-hits",
        catalogue=("TIES",),
        kind="convention",
        about="the share of tokens without a logit above gold's, so that ties count as hits",
        misleads="too high on coarse logits (bfloat16), where equal ones are many",
        fix="take the arg-max, the lowest id among equals, and compare ids",
        evidence=seen_in("tensorflow#13005"),
        values=("correct",),
        value="hit_tied",
        case="token_acc",
    ),
    Hypothesis(
        id="ties-are-hits-top5",
        catalogue=("TIES",),
        kind="convention",
        about="the share of tokens with fewer than five logits above gold's, so that ties count as hits",
        misleads="too high on coarse logits (bfloat16), where equal ones are many",
        fix="count a token among the five best only if it is one of five ids",
        evidence=seen_in("tensorflow#13005"),
        values=("correct_top5",),
        value="hit_tied_top5",
        case="token_acc_top5",
    ),
    Hypothesis(
        id="top5-for-top1",
        catalogue=("seed-000",),
        kind="bug",
        about="the share of tokens with gold among the five best, under the name of accuracy",
        misleads="too high: it is top-5 accuracy",
        fix="name it top-5, or take the arg-max",
        evidence=("the project's seed 000 has both, as token_acc and token_acc_top5",),
        values=("correct",),
        value="correct_top5",
        case="token_acc",
    ),
    Hypothesis(
        id="sequence-accuracy",
        catalogue=("SEQ-MASK",),
        kind="convention",
        about="the share of samples all of whose tokens are right",
        misleads="far too low for a token accuracy: one wrong token spoils a sample",
        fix="name it sequence accuracy",
        evidence=seen_in("SW#10049,10182"),
        values=("correct",),
        value="sequence_correct",
        reduction="sample-mean",
        case="eval_token_acc",
    ),
    Hypothesis(
        id="sequence-accuracy-unmasked",
        catalogue=("SEQ-MASK",),
        kind="bug",
        about="the share of samples all of whose tokens are right, the prompt's among them, as where the mask is ignored",
        misleads="next to 0, whatever the answers are",
        fix="leave positions without a label out before all() is taken",
        evidence=seen_in("SW#10049,10182"),
        values=("correct",),
        population=".not_pad",
        value="sequence_correct",
        reduction="sample-mean",
        needs="scope='all'",
        case="eval_token_acc",
    ),
)
"""Other entropies and hits."""

PER_TOKEN: tuple[Hypothesis, ...] = (*LOSSES, *READINGS)
