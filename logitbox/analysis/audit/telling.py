"""Verdicts in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from logitbox.analysis.audit.fitting import MOST_CHANCE, Tried
from logitbox.analysis.audit.result import VERDICTS, Fit, KeyVerdict, Violation
from logitbox.analysis.logs.raw import plural

if TYPE_CHECKING:
    from logitbox.analysis.audit.searching import Found

_MOST_NAMES = 6

_NEAR = 100.0
"""Times the tolerance beyond which a fit is no lead."""


def tell(verdict: KeyVerdict, told: Tried | None, found: Found) -> KeyVerdict:
    """The same verdict with `about`, `fix` and `tell_apart` in words.

    Args:
        verdict: as judged.
        told: the candidate that explains the key, if one does.
        found: everything that was tried.
    """
    definition = found.definition
    about = {
        "agrees": lambda: _agrees(verdict),
        "other convention": lambda: _explained(verdict, told, definition),
        "bug": lambda: _explained(verdict, told, definition),
        "unexplained": lambda: _unexplained(verdict, definition),
        "cannot tell": lambda: _cannot_tell(verdict, found),
    }[verdict.verdict]()
    entries = told.candidate.entries if told else ()
    return replace(
        verdict,
        about=about,
        fix=_sentences(entry.fix for entry in entries),
        tell_apart=_tell_apart(verdict, found),
    )


def _sentences(texts: Iterable[str]) -> str:
    """Several texts, each a sentence of its own, each once."""
    return ". ".join(dict.fromkeys(text[:1].upper() + text[1:] for text in texts if text))


def _agrees(verdict: KeyVerdict) -> str:
    return f"the token mean explains {_lines(verdict)}"


def _explained(verdict: KeyVerdict, told: Tried | None, definition: Tried | None) -> str:
    if told is None:
        return ""
    misleads = _sentences(entry.misleads for entry in told.candidate.entries)
    fitted = ""
    if told.parameter is not None and told.candidate.parameter is not None:
        low, high = told.parameter
        fitted = f" with {told.candidate.parameter.name} between {low:.6g} and {high:.6g}"
    return f"it is {told.candidate.about}{fitted}: explains {_lines(verdict)}{_off(definition)}. {misleads}".rstrip()


def _off(definition: Tried | None) -> str:
    """By how much the logged values miss the name's own definition."""
    if definition is None or not np.isfinite(definition.error).any():
        return ""
    largest = float(np.nanmax(definition.error))
    return f"; the token mean is off by up to {largest:.3g}, {float(np.nanmean(definition.error)):.3g} on average"


def _unexplained(verdict: KeyVerdict, definition: Tried | None) -> str:
    near = [fit for fit in verdict.closest if fit.misfit <= _NEAR]
    agrees = 0 if definition is None else _agreeing(verdict)
    some = f" The token mean explains {agrees} of {verdict.n_lines} lines." if agrees else ""
    if near:
        closest = f"Closest: {'; '.join(_closeness(fit) for fit in near)}"
    else:
        closest = f"Nothing comes near; the closest is {_closeness(verdict.closest[0])}"
    return f"nothing registered explains {_lines(verdict)}.{some} {closest}"


def _agreeing(verdict: KeyVerdict) -> int:
    off = (verdict.lines["logged"] - verdict.lines["reference"]).abs()
    return int((off <= verdict.lines["tolerance"]).sum())


def _closeness(fit: Fit) -> str:
    return f"{fit.hypothesis} (off by {fit.max_error:.3g}, {fit.misfit:.3g} times the tolerance)"


def _cannot_tell(verdict: KeyVerdict, found: Found) -> str:
    if found.definition is None:
        return "the dump does not hold what its own definition needs"
    if found.collapsed:
        names = _names([one.candidate.id for one in found.collapsed])
        return (
            f"the value is right, but how it is averaged cannot be told: token-mean and {names} are one number here, "
            "because all groups have the same number of tokens"
        )
    if found.agrees:
        names = _names([one.candidate.id for one in found.rivals])
        return f"the token mean explains {_lines(verdict)} to the digits that were logged, but so do {names}"
    distinct = _names([one.candidate.id for one in found.distinct])
    if _is_luck(verdict, found):
        return (
            f"{distinct} explains {_lines(verdict)}, and the token mean does not, but {_luck(verdict, found)}"
        )
    return f"several explain {_lines(verdict)} equally well: {distinct}; the token mean does not"


def _is_luck(verdict: KeyVerdict, found: Found) -> bool:
    """Whether what fits could do so by chance."""
    fitting = {one.candidate.id for one in found.fitting}
    return all(fit.chance > MOST_CHANCE for fit in verdict.closest if fit.hypothesis in fitting)


def _luck(verdict: KeyVerdict, found: Found) -> str:
    least = min((fit.chance for fit in verdict.closest), default=float("inf"))
    if not isfinite(least):
        return "one line cannot test an unknown number"
    return f"of {found.n_tried} hypotheses about {least:.2g} would by chance fit so few lines and digits"


def _tell_apart(verdict: KeyVerdict, found: Found) -> str:
    """What to record or log so that ties come apart, or more could be tried."""
    if found.untried and verdict.verdict == "unexplained":
        return f"not tried, for the dump lacks what they need: {_needed(found.untried)}"
    if verdict.verdict != "cannot tell" or found.definition is None:
        return ""
    levels = [level for one in found.fitting for level in one.candidate.reduction.levels]
    advice = {
        "log a run whose micro-batches differ in their number of supervised tokens": bool(found.collapsed),
        "log more digits": found.agrees,
        "log more lines, or more digits": _is_luck(verdict, found),
        "evaluate with batches that differ in their number of rows": any(
            level.weight == "rows" for level in levels
        ),
    }
    usual = "log a run with ragged micro-batches, several ranks, several steps a line; or log more digits"
    return next((text for text, fits in advice.items() if fits), usual)


def _needed(untried: Sequence[tuple[str, str]]) -> str:
    """What to record, and what could be tried then."""
    by_need: dict[str, list[str]] = {}
    for name, need in untried:
        by_need.setdefault(need, []).append(name)
    return "; ".join(f"{_names(names)} ({need})" for need, names in by_need.items())


def _lines(verdict: KeyVerdict) -> str:
    total = verdict.n_lines
    lines = {1: "the one compared line", 2: "both compared lines"}.get(total, f"all {total:,} compared lines")
    skipped = f" ({verdict.n_skipped:,} more cannot be compared)" if verdict.n_skipped else ""
    return lines + skipped


def _names(ids: Sequence[str]) -> str:
    shown = list(ids[:_MOST_NAMES])
    more = f" and {len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
    return ", ".join(shown) + more


def sentence(
    keys: Sequence[KeyVerdict], violations: Sequence[Violation], n_runs: int, *, is_alone: bool
) -> str:
    """All of an audit in one line, the worst first: how many keys have which verdict, and which.

    Args:
        keys: all verdicts.
        violations: of all runs.
        n_runs: runs of the log.
        is_alone: whether there is no dump.
    """
    named: dict[str, list[str]] = {
        name: [one.key for one in keys if one.verdict == name] for name in VERDICTS
    }
    if is_alone:  # without a dump nothing else can be said of them
        rest = named.pop("cannot tell")
        told = [f"nothing impossible in {', '.join(dict.fromkeys(rest))}"] if rest else []
        parts = [*_counted(named), *told]
    else:
        parts = _counted(named)
    if violations:
        parts.insert(0, plural(len(violations), "inequality", "inequalities") + " broken")
    runs = f"{n_runs} runs: " if n_runs > 1 else ""
    return runs + ("; ".join(parts) or "no key that can be audited")


def _counted(named: dict[str, list[str]]) -> list[str]:
    """Verdict and keys, for verdicts that any key has."""
    return [
        f"{len(found)} {name}: {', '.join(dict.fromkeys(found))}" for name, found in named.items() if found
    ]
