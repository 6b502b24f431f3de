"""Trying hypotheses on one key: the definition first, then single entries, then pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.audit.candidates import Candidate, definition_of, is_plain, pairs, singles
from logitbox.analysis.audit.fitting import MOST_CHANCE, Tried, Values, chance, try_candidate
from logitbox.analysis.audit.hypotheses.registry import HYPOTHESES, REDUCTIONS
from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.audit.predicting import Lines

TOLD = 3
"""Of the closest."""

_FEW = 8
"""Lines that are looked at before all of them are."""

_SAME = 1e-12
"""Relative difference below which two averages are one number."""

_APART = 1e-9
"""Relative difference from which on more digits would tell two predictions apart."""


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
        untried: (id, what to record) of entries that the recording has not what they need.
    """

    definition: Tried | None
    fitting: tuple[Tried, ...]
    best: tuple[Tried, ...]
    n_tried: int
    collapsed: tuple[Tried, ...]
    plain: frozenset[str]
    untried: tuple[tuple[str, str], ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether the name's own definition fits."""
        return self.definition is not None and self.definition.fits

    @property
    def rivals(self) -> tuple[Tried, ...]:
        """Fitting candidates that predict something else than the definition: more digits would tell them apart."""
        own = self.definition
        return () if own is None else tuple(one for one in self.fitting if _is_apart(one, own))

    @property
    def distinct(self) -> tuple[Tried, ...]:
        """Fitting candidates without those that only repeat another: plain means by another name, rounded ones."""
        kinds = {
            (one.candidate.terms, one.candidate.reduction) for one in self.fitting if not _is_rounded(one)
        }
        apart = tuple(
            one
            for one in self.fitting
            if one.candidate.id not in self.plain
            and not (_is_rounded(one) and (one.candidate.terms, one.candidate.reduction) in kinds)
        )
        return apart or self.fitting


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
        () if fits or fitting or simple else _untried(single, lines),
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
    near = sorted(rough, key=lambda one: one.misfit)[:TOLD]
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


def _is_apart(tried: Tried, definition: Tried) -> bool:
    """Whether the definition's prediction lies outside a candidate's, at some line, by more than arithmetic."""
    (low, high), (own, _) = tried.predicted, definition.predicted
    slack = _APART * (1 + np.abs(own))
    return bool(((own < low - slack) | (own > high + slack)).any()) and not _is_rounded(tried)


def _is_rounded(tried: Tried) -> bool:
    """Whether it is another candidate's value, rounded."""
    return "bfloat16" in tried.candidate.transform


def _untried(single: Sequence[Candidate], lines: Lines) -> tuple[tuple[str, str], ...]:
    """(id, what to record) of entries whose values the recording does not have."""
    return tuple(
        (one.id, one.entries[0].needs)
        for one in single
        if one.entries[0].needs and lines.reduced(one.terms, one.reduction) is None
    )
