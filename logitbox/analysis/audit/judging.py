"""From the lines of one key to its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.audit.candidates import Candidate, definition_of, is_plain, pairs, singles
from logitbox.analysis.audit.fitting import Tried, Values, chance, try_candidate
from logitbox.analysis.audit.hypotheses.registry import HYPOTHESES, REDUCTIONS
from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.audit.predicting import Lines
from logitbox.analysis.audit.result import Fit, KeyVerdict, Verdict
from logitbox.analysis.audit.telling import tell

MOST_CHANCE = 0.01
"""Wrong hypotheses that may fit by chance before nothing is concluded from a fit."""

_FEW = 8
"""Lines that are looked at before all of them are."""

_TOLD = 3
"""Of the closest."""

_SAME = 1e-12
"""Relative difference below which two averages are one number."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was tried on a key, sorted.

    Attributes:
        definition: the name's own; None where the recording cannot give it.
        fitting: candidates that fit, of the simplest kind of which any does.
        best: all that were tried, the best first.
        n_tried: how many.
        collapsed: averages that equal the definition's to the last digit, though tokens are spread over several groups.
        plain: ids of fitting candidates that are plain means under another name (see `candidates.is_plain`).
    """

    definition: Tried | None
    fitting: tuple[Tried, ...]
    best: tuple[Tried, ...]
    n_tried: int
    collapsed: tuple[Tried, ...]
    plain: frozenset[str]

    @property
    def agrees(self) -> bool:
        """Whether the name's own definition fits."""
        return self.definition is not None and self.definition.fits


def search(
    meaning: Meaning, lines: Lines, at: NDArray[np.int64], values: Values, *, simple: bool = False
) -> Found:
    """Try the definition, then single entries, then pairs; parameters are fitted only where nothing without one fits.

    Args:
        meaning: of the key.
        lines: all its lines.
        at: those that are compared.
        values: logged there.
        simple: only the definition and single entries without a parameter.
    """
    definition = try_candidate(definition_of(meaning), lines, at, values)
    single = list(singles(meaning, HYPOTHESES, lines))
    done: list[Tried] = []
    n_tried = 0
    fits = definition is not None and definition.fits
    for stage in islice(_stages(single, lines), 1 if simple or fits else None):
        worth, count = _worth(stage, lines, at, values)
        tried = [found for one in worth if (found := try_candidate(one, lines, at, values)) is not None]
        done += tried
        n_tried += count
        if any(one.fits for one in tried):
            break
    known = [*([definition] if definition else []), *done]
    fitting = tuple(one for one in done if one.fits)
    return Found(
        definition,
        fitting,
        tuple(sorted(known, key=lambda one: one.misfit)),
        n_tried + (definition is not None),
        tuple(
            one
            for one in fitting
            if definition and _is_collapsed(one, definition) and not _is_flat(one, lines)
        ),
        frozenset(one.candidate.id for one in fitting if is_plain(one.candidate, lines)),
    )


def is_likely(found: Found, values: Values) -> bool:
    """Whether anything fits that hardly would by chance."""
    return any(chance(one, found.definition, values, found.n_tried) <= MOST_CHANCE for one in found.fitting)


def _stages(single: Sequence[Candidate], lines: Lines) -> Iterator[list[Candidate]]:
    """Candidates, the simplest first. Where the definition fits only the first of them can tie with it."""
    for candidates in (lambda: single, lambda: list(pairs(single, lines))):
        made = candidates()
        for has_parameter in (False, True):
            yield [one for one in made if (one.parameter is not None) == has_parameter]


def _worth(
    stage: Sequence[Candidate], lines: Lines, at: NDArray[np.int64], values: Values
) -> tuple[list[Candidate], int]:
    """(candidates that may explain all lines, and the nearest of the others; how many were looked at).

    Of many lines a few are looked at first: what does not explain those does not explain all.
    """
    if len(at) <= 2 * _FEW:
        return list(stage), len(stage)
    some = np.linspace(0, len(at) - 1, _FEW).round().astype(np.int64)
    few = values.only(some)
    lines_of_few = lines.only(at[some])
    rough = [found for one in stage if (found := try_candidate(one, lines_of_few, at[some], few)) is not None]
    near = sorted(rough, key=lambda one: one.misfit)[:_TOLD]
    # In the stage's own order: of several that fit, the registry's first is told.
    return [one.candidate for one in rough if one.fits or one in near], len(rough)


def _is_collapsed(tried: Tried, definition: Tried) -> bool:
    """Whether another way of averaging is the same number here, to the last digit."""
    own, other = definition.candidate, tried.candidate
    is_average = other.terms == own.terms and other.transform == own.transform and _is_averaging(other)
    return is_average and all(
        np.allclose(mine, its, rtol=_SAME, atol=0.0, equal_nan=True)
        for mine, its in zip(definition.predicted, tried.predicted, strict=True)
    )


def _is_flat(tried: Tried, lines: Lines) -> bool:
    """Whether all micro-batches have one mean, such as an accuracy of 0, and every average is that, whatever the counts."""
    used = lines.windows["line"].micro
    for value, population in tried.candidate.terms:
        total, count = (lines.micros.column(population, name) for name in (value, "n"))
        if total is None or count is None:
            return False
        held = used[count[used] > 0]
        means = total[held] / count[held]
        if len(means) and not np.allclose(means, means[0], rtol=_SAME, atol=0.0):
            return False
    return True


def _is_averaging(candidate: Candidate) -> bool:
    """Whether it averages all the same tokens, in groups of their own."""
    reduction = candidate.reduction
    plain = replace(REDUCTIONS["token-mean"], name=reduction.name, about=reduction.about)
    grouped = bool(reduction.levels) or reduction.per == "samples"
    return grouped and replace(reduction, levels=(), per="tokens") == plain


def judge(
    meaning: Meaning, run: int, found: Found, values: Values, n_skipped: int, alignment: str
) -> KeyVerdict:
    """The verdict on a key whose lines were compared with everything.

    Args:
        meaning: of the key.
        run: of the log.
        found: what was tried.
        values: logged at the compared lines.
        n_skipped: lines that the dump does not cover.
        alignment: how steps are counted, in words; "" where it goes without saying.
    """
    definition = found.definition
    chances = {one.candidate.id: chance(one, definition, values, found.n_tried) for one in found.fitting}
    verdict, told = _decide(found, chances)
    shown = told or definition or (found.best[0] if found.best else None)
    at = shown.worst if shown else 0
    made = KeyVerdict(
        key=meaning.key,
        run=run,
        verdict=verdict,
        hypothesis=None if verdict == "cannot tell" or told is None else told.candidate.id,
        ties_with=tuple(one.candidate.id for one in found.fitting if one is not told),
        max_error=float(shown.error[at]) if shown else None,
        tolerance=float(values.tolerance[at]) if shown else None,
        logged=float(values.logged[at]) if shown else None,
        reference=_midpoint(definition, at),
        step=int(values.step[at]) if shown else None,
        n_lines=len(values.step),
        n_skipped=n_skipped,
        closest=tuple(_fit(one, chances.get(one.candidate.id, 1.0)) for one in found.best[:_TOLD]),
        alignment=alignment,
        lines=_lines_of(values, definition, told),
    )
    return tell(made, told, found)


def _decide(found: Found, chances: Mapping[str, float]) -> tuple[Verdict, Tried | None]:
    """(verdict, what explains the key, if one thing does), given how often each would fit by chance."""
    distinct = [one for one in found.fitting if one.candidate.id not in found.plain] or found.fitting
    likely = [one for one in distinct if chances[one.candidate.id] <= MOST_CHANCE]
    if found.agrees:
        return ("cannot tell" if found.collapsed else "agrees"), found.definition
    if found.definition is None:
        return "cannot tell", None
    if not found.fitting:
        return "unexplained", None
    if not likely or not _are_one(distinct):
        return "cannot tell", None
    told = likely[0]
    is_bug = any(entry.kind == "bug" for entry in told.candidate.entries)
    return ("bug" if is_bug else "other convention"), told


def _are_one(fitting: Sequence[Tried]) -> bool:
    """Whether candidates are forms of one thing: each entry of one kind, and in the catalogue under a common name."""
    several = [one.candidate.entries for one in fitting]
    if len({len(entries) for entries in several}) > 1:
        return False
    return all(
        len({entry.kind for entry in place}) == 1
        and set.intersection(*(set(entry.catalogue) for entry in place))
        for place in zip(*several, strict=True)
    )


def _midpoint(tried: Tried | None, at: int) -> float | None:
    if tried is None:
        return None
    middle = float(tried.predicted[0][at] + tried.predicted[1][at]) / 2
    return middle if np.isfinite(middle) else None


def _fit(tried: Tried, chance_of: float) -> Fit:
    parameter = tried.candidate.parameter
    known = parameter is not None and tried.parameter is not None
    return Fit(
        hypothesis=tried.candidate.id,
        about=tried.candidate.about,
        misfit=tried.misfit,
        max_error=float(tried.error[tried.worst]),
        parameter=(parameter.name, *tried.parameter) if known and parameter and tried.parameter else None,
        chance=chance_of,
    )


def _lines_of(values: Values, definition: Tried | None, told: Tried | None) -> pl.DataFrame:
    nothing = np.full(len(values.step), np.nan)
    middle = [
        (one.predicted[0] + one.predicted[1]) / 2 if one is not None else nothing
        for one in (definition, told)
    ]
    return pl.DataFrame(
        {
            "step": values.step,
            "logged": values.logged,
            "precision": values.precision,
            "tolerance": values.tolerance,
            "reference": middle[0],
            "explained": middle[1],
        }
    )
