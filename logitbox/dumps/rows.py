"""From a micro-batch's host arrays to Arrow rows: the writer thread's half of `Recorder.record`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitbox.dumps.arrow import ArrowArray, constant, fixed_lists, trimmed_lists
from logitbox.dumps.best import CUT_MASS, LENGTH
from logitbox.dumps.flags import Flag
from logitbox.dumps.naming import NamingTask, SampleNamer
from logitbox.dumps.passes import Where
from logitbox.dumps.samples import SampleBook, SampleRow
from logitbox.dumps.schema import GOLD_COLUMNS, ORDERED_COLUMNS, PROBES, table_schema
from logitbox.dumps.spec import RecordSpec
from logitbox.dumps.transfer import Array, Pending, as_int64
from logitbox.errors import InputError

_BEST_LISTS = ("top_ids", "top_gap")


@dataclass(frozen=True)
class TokenJob:
    """One micro-batch on its way to the `tokens`, `samples` and `batches` tables."""

    where: Where
    spec: RecordSpec
    naming: NamingTask
    shape: tuple[int, int]
    """(rows, padded length)."""
    reduced: Pending
    """Computed columns, and `gold`, `left`, `right`, `pos`, … of the same rows; `row` is b·T + t."""
    whole: Pending
    """[B, T] inputs for naming samples, as `SampleNamer` takes them; `n_supervised` and `loss` of the batch."""
    book: SampleBook
    types_given: frozenset[str]

    @cached_property
    def _batch(self) -> dict[str, Array]:
        return self.whole.wait()

    def tables(self) -> Iterable[tuple[str, pa.Table]]:
        """Rows for `samples`, `tokens` and `batches`."""
        columns = self._kept(self.reduced.wait())
        count = len(columns["gold"])
        if count:
            _check_gold(columns, self.spec.vocab_size)
            namer = SampleNamer(self.naming, self.where, self._batch, self.book)
            row, doc, pos = (as_int64(columns[name]) for name in ("row", "doc", "pos"))
            columns["sample"], columns["pos"] = namer.name(row, doc, pos)
            yield "samples", _samples_table(namer.new_rows, self.spec)
            yield "tokens", self._tokens(columns)
        yield "batches", self._batches_row(count)

    def _kept(self, columns: dict[str, Array]) -> dict[str, Array]:
        """Drop the rows that were computed only because choosing them would have meant waiting."""
        keep = columns.pop("keep", None)
        return columns if keep is None else {name: values[keep] for name, values in columns.items()}

    def _tokens(self, columns: dict[str, Array]) -> pa.Table:
        gold = columns["gold"]
        count = len(gold)
        columns["flags"] = as_int64(columns["flags"])
        columns["types"] = as_int64(columns["types"]) | self._group_types(gold)
        columns.setdefault("weight", np.ones(count, dtype=np.float32))
        lengths = _trim(columns)
        missing = self._missing(columns)
        schema = table_schema("tokens", self.spec)
        arrays = self.where.columns(count)
        for column in schema:
            if column.name not in arrays:
                values = columns.get(column.name)
                if lengths is not None and values is not None and column.name in _BEST_LISTS:
                    arrays[column.name] = trimmed_lists(values, lengths, cast("Any", column.type))
                else:
                    arrays[column.name] = _arrow(values, missing.get(column.name), column.type, count)
        return pa.table({name: arrays[name] for name in schema.names}, schema=schema)

    def _missing(self, columns: Mapping[str, Array]) -> dict[str, NDArray[np.bool_]]:
        """Where a column's value is null rather than computed."""
        gold = columns["gold"]
        missing: dict[str, NDArray[np.bool_]] = dict.fromkeys(GOLD_COLUMNS, gold < 0)
        for probe, side in PROBES.items():
            if side in columns:
                missing[probe] = columns[side] < 0
        for name in self.spec.ordered:
            outside = ~self.spec.group(name).contains(gold)
            missing |= {f"{name}_{suffix}": outside for suffix, _ in ORDERED_COLUMNS}
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


def _check_gold(columns: Mapping[str, Array], vocab_size: int) -> None:
    gold = columns["gold"]
    is_label = (as_int64(columns["flags"]) & int(Flag.SUPERVISED)) != 0
    bad = gold[(gold >= vocab_size) | (is_label & (gold < 0))]
    if len(bad):
        raise InputError(
            f"label {int(bad[0])} is outside the vocabulary; allowed are 0 to {vocab_size - 1}, and -100 where ignored"
        )


def _trim(columns: dict[str, Array]) -> Array | None:
    """Lengths of the lists of the best tokens, [rows], where they are trimmed; what is cut goes to `tail_mass`."""
    lengths, cut_mass = columns.pop(LENGTH, None), columns.pop(CUT_MASS, None)
    if lengths is not None and cut_mass is not None:
        columns["tail_mass"] = columns["tail_mass"] + cut_mass
    return lengths


def _arrow(
    values: Array | None, missing: NDArray[np.bool_] | None, dtype: pa.DataType, count: int
) -> ArrowArray:
    if values is None:
        return constant(None, dtype, count)
    if isinstance(dtype, pa.ListType):
        return fixed_lists(values, dtype)
    return pa.array(values, mask=missing, from_pandas=False).cast(dtype)


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
