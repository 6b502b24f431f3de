"""From the lines of one key to its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from logitbox.analysis.audit.fitting import MOST_CHANCE, Tried, Values, chance
from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.audit.result import Fit, KeyVerdict, Verdict
from logitbox.analysis.audit.searching import TOLD, Found
from logitbox.analysis.audit.telling import tell


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
        closest=tuple(_fit(one, chances.get(one.candidate.id, 1.0)) for one in found.best[:TOLD]),
        alignment=alignment,
        lines=_lines_of(values, definition, told),
    )
    return tell(made, told, found)


def _decide(found: Found, chances: Mapping[str, float]) -> tuple[Verdict, Tried | None]:
    """(verdict, what explains the key, if one thing does), given how often each would fit by chance."""
    distinct = found.distinct
    likely = [one for one in distinct if chances[one.candidate.id] <= MOST_CHANCE]
    if found.agrees:
        is_unsure = found.collapsed or found.rivals
        return ("cannot tell" if is_unsure else "agrees"), found.definition
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
