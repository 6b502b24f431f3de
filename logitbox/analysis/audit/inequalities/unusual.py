"""Figures that are possible but rare in sound runs: noticed, never convicted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import log

import numpy as np

from logitbox.analysis.audit.inequalities.entries import Known
from logitbox.analysis.audit.inequalities.interval import Float
from logitbox.analysis.audit.inequalities.table import CAPS, Table, is_cap
from logitbox.analysis.audit.result import Notice

HIGHEST_RATIO = 15.0
ENTROPY_RATIOS = (0.7, 1.5)
LARGEST_VOCABULARY = 262_144
"""Of widely used models; where V is not known."""

START_FACTOR, START_MARGIN = 1.15, 0.5
"""Of ln V, and nats: a fresh model starts a little above ln V."""

_ORDERED = re.compile(r".+\.(loss|gate|soft_ce|w1)")
"""Values of an ordered group."""


def _pairs(table: Table, one: str, other: str) -> Iterator[tuple[Known, Known]]:
    """Keys of two values over all tokens of one stream, neither of them transformed."""
    for known in table.streams.values():
        first, second = (
            [k for k in known if (k.value, k.population, k.transform) == (v, "", "identity")]
            for v in (one, other)
        )
        yield from ((a, b) for a in first for b in second)


def loss_by_accuracy(table: Table) -> Iterator[Notice]:
    """Ratio loss/((1 − acc) ln 2) above 15: sure and wrong, or an accuracy of other tokens."""
    for loss, acc in _pairs(table, "nll", "correct"):
        wrong = (1 - acc.interval).clipped(0.0) * log(2)
        with np.errstate(invalid="ignore", divide="ignore"):
            least = np.where(wrong.high > 0, loss.interval.low / wrong.high, 0.0)
            ratio = loss.interval.value / wrong.value
        if (least > HIGHEST_RATIO).any():
            worst = int(np.nanargmax(least))
            told = (
                f"The loss is {ratio[worst]:.3g} times (1 − acc)·ln 2, its least at this accuracy; {HIGHEST_RATIO:g} is rare. "
                "The model is sure where it is wrong (often before the first steps), or the accuracy is of easier tokens."
            )
            count = int((least > HIGHEST_RATIO).sum())
            yield table.notice("loss-by-accuracy", worst, (loss.key, acc.key), told, count)


def loss_by_entropy(table: Table) -> Iterator[Notice]:
    """Loss over entropy outside 0.7 to 1.5: a calibrated model has both equal."""
    low, high = ENTROPY_RATIOS
    for loss, entropy in _pairs(table, "nll", "entropy"):
        a, b = loss.interval, entropy.interval
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(b.value > 0, a.value / b.value, np.nan)
            odd = (a.high < low * b.low) | (a.low > high * b.high)
        odd &= np.isfinite(ratio) & (ratio > 0)
        if odd.any():
            worst = int(np.argmax(np.where(odd, np.abs(np.log(np.where(odd, ratio, 1.0))), -1.0)))
            told = (
                f"Loss over entropy is {ratio[worst]:.3g}, outside {low:g} to {high:g}: the model is over- or underconfident, "
                "or the entropy is of other tokens (all of the prompt, too) or in another unit."
            )
            yield table.notice("loss-by-entropy", worst, (loss.key, entropy.key), told, int(odd.sum()))


def start(table: Table) -> Iterator[Notice]:
    """A first loss far above ln V: worse than knowing nothing. None of what is known to be more than cross-entropy."""
    limit = log(table.vocab_size or LARGEST_VOCABULARY)
    whose = (
        f"ln V = {limit:.4g}"
        if table.vocab_size
        else f"{limit:.4g} = ln {LARGEST_VOCABULARY}, more than nearly any vocabulary has"
    )
    if any(_ORDERED.fullmatch(name) for one in table.meanings.values() for name, _ in one.terms):
        return  # beside the loss of an ordered group, "loss" holds that, too
    for key in table.training_losses:
        if key not in table.columns or table.meanings[key].note:
            continue
        column = table.columns[key]
        where = np.flatnonzero(np.isfinite(column.value))
        first = float(column.value[where[0]] - column.precision[where[0]]) if len(where) else 0.0
        if first > START_FACTOR * limit + START_MARGIN:
            told = (
                f"The first loss is {column.value[where[0]]:.4g}, far above {whose}. It may be real (an untrained or newly "
                "enlarged head), or come of labels that are shifted wrongly, or of a sum over accumulation steps that was not divided."
            )
            yield table.notice("first-loss", int(where[0]), (key,), told)


def capped(table: Table) -> Iterator[Notice]:
    """Perplexities that are exactly a known cap."""
    for key, meaning in table.meanings.items():
        if key in table.columns and meaning.transform in CAPS:
            at_cap = is_cap(table.columns[key].value, CAPS[meaning.transform])
            if at_cap.any():
                where = int(np.flatnonzero(at_cap)[0])
                told = f"{key} is {table.columns[key].value[where]:.10g}, where it is cut off: the loss is above that."
                yield table.notice("capped", where, (key,), told, int(at_cap.sum()))


def granularity(table: Table) -> Iterator[Notice]:
    """Accuracies that are no whole number of hits among the supervised tokens logged beside them."""
    for key, meaning in table.meanings.items():
        counts = [other.key for other in table.beside(meaning) if other.value == "n_tokens"]
        if not counts or key not in table.columns:
            continue
        count_key = counts[0]
        acc, n = table.columns[key], table.columns[count_key].value
        off = np.abs(np.rint(acc.value * n) / n - acc.value) if (n > 0).all() else _nothing(acc.value)
        # Accuracies are float32 in most trainers.
        odd = off > acc.precision + 1e-6
        if odd.any():
            worst = int(np.nanargmax(np.where(odd, off, -1.0)))
            told = (
                f"{key} = {acc.value[worst]:.8g} is no whole number of hits among the {n[worst]:.0f} tokens of {count_key}: "
                "it is no pooled accuracy (but a mean of means), or of other tokens."
            )
            yield table.notice("granularity", worst, (key, count_key), told, int(odd.sum()))


def _nothing(like: Float) -> Float:
    return np.zeros_like(like)
