"""Hypotheses about how tokens are grouped and weighted: averages of averages."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.entries import Hypothesis
from logitbox.analysis.audit.hypotheses.links import seen_in

_COUNT_TOKENS = "sum the values and the token counts over the whole window, and divide once"
_FEW_WEIGH_MORE = (
    "tokens in {groups} that have few weigh more than those in {groups} that have many: off by Cov(tokens, mean) ÷ mean tokens, "
    "either way"
)


def _weighing(groups: str) -> str:
    return _FEW_WEIGH_MORE.format(groups=groups)


_PER_ROW = "tokens in batches with few of them a row weigh more, either way; it changes with the batch size"

_MICRO = Hypothesis(
    id="micro-mean",
    catalogue=("MB-MEAN", "RANK-ACC"),
    kind="convention",
    about="the plain mean of the micro-batches' token means, each rank's its own",
    misleads=_weighing("micro-batches"),
    fix=_COUNT_TOKENS,
    evidence=seen_in(
        "HF#34242",
        "unsloth-zoo#6",
        "composer#2241",
        "TRL#2175,4302,4814",
        "read: transformers 4.45.2, trl 0.29",
    ),
    reduction="micro-mean",
    applies=("micro-batches",),
    case="loss",
)

AVERAGING: tuple[Hypothesis, ...] = (
    _MICRO,
    Hypothesis(
        id="micro-mean-by-step",
        catalogue=("MB-MEAN",),
        kind="convention",
        about="the mean over steps of the plain mean of each step's micro-batches",
        misleads=_weighing("micro-batches"),
        fix=_COUNT_TOKENS,
        evidence=_MICRO.evidence,
        reduction="micro-mean-by-step",
        applies=("micro-batches", "steps"),
        case="loss",
    ),
    Hypothesis(
        id="step-mean",
        catalogue=("STEP-MEAN",),
        kind="convention",
        about="the plain mean over steps of each step's token mean",
        misleads=f"{_weighing('steps')}; the difference is small where steps are of like size",
        fix=f"{_COUNT_TOKENS}; or compare it only with numbers averaged in the same way",
        evidence=seen_in("read: transformers 5.23.0, ms-swift 4.6.0"),
        reduction="step-mean",
        applies=("steps",),
        case="loss",
    ),
    Hypothesis(
        id="rank-mean",
        catalogue=("RANK-MEAN",),
        kind="convention",
        about="the plain mean over steps and ranks of each rank's own token mean",
        misleads=_weighing("ranks"),
        fix="set average_tokens_across_devices=True, or reduce sums and counts over ranks before dividing",
        evidence=seen_in(
            "HF#34242", "read: transformers 4.46 and later with average_tokens_across_devices off"
        ),
        reduction="rank-mean",
        applies=("ranks",),
        case="loss",
    ),
    Hypothesis(
        id="rank-means",
        catalogue=("RANK-ACC",),
        kind="convention",
        about="the plain mean over ranks of each rank's token mean over the window",
        misleads=_weighing("ranks"),
        fix="reduce sums and counts over ranks before dividing",
        evidence=seen_in("TRL#4302,4814", "read: trl 0.29"),
        reduction="rank-means",
        applies=("ranks", "steps"),
        case="token_acc",
    ),
    Hypothesis(
        id="micro-pooled",
        catalogue=("TRL-ACC",),
        kind="convention",
        about="the plain mean over micro-batches of the token mean over all ranks",
        misleads=_weighing("micro-batches"),
        fix=_COUNT_TOKENS,
        evidence=seen_in("read: trl 0.17 to 1.16"),
        reduction="micro-pooled",
        applies=("ranks", "micro-batches"),
        case="token_acc",
    ),
    Hypothesis(
        id="sample-mean",
        catalogue=("SAMPLE-MEAN",),
        kind="convention",
        about="the plain mean over samples of each sample's token mean",
        misleads=_weighing("samples"),
        fix=f"{_COUNT_TOKENS}; or call it a mean over samples",
        evidence=seen_in("LF#8187", "HF#34510"),
        reduction="sample-mean",
        case="eval_token_acc",
    ),
    Hypothesis(
        id="eval-batch",
        catalogue=("EVAL-BATCH",),
        kind="convention",
        about="the mean of the batches' token means, weighted by their rows and not by their tokens",
        misleads=_PER_ROW,
        fix=_COUNT_TOKENS,
        evidence=seen_in("HF#39241,24839,41898", "TT#4167", "MG#7207"),
        reduction="eval-batch",
        applies=("evaluation", "micro-batches"),
        case="eval_loss",
    ),
    Hypothesis(
        id="eval-batch-pooled",
        catalogue=("EVAL-BATCH",),
        kind="convention",
        about="the mean of the batches' token means over all ranks, weighted by their rows",
        misleads=_PER_ROW,
        fix=_COUNT_TOKENS,
        evidence=seen_in("HF#39241", "read: transformers 5.23.0"),
        reduction="eval-batch-pooled",
        applies=("evaluation", "ranks", "micro-batches"),
        case="eval_loss",
    ),
    Hypothesis(
        id="eval-batch-kept",
        catalogue=("EVAL-BATCH", "DUP", "GATHER-CUT"),
        kind="convention",
        about="the mean of the batches' token means, repeated samples' tokens among them, weighted by their rows that are "
        "not repeated",
        misleads=f"{_PER_ROW}; a batch's mean is partly that of samples seen before",
        fix=f"{_COUNT_TOKENS}; repeated samples count in neither",
        evidence=seen_in("read: accelerate 1.15.0, transformers 5.23.0"),
        population="{population}.duplicates",
        reduction="eval-batch-kept",
        needs="record(flags={'duplicate': …})",
        applies=("evaluation", "duplicates"),
        case="eval_loss",
    ),
    # In training, too: there the running average takes the place of the batch, so that order decides; no average says that.
    Hypothesis(
        id="eval-batch-finite",
        catalogue=("NAN-HIDE",),
        kind="convention",
        about="the mean of the batches' token means, weighted by their rows, in which batches whose loss is infinite or NaN "
        "are left out",
        misleads="batches that overflow do not show at all; what is left may be the easy ones",
        fix="set logging_nan_inf_filter=False, and find out which tokens are not finite",
        evidence=seen_in("TRL#6702", "read: transformers 5.23.0"),
        values=("nll",),
        reduction="eval-batch-finite",
        applies=("evaluation", "nonfinite"),
        case="predict_loss",
    ),
    Hypothesis(
        id="pad-weight",
        catalogue=("PAD-WEIGHT",),
        kind="bug",
        about="the mean of the batches' token means, weighted by their padded size",
        misleads="batches with much padding weigh more than their tokens do, either way",
        fix="weight every batch by its labelled tokens",
        evidence=seen_in("burn#5577", "PL#2924", "composer#3273,3677"),
        reduction="pad-weight",
        applies=("micro-batches",),
        case="eval_token_acc",
    ),
    Hypothesis(
        id="pad-weight-pooled",
        catalogue=("PAD-WEIGHT",),
        kind="bug",
        about="the mean of the batches' token means over all ranks, weighted by their padded size",
        misleads="batches with much padding weigh more than their tokens do, either way",
        fix="weight every batch by its labelled tokens",
        evidence=seen_in("burn#5577", "PL#2924"),
        reduction="pad-weight-pooled",
        applies=("ranks", "micro-batches"),
        case="eval_loss",
    ),
    *(
        Hypothesis(
            id=f"{average}-empty-0",
            catalogue=("EMPTY",),
            kind="bug",
            about=f"{about}, in which micro-batches without any label count as 0",
            misleads="too low: the mean shrinks by the share of micro-batches without labels",
            fix="leave micro-batches without labels out, or sum values and counts and divide once",
            evidence=seen_in("LF#10719", "read: ms-swift 4.6.0"),
            reduction=f"{average}-empty-0",
            applies=("micro-batches",),
            case="loss",
        )
        for average, about in (
            ("micro-mean", "the plain mean of the micro-batches' token means"),
            ("micro-mean-by-step", "the mean over steps of the plain mean of each step's micro-batches"),
            ("micro-pooled", "the plain mean over micro-batches of the token mean over all ranks"),
        )
    ),
)
"""Averages of averages over all tokens of the window."""
