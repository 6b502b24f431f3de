"""The tables a user fills directly: samples (metadata), scalars (the trainer's log), vocab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from logitbox.dumps.samples import SampleBook, id_of_key
from logitbox.dumps.schema import table_schema
from logitbox.dumps.spec import RecordSpec
from logitbox.dumps.vocabulary import Vocabulary
from logitbox.errors import InputError


@dataclass(frozen=True)
class TableJob:
    """Finished rows of one table."""

    name: str
    table: pa.Table

    @property
    def rows(self) -> int:
        """Rows lost if the job is dropped."""
        return self.table.num_rows

    def tables(self) -> tuple[tuple[str, pa.Table], ...]:
        """The rows, under their table's name."""
        return ((self.name, self.table),)


@dataclass(frozen=True)
class SamplesJob:
    """Sample metadata; on the writer thread the keys given here are remembered for rows to come."""

    table: pa.Table
    book: SampleBook

    @property
    def rows(self) -> int:
        """Rows lost if the job is dropped."""
        return self.table.num_rows

    def tables(self) -> tuple[tuple[str, pa.Table], ...]:
        """The rows of the `samples` table."""
        names = (self.table[name].to_pylist() for name in ("dataset", "sample", "key"))
        self.book.remember_keys(*names)
        return (("samples", self.table),)


def samples_table(frame: Any, spec: RecordSpec) -> pa.Table:
    """Sample metadata from a dict of lists or any Arrow-speaking frame (polars, pandas, pyarrow).

    Raises:
        InputError: neither `sample` nor `key` is there, or a fixed column has the wrong type.
    """
    table = _as_arrow(frame)
    names = table.column_names
    if "sample" not in names and "key" not in names:
        raise InputError(f"samples have columns {names}; one of 'sample' (the id passed to record) or 'key' is needed")
    count = table.num_rows
    columns: dict[str, Any] = {name: table[name] for name in names}
    if "sample" not in names:
        columns["sample"] = pa.array([id_of_key(str(key)) for key in table["key"].to_pylist()], pa.int64())
    elif "key" not in names:
        columns["key"] = table["sample"].cast(pa.string())
    columns.setdefault("dataset", pa.repeat("", count))
    schema = table_schema("samples", spec)
    for column in schema:
        value = columns.get(column.name, pa.nulls(count, column.type))
        try:
            columns[column.name] = value.cast(column.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"samples column {column.name!r} cannot be read as {column.type}: {error}") from error
    extra = [name for name in columns if name not in schema.names]
    return pa.table({name: columns[name] for name in [*schema.names, *extra]})


def _as_arrow(frame: Any) -> pa.Table:
    try:
        if isinstance(frame, Mapping):
            return pa.table({str(name): list(values) for name, values in frame.items()})
        return pa.table(frame)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"samples are a {type(frame).__name__} that cannot be read as a table ({error}); "
            "give a polars, pandas or pyarrow table, or a dict of equally long lists"
        ) from error


def scalars_job(step: int, values: Mapping[str, Any], phase: str, now: float, spec: RecordSpec) -> TableJob:
    """What a trainer logged at a step, one row a key. Raises InputError for a value that is no number."""
    numbers: list[float] = []
    for key, value in values.items():
        try:
            numbers.append(float(value))
        except (TypeError, ValueError) as error:
            raise InputError(f"scalar {key!r} is {value!r}, a {type(value).__name__}; give a number") from error
    count = len(numbers)
    columns = {
        "step": pa.repeat(pa.scalar(int(step), pa.int64()), count),
        "phase": pa.repeat(phase, count),
        "key": pa.array([str(key) for key in values], pa.string()),
        "value": pa.array(numbers, pa.float64()),
        "time": pa.repeat(now, count),
    }
    return TableJob("scalars", pa.table(columns, schema=table_schema("scalars", spec)))


def vocab_job(vocabulary: Vocabulary, spec: RecordSpec) -> TableJob:
    """The bytes of every token."""
    ids = list(range(len(vocabulary.tokens)))
    columns = {"id": ids, "bytes": list(vocabulary.tokens), "special": [i in vocabulary.special for i in ids]}
    return TableJob("vocab", pa.table(columns, schema=table_schema("vocab", spec)))
