"""Confident learning against its definition, written out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitbox.analysis.labels.confident import Rows, confident, margins, thresholds


def made(seed: int, n: int, classes: int, k: int) -> tuple[Rows, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * rng.choice([0.5, 1, 3])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gold = np.where(rng.random(n) < 0.6, p.argmax(axis=1), rng.integers(0, classes, n))
    order = np.argsort(-p, axis=1, kind="stable")[:, :k]
    rows = Rows(gold, p[np.arange(n), gold], order, np.take_along_axis(p, order, axis=1), classes)
    return rows, p, gold


def reference(p: np.ndarray, gold: np.ndarray) -> tuple[list[float], list[int]]:
    """t_c, and the likeliest class j with p_j ≥ t_j, −1 where there is none."""
    limits = [p[gold == c, c].mean() if (gold == c).any() else np.nan for c in range(p.shape[1])]
    best = []
    for row in p:
        passing = [j for j in range(p.shape[1]) if not np.isnan(limits[j]) and row[j] >= limits[j] - 1e-6]
        best.append(max(passing, key=lambda j: row[j], default=-1))
    return limits, best


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 8))
def test_with_all_classes_recorded(seed: int, n: int, classes: int) -> None:
    rows, p, gold = made(seed, n, classes, classes)
    limits, best = reference(p, gold)
    found = thresholds(rows)
    np.testing.assert_allclose(found, limits, atol=1e-12)
    told = confident(rows, found)
    assert told.best.tolist() == best
    expected = [b not in (-1, g) and row.argmax() != g for b, g, row in zip(best, gold, p, strict=True)]
    assert told.is_issue.tolist() == expected
    others = np.where(np.arange(classes) == gold[:, None], -1.0, p).max(axis=1)
    np.testing.assert_allclose(margins(rows), p[np.arange(n), gold] - others, atol=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(3, 9), st.integers(1, 4))
def test_with_the_best_few_it_says_the_same_or_that_it_cannot_tell(
    seed: int, n: int, classes: int, k: int
) -> None:
    rows, p, gold = made(seed, n, classes, min(k, classes))
    limits, best = reference(p, gold)
    told = confident(rows, np.array(limits))
    known = told.best != -2
    assert told.best[known].tolist() == np.array(best)[known].tolist()
    if k == 1:
        assert np.isnan(margins(rows)[rows.ids[:, 0] == gold]).all()


def test_most_can_be_told_from_a_few() -> None:
    rows, _, _ = made(1, 2000, 9, 3)
    assert (confident(rows, thresholds(rows)).best == -2).mean() < 0.02
