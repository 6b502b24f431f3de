"""Buckets to split by that no column holds: positions in a sample, and how often a token's gold id occurs.

Four buckets of about equally many tokens. They are cut by the tokens of the whole dump, so that they are the same for
every phase and step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.given import check_dump
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag
from logitbox.errors import InputError

Int = NDArray[np.int64]

BUCKETS = 4

COLUMNS: Mapping[str, str] = {"position": "pos", "gold_frequency": "gold"}
"""Name to the column of `tokens` that decides."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """Buckets of one kind.

    Attributes:
        name: what they are split by.
        labels: of each bucket, ascending, such as "0–15": the least and the greatest value of its tokens.
        values: of the column, those that occur, ascending.
        bucket: of each of the values.
    """

    name: str
    labels: tuple[str, ...]
    values: Int
    bucket: Int

    @property
    def column(self) -> str:
        """Column of `tokens` that decides."""
        return COLUMNS[self.name]

    def of(self, values: NDArray[Any]) -> Int:
        """Bucket of each value of the column; what does not occur in the dump is as the next that does."""
        at = np.searchsorted(self.values, values)
        return self.bucket[np.minimum(at, len(self.values) - 1)]

    @cached_property
    def fingerprint(self) -> str:
        """Of the cuts, for the cache."""
        data = self.values.tobytes() + self.bucket.tobytes()
        return hashlib.sha256(data).hexdigest()[:32]


def buckets_of(dump: Dump, name: str) -> Buckets:
    """Cut by one pass over one column of the supervised tokens.

    Raises:
        InputError: the dump has none, or a column of its own by that name.
    """
    column = COLUMNS[name]
    if name in check_dump(dump).samples.collect_schema():
        raise InputError(
            f"by names {name!r}, which is computed, but samples have a column of that name; give it another one"
        )
    found = (
        dump.tokens.filter((pl.col("flags") & int(Flag.SUPERVISED)) != 0)
        .group_by(pl.col(column).cast(pl.Int64).alias("value"))
        .agg(pl.len().cast(pl.Int64).alias("n"))
        .collect(engine="streaming")
        .drop_nulls()
        .sort("value")
    )
    if found.is_empty():
        raise InputError(f"by names {name!r}, but {dump.path} holds no supervised tokens yet")
    values, n = found["value"].to_numpy(), found["n"].to_numpy()
    if name == "position":
        bucket, labels = cut(values, n)
        return Buckets(name, labels, values, bucket)
    # What is cut is how often an id occurs; ids of one frequency stay together.
    frequency, inverse = np.unique(n, return_inverse=True)
    tokens = np.bincount(inverse.reshape(-1), weights=n).astype(np.int64)
    bucket, labels = cut(frequency, tokens)
    return Buckets(name, labels, values, bucket[inverse.reshape(-1)])


def cut(values: Int, n: Int, buckets: int = BUCKETS) -> tuple[Int, tuple[str, ...]]:
    """(bucket of each value, labels): about equally many tokens each, equal values together.

    A value goes where the middle of its tokens lies, all tokens in order of value. A bucket that gets none is left
    out, so that there may be fewer.

    Args:
        values: distinct, ascending.
        n: tokens of each.
        buckets: how many are wanted.
    """
    end = np.cumsum(n)
    place = (2 * end - n) * buckets // (2 * end[-1])
    kept, bucket = np.unique(np.minimum(place, buckets - 1), return_inverse=True)
    bucket = bucket.reshape(-1).astype(np.int64)
    inside = [values[bucket == i] for i in range(len(kept))]
    return bucket, tuple(_label(int(part[0]), int(part[-1])) for part in inside)


def _label(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
