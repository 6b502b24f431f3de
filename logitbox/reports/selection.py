"""Which of a result's many rows a figure of one phase and token type is about."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from logitbox.errors import InputError


def pick(
    frame: pl.DataFrame, fixed: Collection[str], phase: str | None, token_type: str, where: Mapping[str, Any]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The rows of one phase, type and value of each by-column, and those values.

    Args:
        frame: a result's frame.
        fixed: its columns that are no by-columns.
        phase: by default the last phase that is not train, else train.
        token_type: "" is all tokens.
        where: values of by-columns; by default the last there is.

    Raises:
        InputError: nothing matches.
    """
    phases = frame["phase"].unique(maintain_order=True).to_list()
    if phase is None and phases:
        phase = next((name for name in reversed(phases) if name != "train"), phases[-1])
    by = [name for name in frame.columns if name not in fixed]
    unknown = [name for name in where if name not in by]
    if unknown:
        raise InputError(f"{unknown[0]!r} is no by-column of this result; it has {', '.join(by) or 'none'}")
    match = {"phase": phase, "type": token_type, **where}
    rows = frame.filter(*(pl.col(name).eq_missing(value) for name, value in match.items()))
    if rows.is_empty():
        types = ", ".join(repr(name) for name in frame["type"].unique(maintain_order=True))
        raise InputError(
            f"no tokens have {match}; phases are {', '.join(phases) or 'none'}, types {types or 'none'}"
        )
    last = (rows.sort(by, nulls_last=False) if by else rows).row(-1, named=True)
    keys = {name: last[name] for name in ("phase", "type", *by)}
    return rows_of(rows, keys), keys


def rows_of(frame: pl.DataFrame, keys: Mapping[str, Any]) -> pl.DataFrame:
    """Rows with exactly these values; null equals null."""
    return frame.filter(*(pl.col(name).eq_missing(value) for name, value in keys.items()))


def chosen(
    frame: pl.DataFrame, phase: str | None, token_type: str, where: Mapping[str, Any]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """`pick` for a frame whose columns are phase, by-columns, type, then values."""
    values = frame.columns[frame.columns.index("type") :]
    return pick(frame, ("phase", *values), phase, token_type, where)
