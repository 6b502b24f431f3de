"""What an audit found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

Verdict = Literal["agrees", "other convention", "bug", "impossible", "unexplained", "cannot tell"]

VERDICTS: tuple[Verdict, ...] = (
    "impossible",
    "bug",
    "unexplained",
    "other convention",
    "cannot tell",
    "agrees",
)
"""The worst first."""

CONVICTIONS: frozenset[Verdict] = frozenset(("bug", "impossible"))


@dataclass(frozen=True)
class Violation:
    """A broken inequality: lhs ≥ rhs should hold, and does not, whatever the rounding.

    Attributes:
        inequality: id in the registry.
        run, step: where; step None where the log does not tell.
        keys: the logged keys that cannot both be true.
        lhs, rhs: both sides as logged; the most that rounding can make of the left is still below the least of the right.
        formula: the inequality in symbols.
        about: what it says and why it holds, in words.
        repair: what to look at first, and what would repair it.
        count: rows of this run that break it; the one told is the worst.
    """

    inequality: str
    run: int
    step: int | None
    keys: tuple[str, ...]
    lhs: float
    rhs: float
    formula: str
    about: str = field(repr=False)
    repair: str = field(repr=False)
    count: int = 1


@dataclass(frozen=True)
class Notice:
    """Something odd that convicts nobody.

    Attributes:
        check: id in the registry.
        run, step: where the worst of it is; None where it is of the whole run.
        keys: logged keys it is about.
        about: what is odd, with the figures, and what to look at.
        count: rows.
    """

    check: str
    run: int
    step: int | None
    keys: tuple[str, ...]
    about: str
    count: int = 1


@dataclass(frozen=True)
class Fit:
    """How well one hypothesis explains a key.

    Attributes:
        hypothesis: its id; "definition" for the name's own, "a+b" for two together.
        about: in words.
        misfit: largest |logged − predicted| / tolerance over the compared lines; it fits where this is at most 1.
        max_error: |logged − predicted| at that line.
        parameter: (name, lowest, highest) that fits, if it has one.
        chance: about how often a wrong hypothesis would fit these lines by chance, times the hypotheses tried.
    """

    hypothesis: str
    about: str
    misfit: float
    max_error: float
    parameter: tuple[str, float, float] | None = None
    chance: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether it explains every compared line."""
        return self.misfit <= 1.0


@dataclass(frozen=True, eq=False)
class KeyVerdict:
    """The verdict on one logged key.

    Attributes:
        key, run: which.
        verdict: see `VERDICTS`.
        hypothesis: id of the one that explains it, "definition" where it agrees; None where nothing or too much does.
        ties_with: ids of all others that fit as well.
        max_error, tolerance: |logged − predicted| of the hypothesis told (or the definition, where there is none) at the line where
            it is worst relative to the tolerance there; None without a dump.
        logged, reference: what was logged at that line, and what the name's own definition gives.
        step: of that line.
        n_lines: lines that were compared; n_skipped: lines that cannot be: the dump does not cover them wholly, it is not
            known which steps they are about, they are not finite, have no step, or another follows at the same step.
        about: the verdict in a sentence, with how it misleads and by how much.
        fix: what to do; "" if nothing.
        tell_apart: what to record to tell the ties apart; "" if there are none.
        closest: the three best fits, whether they fit or not.
        alignment: how logged and recorded steps are counted against each other; "" where a step is the same in both.
        lines: `step`, `logged`, `precision`, `tolerance`, `reference`, `explained` (by the hypothesis told), for figures.
    """

    key: str
    run: int
    verdict: Verdict
    hypothesis: str | None = None
    ties_with: tuple[str, ...] = ()
    max_error: float | None = None
    tolerance: float | None = None
    logged: float | None = None
    reference: float | None = None
    step: int | None = None
    n_lines: int = 0
    n_skipped: int = 0
    about: str = field(default="", repr=False)
    fix: str = field(default="", repr=False)
    tell_apart: str = field(default="", repr=False)
    closest: tuple[Fit, ...] = field(default=(), repr=False)
    alignment: str = field(default="", repr=False)
    lines: pl.DataFrame = field(default_factory=pl.DataFrame, repr=False)

    @property
    def label(self) -> str:
        """How it is called among those of several runs: "loss", "loss (run 2)"."""
        return self.key if self.run == 0 else f"{self.key} (run {self.run + 1})"

    @property
    def is_conviction(self) -> bool:
        """Whether something is wrong for certain."""
        return self.verdict in CONVICTIONS


def grouped(verdicts: Iterable[KeyVerdict]) -> list[list[KeyVerdict]]:
    """Keys with one explanation (or of which the same is said) together, the worst first."""
    groups: dict[tuple[object, ...], list[KeyVerdict]] = {}
    for one in sorted(verdicts, key=lambda one: VERDICTS.index(one.verdict)):
        why = one.hypothesis or one.about
        groups.setdefault((one.verdict, why, one.ties_with, one.fix, one.tell_apart), []).append(one)
    return list(groups.values())
