"""Who a sample is: ids and keys that stay the same across ranks, epochs and runs.

The key is, in this order: what `rec.samples` gave; `str(sample)` where `sample=` was passed; a hash of the
sample's token ids (plus "#2" the second time the same ids come in one pass). A single position without any of
these ([N, V] logits) has no content to recognise it by, so its key tells where it stood.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.passes import Where

_ID_BITS = 63
_REMEMBERED = 1_000_000
"""Samples remembered as written; beyond that a row may be written twice, which the reader folds."""


def id_of_key(key: str) -> int:
    """A non-negative int64 id for a string key (the first 63 bits of its BLAKE2b)."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & ((1 << _ID_BITS) - 1)


def content_key(token_ids: NDArray[np.int64]) -> str:
    """A key from the ids of a sample's tokens."""
    return hashlib.blake2b(np.ascontiguousarray(token_ids, dtype="<i8").tobytes(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class SampleRow:
    """One row to be written to the `samples` table."""

    sample: int
    key: str
    dataset: str
    input_ids: NDArray[np.int64] | None


@dataclass
class SampleBook:
    """The writer thread's memory of which samples it has seen."""

    _written: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    _passes: dict[tuple[str, str], tuple[tuple[int, int], Counter[str]]] = field(
        default_factory=dict[tuple[str, str], tuple[tuple[int, int], Counter[str]]]
    )
    """(phase, dataset) to its latest (pass, step) and how often each key came in it."""
    _keys: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    """Keys the user gave in `rec.samples`."""

    def remember_keys(self, datasets: Sequence[str], samples: Sequence[int], keys: Sequence[str]) -> None:
        """From here on these samples bear these keys."""
        self._keys.update({(d, s): k for d, s, k in zip(datasets, samples, keys, strict=True)})

    def key_of(self, dataset: str, sample: int, otherwise: str) -> str:
        """The user's key of a sample, or else the one given."""
        return self._keys.get((dataset, sample), otherwise)

    def key_in_pass(self, key: str, where: Where) -> str:
        """`key`, or `key#n` the n-th time it comes in one (phase, dataset, pass, step)."""
        stream, moment = (where.phase, where.dataset), (where.pass_, where.step)
        if stream not in self._passes or self._passes[stream][0] != moment:
            self._passes[stream] = (moment, Counter())
        times = self._passes[stream][1]
        times[key] += 1
        return key if times[key] == 1 else f"{key}#{times[key]}"

    def is_new(self, dataset: str, sample: int) -> bool:
        """True the first time a sample is met in this session."""
        if (dataset, sample) in self._written:
            return False
        if len(self._written) >= _REMEMBERED:
            self._written.clear()
        self._written.add((dataset, sample))
        return True
