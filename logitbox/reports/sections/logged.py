"""What the trainer logged, beside what the logits say about the same quantity, and what the audit makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from logitbox.analysis.audit.aliases import ALIASES
from logitbox.analysis.audit.alike import tie_told
from logitbox.analysis.audit.result import KeyVerdict, Violation, grouped
from logitbox.reports import texts
from logitbox.reports.curves import Curve
from logitbox.reports.streams import Material, Stream

if TYPE_CHECKING:
    from logitbox.analysis.audit.audit import Audit

_MAX_ROWS, _MAX_NAMES, _MAX_TOLD, _MAX_TIES = 40, 30, 20, 6


@dataclass(frozen=True)
class Match:
    """One logged key and the metric it looks like."""

    logged: str
    metric: str
    stream: Stream
    frame: pl.DataFrame
    """`step`, `value`."""

    def curve(self) -> Curve:
        """The logged values as a line."""
        step, value = (self.frame[name].to_numpy().astype(np.float64) for name in ("step", "value"))
        nothing = np.full(len(step), np.nan)
        return Curve(f"logged {self.logged}", self.stream.label, step, value, nothing, nothing)


@dataclass(frozen=True)
class Compared:
    """A row of the table; `metric` is "" where a key has none, `verdict` of keys that were not audited."""

    logged: str
    metric: str
    step: str
    logged_text: str
    dump_text: str
    difference: str
    verdict: str = ""


@dataclass(frozen=True)
class Told:
    """A verdict in words: which keys, what it is, why, and what to do."""

    keys: str
    verdict: str
    about: str
    fix: str


@dataclass(frozen=True)
class Logged:
    """See `logged.html`; `why_not` tells why there was no audit."""

    rows: tuple[Compared, ...]
    n_more: int
    unmatched: tuple[str, ...]
    n_scalars: int
    verdict: str
    told: tuple[Told, ...]
    why_not: str


def find_matches(material: Material) -> list[Match]:
    """Logged keys that bear the name of a metric, or another common name of it."""
    frame = material.dump.scalars.select("step", "phase", "key", "value").collect()
    known = {metric.key for metric in material.metrics}
    matches: list[Match] = []
    for (phase, key), rows in frame.group_by(["phase", "key"], maintain_order=True):
        stream, metric = _found(str(key), str(phase), material.streams)
        if stream is not None and metric in known:
            last = rows.select("step", "value").unique("step", keep="last", maintain_order=True).sort("step")
            matches.append(Match(str(key), metric, stream, last))
    return matches


def _found(key: str, phase: str, streams: Sequence[Stream]) -> tuple[Stream | None, str]:
    """(stream a logged key is about, the metric it looks like)."""
    for stream in streams:
        if stream.phase == phase and stream.bare(key) != key:
            return stream, stream.bare(key)
    stream, name = _resolve(key, phase, streams)
    return stream, ALIASES.get(name.lower(), name)


def _resolve(key: str, phase: str, streams: Sequence[Stream]) -> tuple[Stream | None, str]:
    """(stream a logged key is about, the key without phase and dataset)."""
    for known in dict.fromkeys(stream.phase for stream in streams):
        for joint in ("_", "/", "."):
            if key.startswith(known + joint):
                return _in_phase(key.removeprefix(known + joint), known, streams)
    return _in_phase(key, phase, streams)


def _in_phase(name: str, phase: str, streams: Sequence[Stream]) -> tuple[Stream | None, str]:
    here = [stream for stream in streams if stream.phase == phase]
    for stream in here:
        for joint in ("_", "/"):
            if stream.dataset and name.startswith(stream.dataset + joint):
                return stream, name.removeprefix(stream.dataset + joint)
    return (here[0], name) if len(here) == 1 else (None, name)


def build(material: Material, matches: Sequence[Match], audited: Audit | str | None = None) -> Logged:
    """The comparison at each key's last common step, and the audit of the scalars (or why there is none)."""
    scalars = material.dump.scalars.select("key").collect()
    why_not, found = (audited, None) if isinstance(audited, str) else ("", audited)
    keys = () if found is None else found.keys
    verdicts = {verdict.label: verdict for verdict in keys}
    matched = {match.logged for match in matches}
    rows = [row for match in matches if (row := _compare(match, material, verdicts)) is not None]
    shown = {row.logged for row in rows}
    rows += [
        row
        for label, verdict in verdicts.items()
        if label not in shown and (row := _audited_row(label, "", verdict)) is not None
    ]
    unmatched = [
        str(key) for key in scalars["key"].unique(maintain_order=True) if key not in {*matched, *verdicts}
    ]
    return Logged(
        rows=tuple(rows[:_MAX_ROWS]),
        n_more=max(0, len(rows) - _MAX_ROWS),
        unmatched=tuple(unmatched[:_MAX_NAMES]),
        n_scalars=scalars.height,
        verdict="" if found is None else str(found),
        told=() if found is None else _told(keys, found.violations)[:_MAX_TOLD],
        why_not=why_not,
    )


def _compare(match: Match, material: Material, verdicts: Mapping[str, KeyVerdict]) -> Compared | None:
    key = match.stream.keys[match.metric]
    dataset = f" ({match.stream.dataset})" if match.stream.dataset else ""
    verdict = verdicts.get(match.logged)
    if verdict is not None and not verdict.lines.is_empty():
        return _audited_row(match.logged, key + dataset, verdict)
    ours = material.steps_of(match.stream).frame.filter(
        (pl.col("key") == key) & pl.col("value").is_not_null()
    )
    both = match.frame.join(ours.select("step", ours="value"), on="step", how="inner").sort("step")
    if both.is_empty():
        return None
    step, logged, value = both.row(-1)
    told = (texts.number(logged), texts.number(value), _difference(logged - value))
    return Compared(match.logged, key + dataset, f"{step:,}", *told, _named(verdict))


def _audited_row(label: str, metric: str, verdict: KeyVerdict) -> Compared | None:
    """A key at the line that is furthest from what its name promises over that line's steps; the last of those alike."""
    if verdict.lines.is_empty():
        return None
    off = (pl.col("logged") - pl.col("reference")).abs().fill_nan(None)
    furthest = verdict.lines.filter(
        (off >= 0.999 * off.max()) | (off <= pl.col("tolerance")).all() | off.is_null().all()
    )
    line = furthest.row(-1, named=True)
    logged, ours = line["logged"], line["reference"]
    is_known = ours is not None and not math.isnan(ours)
    told = (texts.number(ours), _difference(logged - ours, line["tolerance"])) if is_known else ("–", "–")
    step = "–" if line["step"] is None else f"{line['step']:,}"
    return Compared(label, metric, step, texts.number(logged), *told, _named(verdict))


def _difference(value: float, tolerance: float = 0.0) -> str:
    """With its sign and two significant digits, however small; what rounding explains is 0."""
    if math.isnan(value) or math.isinf(value):
        return texts.number(value)
    if abs(value) <= tolerance:
        return "0"
    told = f"{abs(value):.2g}" if abs(value) < 100 else f"{abs(value):,.0f}"
    return f"{'−' if value < 0 else '+'}{told}"


def _named(verdict: KeyVerdict | None) -> str:
    """The verdict, with what explains it."""
    if verdict is None:
        return ""
    is_other = verdict.hypothesis not in (None, "definition")
    return f"{verdict.verdict}: {verdict.hypothesis}" if is_other else verdict.verdict


def _told(keys: Sequence[KeyVerdict], violations: Sequence[Violation]) -> tuple[Told, ...]:
    """All but those that agree, the worst first; keys with one explanation stand together, told of the first."""
    broken = [
        Told(
            ", ".join(found.keys),
            f"impossible: {found.formula}",
            _sentence(
                f"{found.about}; {_moment(found)}{texts.number(found.lhs)} against {texts.number(found.rhs)}"
            ),
            _sentence(found.repair),
        )
        for found in violations
    ]
    alike = [group for group in grouped(keys) if group[0].verdict != "agrees"]
    return (*broken, *map(_explanation, alike))


def _explanation(alike: Sequence[KeyVerdict]) -> Told:
    first = alike[0]
    about = _sentence(first.about)
    if any(one.about != first.about for one in alike):
        about = f"Of {first.label}: {about}"
    if unnamed := [tie_told(name) for name in first.ties_with if name not in first.about]:
        more = f" and {len(unnamed) - _MAX_TIES} more" if len(unnamed) > _MAX_TIES else ""
        about = f"{about} Fits as well: {', '.join(unnamed[:_MAX_TIES])}{more}."
    names = ", ".join(one.label for one in alike)
    return Told(names, _named(first), about, _sentence(first.fix or first.tell_apart))


def _moment(found: Violation) -> str:
    return "" if found.step is None else f"at step {found.step:,}: "


def _sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text if not text else f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
