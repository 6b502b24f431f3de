"""Pairs made of plain arrays, and slow answers to compare with."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.pairs.align import Aligned, Pair, Unaligned

NOTHING_LEFT_OUT = Unaligned(0, 0, 0, 0, 0)


def make_pair(
    nll: Any, right: Any, cluster: Any, types: Any = None, names: tuple[str, ...] = (), gold: Any = None
) -> Pair:
    """A pair of these per-token values ([2, n] each), ordered by cluster; positions count within it."""
    nll, right, cluster = np.asarray(nll, np.float32), np.asarray(right, bool), np.asarray(cluster, np.int64)
    order = np.argsort(cluster, kind="stable")
    nll, right, cluster = nll[:, order], right[:, order], cluster[order]
    n = len(cluster)
    pos = np.array([np.sum(cluster[:i] == cluster[i]) for i in range(n)], dtype=np.int64)
    bits = np.zeros(n, np.uint32) if types is None else np.asarray(types, np.uint32)[order]
    samples = pl.LazyFrame(
        {"key": [str(c) for c in range(int(cluster.max()) + 1)], "source": None},
        schema={"key": pl.String, "source": pl.String},
    )
    text = SimpleNamespace(piece=lambda token: f"<{token}>")
    dump = SimpleNamespace(types=SimpleNamespace(names=names), samples=samples, text=text)
    choice: Any = SimpleNamespace(dump=dump)
    golds = np.zeros(n, np.int32) if gold is None else np.asarray(gold, np.int32)[order]
    rows = np.arange(n)
    sides = [Aligned(choice, rows, nll[i], right[i]) for i in range(2)]
    _, dense = np.unique(cluster, return_inverse=True)
    keys = pl.Series([str(c) for c in np.unique(cluster)])
    return Pair(*sides, dense.reshape(-1).astype(np.int64), pos, golds, bits, keys, NOTHING_LEFT_OUT)


def fewest(difference: Any) -> int:
    """Size of the smallest subset whose removal makes Σ ≤ 0, by trying all of them."""
    values = [float(v) for v in difference]
    for k in range(len(values) + 1):
        for gone in combinations(range(len(values)), k):
            if sum(v for i, v in enumerate(values) if i not in gone) <= 0:
                return k
    raise AssertionError("removing everything leaves 0")
