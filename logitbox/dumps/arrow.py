"""The few Arrow calls whose stubs are at fault, in one place."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ArrowArray: TypeAlias = "pa.Array[Any]"


def constant(value: object, dtype: pa.DataType, count: int) -> ArrowArray:
    """`value`, which may be None, `count` times."""
    scalar: Any = pa.scalar(value, dtype)
    return pa.repeat(scalar, count)


def fixed_lists(values: NDArray[Any], dtype: pa.ListType[Any]) -> ArrowArray:
    """The rows of a matrix as a list column of the given type."""
    offsets: Any = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)).cast(dtype.value_type))


def trimmed_lists(
    values: NDArray[Any], lengths: NDArray[np.integer[Any]], dtype: pa.ListType[Any]
) -> ArrowArray:
    """The first `lengths` [rows] numbers of each row of a matrix, as a list column of the given type."""
    inside = np.arange(values.shape[1]) < lengths[:, None]
    offsets: Any = pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values[inside]).cast(dtype.value_type))
