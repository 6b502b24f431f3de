"""Ways to average the tokens of one logged line: how they are grouped, weighted and scaled."""

from __future__ import annotations

from dataclasses import replace

from logitbox.analysis.audit.hypotheses.entries import Factor, Level, Reduction

BATCH = ("step", "micro", "rank")
"""A micro-batch of one rank, or an eval batch of one."""

ACROSS_RANKS = ("step", "micro")
"""The micro-batches of all ranks that ran at the same time."""

TOKEN_MEAN = Reduction("token-mean", "Σ over all tokens of the line ÷ their number")
STEP_MEAN = Reduction("step-mean", "plain mean of the steps' token means", (Level(("step",)),))
RANK_MEAN = Reduction(
    "rank-mean", "plain mean of token means of each step and rank", (Level(("step", "rank")),)
)
MICRO_MEAN = Reduction("micro-mean", "plain mean of the micro-batches' token means", (Level(BATCH),))

_AVERAGES: tuple[Reduction, ...] = (
    TOKEN_MEAN,
    STEP_MEAN,
    RANK_MEAN,
    MICRO_MEAN,
    Reduction("rank-means", "plain mean of the ranks' token means over the whole line", (Level(("rank",)),)),
    Reduction(
        "micro-mean-by-step",
        "plain mean of steps, each the plain mean of its micro-batches' token means",
        (Level(BATCH), Level(("step",))),
    ),
    Reduction(
        "micro-pooled",
        "plain mean of micro-batches, each a token mean over all ranks",
        (Level(ACROSS_RANKS),),
    ),
    Reduction("sample-mean", "plain mean of the samples' token means", per="samples"),
    Reduction("sequence-sum", "Σ over tokens ÷ number of sequences", per="rows"),
    Reduction("eval-batch", "batches' token means, weighted by their rows", (Level(BATCH, "rows"),)),
    Reduction(
        "eval-batch-pooled",
        "batches' token means over all ranks, weighted by their rows",
        (Level(ACROSS_RANKS, "rows"),),
    ),
    Reduction(
        "eval-batch-kept",
        "batches' token means, weighted by their rows without those that the sampler repeated",
        (Level(BATCH, "unrepeated"),),
    ),
    Reduction(
        "pad-weight",
        "batches' token means, weighted by their positions with padding",
        (Level(BATCH, "positions"),),
    ),
    Reduction(
        "pad-weight-pooled",
        "batches' token means over all ranks, weighted by their positions with padding",
        (Level(ACROSS_RANKS, "positions"),),
    ),
)

_PARTS_OF_IT: tuple[Reduction, ...] = (
    Reduction("rank-0", "token mean of rank 0 alone", keep="rank_0"),
    Reduction(
        "rank-0-step-mean",
        "plain mean of rank 0's token means of the steps",
        (Level(("step",)),),
        keep="rank_0",
    ),
    Reduction(
        "rank-0-micro-mean",
        "plain mean of rank 0's micro-batches' token means",
        (Level(BATCH),),
        keep="rank_0",
    ),
    Reduction(
        "micro-pooled-cut",
        "plain mean of micro-batches, each a token mean over all ranks, at the end of the data over the first alone",
        (Level(ACROSS_RANKS),),
        keep="first_ranks_at_end",
    ),
    Reduction(
        "eval-batch-finite",
        "batches' token means, weighted by their rows, without batches that have a token that is not finite",
        (Level(BATCH, "rows"),),
        keep="finite",
    ),
    Reduction("last-micro", "token mean of every step's last micro-batch alone", keep="last_micro"),
    Reduction(
        "last-micro-by-step",
        "plain mean over steps of the token mean of their last micro-batch alone",
        (Level(("step",)),),
        keep="last_micro",
    ),
    Reduction(
        "last-micro-of-line",
        "token mean of the last micro-batch of the line's last step alone",
        keep="last_micro_of_last_step",
    ),
    Reduction("last-step", "token mean of the line's last step alone", keep="last_step"),
    Reduction(
        "last-step-micro-mean",
        "plain mean of the micro-batches' token means of the line's last step alone",
        (Level(BATCH),),
        keep="last_step",
    ),
)

_LINE_BEFORE: tuple[Reduction, ...] = (
    replace(
        TOKEN_MEAN,
        name="line-before",
        about="token mean of the line's steps and the last step of the line before",
        window="line+1",
    ),
    replace(
        STEP_MEAN,
        name="line-before-step-mean",
        about="plain mean of the steps' token means, the last step of the line before among them",
        window="line+1",
    ),
)

_DENOMINATORS: tuple[Reduction, ...] = (
    Reduction(
        "per-position", "Σ over tokens ÷ all positions, ignored ones and padding among them", per="positions"
    ),
    Reduction(
        "per-predicted", "Σ over tokens ÷ all predicted positions, ignored ones among them", per="predicted"
    ),
    Reduction(
        "micro-mean-per-position",
        "plain mean of micro-batches, each Σ over tokens ÷ all its positions",
        (Level(BATCH),),
        per="positions",
    ),
    Reduction(
        "micro-mean-per-predicted",
        "plain mean of micro-batches, each Σ over tokens ÷ all its predicted positions",
        (Level(BATCH),),
        per="predicted",
    ),
    Reduction(
        "first-labels-in-count",
        "Σ over tokens ÷ (tokens + rows whose first label is supervised)",
        per="tokens+first_labels",
    ),
    Reduction(
        "first-labels-in-count-step-mean",
        "plain mean of steps, each Σ over tokens ÷ (tokens + rows whose first label is supervised)",
        (Level(("step",)),),
        per="tokens+first_labels",
    ),
    Reduction("per-byte", "Σ over tokens ÷ their bytes", per="bytes"),
    Reduction("per-weight", "Σ over tokens ÷ Σ of their loss weights", per="weight"),
    Reduction(
        "micro-mean-empty-0",
        "plain mean of the micro-batches' token means, 0 for those without labels",
        (Level(BATCH),),
        empty_is_zero=True,
    ),
    Reduction(
        "micro-pooled-empty-0",
        "plain mean of micro-batches, each a token mean over all ranks, 0 for those without labels",
        (Level(ACROSS_RANKS),),
        empty_is_zero=True,
    ),
    Reduction(
        "micro-mean-by-step-empty-0",
        "plain mean of steps, each the plain mean of its micro-batches, 0 for those without labels",
        (Level(BATCH), Level(("step",))),
        empty_is_zero=True,
    ),
)

FACTORS: dict[str, tuple[Factor, str]] = {
    "times-accumulation": ("accumulation", "times the micro-batches of a step"),
    "over-accumulation": ("1/accumulation", "divided by the micro-batches of a step"),
    "times-world": ("world", "times the number of ranks"),
    "over-world": ("1/world", "divided by the number of ranks"),
    "times-accumulation-after-first": (
        "accumulation_after_first",
        "times the micro-batches of a step, but for the first line",
    ),
}
"""Name to the factor and what it is, in words."""

SCALED: tuple[str, ...] = (
    "token-mean",
    "step-mean",
    "rank-mean",
    "micro-mean",
    "eval-batch",
    "eval-batch-pooled",
)
"""Averages that are known to have been scaled."""


def scaled_name(base: str, factor: str) -> str:
    """Name of an average times a factor, such as "micro-mean-times-accumulation"."""
    return factor if base == "token-mean" else f"{base}-{factor}"


def _scaled(averages: tuple[Reduction, ...]) -> tuple[Reduction, ...]:
    """Every average of `SCALED` with every factor."""
    return tuple(
        replace(base, name=scaled_name(base.name, name), about=f"{base.about}, {about}", factor=factor)
        for base in averages
        if base.name in SCALED
        for name, (factor, about) in FACTORS.items()
    )


REDUCTIONS: dict[str, Reduction] = {
    reduction.name: reduction
    for reduction in (*_AVERAGES, *_PARTS_OF_IT, *_LINE_BEFORE, *_DENOMINATORS, *_scaled(_AVERAGES))
}
"""Every reduction by its name."""
