"""Is a gap everywhere, or in a few places? A ranked table with a correction for having looked at many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import atan, cos, erfc, pi, sin, sqrt
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.pairs.align import Float, Mask, Pair
from logitbox.analysis.pairs.paired import by_cluster

BUCKETS = 4
"""Parts into which positions and gold frequencies are split."""

_MAX_SAMPLES = 10
_AS_NORMAL = 1_000
_SCHEMA = {
    "kind": pl.String,
    "name": pl.String,
    "n": pl.Int64,
    "share": pl.Float64,
    "part": pl.Float64,
    "part_share": pl.Float64,
    "difference": pl.Float64,
    "rest": pl.Float64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
}


@dataclass(frozen=True)
class Subset:
    """A set of tokens that the gap may be concentrated in."""

    kind: str
    name: str
    mask: Mask


def concentration(pair: Pair, difference: Float) -> pl.DataFrame:
    """Subsets by how much of Σ difference they hold beyond their share of the tokens, largest first.

    Args:
        pair: aligned tokens.
        difference: of each token, A − B, of one metric.

    Returns:
        `kind` (type, source, position, gold frequency, sample), `name`, `n`, `share` of tokens, `part` of the mean
        difference, `part_share` of it (null where the whole is 0), the mean `difference` inside and in the `rest`,
        `p` of their being equal (clustered by sample; null for single samples and for what lies in one, which have no
        variance to go by), and `p_adjusted` by Holm over all subsets tested.
    """
    n, total = len(pair), float(difference.sum())
    rows: list[tuple[str, str, int, float, float, float | None, float, float | None, float | None]] = []
    for subset in (*_subsets(pair), *_samples(pair, difference)):
        count = int(subset.mask.sum())
        if count == 0:
            continue
        inside = float(difference[subset.mask].sum())
        rest = (total - inside) / (n - count) if count < n else None
        p = None if subset.kind == "sample" or rest is None else _p_of(pair, difference, subset.mask)
        part_share = inside / total if total else None
        rows.append(
            (subset.kind, subset.name, count, count / n, inside / n, part_share, inside / count, rest, p)
        )
    frame = pl.DataFrame(rows, schema=list(_SCHEMA.items())[:-1], orient="row")
    excess = (pl.col("part") - pl.col("share") * total / n).abs()
    frame = frame.with_columns(pl.Series("p_adjusted", _holm(frame["p"].to_list()), dtype=pl.Float64))
    return frame.sort(excess, descending=True, maintain_order=True)


def _subsets(pair: Pair) -> Iterator[Subset]:
    for name, mask in pair.of_type().items():
        yield Subset("type", name, mask)
    sources = _sources(pair)
    for name in sources.unique(maintain_order=True).drop_nulls().to_list() if sources.n_unique() > 1 else []:
        yield Subset("source", str(name), (sources == name).fill_null(value=False).to_numpy()[pair.cluster])
    yield from _buckets("position", pair.pos)
    ids, inverse, counts = np.unique(pair.gold, return_inverse=True, return_counts=True)
    del ids
    yield from _buckets("gold frequency", counts[inverse.reshape(-1)])


def _sources(pair: Pair) -> pl.Series:
    """`source` of every cluster, null where it was not given."""
    known = pair.a.choice.dump.samples.select("key", "source").unique("key", keep="last").collect()
    keys = pl.DataFrame({"key": pair.keys})
    return keys.join(known, on="key", how="left", nulls_equal=True, maintain_order="left")["source"]


def _buckets(kind: str, values: NDArray[np.integer[Any]]) -> Iterator[Subset]:
    """Parts of about equally many tokens; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BUCKETS + 1), method="higher"))
    for low, high in pairwise(edges):
        is_last = high == edges[-1]
        mask = (values >= low) & ((values <= high) if is_last else (values < high))
        most = high if is_last else high - 1
        yield Subset(kind, f"{low:,}" if low == most else f"{low:,}–{most:,}", mask)


def _samples(pair: Pair, difference: Float) -> Iterator[Subset]:
    """The samples that hold most of the gap, one by one."""
    sums = by_cluster(difference, pair.cluster)
    for cluster in np.argsort(-np.abs(sums), kind="stable")[:_MAX_SAMPLES]:
        yield Subset("sample", str(pair.keys[int(cluster)]), pair.cluster == cluster)


def _p_of(pair: Pair, difference: Float, mask: Mask) -> float | None:
    """Two-sided p of equal means inside and outside, by linearisation of the difference of two ratios.

    None where either part lies in one sample. Few samples make a variance look small: each part's is corrected for
    the samples that it lies in, and t has the fewer of them, less one, as degrees of freedom.
    """
    cluster = pair.cluster
    clusters = int(cluster[-1]) + 1
    influence = np.zeros(clusters)
    gap, fewest = 0.0, clusters
    for inside, sign in ((mask, 1.0), (~mask, -1.0)):
        n = np.bincount(cluster[inside], minlength=clusters)
        x = np.bincount(cluster[inside], weights=difference[inside], minlength=clusters)
        mean, there = x.sum() / n.sum(), int((n > 0).sum())
        if there < 2:
            return None
        gap += sign * mean
        influence += sign * sqrt(there / (there - 1)) * (x - mean * n) / n.sum()
        fewest = min(fewest, there)
    variance = float(influence @ influence)
    return two_tails(abs(gap) / sqrt(variance), fewest - 1) if variance > 0 else None


def two_tails(t: float, df: int) -> float:
    """P(|T| ≥ t) of Student's distribution (finite sums, Abramowitz & Stegun 26.7.3–4); with many `df` the normal's."""
    if df > _AS_NORMAL:
        return erfc(t / sqrt(2))
    angle, odd = atan(t / sqrt(df)), df % 2
    term, total = (cos(angle) if odd else 1.0), 0.0
    for power in range(odd, df - 1, 2):
        total += term
        term *= cos(angle) ** 2 * (power + 1) / (power + 2)
    inside = 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total
    return max(0.0, 1.0 - inside)


def _holm(ps: list[float | None]) -> list[float | None]:
    """Holm's step-down adjustment; what was not tested stays null."""
    tested = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for place, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - place) * p))
        adjusted[i] = highest
    return adjusted
