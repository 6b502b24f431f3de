"""Hypotheses about which label a row of logits is compared with."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.entries import Hypothesis
from logitbox.analysis.audit.hypotheses.links import seen_in

ALIGNMENT: tuple[Hypothesis, ...] = (
    Hypothesis(
        id="no-shift",
        catalogue=("NO-SHIFT", "NO-SHIFT-TRAIN"),
        kind="bug",
        about="an average over pairs of logits[t] and labels[t], labels that are not shifted",
        misleads="it tells how well the model repeats the token it has just read; where it is trained to, its loss falls to 0",
        fix="compare logits[:, :-1] with labels[:, 1:]",
        evidence=seen_in("composer#1913", "llm-foundry#288"),
        values=("nll", "correct"),
        population=".unshifted",
        value="{value}_unshifted",
        needs="probes=True",
        case="loss",
    ),
    Hypothesis(
        id="double-shift",
        catalogue=("DBL-SHIFT",),
        kind="bug",
        about="an average over pairs of logits[t] and labels[t + 2], labels that are shifted twice",
        misleads="too high a loss and too low an accuracy: the model is scored on a token it was not asked for",
        fix="shift either in the collator or in the loss, not in both",
        evidence=seen_in("HF#47394,47395,46898,3523,44642"),
        values=("nll", "correct"),
        population=".next",
        value="{value}_next",
        needs="probes=True",
        case="loss",
    ),
)
"""Labels that are shifted too little or too often."""
