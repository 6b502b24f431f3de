"""What a calibration says, in words for a reader who knows no jargon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logitbox.analysis.calibration.result import Calibration

NOTHING = "no finite supervised tokens to calibrate"


def verdict_of(result: Calibration) -> str:
    """One line: how sure, how often right, how far apart that is, and what of it sampling alone would show."""
    begin = f"{result.of}: " if result.of else ""
    confidence, accuracy = result.confidence, result.accuracy
    if not result.n or confidence is None or accuracy is None:
        left_out = f" ({result.left_out:,} left out)" if result.left_out else ""
        return f"{begin}no tokens to calibrate{left_out}"
    sure = f"{begin}on average {_percent(confidence)} sure, right {_percent(accuracy)} of the time"
    return f"{sure}: {_lean(result)}. {_ece(result)}"


def verdict_of_table(
    phases: Sequence[Calibration], left_out: Sequence[str], rows: int, most: int | None
) -> str:
    """The verdicts of all phases, and what their tables leave out.

    Args:
        phases: all tokens of each.
        left_out: of each, the tokens that are in nothing, in words.
        rows: of the table.
        most: rows from which on intervals are left out; None where they were not.
    """
    if not phases:
        return NOTHING
    told = [
        verdict_of(result) + (f" ({lost})" if lost else "")
        for result, lost in zip(phases, left_out, strict=True)
    ]
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
        lean = f"{'over' if gap > 0 else 'under'}-confident by {_points(abs(gap))} points"
    if found is None:
        return lean
    low, high = found if gap >= 0 else (-found[1], -found[0])
    interval = f"95 % {_points(low)} to {_points(high)}"
    return f"{lean} ({interval}{', so it may be none' if low <= 0 <= high else ''})"


def _ece(result: Calibration) -> str:
    """The calibration error, in words too, next to what is noise."""
    error, ece = result.error("ece"), result.ece or 0.0
    about = f", right to within {error:.1e}," if error else ""
    off = f"Among tokens of like confidence it is off by {_points(ece)} points"
    told = f"{off}: ECE {ece:.4f}{about} ({result.bins} bins) over {result.n:,} tokens"
    noise = result.ece_noise
    return told if noise is None else f"{told}, where sampling alone would show {noise:.4f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(gap: float) -> str:
    """Percentage points; a gap that rounds to 0 keeps its size."""
    digits = 1 if abs(gap) >= 0.0005 else 3
    return f"{100 * gap:.{digits}f}".replace("-", "−")
