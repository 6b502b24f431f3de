"""An audit on the terminal: what was read, a verdict per key, broken inequalities, oddities, and what was left out."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from logitbox.analysis.audit.alike import tie_told
from logitbox.analysis.audit.result import KeyVerdict, Notice, Verdict, Violation, grouped
from logitbox.analysis.audit.windows import EVAL, TRAIN
from logitbox.terminal import printable, stdout_console

if TYPE_CHECKING:
    from logitbox.analysis.audit.audit import Audit
    from logitbox.analysis.logs.frame import Logged

_STYLES: dict[Verdict, str] = {
    "impossible": "bold red",
    "bug": "bold red",
    "unexplained": "yellow",
    "other convention": "yellow",
    "cannot tell": "cyan",
    "agrees": "green",
}
_WIDEST, _NARROWEST = 100, 20
_MOST = 6
"""Names that are listed before the rest is only counted."""


def print_audit(found: Audit, dump: Path | None = None) -> None:
    """All of it, the worst first."""
    console = stdout_console()
    several = len(found.logged.runs) > 1
    _print_head(console, found.logged, dump)
    console.print()
    for violation in found.violations:
        _print_violation(console, violation, several=several)
    for alike in grouped(found.keys):
        _print_verdicts(console, alike)
    _print_alignments(console, found)
    if dump is None:
        _print_held(console, found, several=several)
    for notice in found.notices:
        _print_notice(console, notice, several=several)
    _print_left_out(console, found.left_out)
    console.print()
    _print(console, str(found), "bold")


def _print_head(console: Console, logged: Logged, dump: Path | None) -> None:
    frame = logged.frame
    steps = frame["step"].drop_nulls()
    where = f", steps {steps.min():,} to {steps.max():,}" if len(steps) else ", no steps told"
    rows, runs = frame.select("run", "row").n_unique(), len(logged.runs)
    by = f", by {logged.framework}" if logged.framework else ""
    what = f": {logged.format}{by}" if logged.format not in ("", logged.source) else by
    _print(console, f"{logged.source}{what}; {_count(runs, 'run')}, {_count(rows, 'line')}{where}", "dim")
    against = f"against the dump {dump}" if dump else "without a dump: only what the keys imply of each other"
    _print(console, against, "dim")
    for note in logged.notes:
        _print(console, f"note: {note}", "dim")


def _print_verdicts(console: Console, alike: Sequence[KeyVerdict]) -> None:
    """A line per key, then what is said of all, or of the first where figures differ."""
    first = alike[0]
    width = max(len(printable(one.label)) for one in alike)
    for one in alike:
        line = Text(f"{printable(one.label):{width}}  ", style="bold")
        line.append(one.verdict, style=_STYLES[one.verdict])
        if one.hypothesis not in (None, "definition"):
            line.append(f"  {printable(one.hypothesis)}")
        _print_line(console, line)
        if one.verdict != "agrees" and one.n_lines:
            _print(console, f"  {_where(one)}", "dim")
    if first.verdict == "impossible" and not first.n_lines:
        return  # the broken inequality stands above
    of = f"{first.label}: " if any(one.about != first.about for one in alike) else ""
    _print(console, f"  {of}{first.about}")
    unnamed = [name for name in first.ties_with if name not in first.about]
    if unnamed and first.verdict != "agrees":  # what fits as well is then the same number
        _print(console, f"  Fits as well: {_listed(map(tie_told, unnamed))}", hang=4)
    if first.fix:
        _print(console, f"  Do: {first.fix}", hang=6)
    if first.tell_apart:
        _print(console, f"  To tell them apart: {first.tell_apart}", hang=4)


def _where(verdict: KeyVerdict) -> str:
    """The line that is told, with its numbers."""
    moment = "" if verdict.step is None else f"step {verdict.step:,}: "
    told = f"{moment}logged {_number(verdict.logged)}, its name promises {_number(verdict.reference)}"
    if verdict.hypothesis is None or verdict.max_error is None:
        return told
    return f"{told}; explained to {verdict.max_error:.2g} (tolerance {_number(verdict.tolerance, 2)})"


def _print_alignments(console: Console, found: Audit) -> None:
    """How steps are counted, where they are not the same in both: of each way one line as an example."""
    examples = {one.alignment: one for one in reversed(found.keys) if one.alignment and one.step is not None}
    for told, one in examples.items():
        _print(console, f"steps: {_example(one, found.logged) or told}", "dim")


def _example(verdict: KeyVerdict, logged: Logged) -> str:
    """Which recorded steps the line is about that is told; "" where that is not known."""
    shift = {way.about: way.shift for way in (*TRAIN, *EVAL)}.get(verdict.alignment)
    step = verdict.step
    if shift is None or step is None:
        return ""
    if verdict.alignment in {way.about for way in EVAL}:
        return f"the evaluation logged at step {step:,} is the one recorded at step {step + shift:,}"
    here = logged.frame.filter(run=verdict.run, key=verdict.key)["step"].drop_nulls()
    first = max((one + 1 + shift for one in here if one < step), default=None)
    last = step + shift
    about = f"steps up to {last:,}" if first is None else f"steps {first:,} to {last:,}"
    if last in (0, first):
        about = f"step {last:,}"
    return f"recorded ones count from 0: the line at step {step:,} is about recorded {about}"


def _print_violation(console: Console, found: Violation, *, several: bool) -> None:
    line = Text("impossible", style=_STYLES["impossible"])
    line.append(
        f" {_moment(found.run, found.step, several=several)}{printable(', '.join(found.keys))}", style="bold"
    )
    line.append(f"  {printable(found.inequality)}", style="dim")
    _print_line(console, line)
    count = f"; {_count(found.count, 'line')} of the run, this is the worst" if found.count > 1 else ""
    sides = f"{_number(found.lhs)} on the left, {_number(found.rhs)} on the right"
    _print(console, f"  {found.formula} is broken: {sides}{count}")
    _print(console, f"  {found.about}")
    if found.repair:
        _print(console, f"  Do: {found.repair}", hang=6)


def _print_held(console: Console, found: Audit, *, several: bool) -> None:
    """What was checked and holds, with where it comes nearest to being broken; ranges of single keys are only counted."""
    together = [one for one in found.held if len(one.keys) > 1]
    for one in together[:_MOST]:
        where = _moment(one.run, one.step, several=several).removesuffix(": ")
        _print(console, one.about + f" ({where})" * bool(where))
    rest = len(together) - _MOST
    more = [f"{_count(rest, 'more inequality', 'more inequalities')} of several keys"] * (rest > 0)
    ranges = len(found.held) - len(together)
    more += [f"{_count(ranges, 'range')} of single keys, such as x ≥ 0"] * (ranges > 0)
    if more:
        _print(console, f"also checked, and not broken: {', '.join(more)}", "dim")


def _print_notice(console: Console, found: Notice, *, several: bool) -> None:
    count = f" ({_count(found.count, 'line')})" if found.count > 1 else ""
    line = Text("notice", style="yellow")
    line.append(
        f" {_moment(found.run, found.step, several=several)}{printable(', '.join(found.keys))}", style="bold"
    )
    line.append(f"  {printable(found.check)}{count}", style="dim")
    _print_line(console, line)
    _print(console, f"  {found.about}")


def _moment(run: int, step: int | None, *, several: bool) -> str:
    parts = [f"run {run + 1}"] * several + ([] if step is None else [f"step {step:,}"])
    return f"{', '.join(parts)}: " if parts else ""


def _print_left_out(console: Console, left_out: Mapping[str, str]) -> None:
    """Keys that were not audited, each reason once."""
    reasons: dict[str, list[str]] = {}
    for key, reason in left_out.items():
        reasons.setdefault(reason, []).append(key)
    for reason, keys in sorted(reasons.items(), key=lambda item: -len(item[1])):
        _print(console, f"not audited ({len(keys)}), {reason}: {_listed(keys)}", "dim")


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MOST} more" if len(every) > _MOST else ""
    return ", ".join(every[:_MOST]) + more


def _count(n: int, word: str, words: str = "") -> str:
    return f"{n:,} {word if n == 1 else words or word + 's'}"


def _number(value: float | None, digits: int = 6) -> str:
    return "unknown" if value is None else f"{value:.{digits}g}"


def _width(console: Console) -> int:
    """Columns to fill: never too wide to read, and what COLUMNS says also where the output is no terminal."""
    asked = os.environ.get("COLUMNS", "")
    room = int(asked) if asked.isdecimal() else console.width
    return max(_NARROWEST, min(room, console.width, _WIDEST))


def _print_line(console: Console, line: Text) -> None:
    console.print(line, width=_width(console))


def _print(console: Console, text: str, style: str = "", hang: int = 2) -> None:
    lines = textwrap.wrap(
        printable(text),
        _width(console),
        subsequent_indent=" " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines or [""]:
        console.print(Text(line, style=style), soft_wrap=True)
