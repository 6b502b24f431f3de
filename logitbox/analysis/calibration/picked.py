"""Rows of a dump, with the token types that they are of: those that `calibration` counts, read again with other columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.given import check_dump
from logitbox.analysis.node_means import MEMBER
from logitbox.analysis.pairs.choice import Choice
from logitbox.dumps.definitions.registry import populations_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag
from logitbox.dumps.spec import RecordSpec
from logitbox.errors import InputError

Array = NDArray[Any]
Mask = NDArray[np.bool_]

Where = Mapping[str, Any]
"""Column of `tokens` or of `samples` to the value that is wanted there (None: none was told), or to a function of the
column's values, [rows] to bool [rows]."""

_PLACES = ("dataset", "pass", "step")
_FOR_TYPES = ("flags", "types", "gold")
_FOUND_BY = ("sample", "dataset")
"""Columns that samples are found by."""


def type_names_of(dump: Dump) -> list[str]:
    """Every token type and vocabulary group of a dump, "" (all tokens) first."""
    names = [p.name for s in dump.sessions for p in populations_of(s.spec) if not p.is_internal]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Picked:
    """Supervised rows that no later session replaced, no sampler repeated, and whose values are finite.

    Attributes:
        dump: where they are.
        phase: theirs.
        types: names of populations, whose membership every row carries; rows of none of them are left out.
        where: what else must hold.
    """

    dump: Dump
    phase: str
    types: Sequence[str]
    where: Where

    def read(self, columns: Sequence[str]) -> Iterator[dict[str, Array]]:
        """The rows shard by shard, with these columns as `Choice.scan` gives them, and `MEMBER`."""
        samples = self._samples()
        rest = [name for name in self.where if name not in _PLACES]
        # The table of samples has `sample` as well, but there it is only what rows are found by.
        of_tokens = [name for name in rest if name not in samples.columns[len(_FOUND_BY) :]]
        asked = list(dict.fromkeys([*columns, *_FOR_TYPES, *of_tokens, *(("sample",) if rest else ())]))
        choice = Choice(self.dump, self.phase, self._places(), "")
        for found in choice.scan(asked):
            spec = self.dump.sessions[int(found["session"][0])].spec
            keep = (found["flags"] & np.uint32(Flag.NONFINITE)) == 0
            for name in of_tokens:
                keep &= _holds(found.get(name), self.where[name], len(keep))
            keep &= self._of_samples(samples, found, choice.places)
            member = self._member(found, spec)
            keep &= member.any(axis=1)
            wanted = {name: found[name] for name in (*columns, "session") if name in found} | {MEMBER: member}
            if keep.all():
                yield wanted
            elif keep.any():
                yield {name: values[keep] for name, values in wanted.items()}

    def _member(self, found: Mapping[str, Array], spec: RecordSpec) -> Mask:
        """[rows, types]; of a type that the session does not have no row is."""
        columns = {name: found[name].astype(np.int64) for name in _FOR_TYPES}
        rows, known = Rows(columns, spec), {p.name: p for p in populations_of(spec)}
        member = np.zeros((len(columns["flags"]), len(self.types)), dtype=bool)
        for i, name in enumerate(self.types):
            if name in known:
                member[:, i] = known[name].mask(rows)
        return member

    def _places(self) -> pl.DataFrame:
        keys = self.dump.tokens.filter(pl.col("phase") == self.phase).select(*_PLACES)
        places = keys.unique().collect(engine="streaming").sort(*_PLACES)
        for name in _PLACES:
            if name in self.where:
                kept = _holds(places[name].to_numpy(), self.where[name], places.height)
                places = places.filter(pl.Series(kept))
        return places

    def _samples(self) -> pl.DataFrame:
        """Columns sample, dataset, and those of `where` that are neither of the place nor of `tokens`."""
        known = self.dump.tokens.collect_schema().names()
        of_samples = self.dump.samples.collect_schema().names()
        wanted = [name for name in self.where if name not in known]
        for name in wanted:
            if name not in of_samples:
                raise InputError(
                    f"where names {name!r}, which is a column of neither tokens nor samples; "
                    f"samples have {', '.join(of_samples)}, tokens have {', '.join(known)}"
                )
        if not wanted:
            return pl.DataFrame(schema=dict(zip(_FOUND_BY, (pl.Int64, pl.String), strict=True)))
        return self.dump.samples.select(*_FOUND_BY, *wanted).collect()

    def _of_samples(self, samples: pl.DataFrame, found: Mapping[str, Array], places: pl.DataFrame) -> Mask:
        """Whether a row's sample is one that is wanted."""
        keep = np.ones(len(found["flags"]), dtype=bool)
        wanted = samples.columns[len(_FOUND_BY) :]
        if not wanted:
            return keep
        dataset = places["dataset"].gather(found["place"])
        rows = pl.DataFrame({"sample": found["sample"], "dataset": dataset})
        told = rows.join(samples, on=list(_FOUND_BY), how="left", maintain_order="left")
        for name in wanted:
            value = self.where[name]
            if callable(value):
                keep &= np.asarray(value(told[name].to_numpy()), dtype=bool)
            else:
                keep &= told[name].eq_missing(pl.Series([value])).to_numpy()
        return keep


def pick(dump: Dump, phase: str, types: Sequence[str] | None, where: Where | None) -> Picked:
    """Say which rows are meant.

    Args:
        dump: an opened dump.
        phase: theirs.
        types: populations; by default all tokens and every type.
        where: what else must hold.

    Raises:
        InputError: no such phase, type or column.
    """
    phases = check_dump(dump).tokens.select("phase").unique().collect(engine="streaming")["phase"].sort()
    if phase not in phases:
        raise InputError(f"phase is {phase!r}; the dump has {', '.join(phases) or 'no token rows yet'}")
    known = type_names_of(dump)
    for name in types or ():
        if name not in known:
            raise InputError(f"type is {name!r}; the dump has {', '.join(map(repr, known))}")
    return Picked(dump, phase, list(known if types is None else types), dict(where or {}))


def _holds(values: Array | None, wanted: object, rows: int) -> Mask:
    """Whether each value is the wanted one. A column that a session did not record holds nothing."""
    if values is None:
        return np.full(rows, wanted is None)
    if callable(wanted):
        test = cast("Callable[[Array], Array]", wanted)
        return np.asarray(test(values), dtype=bool)
    if wanted is None:
        # `Choice.scan` gives nulls as NaN, or as −1 in the columns of whole numbers that have any (bins of ordered groups).
        return np.isnan(values) if values.dtype.kind == "f" else np.asarray(values == -1, dtype=bool)
    return np.asarray(values == wanted, dtype=bool)
