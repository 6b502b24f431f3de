"""What is in memory already: rows and frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.logs.formats.json_text import raw_of
from logitbox.analysis.logs.raw import Raw, parts_of, plural
from logitbox.errors import InputError

_ALLOWED = "give a path, a dump, a polars or pandas frame, a list of dicts, or a dict with a log_history"


def of_memory(given: Any) -> Raw:
    """Rows, a wrapper of them, or a frame.

    Raises:
        InputError: it is something else.
    """
    if isinstance(given, pl.LazyFrame):
        given = given.collect()
    if isinstance(given, pl.DataFrame):
        return Raw(parts_of(_of_frame(given)), "frame")
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # of pandas, which need not be installed
        return _of_pandas(given)
    if isinstance(given, Mapping):
        return raw_of(dict(given))
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        if given and all(isinstance(row, Mapping) for row in given):
            return Raw(parts_of(given), "rows")
        raise InputError(f"cannot read a {type(given).__name__} of {_of_what(given)} as a log; {_ALLOWED}")
    raise InputError(f"cannot read a {type(given).__name__} as a log; {_ALLOWED}")


def _of_pandas(given: Any) -> Raw:
    """Rows of a pandas frame, in which NaN also stands for what is missing."""
    columns = {str(name): (given[name].to_numpy(), given[name].isna().to_numpy()) for name in given.columns}
    rows = [
        {name: values[i] for name, (values, is_gap) in columns.items() if not is_gap[i]}
        for i in range(len(given))
    ]
    n_gaps = sum(int(is_gap.sum()) for _, is_gap in columns.values())
    notes = (f"{plural(n_gaps, 'NaN', 'NaN')} of a pandas frame taken as missing",) if n_gaps else ()
    return Raw(parts_of(rows), "frame", notes)


def _of_what(given: Sequence[Any]) -> str:
    return next((type(row).__name__ for row in given if not isinstance(row, Mapping)), "no rows")


def _of_frame(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame; float32 stays float32, of which fewer digits are told."""
    rows = [_without_gaps(row) for row in frame.to_dicts()]
    narrow = [name for name, kind in frame.schema.items() if kind == pl.Float32]
    return [row | {name: np.float32(row[name]) for name in narrow if name in row} for row in rows]


def _without_gaps(row: dict[str, Any]) -> dict[str, Any]:
    """A row without null; a frame has them wherever a row lacks a key."""
    return {name: value for name, value in row.items() if value is not None}
