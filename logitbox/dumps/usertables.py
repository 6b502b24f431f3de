"""The tables a user fills directly: samples (metadata), scalars (the trainer's log), vocab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from logitbox.dumps.samples import SampleBook, id_of_key
from logitbox.dumps.schema import table_schema
from logitbox.dumps.spec import RecordSpec
from logitbox.dumps.transfer import HostCopier, Pending
from logitbox.dumps.vocabulary import Vocabulary
from logitbox.errors import InputError


@dataclass(frozen=True)
class TableJob:
    """Finished rows of one table."""

    name: str
    table: pa.Table

    def tables(self) -> tuple[tuple[str, pa.Table], ...]:
        """The rows, under their table's name."""
        return ((self.name, self.table),)


@dataclass(frozen=True)
class SamplesJob:
    """Sample metadata; on the writer thread the keys given here are remembered for rows to come."""

    table: pa.Table
    book: SampleBook

    def tables(self) -> tuple[tuple[str, pa.Table], ...]:
        """The rows of the `samples` table."""
        names: list[list[Any]] = [self.table[name].to_pylist() for name in ("dataset", "sample", "key")]
        datasets, samples, keys = names
        self.book.remember_keys(datasets, samples, keys)
        return (("samples", self.table),)


@dataclass
class SampleColumns:
    """Makes `samples` rows from users' frames, and sees to it that a user column keeps its type."""

    spec: RecordSpec
    _extra: dict[str, pa.DataType] = field(default_factory=dict[str, pa.DataType])

    def table(self, frame: Any) -> pa.Table:
        """Sample metadata from a dict of lists or any Arrow-speaking frame (polars, pandas, pyarrow).

        Raises:
            InputError: neither `sample` nor `key` is there, one of them is null, or a column has a type that
                does not fit.
        """
        given = _as_arrow(frame)
        columns: dict[str, Any] = {name: given[name] for name in given.column_names}
        _complete(columns, given.num_rows)
        schema = table_schema("samples", self.spec)
        types = {column.name: column.type for column in schema}
        types |= {name: _plain(columns[name].type) for name in columns if name not in types}
        cast = {
            name: _cast(columns.get(name, pa.nulls(given.num_rows)), self._extra.get(name) or dtype, name)
            for name, dtype in types.items()
        }
        extra = {name: dtype for name, dtype in types.items() if name not in schema.names}
        self._extra = {name: t for name, t in extra.items() if not pa.types.is_null(t)} | self._extra
        return pa.table(cast)


def _complete(columns: dict[str, Any], count: int) -> None:
    """Fill in the one of `sample` and `key` that is missing, and `dataset`."""
    if "sample" not in columns and "key" not in columns:
        raise InputError(
            f"samples have columns {list(columns)}; one of 'sample' (the id passed to record) or 'key' is needed"
        )
    for name in ("sample", "key"):
        if name in columns and columns[name].null_count:
            raise InputError(f"samples column {name!r} has {columns[name].null_count} nulls; fill them in")
    if "sample" not in columns:
        ids = [id_of_key(key) for key in _cast(columns["key"], pa.string(), "key").to_pylist()]
        columns["sample"] = pa.array(ids, pa.int64())
    columns.setdefault("key", columns["sample"])
    dataset = _cast(columns.get("dataset", pa.nulls(count)), pa.string(), "dataset")
    columns["dataset"] = dataset.fill_null("")


def _cast(values: Any, dtype: pa.DataType, name: str) -> Any:
    try:
        if isinstance(values.type, pa.DictionaryType):  # pyarrow cannot unpack polars' dictionaries of views
            values = pa.array(values.to_pylist())
        return values.cast(dtype)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"samples column {name!r} cannot be read as {dtype}: {error}") from error


def _plain(dtype: pa.DataType) -> pa.DataType:
    """The type that Parquet and every reader know, for the string types that polars and pandas hand over."""
    if isinstance(dtype, pa.DictionaryType):
        return _plain(dtype.value_type)
    if pa.types.is_string_view(dtype) or pa.types.is_large_string(dtype):
        return pa.string()
    return dtype


def _as_arrow(frame: Any) -> pa.Table:
    try:
        if isinstance(frame, Mapping):
            return pa.table({str(name): pa.array(list(values)) for name, values in frame.items()})
        return pa.table(frame)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"samples are a {type(frame).__name__} that cannot be read as a table ({error}); "
            "give a polars, pandas or pyarrow table, or a dict of equally long lists"
        ) from error


@dataclass(frozen=True)
class ScalarsJob:
    """What a trainer logged at a step, one row a key; tensors may still be on their way to the host."""

    step: int
    phase: str
    time: float
    values: Mapping[str, float | None]
    """None where the value is one of `tensors`."""
    tensors: Pending
    spec: RecordSpec

    def tables(self) -> tuple[tuple[str, pa.Table], ...]:
        """The rows of the `scalars` table."""
        arrived = self.tensors.wait()
        numbers = [float(arrived[key]) if value is None else value for key, value in self.values.items()]
        count = len(numbers)
        columns = {
            "step": pa.repeat(pa.scalar(self.step, pa.int64()), count),
            "phase": pa.repeat(self.phase, count),
            "key": pa.array(list(self.values), pa.string()),
            "value": pa.array(numbers, pa.float64()),
            "time": pa.repeat(self.time, count),
        }
        return (("scalars", pa.table(columns, schema=table_schema("scalars", self.spec))),)


def scalars_job(
    step: int, values: Mapping[str, Any], phase: str, now: float, spec: RecordSpec, copier: HostCopier
) -> ScalarsJob:
    """Take what a trainer logged; of tensors the copy to the host is only begun.

    Raises:
        InputError: a value that is no number.
    """
    numbers: dict[str, float | None] = {}
    tensors: dict[str, Tensor] = {}
    for key, value in values.items():
        name = str(key)
        try:
            if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
                # A copy: the trainer may go on adding to it. As float32, since NumPy has no bfloat16.
                single = value.detach().reshape(())
                tensors[name] = single.clone() if single.dtype == torch.float64 else single.float().clone()
                numbers[name] = None
            else:
                numbers[name] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"scalar {key!r} is {value!r}, a {type(value).__name__}; give a number"
            ) from error
    return ScalarsJob(int(step), phase, now, numbers, copier.start(tensors), spec)


def vocab_job(vocabulary: Vocabulary, spec: RecordSpec) -> TableJob:
    """The bytes of every token."""
    ids = list(range(len(vocabulary.tokens)))
    columns = {"id": ids, "bytes": list(vocabulary.tokens), "special": [i in vocabulary.special for i in ids]}
    return TableJob("vocab", pa.table(columns, schema=table_schema("vocab", spec)))
