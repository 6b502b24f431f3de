"""What a calibration says, in words for a reader who knows no jargon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logitbox.analysis.calibration.result import Calibration

NOTHING = "no finite supervised tokens to calibrate"


def verdict_of(result: Calibration) -> str:
    """One line: how sure, how often right, how far apart that is, and what of it sampling alone would show."""
    told = _told(result)
    lost = f"{_tokens(result.left_out)} with NaN or infinite values left out" if result.left_out else ""
    return f"{told} ({lost})" if lost else told


def _told(result: Calibration, more: str = "") -> str:
    begin = result.of + (f" ({more})" if more else "")
    begin = f"{begin}: " if begin else ""
    confidence, accuracy = result.confidence, result.accuracy
    if not result.n or confidence is None or accuracy is None:
        return f"{begin}no tokens to calibrate"
    sure = f"{begin}on average {_percent(confidence)} sure, right {_percent(accuracy)} of the time"
    return f"{sure}: {_lean(result)}. {_ece(result)}"


def pooled(phase: str, steps: int, first: int, last: int) -> str:
    """Which steps the tokens of a phase are from: "7 evaluations pooled, steps 0 to 480"."""
    if steps == 1:
        return f"step {first}"
    return f"{steps} {'steps' if phase == 'train' else 'evaluations'} pooled, steps {first} to {last}"


_SHOWN = 5
"""Subsets without counted tokens that are named."""


def verdict_of_table(
    phases: Sequence[Calibration],
    left_out: Sequence[str],
    empty: Sequence[tuple[str, str]],
    rows: int,
    most: int | None,
    steps: Mapping[str, str] | None = None,
) -> str:
    """The verdicts of all phases, and what their tables leave out.

    Args:
        phases: all tokens of each.
        left_out: of each, the tokens that are in nothing, in words.
        empty: subsets whose tokens are all left out, which have no row, and their tokens; in words.
        rows: of the table.
        most: rows from which on intervals are left out; None where they were not.
        steps: of phases, which steps they are from, in words.
    """
    if not phases:
        return NOTHING
    told = [
        _told(result, (steps or {}).get(result.of, "")) + (f" ({lost})" if lost else "")
        for result, lost in zip(phases, left_out, strict=True)
    ]
    if empty:
        names = [f"{name} ({lost})" if lost else name for name, lost in empty[:_SHOWN]]
        more = f" and {len(empty) - _SHOWN:,} more" if len(empty) > _SHOWN else ""
        told.append(f"no tokens to calibrate in {', '.join(names)}{more}")
    if most is not None:
        told.append(
            f"{rows:,} rows are more than {most:,}: intervals only where asked for (intervals=True, or .of(…))"
        )
    return "; ".join(told)


def _lean(result: Calibration) -> str:
    """The gap between both, with its interval."""
    gap = result.overconfidence or 0.0
    found = result.interval("overconfidence")
    if f"{abs(gap):.6f}" == "0.000000":
        lean = "neither over- nor under-confident on average"
    else:
        lean = f"{'over' if gap > 0 else 'under'}-confident by {points(abs(gap))} points"
    if found is None:
        return lean
    low, high = found if gap >= 0 else (-found[1], -found[0])
    interval = f"95 % {points(low)} to {points(high)}"
    return f"{lean} ({interval}{', so it may be none' if low <= 0 <= high else ''})"


def _ece(result: Calibration) -> str:
    """The calibration error next to what of it chance alone would make: by itself it is no fact about the model."""
    error, ece = result.error("ece"), result.ece or 0.0
    about = f", right to within {error:.1e}," if error else ""
    told = f"ECE {ece:.4f}{about} ({result.bins} bins) over {_tokens(result.n)}"
    noise = result.ece_noise
    if noise is None:
        return told
    if ece <= noise:
        return f"{told}, no more than chance alone would make ({noise:.4f})"
    return f"{told}, of which chance alone would make {noise:.4f}"


def _tokens(n: int) -> str:
    return f"{n:,} token{'' if n == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(gap: float) -> str:
    """Percentage points: one decimal, two below 1 point, and one digit of what two would hide."""
    size = abs(100 * gap)
    if size >= 0.995:
        told = f"{size:.1f}"
    elif size >= 0.005 or size < 0.00005:
        told = f"{size:.2f}"
    else:
        told = f"{size:.{-floor(log10(size))}f}"
    return f"−{told}" if gap < 0 and told.strip("0.") else told
