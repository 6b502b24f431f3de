"""Hypotheses about averages of a part: of one rank, one micro-batch, one step."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.entries import Hypothesis
from logitbox.analysis.audit.hypotheses.links import seen_in

_LAST_MICRO = "a single micro-batch stands for the whole step: noisier, and off either way"

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
    Hypothesis(
        id="micro-pooled-cut",
        catalogue=("GATHER-CUT",),
        kind="bug",
        about="the plain mean over micro-batches of the token mean over all ranks, but at the end of the data over the first "
        "ranks alone, as where the ranks' counts are cut as if they were samples",
        misleads="whole ranks are left out of an epoch's last step and of an evaluation's last batch, either way; it matters most "
        "in short epochs and on small sets",
        fix="gather counts with accelerator.gather or reduce, not gather_for_metrics, which is for one row a sample",
        evidence=seen_in("TRL#7010", "read: accelerate 1.15.0, trl 1.16.0"),
        reduction="micro-pooled-cut",
        needs="record(epoch=…) in training",
        applies=("ranks", "cut ranks"),
        case="token_acc",
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
