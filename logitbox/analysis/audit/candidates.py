"""The hypotheses about one key: its own definition, single entries, and pairs that change different parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.audit.evidence import Setup
from logitbox.analysis.audit.hypotheses.entries import Hypothesis, Parameter, Reduction
from logitbox.analysis.audit.hypotheses.registry import REDUCTIONS
from logitbox.analysis.audit.hypotheses.values import BEST
from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.audit.predicting import Lines, Terms

DEFINITION = "definition"

_PARTS = ("population", "value", "reduction", "transform", "parameter")


@dataclass(frozen=True)
class Candidate:
    """One way in which a key may have been computed.

    Attributes:
        entries: the registry's entries it is made of; none for the name's own definition.
        terms, reduction, transform: all parts, the key's own where no entry changes them.
        parameter: fitted, if any.
    """

    entries: tuple[Hypothesis, ...]
    terms: Terms
    reduction: Reduction
    transform: str
    parameter: Parameter | None = None

    @property
    def id(self) -> str:
        """Ids of the entries; "definition" without any."""
        return "+".join(entry.id for entry in self.entries) or DEFINITION

    @property
    def about(self) -> str:
        """In words."""
        return ", and ".join(entry.about for entry in self.entries) or "the name's own definition"


def definition_of(meaning: Meaning) -> Candidate:
    """What the key's name promises: the token mean over the line's window."""
    return Candidate((), meaning.terms, REDUCTIONS["token-mean"], meaning.transform)


def singles(meaning: Meaning, hypotheses: Sequence[Hypothesis], lines: Lines) -> Iterator[Candidate]:
    """One for every entry that is about this key and that this recording could tell from the definition."""
    own = definition_of(meaning)
    for entry in hypotheses:
        for placed in _placed(entry, lines.setup):
            made = _with(own, placed)
            is_new = made != replace(own, entries=(placed,))
            if is_new and _is_about(placed, meaning) and could_differ(made, lines):
                yield made


def pairs(candidates: Sequence[Candidate], lines: Lines) -> Iterator[Candidate]:
    """Two entries at once, where they change different parts; `candidates` are singles."""
    for one, other in combinations([c for c in candidates if c.entries[0].combines], 2):
        first, second = one.entries[0], other.entries[0]
        if _changed(first).isdisjoint(_changed(second)):
            both = replace(_with(one, second), entries=(first, second))
            if not both.reduction.empty_is_zero or _has_empty(both, lines):
                yield both


def could_differ(candidate: Candidate, lines: Lines) -> bool:
    """Whether the recording has what the candidate is about: several ranks, several steps a line, empty micro-batches.

    Without it the candidate says the same as the definition whatever the data, and is no hypothesis.
    """
    if candidate.reduction.empty_is_zero and not _has_empty(candidate, lines):
        return False
    if candidate.reduction.window == "line+1" and not lines.condition(_has_line_before):
        return False
    if candidate.reduction.per == "samples" and not lines.condition(_has_samples):
        return False
    if candidate.reduction.factor == "accumulation_after_first" and lines.count < 2:
        return False
    named = (name for entry in candidate.entries for name in entry.applies)
    return all(lines.condition(_CONDITIONS[name]) for name in named if name in _CONDITIONS)


def _has_several(name: str, within: tuple[str, ...]) -> Callable[[Lines], bool]:
    """Whether some line has more than one value of a key column, for the same values of others."""

    def check(lines: Lines) -> bool:
        windows, where = lines.windows["line"], lines.micros.where
        columns = {"line": windows.line} | {by: where[by][windows.micro] for by in (*within, name)}
        frame = pl.DataFrame(columns)
        most = frame.group_by("line", *within).agg(pl.col(name).n_unique())[name].max()
        return isinstance(most, int) and most > 1

    return check


def _is_any(lines: Lines, chosen: NDArray[np.bool_]) -> bool:
    """Whether some line is about one of the micro-batches that are chosen, [micro-batches]."""
    return bool(chosen[lines.windows["line"].micro].any())


def _has_line_before(lines: Lines) -> bool:
    """Whether some line would be about more, with the last step of the line before."""
    return len(lines.windows["line+1"].micro) > len(lines.windows["line"].micro)


def _has_samples(lines: Lines) -> bool:
    """Whether some line is about more than one sample, as far as it is known."""
    windows, samples = lines.windows["line"], lines.micros.column("", "samples")
    if samples is None or not len(windows.line):
        return True
    held = np.bincount(windows.line, np.nan_to_num(samples[windows.micro], nan=np.inf))
    return bool(held.max() > 1)


def _has_empty(candidate: Candidate, lines: Lines) -> bool:
    """Whether some line is about a micro-batch without any token that the candidate counts."""
    counts = [lines.micros.column(population, "n") for _, population in candidate.terms]
    known = [count for count in counts if count is not None]
    return not known or bool((np.sum(known, axis=0)[lines.windows["line"].micro] == 0).any())


def is_plain(candidate: Candidate, lines: Lines) -> bool:
    """Whether it weights micro-batches by their padded size, and that never differs within a line.

    It is then a plain mean under another name, and padding does no harm.
    """
    if "positions" not in {level.weight for level in candidate.reduction.levels}:
        return False
    windows, sizes = lines.windows[candidate.reduction.window], lines.micros.batches["positions"]
    frame = pl.DataFrame({"line": windows.line, "size": sizes[windows.micro]})
    return frame.group_by("line").agg(pl.col("size").n_unique())["size"].max() == 1


_CONDITIONS: Mapping[str, Callable[[Lines], bool]] = {
    "ranks": _has_several("rank", ("step",)),
    "steps": _has_several("step", ()),
    "micro-batches": _has_several("micro", ("step",)),
    "accumulation": _has_several("micro", ("step",)),
    "evaluation": lambda lines: not lines.is_train,
    "duplicates": lambda lines: _is_any(lines, lines.micros.repeats),
    "cut ranks": lambda lines: _is_any(lines, lines.micros.cut),
    "nonfinite": lambda lines: _is_any(lines, lines.micros.lossy),
}
"""What an entry can ask for in `applies`. Micro-batches that are the only ones of their step and rank are no groups of
their own."""


def _placed(entry: Hypothesis, setup: Setup) -> Iterator[Hypothesis]:
    """The entry with `{k}` filled in, and `{group}` and `{rest}`, once for every ordered group where it has them."""
    if "{k}" in entry.value:
        if setup.k not in BEST and setup.k < setup.vocab_size:
            yield replace(entry, value=entry.value.replace("{k}", str(setup.k)))
        return
    if not any("{group}" in text or "{rest}" in text for term in entry.terms for text in term):
        yield entry
        return
    for group, rest in setup.ordered.items():
        filled = tuple(
            (value.format(group=group, rest=rest), population.format(group=group, rest=rest))
            for value, population in entry.terms
        )
        yield replace(entry, terms=filled)


def _is_about(entry: Hypothesis, meaning: Meaning) -> bool:
    values = {value for value, _ in meaning.terms}
    is_value = not entry.values or values <= set(entry.values)
    if entry.population.startswith(".") and meaning.population:  # instead of all tokens, not of a type's
        return False
    return is_value and (not entry.transforms or meaning.transform in entry.transforms)


def _with(own: Candidate, entry: Hypothesis) -> Candidate:
    """A candidate with the parts that an entry changes."""
    terms = entry.terms or tuple(
        (
            entry.value.replace("{value}", value) or value,
            entry.population.replace("{population}", population).replace("{all}", "")
            if entry.population
            else population,
        )
        for value, population in own.terms
    )
    return Candidate(
        entries=(entry,),
        terms=terms,
        reduction=REDUCTIONS[entry.reduction] if entry.reduction else own.reduction,
        transform=entry.transform or own.transform,
        parameter=entry.parameter or own.parameter,
    )


@cache
def _changed(entry: Hypothesis) -> frozenset[str]:
    """Parts that an entry changes."""
    changed = frozenset(name for name in _PARTS if getattr(entry, name))
    return changed | (frozenset(("population", "value")) if entry.terms else frozenset())
