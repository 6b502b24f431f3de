"""Hypotheses about how tokens are grouped and weighted: averages of averages, and averages of a part."""

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

MEANS: tuple[Hypothesis, ...] = (
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
            misleads="too low, by the share of micro-batches without labels",
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

_LAST_MICRO = "noise of a single micro-batch stands for the whole step, either way"

PARTS: tuple[Hypothesis, ...] = (
    *(
        Hypothesis(
            id=name,
            catalogue=("RANK0",),
            kind="bug",
            about=f"{about} of rank 0 alone",
            misleads="the other ranks' tokens are left out, either way",
            fix="reduce sums and counts over ranks before rank 0 logs",
            evidence=seen_in("mmdetection#1670", "accelerate#399", "read: ms-swift 3.0.0"),
            reduction=name,
            applies=("ranks", *applies),
            case="token_acc",
        )
        for name, about, applies in (
            ("rank-0", "the token mean", ()),
            ("rank-0-step-mean", "the plain mean of the steps' token means", ("steps",)),
            ("rank-0-micro-mean", "the plain mean of the micro-batches' token means", ()),
        )
    ),
    *(
        Hypothesis(
            id=name,
            catalogue=("LAST-MB",),
            kind="bug",
            about=about,
            misleads=_LAST_MICRO,
            fix="accumulate values and counts over all micro-batches of the step",
            evidence=seen_in("DS#3367", "allennlp#4706"),
            reduction=name,
            applies=applies,
            case="loss",
        )
        for name, about, applies in (
            ("last-micro", "the token mean of every step's last micro-batch alone", ("accumulation",)),
            (
                "last-micro-by-step",
                "the plain mean over steps of their last micro-batch's token mean",
                ("accumulation", "steps"),
            ),
            (
                "last-micro-of-line",
                "the token mean of the last micro-batch before it was logged",
                ("accumulation", "steps"),
            ),
        )
    ),
    *(
        Hypothesis(
            id=name,
            catalogue=("LAST-STEP",),
            kind="convention",
            about=about,
            misleads="it is noisier than its name says: the other steps since the line before are left out",
            fix="log every step, or accumulate over the window",
            evidence=seen_in("read: torchtune 0.6.1"),
            reduction=name,
            applies=("steps",),
            case="loss",
        )
        for name, about in (
            ("last-step", "the token mean of the last step alone"),
            ("last-step-micro-mean", "the plain mean of the last step's micro-batches' token means"),
        )
    ),
    *(
        Hypothesis(
            id=name,
            catalogue=("RESUME",),
            kind="bug",
            about=f"{about} of the window and of the last step of the line before",
            misleads="one step is counted in two lines, either way",
            fix="reset the accumulated values after every line, also when training is resumed",
            evidence=seen_in("MG#6237"),
            reduction=name,
            case="loss",
        )
        for name, about in (
            ("line-before", "the token mean"),
            ("line-before-step-mean", "the plain mean of the steps' token means"),
        )
    ),
)
"""Averages that leave tokens of the window out, or take some from beside it."""

AVERAGING: tuple[Hypothesis, ...] = (*MEANS, *PARTS)
