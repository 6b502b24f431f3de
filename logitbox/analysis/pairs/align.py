"""Bringing two sides together: the same token is the same sample key, position and gold id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.pairs.choice import Choice
from logitbox.analysis.pairs.side import keys_of, latest_by_code, pos_of, read_side, sample_of
from logitbox.errors import InputError

Array = NDArray[Any]
Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

MIN_ALIGNED = 0.5
"""Share of the smaller side's tokens that must align, unless the caller says otherwise."""


@dataclass(frozen=True)
class Unaligned:
    """What the comparison leaves out.

    Attributes:
        only_a, only_b: tokens of samples or positions that the other side does not have.
        other_gold: same sample and position, another gold id.
        nonfinite: aligned, but NaN or infinite on a side.
        replaced: earlier evaluations of tokens that a later one stands for, both sides together.
    """

    only_a: int
    only_b: int
    other_gold: int
    nonfinite: int
    replaced: int

    def __str__(self) -> str:
        told = {
            "only in A": self.only_a,
            "only in B": self.only_b,
            "with another gold token": self.other_gold,
            "NaN or infinite": self.nonfinite,
            "evaluated again later": self.replaced,
        }
        some = ", ".join(f"{count:,} {what}" for what, count in told.items() if count)
        return f"left out: {some}" if some else "nothing left out"


@dataclass(frozen=True)
class Aligned:
    """One side of the paired tokens, [n] each.

    Attributes:
        choice: what they are of.
        at: rows in the order of `Choice.scan`.
        raw_nll: float32 as recorded.
        right: whether the arg-max is gold.
    """

    choice: Choice
    at: NDArray[np.int64]
    raw_nll: NDArray[np.float32]
    right: Mask


@dataclass(frozen=True)
class Pair:
    """Aligned tokens, ordered by sample and position, [n] each.

    Attributes:
        a: one side; the names of token types are its dump's.
        b: the other.
        cluster: number of the sample, 0 … clusters − 1, ascending.
        pos: position in the sample.
        gold: gold id.
        types: bits of side A.
        keys: sample keys by cluster.
        unaligned: what is left out.
    """

    a: Aligned
    b: Aligned
    cluster: NDArray[np.int64]
    pos: NDArray[np.int32]
    gold: NDArray[np.int32]
    types: NDArray[np.uint32]
    keys: pl.Series
    unaligned: Unaligned

    def __len__(self) -> int:
        return len(self.cluster)

    @property
    def at_a(self) -> NDArray[np.int64]:
        """Rows of side A in the order of its scan."""
        return self.a.at

    @property
    def at_b(self) -> NDArray[np.int64]:
        """Rows of side B in the order of its scan."""
        return self.b.at

    @property
    def nll(self) -> tuple[Float, Float]:
        """Of both sides, float64; made anew at every call."""
        return self.a.raw_nll.astype(np.float64), self.b.raw_nll.astype(np.float64)

    @property
    def right(self) -> tuple[Mask, Mask]:
        """Whether the arg-max is gold, on both sides."""
        return self.a.right, self.b.right

    def of_type(self) -> dict[str, Mask]:
        """Token types, as side A has them, by name."""
        return {name: self.has_type(i) for i, name in enumerate(self.a.choice.dump.types.names)}

    def has_type(self, bit: int) -> Mask:
        """Tokens with a bit of `types`."""
        return (self.types >> np.uint32(bit)) & 1 != 0


def align(a: Choice, b: Choice, min_aligned: float = MIN_ALIGNED) -> Pair:
    """Read both sides and pair their tokens.

    Raises:
        InputError: fewer than `min_aligned` of the smaller side's tokens align; the message says what does not. Or
            none of them is finite on both sides.
    """
    numbers, keys = _numbered(keys_of(a), keys_of(b))
    first, second = read_side(a, numbers[0]), read_side(b, numbers[1])
    at_a, at_b = latest_by_code(first.code), latest_by_code(second.code)
    codes = (first.code[at_a], second.code[at_b])
    in_a, in_b = _common(*codes)
    same = first.gold[at_a[in_a]] == second.gold[at_b[in_b]]
    finite = first.finite[at_a[in_a]] & second.finite[at_b[in_b]]
    unaligned = Unaligned(
        only_a=len(at_a) - len(in_a),
        only_b=len(at_b) - len(in_b),
        other_gold=int((~same).sum()),
        nonfinite=int((same & ~finite).sum()),
        replaced=len(first) - len(at_a) + len(second) - len(at_b),
    )
    good = same & finite
    _refuse_too_few(int(same.sum()), codes, unaligned, min_aligned)
    at_a, at_b = at_a[in_a[good]], at_b[in_b[good]]
    code = first.code[at_a]
    used, cluster = _dense(sample_of(code))
    return Pair(
        a=Aligned(a, at_a, first.nll[at_a], first.right[at_a]),
        b=Aligned(b, at_b, second.nll[at_b], second.right[at_b]),
        cluster=cluster,
        pos=pos_of(code).astype(np.int32),
        gold=first.gold[at_a],
        types=first.types[at_a],
        keys=keys.gather(used.tolist()),
        unaligned=unaligned,
    )


def _dense(ascending: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(distinct values, the number of each element's among them), without another sort."""
    new = np.append([True], ascending[1:] != ascending[:-1])[: len(ascending)]
    return ascending[new], np.cumsum(new) - 1


def _numbered(a: pl.DataFrame, b: pl.DataFrame) -> tuple[tuple[pl.DataFrame, pl.DataFrame], pl.Series]:
    """(sample, dataset, number of both sides; the keys by number). A key counts within its data set.

    Where the two sides' data sets have different names but each side has one only, they are taken for the same.
    """
    rename = a["dataset"].n_unique() == 1 and b["dataset"].n_unique() == 1
    frames = [
        frame.with_columns(pl.lit("").alias("set") if rename else pl.col("dataset").alias("set"))
        for frame in (a, b)
    ]
    known = pl.concat([frame.select("set", "key") for frame in frames]).unique(maintain_order=True)
    known = known.with_row_index("number").with_columns(pl.col("number").cast(pl.Int64))
    first, second = (
        frame.join(known, on=["set", "key"], how="left", nulls_equal=True, maintain_order="left").select(
            "sample", "dataset", "number"
        )
        for frame in frames
    )
    return (first, second), known["key"]


def _common(a: Array, b: Array) -> tuple[Array, Array]:
    """Places of the common values in a and in b, both ascending without repeats."""
    if np.array_equal(a, b):
        return np.arange(len(a)), np.arange(len(b))
    place = np.searchsorted(b, a)
    place[place == len(b)] = max(len(b) - 1, 0)
    hit = b[place] == a if len(b) else np.zeros(len(a), dtype=bool)
    return np.flatnonzero(hit), place[hit]


def _refuse_too_few(
    aligned: int, codes: tuple[Array, Array], unaligned: Unaligned, min_aligned: float
) -> None:
    smaller = min(map(len, codes))
    share = aligned / smaller if smaller else 0.0
    if aligned and share >= min_aligned:
        if aligned == unaligned.nonfinite:
            raise InputError(
                f"all {aligned:,} tokens in both dumps are NaN or infinite on a side: nothing to compare"
            )
        return
    if unaligned.other_gold > aligned:
        why = "most shared positions have another gold token: another tokenizer, or other labels"
    elif len(codes[0]) == unaligned.only_a:
        shared = np.isin(sample_of(codes[0]), sample_of(codes[1])).any()
        why = (
            "the samples are the same but not their positions: other truncation or packing"
            if shared
            else "no sample key is in both: other data or other shuffling; give record(sample=…) the same keys"
        )
    else:
        why = "many samples or positions are on one side only: other data, truncation or packing"
    raise InputError(
        f"only {aligned:,} of {smaller:,} tokens ({share:.1%}) are in both dumps ({unaligned}): {why}. "
        f"At least {min_aligned:.0%} must be; min_aligned= sets that share"
    )
