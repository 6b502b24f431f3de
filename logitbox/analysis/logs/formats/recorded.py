"""What a trainer gave to `Recorder.scalars`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from logitbox.analysis.logs.keys import is_value
from logitbox.analysis.logs.raw import Part, Raw, Row, named, plural
from logitbox.dumps.dump import Dump
from logitbox.dumps.manifest import Session

DUMP = "scalars of a dump"
"""The format, in words."""
Values = dict[str, float]
Moment = tuple[int, str, int]
"""Which of the trainings of the dump, phase, step."""


@dataclass
class _Together:
    """One row for each moment of a training; counts what a row had been given before.

    Attributes:
        rows: moment to its values.
        overwritten: key to how often the same rank gave it again, with another value.
        differing: key to how often ranks gave different values.
        n_alike: values that several ranks gave alike.
    """

    rows: dict[Moment, Values] = field(default_factory=dict[Moment, Values])
    overwritten: Counter[str] = field(default_factory=Counter[str])
    differing: Counter[str] = field(default_factory=Counter[str])
    n_alike: int = 0

    def add(self, found: dict[Moment, Values]) -> None:
        """Values of a later session: they count instead of earlier ones."""
        for moment, values in found.items():
            here = self.rows.setdefault(moment, {})
            self.overwritten.update(_changed(here, values))
            here |= values

    def notes(self) -> tuple[str, ...]:
        found: list[str] = []
        if self.overwritten:
            n = plural(self.overwritten.total(), "value")
            found.append(
                f"{n} logged again at the same step ({named(self.overwritten)}): the last one counts"
            )
        if self.differing:
            n = plural(self.differing.total(), "value")
            found.append(f"{n} differ between ranks ({named(self.differing)}): those of the first rank count")
        if self.n_alike:
            found.append(f"{plural(self.n_alike, 'value')} of other ranks were the same: taken once")
        return tuple(found)


def of_dump(dump: Dump) -> Raw:
    """The scalars of a dump: a row for each step and phase. Those that a resumed session replaced are no part of them.

    The last value that was given for a step counts, and of ranks that of the first. Sessions that resumed earlier ones
    are one training with them.
    """
    together = _Together()
    training = -1
    for ordinal in dict.fromkeys(session.ordinal for session in dump.sessions):
        ranks = [session for session in dump.sessions if session.ordinal == ordinal]
        training += training < 0 or ranks[0].resume_from is None
        together.add(_of_ranks(dump, ranks, training, together))
    # A step that was logged late is no earlier attempt.
    moments = sorted(together.rows, key=lambda moment: (moment[0], moment[2]))
    rows: list[Row] = [
        {"step": step, "phase": phase} | _without(("step", "phase"), together.rows[training, phase, step])
        for training, phase, step in moments
    ]
    return Raw((Part(rows),), DUMP, together.notes())


def _of_ranks(dump: Dump, ranks: list[Session], training: int, together: _Together) -> dict[Moment, Values]:
    found: dict[Moment, Values] = {}
    for session in ranks:
        mine: dict[Moment, Values] = {}
        for step, phase, key, value in _rows(dump, session):
            here = mine.setdefault((training, phase, step), {})
            together.overwritten.update(_changed(here, {key: value}))
            here[key] = value
        for moment, values in mine.items():
            first = found.setdefault(moment, {})
            differing = _changed(first, values)
            together.differing.update(differing)
            together.n_alike += len(first.keys() & values.keys()) - len(differing)
            found[moment] = values | first
    return found


def _rows(dump: Dump, session: Session) -> Iterator[tuple[int, str, str, float]]:
    shards = [shard for shard in dump.shards("scalars") if shard.session is session]
    dump.check(shards)
    if shards:
        frame = pl.scan_parquet([shard.path for shard in shards], glob=False, hive_partitioning=False)
        yield from dump.visible(session)(frame).select("step", "phase", "key", "value").collect().iter_rows()


def _without(names: tuple[str, ...], values: Values) -> Values:
    return {key: value for key, value in values.items() if key.lower() not in names}


def _changed(before: Values, values: Values) -> list[str]:
    """Keys that both have, with another value; epochs and the like are none."""
    return [
        key
        for key, value in values.items()
        if key in before and is_value(key) and repr(before[key]) != repr(value)
    ]
