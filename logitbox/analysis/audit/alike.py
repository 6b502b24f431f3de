"""When two hypotheses are one number."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.entries import Hypothesis, Weight
from logitbox.analysis.audit.hypotheses.registry import HYPOTHESES, REDUCTIONS

_ENTRIES = {entry.id: entry for entry in HYPOTHESES}

_EQUAL: dict[Weight, str] = {
    "positions": "the same where padded sizes are equal",
    "rows": "the same where batches have as many rows",
    "unrepeated": "the same where batches have as many rows",
}
"""Weight of an average to where it is a plain mean."""


def tie_told(hypothesis: str) -> str:
    """A hypothesis that fits as well, with what must be known of it: whether it is a bug, and when it is the other's number.

    Args:
        hypothesis: its id, of two together with a "+".
    """
    entries = [_ENTRIES[name] for name in hypothesis.split("+") if name in _ENTRIES]
    remarks = ["a bug"] * any(entry.kind == "bug" for entry in entries)
    remarks += dict.fromkeys(_EQUAL[weight] for entry in entries for weight in _weights(entry))
    return f"{hypothesis} ({'; '.join(remarks)})" if remarks else hypothesis


def _weights(entry: Hypothesis) -> list[Weight]:
    """Weights of its averages that may turn out equal."""
    reduction = REDUCTIONS.get(entry.reduction)
    return [] if reduction is None else [level.weight for level in reduction.levels if level.weight in _EQUAL]
