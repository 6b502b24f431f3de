"""What is summed over tokens, defined once for both evaluations.

A measure is a function of a record's columns, written with operators that mean the same for torch tensors
(live, on the device) and NumPy arrays (afterwards, from the dump). `logitbox.analysis` adds reductions on top.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """A per-token quantity.

    Args:
        name: its name in tallies.
        needs: columns it reads.
        value: columns to an array of shape [rows] (numbers or booleans).
    """

    name: str
    needs: tuple[str, ...]
    value: Callable[[Columns], Any]


def rank_of_gold(columns: Columns) -> Any:
    """Rank of the gold token, 0 the best; among equal logits the lowest id comes first."""
    return columns["n_gt"] + columns["n_eq_before"]


def _probability(log_loss: Any) -> Any:
    """e^{−x} for tensors and arrays alike."""
    return 2.718281828459045 ** (-log_loss)


_RANK = ("n_gt", "n_eq_before")

TOKEN_MEASURES: tuple[Measure, ...] = (
    Measure("nll", ("nll",), lambda c: c["nll"]),
    Measure("entropy", ("entropy",), lambda c: c["entropy"]),
    Measure("correct", _RANK, lambda c: rank_of_gold(c) < 1),
    Measure("correct_top5", _RANK, lambda c: rank_of_gold(c) < 5),
    Measure("confidence", ("top_nll",), lambda c: _probability(c["top_nll"])),
)
"""Measures every dump has."""

LIVE_KEYS = {"nll": "nll", "entropy": "entropy", "correct": "token_acc", "correct_top5": "token_acc_top5"}
"""Measure to key of its token mean, in the trainer's log."""


def phase_prefix(phase: str) -> str:
    """Key prefix of a phase in seed 000's family: bare for train, `<phase>_` otherwise."""
    return "" if phase == "train" else f"{phase}_"
