"""One side of a comparison: the chosen tokens of a dump as arrays, each with a code that both sides share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.pairs.choice import Choice
from logitbox.dumps.flags import Flag

Array = NDArray[Any]

_COLUMNS = ("sample", "pos", "gold", "flags", "types", "nll", "n_gt", "n_eq_before")
_POS_BITS = 32


@dataclass(frozen=True)
class Side:
    """Tokens in recording order, [n] each; 22 bytes a token, since there may be many millions.

    Attributes:
        code: sample number · 2³² + pos, int64; the same for the same token of both sides; negative where the
            sample is not known.
        gold: int32.
        types: bits as in the dump's `types`, uint32.
        nll: float32 as recorded.
        right: bool, the arg-max is gold.
        finite: bool.
    """

    code: NDArray[np.int64]
    gold: NDArray[np.int32]
    types: NDArray[np.uint32]
    nll: NDArray[np.float32]
    right: NDArray[np.bool_]
    finite: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.code)


def sample_of(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sample numbers of codes."""
    return code >> _POS_BITS


def pos_of(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of codes."""
    return code & ((1 << _POS_BITS) - 1)


def keys_of(choice: Choice) -> pl.DataFrame:
    """Columns sample, dataset, key of the data sets in the choice."""
    datasets = choice.places["dataset"].unique().to_list()
    samples = choice.dump.samples.filter(pl.col("dataset").is_in(datasets))
    return (
        samples.select("sample", "dataset", "key")
        .unique(["sample", "dataset"], keep="last", maintain_order=True)
        .collect()
    )


def read_side(choice: Choice, numbers: pl.DataFrame) -> Side:
    """Read the chosen tokens.

    Args:
        choice: which.
        numbers: columns sample, dataset, number: the number of each sample, shared by both sides.
    """
    parts: list[Side] = []
    known = _Numbers(numbers, choice.places["dataset"].to_list())
    for found in choice.scan(_COLUMNS):
        number = known.of(found["sample"], found["place"])
        parts.append(
            Side(
                code=(number << _POS_BITS) + found["pos"],
                gold=found["gold"].astype(np.int32, copy=False),
                types=found["types"].astype(np.uint32, copy=False),
                nll=found["nll"].astype(np.float32, copy=False),
                right=found["n_gt"] + found["n_eq_before"] == 0,
                finite=(found["flags"] & np.uint32(Flag.NONFINITE)) == 0,
            )
        )
    return _joined(parts)


class _Numbers:
    """Sample ids to shared numbers, by data set; sorted once, since there may be as many look-ups as shards."""

    def __init__(self, numbers: pl.DataFrame, datasets: list[str]) -> None:
        self._known: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for dataset in datasets:
            here = numbers.filter(pl.col("dataset") == dataset).sort("sample")
            self._known.append((here["sample"].to_numpy(), here["number"].to_numpy()))

    def of(self, sample: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of each row's sample, −1 where it is not known. Rows of a sample come in runs, looked up once each."""
        new = np.append([True], (sample[1:] != sample[:-1]) | (place[1:] != place[:-1]))
        starts = np.flatnonzero(new)
        found = np.full(len(starts), -1, dtype=np.int64)
        for i, (samples, numbers) in enumerate(self._known):
            here = np.flatnonzero(place[starts] == i)
            if len(here) and len(samples):
                wanted = sample[starts[here]]
                at = np.minimum(np.searchsorted(samples, wanted), len(samples) - 1)
                found[here] = np.where(samples[at] == wanted, numbers[at], -1)
        return np.repeat(found, np.diff(starts, append=len(sample)))


def _joined(parts: list[Side]) -> Side:
    """The parts one after the other, column by column, so that little is held twice."""

    def whole(name: str, dtype: Any) -> Any:
        return np.concatenate([np.zeros(0, dtype), *(getattr(part, name) for part in parts)])

    return Side(
        code=whole("code", np.int64),
        gold=whole("gold", np.int32),
        types=whole("types", np.uint32),
        nll=whole("nll", np.float32),
        right=whole("right", np.bool_),
        finite=whole("finite", np.bool_),
    )


def latest_by_code(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows with a known sample ordered by code, of equal codes the last."""
    rows = np.arange(len(code)) if (code[1:] >= code[:-1]).all() else np.argsort(code, kind="stable")
    ordered = code[rows]
    last = np.append(ordered[1:] != ordered[:-1], [True])[: len(code)]
    return rows[last & (ordered >= 0)]
