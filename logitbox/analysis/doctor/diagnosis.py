"""What the doctor returns: a finding for every rule, and one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from logitbox.analysis.doctor.judging import holds, judge
from logitbox.analysis.doctor.outcomes import Context, Evidence, Outcome, Sure, unknown
from logitbox.analysis.doctor.profile import Profile, Rule, Status
from logitbox.analysis.doctor.series import SCHEMA, Facts, Series
from logitbox.analysis.results import Result

_NAMED = 4
"""Rules that a verdict names."""
_FRAME = {
    "rule": pl.String,
    "title": pl.String,
    "status": pl.String,
    "sure": pl.String,
    "told": pl.String,
    **SCHEMA,
    "bound": pl.String,
    "off_by": pl.Float64,
    "heading": pl.String,
}


@dataclass(frozen=True)
class Finding:
    """What a rule came to.

    Attributes:
        rule: the rule, with its title, why it matters, and the heading of the guide it is from.
        status: "pass", "warn", "fail" or "not enough data".
        sure: "sure" if the whole 95 % interval (or a count) says the same, "likely" if only the value does, "no interval known",
            or "" where nothing can be told.
        told: the finding in words; of one that could not be told, what is missing.
        evidence: the numbers, each with its step, epoch, interval and bound, and how far beyond it lies.
        actions: what to do; empty for a pass.
    """

    rule: Rule
    status: Status
    sure: Sure
    told: str
    evidence: tuple[Evidence, ...]
    actions: tuple[str, ...]

    @property
    def title(self) -> str:
        """The rule's title; of a pattern that should be there and is not, with "not" before it."""
        is_missed = self.rule.wanted and self.status in ("warn", "fail")
        return f"not {self.rule.title.lower()}" if is_missed else self.rule.title

    def __str__(self) -> str:
        return f"{self.status}: {self.title} ({self.told})"


@dataclass(frozen=True, eq=False)
class Diagnosis(Result):
    """A finding for every rule of a profile.

    `frame` has a row for each: `rule`, `title`, `status`, `sure`, `told`, the first number it rests on (`key`, `step`,
    `epoch`, `value`, `low`, `high`, `n`), the `bound` it is held against, `off_by`, and the `heading` of the guide.

    Attributes:
        findings: the same with all evidence and actions.
        profile: the rules.
        facts: what is known about the run: source, classes, phase, what is missing.
        dashboard: the metrics worth watching: `key`, `role`, and the latest `value`, `low`, `high`, `step`, `epoch`.
        series: all values that the rules could look at.
    """

    findings: tuple[Finding, ...]
    profile: Profile
    facts: Facts
    dashboard: pl.DataFrame
    series: pl.DataFrame

    def of(self, status: Status) -> tuple[Finding, ...]:
        """The findings of one status."""
        return tuple(finding for finding in self.findings if finding.status == status)

    def finding(self, rule: str) -> Finding:
        """The finding of one rule, by its name. Raises KeyError."""
        return {finding.rule.name: finding for finding in self.findings}[rule]

    @property
    def ok(self) -> bool:
        """True if no check fails."""
        return not self.of("fail")


def diagnose(series: Series, profile: Profile, constants: Mapping[str, float]) -> Diagnosis:
    """Judge every rule of a profile on a run.

    Args:
        series: the run.
        profile: the rules.
        constants: those that the user sets, in place of the profile's.
    """
    known: dict[str, float | None] = {**profile.constants, **constants}
    classes = series.facts.classes
    known["C"] = None if classes is None else float(classes)
    findings = tuple(_finding(rule, series, known, constants) for rule in profile.rules)
    frame = pl.DataFrame([_row(finding) for finding in findings], schema=_FRAME)
    return Diagnosis(
        frame,
        _verdict(findings, series.facts),
        findings,
        profile,
        series.facts,
        _dashboard(profile, series),
        series.frame,
    )


def _finding(
    rule: Rule, series: Series, known: Mapping[str, float | None], given: Mapping[str, float]
) -> Finding:
    context = Context(series, known, rule.severity, rule.only, rule.leave_out)
    outcome = _unmet(rule, context, given) or judge(rule.check, context, wanted=rule.wanted)
    outcome = _excused(rule, context, outcome)
    is_complaint = outcome.status in ("warn", "fail")
    return Finding(
        rule,
        outcome.status,
        outcome.sure,
        outcome.told,
        outcome.evidence,
        rule.actions if is_complaint else (),
    )


def _unmet(rule: Rule, context: Context, given: Mapping[str, float]) -> Outcome | None:
    """What keeps a rule from saying anything, or None."""
    classes = context.series.facts.classes
    if rule.classes and classes is not None and classes < rule.classes:
        return unknown(f"says nothing about {classes} classes; {rule.classes} or more needed")
    for need in rule.needs:
        if need.unless_set and need.unless_set in given:
            continue
        state, outcome = holds(need.check, context)
        if state is None:
            return outcome
        if not state:
            return unknown(f"{need.told} ({outcome.told})")
    return None


def _excused(rule: Rule, context: Context, outcome: Outcome) -> Outcome:
    """A complaint that one of the rule's excuses holds against is a pass, as sure as the excuse."""
    if outcome.status not in ("warn", "fail"):
        return outcome
    for excuse in rule.excuses:
        state, found = holds(excuse.check, context)
        if state:
            told = f"{outcome.told}, but {excuse.told} ({found.told})"
            return Outcome("pass", found.sure, told, (*outcome.evidence, *found.evidence))
    return outcome


def _row(finding: Finding) -> dict[str, Any]:
    first = finding.evidence[0] if finding.evidence else None
    point = None if first is None else first.point
    row: dict[str, Any] = {name: getattr(point, name) if point is not None else None for name in SCHEMA}
    return row | {
        "rule": finding.rule.name,
        "title": finding.rule.title,
        "status": finding.status,
        "sure": finding.sure,
        "told": finding.told,
        "bound": None if first is None else first.bound,
        "off_by": None if first is None else first.off_by,
        "heading": finding.rule.heading,
    }


def _dashboard(profile: Profile, series: Series) -> pl.DataFrame:
    """The metrics worth watching, of a family all members, with their latest values."""
    schema = {"key": pl.String, "role": pl.String, **{name: SCHEMA[name] for name in SCHEMA if name != "key"}}
    rows: list[dict[str, Any]] = []
    for shown in profile.dashboard:
        members = series.members(shown.key) if shown.key.endswith("/*") else {"": series.points(shown.key)}
        latest = [points[-1] for points in members.values() if points]
        named = [{name: getattr(point, name) for name in SCHEMA} | {"role": shown.role} for point in latest]
        rows += named or [{"key": shown.key, "role": shown.role}]
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def _verdict(findings: Sequence[Finding], facts: Facts) -> str:
    count = {
        status: [f for f in findings if f.status == status] for status in ("fail", "warn", "not enough data")
    }
    told = len(findings) - len(count["not enough data"])
    if not told:
        return f"nothing could be judged: {len(findings)} checks lack data ({facts.source})"
    parts = [f"{_of(len(count['fail']), told)} fail{_s(count['fail'])}{_named(count['fail'])}"]
    if not count["fail"]:
        passes = f"no check of {told} fails" if told > 1 else "1 check passes"
        parts = [] if told == 1 and count["warn"] else [passes]
    if count["warn"]:
        parts.append(
            f"{_of(1, 1) if told == 1 else len(count['warn'])} warn{_s(count['warn'])}{_named(count['warn'])}"
        )
    if missing := count["not enough data"]:
        parts.append(f"{len(missing)} more lack{_s(missing)} data")
    return "; ".join(parts)


def _of(n: int, total: int) -> str:
    return f"{n} of {total} checks" if n != 1 or total != 1 else "the one check"


def _s(findings: Sequence[Finding]) -> str:
    """The ending of a verb."""
    return "s" if len(findings) == 1 else ""


def _named(findings: Sequence[Finding]) -> str:
    """Titles, patterns first: they say most."""
    ordered = sorted(findings, key=lambda finding: len(finding.evidence) < 2)
    titles = [finding.title for finding in ordered]
    more = f" and {len(titles) - _NAMED} more" if len(titles) > _NAMED else ""
    return f" ({', '.join(titles[:_NAMED])}{more})" if titles else ""
