"""Names that logs have for steps and epochs, and what keys are about."""

from __future__ import annotations

import re
from functools import lru_cache

from logitbox.dumps.definitions.entries import phase_of

STEPS = (
    "step",
    "global_step",
    "train/global_step",
    "trainer/global_step",
    "current_steps",
    "global_step/max_steps",
    "global_steps",
    "iteration",
    "iter",
    "steps",
    "_step",
)
"""The first of them that a row has is its step. W&B's own `_step` counts calls, so that it comes last."""
EPOCHS = ("epoch", "train/epoch", "epochs")
TOTALS = ("max_steps", "total_steps")
"""Steps that the run was to have, where a row tells them."""
SUMMARY = "train_runtime"
"""In the row that transformers' Trainer writes when a run is over."""
_MACHINE = re.compile(
    r"(?:runtime|per_second|timestamp|total_flos|percentage|memory|speed|elapsed|remaining|(?:^|[_/])time$)"
)
_METRIC = re.compile(
    r"loss|acc|perplexity|ppl|entropy|grad_norm|runtime|reward|nll|logps|bleu|rouge|score|error"
    r"|(?:^|[_/])(?:f1|auc|wer|cer|mse|mae|kl)(?:$|[_/])"
)
_MOST_KEYS = 10_000
_OF_EVAL = ("validation", "valid", "dev")
_NOT_KEYS = ("run", "phase", "split")


# A log has few keys and many rows, so that each key is looked at once.


@lru_cache(_MOST_KEYS)
def is_of_machine(key: str) -> bool:
    """Whether a key is about the machine: two processes that log the same differ here."""
    return _MACHINE.search(key) is not None


def is_metric(name: str) -> bool:
    """Whether a dict with such a number is a logged row, as far as its names tell."""
    return _METRIC.search(name.lower()) is not None


@lru_cache(_MOST_KEYS)
def is_value(name: str) -> bool:
    """Whether a name of a row can be a logged key: neither its step nor its epoch, nor what tells it from other rows."""
    name = name.lower()
    return bool(name) and name not in STEPS and name not in EPOCHS and name not in (*_NOT_KEYS, *TOTALS)


@lru_cache(_MOST_KEYS)
def phase_of_key(key: str, phase: str | None = None, phases: frozenset[str] = frozenset()) -> str:
    """The phase that a key's prefix names, else that of its row, else train."""
    if key.startswith(tuple(f"{name}{mark}" for name in _OF_EVAL if name not in phases for mark in "_/")):
        return "eval"
    return (phase_of(key, phases) if key else None) or phase or "train"
