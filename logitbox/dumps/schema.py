"""Columns of every table, as Arrow schemas. `docs/format.md` is the specification; this is its code."""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa

from logitbox.dumps.spec import RecordSpec

FORMAT_NAME = "logitbox"
FORMAT_VERSION = 1

TABLES = ("tokens", "samples", "batches", "scalars", "vocab")

WHERE: tuple[tuple[str, pa.DataType], ...] = (
    ("phase", pa.string()),
    ("dataset", pa.string()),
    ("pass", pa.int32()),
    ("step", pa.int64()),
    ("epoch", pa.float32()),
    ("micro", pa.int32()),
    ("rank", pa.int32()),
)
"""Columns that say where a row belongs, the same in `tokens` and `batches`."""

IDENTITY = ("phase", "dataset", "pass", "step", "micro", "rank", "sample", "pos")
"""What identifies a row of `tokens`."""

_TOKEN: tuple[tuple[str, pa.DataType], ...] = (
    ("sample", pa.int64()),
    ("pos", pa.int32()),
    ("gold", pa.int32()),
    ("flags", pa.uint32()),
    ("types", pa.uint32()),
    ("weight", pa.float32()),
    ("nll", pa.float32()),
    ("top_nll", pa.float32()),
    ("lse", pa.float32()),
    ("mean_logit", pa.float32()),
    ("n_finite", pa.int32()),
    ("n_gt", pa.int32()),
    ("n_eq", pa.int32()),
    ("n_eq_before", pa.int32()),
    ("entropy", pa.float32()),
    ("top_ids", pa.list_(pa.int32())),
    ("top_gap", pa.list_(pa.float16())),
    ("tail_mass", pa.float32()),
)

GOLD_COLUMNS = ("nll", "n_gt", "n_eq", "n_eq_before")
"""Null where no gold token is known (an edge row without input_ids)."""

PROBES = {"nll_unshifted": "left", "nll_next": "right"}
"""Label-shift probes and the neighbour whose label they score; null where that is ignored."""

ORDERED_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("gate", pa.float32()),
    ("soft_ce", pa.float32()),
    ("w1", pa.float32()),
    ("bin", pa.int32()),
    ("mean", pa.float32()),
)
"""Suffixes of an ordered group's columns; null where gold is outside the group."""

_SAMPLES = (
    ("sample", pa.int64()),
    ("key", pa.string()),
    ("dataset", pa.string()),
    ("source", pa.string()),
    ("group", pa.string()),
    ("length", pa.float64()),
    ("input_ids", pa.list_(pa.int32())),
)
_BATCHES = (
    *WHERE,
    ("rows", pa.int32()),
    ("padded_length", pa.int32()),
    ("n_supervised", pa.int64()),
    ("n_recorded", pa.int64()),
    ("loss", pa.float64()),
)
_SCALARS = (
    ("step", pa.int64()),
    ("phase", pa.string()),
    ("key", pa.string()),
    ("value", pa.float64()),
    ("time", pa.float64()),
)
_VOCAB = (("id", pa.int32()), ("bytes", pa.binary()), ("special", pa.bool_()))


def _shape_of(spec: RecordSpec) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], bool, bool]:
    """What of a spec decides the columns of `tokens`, hashable."""
    groups = tuple(group.name for group in spec.groups)
    return groups, tuple(spec.ordered), tuple(spec.best_columns), spec.lse_beta != "never", spec.probes


@lru_cache(maxsize=64)
def _tokens_schema(
    groups: tuple[str, ...],
    ordered: tuple[str, ...],
    best: tuple[str, ...],
    lse_beta: bool,
    probes: bool,
) -> pa.Schema:
    """Schema of `tokens` for one session: the fixed columns, then the groups', then the optional ones."""
    columns = [*WHERE, *_TOKEN]
    columns += [(f"logmass_{name}", pa.float32()) for name in groups]
    columns += [(f"{name}_{suffix}", dtype) for name in ordered for suffix, dtype in ORDERED_COLUMNS]
    columns += [(name, pa.float32()) for name in best]
    if lse_beta:
        columns.append(("lse_beta", pa.list_(pa.float32())))
    if probes:
        columns += [(name, pa.float32()) for name in PROBES]
    return pa.schema(columns)


def table_schema(table: str, spec: RecordSpec) -> pa.Schema:
    """Schema of any table; user columns of `samples` come after the fixed ones."""
    fixed = {"samples": _SAMPLES, "batches": _BATCHES, "scalars": _SCALARS, "vocab": _VOCAB}
    return _tokens_schema(*_shape_of(spec)) if table == "tokens" else pa.schema(list(fixed[table]))
