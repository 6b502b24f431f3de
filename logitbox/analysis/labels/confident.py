"""Confident learning (Northcutt, Jiang, Chuang: Confident Learning, JAIR 2021) from what a dump keeps of each row.

A class j is *confident* for a sample where p(j) is not below t_j, the mean p(j) of the samples labelled j. The likeliest
confident class is taken for the true one. All of it follows from the recorded best classes: those outside are less likely than
all inside, so that only a sample without a confident class inside, and with room for one outside, cannot be told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Mask = NDArray[np.bool_]

SLACK = 1e-6
"""A probability this little below a threshold reaches it: a class of one sample has a threshold of its own p."""


@dataclass(frozen=True)
class Rows:
    """Predictions of some samples.

    Attributes:
        gold: [n], labels.
        p_gold: [n], exact.
        ids: [n, k], the best classes, best first, −1 where fewer were recorded.
        p: [n, k], their probabilities, 0 where there is none. That of the best is exact; the others come from gaps rounded to float16
            and are within 1.8e-4.
        classes: how many there are.
    """

    gold: Int
    p_gold: Float
    ids: Int
    p: Float
    classes: int


def margins(rows: Rows) -> Float:
    """[n], p(gold) − p of the likeliest other class, in [−1, 1]; NaN where no other was recorded.

    Exact where gold is not the arg-max; else within 1.8e-4, the runner-up being rounded.
    """
    other = np.where((rows.ids >= 0) & (rows.ids != rows.gold[:, None]), rows.p, np.nan)
    is_first = rows.ids[:, 0] != rows.gold
    rest = other[:, 1] if rows.ids.shape[1] > 1 else np.full(len(rows.gold), np.nan)
    # Where gold is the best of several equal ones, the next has the same logit, which the gap of 0 tells exactly.
    return rows.p_gold - np.where(is_first, rows.p[:, 0], rest)


def thresholds(rows: Rows) -> Float:
    """[classes], mean p(c) over the samples labelled c; NaN where there are none."""
    n = np.bincount(rows.gold, minlength=rows.classes).astype(np.float64)
    total = np.bincount(rows.gold, rows.p_gold, minlength=rows.classes)
    return np.divide(total, n, out=np.full(rows.classes, np.nan), where=n > 0)


@dataclass(frozen=True)
class Confident:
    """What confident learning finds.

    Attributes:
        best: [n], the likeliest confident class; −1 where there is none, −2 where it cannot be told.
        is_issue: [n], it is not gold, and gold is not the arg-max.
    """

    best: Int
    is_issue: Mask


def confident(rows: Rows, limits: Float) -> Confident:
    """The likeliest confident class of each sample.

    Args:
        rows: the samples.
        limits: [classes], of `thresholds`. A class without samples has none and is never confident.
    """
    bar = np.where(np.isnan(limits), np.inf, limits) - SLACK
    # Gold is not always among the best, but its p is known.
    inside = rows.ids >= 0
    p = np.where(rows.ids == rows.gold[:, None], rows.p_gold[:, None], rows.p)
    passes = inside & (p >= bar[np.where(inside, rows.ids, 0)])
    has_any = passes.any(axis=1)
    first = rows.ids[np.arange(len(rows.gold)), passes.argmax(axis=1)]
    # Outside there is at most the smallest p inside.
    length = inside.sum(axis=1)
    least = np.where(length > 0, rows.p[np.arange(len(rows.gold)), np.maximum(length - 1, 0)], 1.0)
    room = (length < rows.classes) & (least >= bar.min())
    gold_passes = ~(rows.ids == rows.gold[:, None]).any(axis=1) & (rows.p_gold >= bar[rows.gold])
    best = np.where(has_any, first, np.where(room, -2, np.where(gold_passes, rows.gold, -1)))
    is_issue = (best >= 0) & (best != rows.gold) & (rows.ids[:, 0] != rows.gold)
    return Confident(best.astype(np.int64), is_issue)
