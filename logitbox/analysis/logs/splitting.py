"""A file is not a run: repeated rows, processes in turn, resumes and runs one after the other.

A *run* here is one attempt: rows whose steps go forward. A run that was resumed from a checkpoint is a new attempt; rows of
the steps it replaces stay with the attempt that logged them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from logitbox.analysis.logs.keys import SUMMARY, is_of_machine
from logitbox.analysis.logs.raw import plural
from logitbox.analysis.logs.records import Record

Moment = tuple[str, float]
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
    last: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    begins: str = ""
    is_over: bool = False

    def add(self, record: Record, at: Moment | None) -> None:
        self.records.append(record)
        self.is_over |= SUMMARY in record.cells
        if at:
            self.last |= {(at[0], key): at[1] for key in keys_of(record)}

    def steps(self, kind: str) -> list[float]:
        return [value for (of, _), value in self.last.items() if of == kind]


def keys_of(record: Record) -> list[str]:
    """Keys about the training, not the machine; all of them where it has no others."""
    return [key for key in record.cells if not is_of_machine(key)] or list(record.cells)


def split(records: Sequence[Record], first: int = 0) -> Split:
    """Tell the runs of a part apart.

    Args:
        records: of one part, in the order of the file.
        first: number of its first run.
    """
    records, n_same = _without_repeats(records)
    notes = [f"{plural(n_same, 'row')} repeated an earlier one word for word: dropped"] if n_same else []
    at = _moments(records)
    runs: list[list[Record]] = []
    for attempt in _attempts(records, at, lambda last, now: now < last):
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
        for again in _attempts(attempt.records, at, lambda last, now: now <= last):
            if again.begins:
                notes.append(f"run {first + len(runs)} {again.begins}")
            runs.append(again.records)
    n_more = len(notes) - _MOST_NOTES
    return Split(
        runs,
        [*notes[:_MOST_NOTES], *([f"{n_more:,} more such notes: {len(runs):,} runs"] if n_more > 0 else [])],
    )


def _without_repeats(records: Sequence[Record]) -> tuple[list[Record], int]:
    """Records without those that say nothing new; rows that tell no moment may be alike by chance and stay."""
    seen: set[tuple[object, ...]] = set()
    found: list[Record] = []
    for record in records:
        cells = tuple(sorted((key, repr(record.cells[key].value)) for key in keys_of(record)))
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
            found[record.row] = ("epoch" if is_exact else "rounded epoch", record.epoch)
    return found


def _attempts(
    records: Sequence[Record], at: dict[int, Moment], goes_back: Callable[[float, float], bool]
) -> list[_Open]:
    """Rows cut where a key goes back in steps, or where training goes on after a summary."""
    runs = [_Open()]
    for record in records:
        run, here = runs[-1], at.get(record.row)
        keys = keys_of(record)
        is_back = here is not None and any(
            goes_back(run.last[here[0], key], here[1])
            for key in keys
            if (here[0], key) in run.last and here[0] != "rounded epoch"
        )
        is_back |= (
            here is not None
            and here[0] == "rounded epoch"
            and any(here[1] < run.last.get((here[0], key), here[1]) for key in keys)
        )
        goes_on = not is_back and "loss" in record.cells and run.is_over
        if is_back or goes_on:
            runs.append(_Open(begins=_begins(run, record, here)))
        runs[-1].add(record, here)
    return runs


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
    """Rows of several processes: the n-th row of a step and key is of the n-th process.

    Only if most steps come several times; else the rows as they are.
    """
    places: list[int] = []
    seen: Counter[tuple[Moment, str]] = Counter()
    for record in records:
        here = at.get(record.row)
        if here is None or here[0] == "rounded epoch":
            places.append(0)
            continue
        keys = keys_of(record)
        place = max(seen[here, key] for key in keys)
        seen.update({(here, key): place + 1 - seen[here, key] for key in keys})
        places.append(place)
    counts: defaultdict[str, list[int]] = defaultdict(list)
    for (_, key), n in seen.items():
        counts[key].append(n)
    is_turns = any(
        sum(n > 1 for n in of) >= max(2, len(of) / 2) or (len(of) == 1 and of[0] > 1)
        for of in counts.values()
    )
    if not is_turns:
        return [records]
    turns = range(max(places) + 1)
    return [[r for r, place in zip(records, places, strict=True) if place == turn] for turn in turns]
