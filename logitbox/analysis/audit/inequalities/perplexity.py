"""Perplexity against the loss."""

from __future__ import annotations

from logitbox.analysis.audit.inequalities.entries import Inequality

_NEEDS = {"ppl": "nll@{p}#exp", "loss": "nll@{p}#identity"}

INEQUALITIES: tuple[Inequality, ...] = (
    Inequality(
        "perplexity-below",
        _NEEDS,
        lambda at: at["ppl"].exp(),
        lambda at: at["loss"].exp(),
        "perplexity ≥ exp(loss)",
        "Perplexity is exp(mean loss), or, as a mean of exp, above it; only a cap (exp(20) or 10⁶, which are known) brings it below.",
        "Look for 2 in place of e (compare 2^loss), a cap, and a loss that holds more than cross-entropy or is of other tokens.",
    ),
    Inequality(
        "perplexity-above",
        _NEEDS,
        lambda at: at["loss"].exp(),
        lambda at: at["ppl"].exp(),
        "exp(loss) ≥ perplexity",
        "A perplexity above exp(loss) is a mean of exp over batches or steps (a convention, always above), or of other tokens.",
        "Take exp of the mean loss.",
        convicts=False,
        converse="perplexity-below",
    ),
)  # fmt: skip
