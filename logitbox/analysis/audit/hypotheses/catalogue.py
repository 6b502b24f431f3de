"""The 57 conventions and bugs of the evidence catalogue: which hypotheses show them, or why a dump cannot."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.registry import HYPOTHESES

SECTIONS: dict[str, tuple[str, ...]] = {
    "averaging": (
        "MB-MEAN",
        "RANK-MEAN",
        "STEP-MEAN",
        "SAMPLE-MEAN",
        "EVAL-BATCH",
        "TRL-ACC",
        "RANK-ACC",
        "PAD-WEIGHT",
        "RANK0",
        "ACC-STEPS",
        "×GA",
        "÷GA",
        "×WORLD",
        "×CP/SP",
        "÷MB twice",
        "DENOM+ROW",
        "LAST-MB",
        "LAST-STEP",
        "RESUME",
        "BUCKET",
        "NAN-HIDE",
        "DUP",
        "GATHER-CUT",
    ),
    "token set": (
        "PROMPT",
        "PAD-LBL",
        "IGN-WRONG",
        "SUM/ALL",
        "EOS±",
        "PACK-EDGE",
        "IMG",
        "BOS",
        "STRIDE",
        "EMPTY",
        "ENT-SET",
        "SEQ-MASK",
    ),
    "alignment": (
        "NO-SHIFT",
        "NO-SHIFT-TRAIN",
        "DBL-SHIFT",
        "SHARD-EDGE",
        "ROW-ORDER",
    ),
    "value": (
        "SMOOTH",
        "AUX",
        "Z-LOSS",
        "KL-MIX",
        "SCALE",
        "BF16",
        "DROPOUT",
        "NO-LOGITS",
    ),
    "transform": (
        "EXP-MEAN",
        "CAP20",
        "BASE2",
        "UNIT",
        "ENT-SENT",
        "TOPK-H",
        "TIES",
        "ECE-EDGE",
        "MACRO-F1",
    ),
}
"""Ids of the catalogue, by section."""

UNSEEN: dict[str, str] = {
    "BUCKET": "the number mixes training with evaluation; a key is compared with the tokens of one phase",
    "BOS": "another prefix gives other logits: record both ways and compare the dumps",
    "STRIDE": "another window gives other contexts and so other logits: record both ways and compare the dumps",
    "SHARD-EDGE": "where context or sequence parallelism cut a sequence is not recorded",
    "ROW-ORDER": "values of one sample stand under another's name; sums over a whole batch are the same",
    "DROPOUT": "dropout gives other logits: record in each mode and compare the dumps",
    "NO-LOGITS": "the metric is absent, not wrong",
    "ECE-EDGE": "a calibration error is no sum over micro-batches; `logitbox calibration` gives it, with its edges stated",
    "MACRO-F1": "a macro average over classes is no sum over micro-batches; `logitbox.analysis.classification` gives it",
}
"""Id in the catalogue to why a dump cannot show it."""

CATALOGUE: dict[str, tuple[str, ...] | str] = {
    name: UNSEEN.get(name) or tuple(entry.id for entry in HYPOTHESES if name in entry.catalogue)
    for names in SECTIONS.values()
    for name in names
}
"""All 57 ids: hypotheses that name them, or the reason in words why there are none."""

OTHER_SOURCES: dict[str, str] = {
    "seed-000": "the project's seed 000: composite loss of ordered groups, top-5 beside top-1",
    "seed-001": "the project's seed 001 and its public code: binary entropies, caps, masks of types, clamped logits",
    "percent": "accuracies that are logged in percent",
    "inequality-1": "the catalogue's first inequality in its weighted form: loss and accuracy weighted differently",
}
"""Where hypotheses beyond the catalogue are from."""
