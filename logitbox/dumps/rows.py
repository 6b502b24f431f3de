"""From a micro-batch's host arrays to Arrow rows: the writer thread's half of `Recorder.record`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitbox.dumps.flags import Flag
from logitbox.dumps.samples import SampleBook, SampleRow, content_key, given_ids, id_of_key
from logitbox.dumps.schema import GOLD_COLUMNS, PROBES, table_schema
from logitbox.dumps.spec import RecordSpec
from logitbox.dumps.transfer import Array, Pending, as_int64
from logitbox.dumps.vocabulary import Vocabulary
from logitbox.errors import InputError


@dataclass(frozen=True)
class Where:
    """Where a micro-batch belongs: the columns that are constant over its rows."""

    phase: str
    dataset: str
    pass_: int
    step: int
    epoch: float | None
    micro: int
    rank: int

    def columns(self, count: int) -> dict[str, pa.Array]:
        """The `WHERE` columns, each repeated `count` times."""
        epoch = pa.scalar(self.epoch, pa.float32())
        values = (self.phase, self.dataset, self.pass_, self.step, epoch, self.micro, self.rank)
        names = ("phase", "dataset", "pass", "step", "epoch", "micro", "rank")
        return {name: pa.repeat(value, count) for name, value in zip(names, values, strict=True)}


@dataclass(frozen=True)
class Given:
    """What the user said about the samples of a micro-batch."""

    sample: Any
    """None, ids or string keys per row, or ids per token [B, T]."""
    per_token: bool
    flat: bool


@dataclass(frozen=True)
class TokenJob:
    """One micro-batch on its way to the `tokens`, `samples` and `batches` tables."""

    where: Where
    spec: RecordSpec
    vocabulary: Vocabulary
    given: Given
    shape: tuple[int, int]
    """(rows, padded length)."""
    reduced: Pending
    """Computed columns, and `gold`, `left`, `right`, `pos`, … of the same rows; `row` is b·T + t."""
    whole: Pending
    """[B, T] inputs for naming samples: `ids`, `doc`, `mask`; `n_supervised` and `loss` of the batch."""
    book: SampleBook
    types_given: frozenset[str]

    @property
    def rows(self) -> int:
        """Rows lost if the job is dropped (an upper bound for rows still on a device)."""
        return len(self.reduced.tensors["gold"])

    @cached_property
    def _batch(self) -> dict[str, Array]:
        return self.whole.wait()

    def tables(self) -> Iterable[tuple[str, pa.Table]]:
        """Rows for `samples`, `tokens` and `batches`."""
        columns = self._kept(self.reduced.wait())
        count = len(columns["gold"])
        if count:
            _check_gold(columns, self.spec.vocab_size)
            namer = _SampleNamer(self.where, self.given, self.shape, self._batch, self.book)
            sample = namer.ids_of(as_int64(columns["row"]), as_int64(columns["doc"]))
            yield "samples", _samples_table(namer.new_rows, self.spec)
            yield "tokens", self._tokens(columns, sample)
        yield "batches", self._batches_row(count)

    def _kept(self, columns: dict[str, Array]) -> dict[str, Array]:
        """Drop the rows that were computed only because choosing them would have meant waiting."""
        keep = columns.pop("keep", None)
        return columns if keep is None else {name: values[keep] for name, values in columns.items()}

    def _tokens(self, columns: dict[str, Array], sample: NDArray[np.int64]) -> pa.Table:
        count, gold = len(sample), columns["gold"]
        columns["flags"] = as_int64(columns["flags"]) | _value_flags(columns) | _id_flags(gold, self.vocabulary)
        columns["types"] = as_int64(columns["types"]) | self._group_types(gold)
        columns["sample"] = sample
        columns.setdefault("weight", np.ones(count, dtype=np.float32))
        missing = self._missing(columns)
        schema = table_schema("tokens", self.spec)
        arrays = self.where.columns(count)
        for column in schema:
            if column.name not in arrays:
                arrays[column.name] = _arrow(columns.get(column.name), missing.get(column.name), column.type, count)
        return pa.table({name: arrays[name].cast(schema.field(name).type) for name in schema.names}, schema=schema)

    def _missing(self, columns: Mapping[str, Array]) -> dict[str, NDArray[np.bool_]]:
        """Where a column's value is null rather than computed."""
        gold = columns["gold"]
        missing = dict.fromkeys(GOLD_COLUMNS, gold < 0)
        for probe, side in PROBES.items():
            if side in columns:
                missing[probe] = columns[side] < 0
        for name in self.spec.ordered:
            outside = ~self.spec.group(name).contains(gold)
            missing |= {column: outside for column in columns if column.startswith(f"{name}_")}
        return missing

    def _group_types(self, gold: Array) -> NDArray[np.int64]:
        """A declared type that bears a group's name and was given no mask means: gold is in the group."""
        bits = np.zeros(len(gold), dtype=np.int64)
        groups = {group.name: group for group in self.spec.groups}
        for bit, name in enumerate(self.spec.types.names):
            if name in groups and name not in self.types_given:
                bits |= groups[name].contains(gold).astype(np.int64) << bit
        return bits

    def _batches_row(self, n_recorded: int) -> pa.Table:
        loss = self._batch.get("loss")
        columns: dict[str, Any] = {
            "rows": [self.shape[0]],
            "padded_length": [self.shape[1]],
            "n_supervised": [int(self._batch["n_supervised"].sum())],
            "n_recorded": [n_recorded],
            "loss": [None if loss is None else float(loss.reshape(-1)[0])],
        }
        return pa.table(self.where.columns(1) | columns, schema=table_schema("batches", self.spec))


class _SampleNamer:
    """Gives each row its sample id, and collects the samples met for the first time."""

    def __init__(
        self, where: Where, given: Given, shape: tuple[int, int], batch: Mapping[str, Array], book: SampleBook
    ) -> None:
        self._where, self._given, self._width, self._batch, self._book = where, given, shape[1], batch, book
        self._pass = (where.phase, where.dataset, where.pass_, where.step)
        self.new_rows: list[SampleRow] = []

    def ids_of(self, row: NDArray[np.int64], doc: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample id of each row; `row` is its flat index b·T + t, `doc` its document within b."""
        if self._given.sample is not None:
            return self._of_user(row)
        places, first, inverse = np.unique(
            np.stack([row // self._width, doc]), axis=1, return_index=True, return_inverse=True
        )
        ids = np.empty(len(first), dtype=np.int64)
        for index in np.argsort(first):  # in recording order, so that "#2" is the later one
            line, document = int(places[0, index]), int(places[1, index])
            token_ids = self._content(line, document)
            key = self._place_key(line) if token_ids is None else content_key(token_ids)
            key = self._book.key_in_pass(key, self._pass)
            ids[index] = id_of_key(key)
            self._note(int(ids[index]), key, token_ids if "input_ids" in self._batch else None)
        return ids[inverse.reshape(-1)]

    def _of_user(self, row: NDArray[np.int64]) -> NDArray[np.int64]:
        given, keys = given_ids(self._given.sample)
        flat = given.reshape(-1)
        index = row if self._given.per_token or self._given.flat else row // self._width
        ids = flat[index]
        for position in np.sort(np.unique(ids, return_index=True)[1]):
            place, sample = int(index[position]), int(ids[position])
            whole = None if self._given.per_token or self._given.flat else self._line(place)
            self._note(sample, str(sample) if keys is None else keys[place], whole)
        return ids

    def _content(self, line: int, document: int) -> NDArray[np.int64] | None:
        """The ids that identify a sample: its tokens, or else its labels from the first to the last."""
        if self._given.flat:
            return None
        mine = self._batch["doc"][line] == document
        if "input_ids" in self._batch:
            if "mask" in self._batch:
                mine = mine & self._batch["mask"][line]
            return as_int64(self._batch["input_ids"][line][mine])
        labels = as_int64(self._batch["labels"][line][mine])
        supervised = np.flatnonzero(labels >= 0)
        return labels[supervised[0] : supervised[-1] + 1] if len(supervised) else labels

    def _line(self, line: int) -> NDArray[np.int64] | None:
        if "input_ids" not in self._batch:
            return None
        ids = as_int64(self._batch["input_ids"][line])
        return ids[self._batch["mask"][line]] if "mask" in self._batch else ids

    def _place_key(self, line: int) -> str:
        """Where a bare position stood: within its pass for evaluations, within its step for training."""
        w = self._where
        step = f"/s{w.step}" if w.phase == "train" else ""
        return f"{w.phase}/{w.dataset}{step}/m{w.micro}/r{w.rank}/{line}"

    def _note(self, sample: int, key: str, token_ids: NDArray[np.int64] | None) -> None:
        if self._book.is_new(self._where.dataset, sample):
            key = self._book.key_of(self._where.dataset, sample, key)
            self.new_rows.append(SampleRow(sample, key, self._where.dataset, token_ids))


def _check_gold(columns: Mapping[str, Array], vocab_size: int) -> None:
    gold = columns["gold"]
    bad = gold[(gold >= vocab_size) | (gold < -1)]
    if len(bad):
        raise InputError(
            f"label {int(bad[0])} is outside the vocabulary; allowed are 0 to {vocab_size - 1}, and -100 where ignored"
        )


def _value_flags(columns: Mapping[str, Array]) -> NDArray[np.int64]:
    known = columns["gold"] >= 0
    finite = np.isfinite(columns["lse"]) & np.isfinite(columns["entropy"]) & (np.isfinite(columns["nll"]) | ~known)
    return np.where(finite, 0, int(Flag.NONFINITE))


def _id_flags(gold: Array, vocabulary: Vocabulary) -> NDArray[np.int64]:
    bits = np.zeros(len(gold), dtype=np.int64)
    if vocabulary.special:
        bits |= np.where(np.isin(gold, np.fromiter(vocabulary.special, dtype=np.int64)), int(Flag.SPECIAL), 0)
    for token, flag in ((vocabulary.bos, Flag.BOS), (vocabulary.eos, Flag.EOS)):
        if token is not None:
            bits |= np.where(gold == token, int(flag), 0)
    return bits


def _arrow(values: Array | None, missing: NDArray[np.bool_] | None, dtype: pa.DataType, count: int) -> pa.Array:
    if values is None:
        return pa.nulls(count, dtype)
    if pa.types.is_list(dtype):
        offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)).cast(dtype.value_type))
    return pa.array(values, mask=missing, from_pandas=False)


def _samples_table(rows: list[SampleRow], spec: RecordSpec) -> pa.Table:
    schema = table_schema("samples", spec)
    nulls = {name: pa.nulls(len(rows), schema.field(name).type) for name in ("source", "group", "length")}
    columns: dict[str, Any] = {
        "sample": [row.sample for row in rows],
        "key": [row.key for row in rows],
        "dataset": [row.dataset for row in rows],
        "input_ids": [row.input_ids for row in rows],
    }
    return pa.table(columns | nulls, schema=schema)
