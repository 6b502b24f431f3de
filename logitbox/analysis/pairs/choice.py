"""Which tokens of a dump are meant: one phase, at one step or at the latest evaluation of each token."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from logitbox.analysis.given import check_dump
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag
from logitbox.dumps.inventory import Shard
from logitbox.errors import InputError

Array = NDArray[Any]
Step = int | Literal["last", "all"]

_PLACE = ("phase", "dataset", "pass", "step")
_WANTED_FLAGS = np.uint32(Flag.SUPERVISED | Flag.DUPLICATE)
_THREADS = 2
_LISTS = ("top_ids", "top_gap", "lse_beta")


@dataclass(frozen=True)
class Choice:
    """The chosen tokens of a dump.

    Attributes:
        dump: where they are.
        phase: theirs.
        places: the evaluations they are from: columns dataset, pass, step.
        told: the choice in words.
    """

    dump: Dump
    phase: str
    places: pl.DataFrame
    told: str

    def scan(self, columns: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Columns of the chosen rows, shard by shard in recording order, as NumPy arrays.

        Supervised rows that no later session replaced and no sampler repeated. Lists come as [rows, width], NaN
        where one was shorter or missing; a column that a session did not record is left out. `place` is the row
        of `places`, `session` the number of the session among the dump's.
        """
        shards = iter(self.dump.shards("tokens"))
        # Hashing and decoding release the interpreter's lock, so that two shards are read at a time.
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting = deque(pool.submit(self._of_shard, shard, columns) for shard in islice(shards, _THREADS))
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(pool.submit(self._of_shard, shard, columns) for shard in islice(shards, 1))
                if found is not None:
                    yield found

    def _of_shard(self, shard: Shard, columns: Sequence[str]) -> dict[str, Array] | None:
        self.dump.check([shard])
        file = pq.ParquetFile(shard.path, read_dictionary=["phase", "dataset"])
        wanted = dict.fromkeys([*_PLACE, "flags", *columns])
        there = [name for name in wanted if name in file.schema_arrow.names]
        table = file.read(there, use_threads=False)
        place = self._place(table, self.dump.hidden_from(shard.session))
        flags = _values(table["flags"], "flags")
        keep = (place >= 0) & ((flags & _WANTED_FLAGS) == int(Flag.SUPERVISED))
        if not keep.any():
            return None
        every = bool(keep.all())
        found = {name: _values(table[name], name) for name in columns if name in there} | {"place": place}
        if not every:
            found = {name: values[keep] for name, values in found.items()}
        session = self.dump.sessions.index(shard.session)
        return found | {"session": np.full(len(found["place"]), session)}

    def _place(self, table: pa.Table, hidden_from: int | None) -> NDArray[np.int64]:
        """Row of `places` of each row, −1 where it is of none of them. Rows of one evaluation come in runs."""
        known = {
            key: row for row, key in enumerate(self.places.select("dataset", "pass", "step").iter_rows())
        }
        names: list[list[Any]] = []
        codes: list[Array] = []
        for name in _PLACE:
            column: Any = table[name].combine_chunks()
            if isinstance(column, pa.DictionaryArray):
                names.append(column.dictionary.to_pylist())
                column = column.indices
            else:
                names.append([])
            codes.append(column.to_numpy(zero_copy_only=False))
        new = np.any([np.diff(code, prepend=code[:1] - 1) != 0 for code in codes], axis=0)
        starts = np.flatnonzero(new)
        found = np.full(len(starts), -1, dtype=np.int64)
        for i, start in enumerate(starts):
            phase, dataset = (names[j][codes[j][start]] for j in range(2))
            step = int(codes[3][start])
            hidden = phase == "train" and hidden_from is not None and step >= hidden_from
            if phase == self.phase and not hidden:
                found[i] = known.get((dataset, int(codes[2][start]), step), -1)
        return np.repeat(found, np.diff(starts, append=len(new)))


def choose(dump: Dump, phase: str | None = None, step: Step = "last", dataset: str | None = None) -> Choice:
    """Say which tokens are meant.

    Args:
        dump: an opened dump.
        phase: by default "eval", else the last other phase than train, else train.
        step: a step; "last": the last step of each data set; "all": the latest evaluation of each token.
        dataset: only this data set; by default all.

    Raises:
        InputError: no such phase, data set or step.
    """
    keys = check_dump(dump).tokens.select(*_PLACE).unique().collect(engine="streaming")
    if keys.is_empty():
        raise InputError(
            f"{dump.path} holds no token rows yet; record something, or flush() a run in progress"
        )
    phase = _phase(keys, phase)
    places = keys.filter(pl.col("phase") == phase).drop("phase").sort("dataset", "step", "pass")
    if dataset is not None:
        known = places["dataset"].unique(maintain_order=True).to_list()
        if dataset not in known:
            raise InputError(f"dataset is {dataset!r}; phase {phase} has {', '.join(map(repr, known))}")
        places = places.filter(pl.col("dataset") == dataset)
    told = f"{phase}" + (f" · {dataset}" if dataset else "")
    if step == "all":
        return Choice(dump, phase, places, f"{told}, the latest evaluation of each token")
    if step == "last":
        places = places.group_by("dataset", maintain_order=True).last().select(places.columns)
    else:
        steps = places["step"].unique().sort().to_list()
        if step not in steps:
            near = sorted(sorted(steps, key=lambda other: abs(other - step))[:5])
            raise InputError(
                f"step is {step}; the nearest recorded of phase {phase} are {', '.join(map(str, near))}"
            )
        places = places.filter(pl.col("step") == step)
        places = places.group_by("dataset", maintain_order=True).last().select(places.columns)
    steps = places["step"].unique().sort().to_list()
    return Choice(dump, phase, places, f"{told}, step {', '.join(f'{number:,}' for number in steps[:4])}")


def _phase(keys: pl.DataFrame, phase: str | None) -> str:
    known = sorted(keys["phase"].unique())
    if phase is None:
        others = [name for name in known if name != "train"]
        return "eval" if "eval" in known else (others or known)[-1]
    if phase not in known:
        raise InputError(f"phase is {phase!r}; the dump has {', '.join(known)}")
    return phase


def _values(column: pa.ChunkedArray[Any], name: str) -> Array:
    """Nulls become NaN, or −1 where the column holds integers."""
    if name in _LISTS:
        return _dense(column)
    series = pl.Series(pl.from_arrow(column))
    return (series.fill_null(-1) if series.dtype.is_signed_integer() else series).to_numpy()


def _dense(lists: pa.ChunkedArray[Any]) -> Array:
    """Lists as [rows, longest], NaN (or −1 for ids) where one is shorter or null; rounded floats stay so."""
    parts: list[tuple[Array, Array]] = []
    for chunk in lists.chunks:
        array: Any = chunk
        parts.append((array.offsets.to_numpy(), array.values.to_numpy(zero_copy_only=False)))
    width = max((int(np.diff(offsets).max(initial=0)) for offsets, _ in parts), default=0)
    whole = [_filled(offsets, values, width) for offsets, values in parts]
    return np.concatenate(whole) if whole else np.zeros((0, width))


def _filled(offsets: Array, values: Array, width: int) -> Array:
    lengths = np.diff(offsets)
    if (lengths == width).all():  # the usual case needs no copy
        return values[offsets[0] : offsets[-1]].reshape(len(lengths), width)
    place = offsets[:-1, None] + np.arange(width)
    inside = place < offsets[1:, None]
    missing = -1 if values.dtype.kind == "i" else np.nan
    return np.where(inside, values[np.where(inside, place, 0)], missing)
