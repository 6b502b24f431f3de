"""What `logitbox calibration` shows: which rows, their temperatures, and all their measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from logitbox.analysis.calibration import CalibrationTable
from logitbox.analysis.calibration.temperatures import Heat, heats
from logitbox.analysis.populations import ALL
from logitbox.dumps.dump import Dump
from logitbox.terminal import rows_of

if TYPE_CHECKING:
    from logitbox.analysis.calibration import Calibration

Row = dict[str, Any]

COMPUTED = {
    "position": "the token's place in its sample, in four parts of about as many tokens",
    "gold_frequency": "how often the right token occurs among all of the dump, in four parts of about as many tokens",
}
"""By-columns that the dump does not hold."""


def by_of(result: CalibrationTable) -> list[str]:
    """The by-columns of a result, without phase and type."""
    columns = result.frame.columns
    return [name for name in columns[: columns.index("type")] if name != "phase"]


def shown_rows(result: CalibrationTable, by: Sequence[str] | None) -> list[Row]:
    """Rows that are shown: types unless split by something else only; all tokens before their types."""
    frame = result.frame.filter(pl.col("n") > 0)
    if by and "type" not in by:
        frame = frame.filter(pl.col("type") == ALL)
    keys = ["phase", *by_of(result)]
    # The last sort decides first, and each keeps the order it finds.
    ordered = frame.sort(pl.col("type") != ALL, -pl.col("n").cast(pl.Int64), maintain_order=True)
    return ordered.sort(keys, nulls_last=True, maintain_order=True).to_dicts()


def key_of(result: CalibrationTable, row: Mapping[str, Any]) -> Row:
    """What a row is of: phase, by-columns, type."""
    return {name: row[name] for name in ("phase", *by_of(result), "type")}


def of_row(result: CalibrationTable, row: Mapping[str, Any]) -> Calibration:
    """The calibration of a row."""
    return result.of(row["phase"], row["type"], **{name: row[name] for name in by_of(result)})


def heats_of(dump: Dump, result: CalibrationTable, rows: Sequence[Row]) -> list[Row]:
    """The temperature of every row with its keys; types of the same tokens share one reading of the dump."""
    by = by_of(result)
    known: dict[tuple[Any, ...], dict[str, Heat]] = {}
    found: list[Row] = []
    for row in rows:
        if any(name in COMPUTED for name in by):
            heat = of_row(result, row).heat
        else:
            place = (row["phase"], *(row[name] for name in by))
            if place not in known:
                types = [
                    other["type"] for other in rows if (other["phase"], *(other[b] for b in by)) == place
                ]
                known[place] = heats(dump, row["phase"], types, {name: row[name] for name in by})
            heat = known[place].get(row["type"])
        values = {name: None if heat is None else getattr(heat, name) for name in Heat.__dataclass_fields__}
        found.append(key_of(result, row) | values)
    return found


def measures_of(result: CalibrationTable, rows: Sequence[Row]) -> list[Row]:
    """Every measure of every row, with its keys. JSON has no infinity: there an infinite `log_score` becomes null."""
    return [key_of(result, row) | {"measures": rows_of(of_row(result, row).frame)} for row in rows]


def ranked_of(result: CalibrationTable, by: Sequence[str] | None) -> pl.DataFrame:
    """All subgroups that are shown, worst first."""
    split = None if not by else [*by, *(name for name in result.by if name not in by)]
    return result.worst(None, split)
