"""A diagnosis on the terminal, like a test runner's output, and as JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from logitbox.analysis.doctor.outcomes import Evidence, moment
from logitbox.analysis.doctor.ranges import number
from logitbox.terminal import print_verdict, printable, rows_of, stdout_console

if TYPE_CHECKING:
    from logitbox.analysis.doctor.diagnosis import Diagnosis, Finding

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "not enough data": "dim"}
_WORDS = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "not enough data": "  ? "}
_WIDEST = 120
_WIDEST_LINE = 180
_MOST_REASONS = 6
"""Reasons why data is lacking that are told without --all."""
_ZERO = 1e-6
"""Below it a value stands for zero, and how far it is off says nothing."""


def print_diagnosis(found: Diagnosis, *, everything: bool = False) -> None:
    """One line per rule; then details of all that is no pass; then the verdict."""
    console = stdout_console()
    _print_head(console, found)
    width = max(len(printable(finding.rule.name)) for finding in found.findings)
    missing = found.of("not enough data")
    is_listed = everything or len(missing) == 1
    for finding in found.findings:
        if is_listed or finding.status != "not enough data":
            _line(console, finding, width)
    if not is_listed and missing:
        _print(console, _lacking(missing), "dim")
    detailed = [f for f in found.findings if everything or f.status in ("warn", "fail")]
    order = {"fail": 0, "warn": 1, "pass": 2, "not enough data": 3}
    listed: dict[tuple[str, ...], str] = {}
    for finding in sorted(detailed, key=lambda finding: order[finding.status]):
        _details(console, finding)
        _actions(console, finding, listed)
    console.print()
    print_verdict(f"{found.profile.name}: {found}")
    if missing and is_listed:
        _print(console, "? = not enough data; what is missing stands beside it", "dim")


def _print_head(console: Console, found: Diagnosis) -> None:
    facts = found.facts
    of = "" if facts.classes is None else f", {facts.classes:,} classes"
    told = "".join(f"; {note}" for note in facts.notes)
    _print(
        console,
        f"{facts.source}: profile {found.profile.name}, {len(found.findings)} checks{of}{told}",
        "dim",
    )


def _line(console: Console, finding: Finding, width: int) -> None:
    is_quiet = finding.status == "not enough data"
    line = Text(_WORDS[finding.status], style=_STYLES[finding.status])
    line.append(f"  {printable(finding.rule.name):{width}}  ", style="dim" if is_quiet else "")
    sure = f" · {finding.sure}" if _sure(finding) and finding.status in ("warn", "fail") else ""
    line.append(printable(finding.told + sure), style="dim" if is_quiet else "")
    line.truncate(min(console.width, _WIDEST_LINE), overflow="ellipsis")
    console.print(line, no_wrap=True, overflow="ellipsis")


def _lacking(missing: Sequence[Finding]) -> str:
    """One line for all checks that lack data: reasons, the most frequent first."""
    reasons = Counter(_reason(finding) for finding in missing).most_common()
    told = ", ".join(f"{reason} ({n})" for reason, n in reasons[:_MOST_REASONS])
    rest = sum(n for _, n in reasons[_MOST_REASONS:])
    return f"{len(missing)} checks lack data: {told}{f', other reasons ({rest})' if rest else ''}; --all lists them"


def _reason(finding: Finding) -> str:
    """What a check lacks, in few words."""
    told = finding.told
    if len(finding.evidence) > 1:
        return "signs that cannot be told"
    if ": it takes " in told:
        need = told.partition(": it takes ")[2].partition(", or ")[0]
        return f"no {need.removeprefix('the ').removeprefix('a ')}"
    if told.endswith(" needed"):
        for unit in ("evaluations", "epochs", "classes"):
            if unit.removesuffix("s") in told.partition(";")[0]:
                return f"too few {unit}"
    return told.partition(" (")[0]


def _sure(finding: Finding) -> str:
    """How sure it is, in words; "" of counts, where there is nothing to be sure of."""
    points = [evidence.point for evidence in finding.evidence if evidence.point is not None]
    if points and all(point.is_exact for point in points):
        return ""
    words = {
        "likely": "likely: its interval reaches across the bound",
        "no interval known": "no interval known",
    }
    return words.get(finding.sure, finding.sure)


def _details(console: Console, finding: Finding) -> None:
    console.print()
    head = Text(_WORDS[finding.status].strip(), style=_STYLES[finding.status])
    head.append(f" {printable(finding.title)}", style="bold")
    head.append(
        f"  {printable(finding.rule.name)}" + (f" · {_sure(finding)}" if _sure(finding) else ""), style="dim"
    )
    console.print(head, width=min(console.width, _WIDEST))
    is_pattern = len(finding.evidence) > 1
    if is_pattern or not finding.evidence:
        _print(console, f"  {finding.told}")
    for evidence in finding.evidence:
        _evidence(console, evidence, is_sign=is_pattern)
    if finding.rule.why:
        _print(console, f"  {finding.rule.why}")


def _actions(console: Console, finding: Finding, listed: dict[tuple[str, ...], str]) -> None:
    """What to do; a list that stands above already is only pointed to."""
    if not finding.actions:
        return
    if finding.actions in listed:
        _print(console, f"  Do: as for {listed[finding.actions]}")
        return
    listed[finding.actions] = finding.rule.name
    for place, action in enumerate(finding.actions, 1):
        _print(console, f"  {place}. {action}", hang=5)


def _evidence(console: Console, evidence: Evidence, *, is_sign: bool) -> None:
    mark = {True: "+ ", False: "- ", None: "? "}[evidence.holds] if is_sign else ""
    told = evidence.told
    if evidence.point is not None:
        where = _where(evidence)
        told += f"; {where}" if where else ""
        is_shown = evidence.off_by is not None and evidence.off_by > _ZERO and not evidence.point.is_exact
        if is_shown and evidence.off_by is not None and not is_sign:
            told += f", off by {number(evidence.off_by)}"
    _print(console, f"  {mark}{told}", hang=4)


def _where(evidence: Evidence) -> str:
    point = evidence.point
    if point is None:
        return ""
    interval = (
        ""
        if point.low is None or point.high is None or point.is_exact
        else f"95 % {number(point.low)} to {number(point.high)}"
    )
    when = "" if "epoch" in evidence.told or "step" in evidence.told else moment(point)
    of = "" if point.n is None or point.is_exact else f"n {point.n:,}"
    return ", ".join(part for part in (when and f"at {when}", interval, of) if part)


def _print(console: Console, text: str, style: str = "", hang: int = 2) -> None:
    width = min(console.width, _WIDEST)
    lines = textwrap.wrap(printable(text), width, subsequent_indent=" " * hang) or [""]
    for line in lines:
        console.print(Text(line, style=style), no_wrap=True)


def document(found: Diagnosis) -> dict[str, Any]:
    """A diagnosis as JSON data."""
    facts = found.facts
    counts = {status: len(found.of(status)) for status in ("pass", "warn", "fail", "not enough data")}
    return {
        "source": facts.source,
        "profile": found.profile.name,
        "verdict": str(found),
        "ok": found.ok,
        "classes": facts.classes,
        "phase": facts.phase or None,
        "notes": list(facts.notes),
        "counts": counts,
        "findings": [_finding(finding) for finding in found.findings],
        "dashboard": rows_of(found.dashboard),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule.name,
        "title": finding.rule.title,
        "status": finding.status,
        "sure": finding.sure or None,
        "told": finding.told,
        "why": finding.rule.why or None,
        "heading": finding.rule.heading or None,
        "actions": list(finding.actions),
        "evidence": [_sign(evidence) for evidence in finding.evidence],
    }


def _sign(evidence: Evidence) -> dict[str, Any]:
    names = ("key", "step", "epoch", "value", "low", "high", "n")
    found = {name: getattr(evidence.point, name, None) for name in names}
    return found | {
        "bound": evidence.bound or None,
        "off_by": evidence.off_by,
        "holds": evidence.holds,
        "told": evidence.told,
    }
