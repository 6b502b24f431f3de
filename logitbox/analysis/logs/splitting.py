"""A file is not a run: repeated rows, processes in turn, resumes and runs one after the other.

A *run* here is one attempt: rows whose steps go forward. A run that was resumed from a checkpoint is a new attempt; rows of
the steps it replaces stay with the attempt that logged them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from logitbox.analysis.logs.keys import SUMMARY
from logitbox.analysis.logs.raw import plural
from logitbox.analysis.logs.records import Name, Record

Moment = tuple[str, float]
_ROUNDED = "rounded epoch"
_MOST_NOTES = 12
"""Of a part; a file of many runs is not listed run by run."""


@dataclass(frozen=True)
class Split:
    """Runs of a part.

    Attributes:
        runs: records of each.
        notes: what was told apart or dropped, with counts.
    """

    runs: list[list[Record]]
    notes: list[str]


@dataclass
class _Open:
    """A run while its rows come in."""

    records: list[Record] = field(default_factory=list[Record])
    last: dict[tuple[str, Name], float] = field(default_factory=dict[tuple[str, Name], float])
    begins: str = ""
    is_over: bool = False

    def add(self, record: Record, at: Moment | None) -> None:
        self.records.append(record)
        self.is_over |= SUMMARY in record.cells
        if at:
            self.last |= {(at[0], name): at[1] for name in record.names}

    def steps(self, kind: str) -> list[float]:
        return [value for (of, _), value in self.last.items() if of == kind]


def split(records: Sequence[Record], first: int = 1) -> Split:
    """Tell the runs of a part apart.

    Args:
        records: of one part, in the order of the file.
        first: number of its first run, for the notes.
    """
    records, n_same = _without_repeats(records)
    notes = [f"{plural(n_same, 'row')} repeated an earlier one word for word: dropped"] if n_same else []
    at = _moments(records)
    runs: list[list[Record]] = []
    for attempt in _attempts(records, at, _is_behind):
        if attempt.begins:
            notes.append(f"run {first + len(runs)} {attempt.begins}")
        turns = _in_turn(attempt.records, at)
        if len(turns) > 1:
            last = first + len(runs) + len(turns) - 1
            notes.append(
                f"{len(turns)} rows of the same step come in turn (processes, or evaluations): "
                f"runs {first + len(runs)} to {last}"
            )
            runs += turns
            continue
        for again in _attempts(attempt.records, at, _is_again):
            if again.begins:
                notes.append(f"run {first + len(runs)} {again.begins}")
            runs.append(again.records)
    n_more = len(notes) - _MOST_NOTES
    return Split(
        runs,
        [*notes[:_MOST_NOTES], *([f"{n_more:,} more such notes: {len(runs):,} runs"] if n_more > 0 else [])],
    )


def joined(runs: Sequence[Sequence[Record]]) -> list[Record]:
    """One training out of the runs of a file: of a key, what a later run logged counts from its first step on."""
    found: list[list[Record]] = []
    first: dict[Name, float] = {}
    for run in reversed(runs):
        found.append([r for r in run if all(_place(r) < first.get(name, math.inf) for name in r.names)])
        for record in [r for r in run if _place(r) > -math.inf] or run:
            for name in record.names:
                first[name] = min(first.get(name, math.inf), _place(record))
    return [record for run in reversed(found) for record in run]


def _place(record: Record) -> float:
    """Step or epoch; what has neither is replaced by whatever comes later."""
    moments = (moment for moment in (record.step, record.epoch) if moment is not None)
    return next(moments, -math.inf)


def _without_repeats(records: Sequence[Record]) -> tuple[list[Record], int]:
    """Records without those that say nothing new; rows that tell no moment may be alike by chance and stay."""
    seen: set[tuple[object, ...]] = set()
    found: list[Record] = []
    for record in records:
        cells = tuple(sorted((key, repr(record.cells[key].value)) for _, key in record.names))
        same = (record.step, record.epoch, record.phase, cells)
        has_moment = record.step is not None or (record.epoch is not None and len(cells) > 1)
        if has_moment and same in seen:
            continue
        seen.add(same)
        found.append(record)
    return found, len(records) - len(found)


def _moments(records: Sequence[Record]) -> dict[int, Moment]:
    """Row to its step, else its epoch. Epochs printed with few decimals are the same for several rows, and taken as rising."""
    found: dict[int, Moment] = {}
    epochs = [record.epoch for record in records if record.step is None and record.epoch is not None]
    is_exact = any(epoch != round(epoch, 3) for epoch in epochs)
    for record in records:
        if record.step is not None:
            found[record.row] = ("step", float(record.step))
        elif record.epoch is not None:
            found[record.row] = ("epoch" if is_exact else _ROUNDED, record.epoch)
    return found


def _attempts(
    records: Sequence[Record], at: dict[int, Moment], goes_back: Callable[[_Open, Record, Moment], bool]
) -> list[_Open]:
    """Rows cut where a key goes back in steps, or where training goes on after a summary."""
    runs = [_Open()]
    for record in records:
        run, here = runs[-1], at.get(record.row)
        is_back = here is not None and goes_back(run, record, here)
        goes_on = not is_back and "loss" in record.cells and run.is_over
        if is_back or goes_on:
            runs.append(_Open(begins=_begins(run, record, here)))
        runs[-1].add(record, here)
    return runs


def _is_behind(run: _Open, record: Record, here: Moment) -> bool:
    """Whether a key was logged at a later step already."""
    kind, now = here
    return any(now < run.last.get((kind, name), now) for name in record.names)


def _is_again(run: _Open, record: Record, here: Moment) -> bool:
    """Whether most keys of a row were logged at this step already; a key may stand in two rows of a step."""
    kind, now = here
    names = record.names
    return kind != _ROUNDED and 2 * sum(now == run.last.get((kind, name)) for name in names) > len(names)


def _begins(before: _Open, record: Record, here: Moment | None) -> str:
    """How a run begins, to stand after "run 3"."""
    start = f"begins at row {record.row}: "
    if here is None:
        return start + "the one before had ended with a summary"
    kind, now = here
    of_kind = before.steps(kind)
    came = max(of_kind, default=now)
    moments = [r.step if kind == "step" else r.epoch for r in before.records]
    known = [m for m in moments if m is not None]
    if now <= min(known, default=now) or (before.is_over and now <= came):
        return f"{start}a new run (from {kind} {now:g} on, after {came:g})"
    n_replaced = sum(m >= now for m in known)
    told = f"{start}resumed at {kind} {now:g}, after {came:g}"
    return told + (f"; {plural(n_replaced, 'row')} of the run before replaced" if n_replaced else "")


def _in_turn(records: list[Record], at: dict[int, Moment]) -> list[list[Record]]:
    """Rows of several processes: the n-th row of a step with the same keys is of the n-th process.

    Only if most steps of a key come several times; else the rows as they are. A key that stands in two different rows of
    a step, of training and of evaluation, makes them no processes.
    """
    places: list[int] = []
    seen: Counter[tuple[Moment, Name]] = Counter()
    most: defaultdict[Name, dict[Moment, int]] = defaultdict(dict)
    for record in records:
        here = at.get(record.row)
        if here is None or here[0] == _ROUNDED:
            places.append(0)
            continue
        names = record.names
        # Of most of its keys: one that two kinds of rows share does not count.
        place = sorted(seen[here, name] for name in names)[(len(names) - 1) // 2]
        for name in names:
            seen[here, name] += 1
            most[name][here] = max(most[name].get(here, 0), place)
        places.append(place)
    if not any(_is_usual(list(of.values())) for of in most.values()):
        return [records]
    turns: list[list[Record]] = [[] for _ in range(max(places) + 1)]
    for record, place in zip(records, places, strict=True):
        turns[place].append(record)
    return turns


def _is_usual(places: list[int]) -> bool:
    """Whether most steps of a key, which has these highest places, come several times."""
    n = sum(place > 0 for place in places)
    return n >= max(2, len(places) / 2) or (n == len(places) == 1)
