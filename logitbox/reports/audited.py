"""A logged series beside what its name promises and what explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from numpy.typing import NDArray

from logitbox.analysis.audit.audit import Audit
from logitbox.analysis.audit.result import VERDICTS, KeyVerdict
from logitbox.errors import InputError
from logitbox.reports.curves import MAX_POINTS
from logitbox.reports.style import BLUE, VERMILLION, WIDE, canvas, place_legend, text_color
from logitbox.reports.texts import drawable, shorten

Float = NDArray[np.float64]

_LONGEST = 48


@dataclass(frozen=True)
class Series:
    """One logged key over its compared lines, all arrays [lines]; NaN where nothing is known.

    Attributes:
        title: the key, its run and its verdict.
        step: of each line, or its number where the log has no steps.
        has_steps: which of the two.
        logged, precision: value as logged; half a unit of its last digit.
        reference: what the name's own definition gives.
        explained: what the matching hypothesis gives; None where that is the definition, or nothing fits.
        hypothesis: its id.
        differs: whether the definition is further off than the tolerance.
    """

    title: str
    step: Float
    has_steps: bool
    logged: Float
    precision: Float
    reference: Float
    explained: Float | None
    hypothesis: str
    differs: NDArray[np.bool_]


def audit_plot(
    result: Audit, key: str | None = None, ax: Axes | None = None, *, difference: bool = False
) -> Axes:
    """Draw one key of an audit: logged points with their rounding, the definition's line, the matching hypothesis.

    Args:
        result: of `logitbox.audit`.
        key: as logged, "KEY (run 2)" for those of a second run; by default the worst that was compared with a dump.
        ax: where to draw, in the style in force; by default a new figure.
        difference: everything less what the name's own definition gives, for differences too small to see otherwise.

    Raises:
        InputError: there is no such key, or none was compared with a dump.
    """
    with canvas(ax, WIDE) as axes:
        series = prepare_series(result.keys, key)
        draw_series(axes, less_reference(series) if difference else series)
    return axes


def prepare_series(verdicts: Sequence[KeyVerdict], key: str | None = None) -> Series:
    """The arrays behind the figure; see `audit_plot`. At most `MAX_POINTS` lines, evenly chosen."""
    compared = {verdict.label: verdict for verdict in verdicts if not verdict.lines.is_empty()}
    if key is None and compared:
        key = min(compared, key=lambda name: VERDICTS.index(compared[name].verdict))
    if key is None or key not in compared:
        there = ", ".join(compared) or "none: no line of the log is covered by a dump"
        wanted = "no key" if key is None else f"key {key!r} is not one that"
        raise InputError(f"{wanted} was compared with a dump; those that were are {there}")
    return _series(compared[key])


def less_reference(data: Series) -> Series:
    """The same with the definition subtracted from all of it."""
    explained = None if data.explained is None else data.explained - data.reference
    return replace(
        data,
        title=f"{data.title}, − by its name",
        logged=data.logged - data.reference,
        reference=data.reference - data.reference,
        explained=explained,
    )


def _series(verdict: KeyVerdict) -> Series:
    lines = verdict.lines.with_row_index("_line")
    if lines.height > MAX_POINTS:
        kept = np.unique(np.linspace(0, lines.height - 1, MAX_POINTS).round().astype(np.int64))
        lines = lines[kept]
    has_steps = lines["step"].null_count() == 0
    logged, reference, tolerance = (_floats(lines, name) for name in ("logged", "reference", "tolerance"))
    is_other = verdict.hypothesis not in (None, "definition")
    return Series(
        title=f"{verdict.label}: {verdict.verdict}",
        step=_floats(lines, "step" if has_steps else "_line"),
        has_steps=has_steps,
        logged=logged,
        precision=_floats(lines, "precision"),
        reference=reference,
        explained=_floats(lines, "explained") if is_other else None,
        hypothesis=verdict.hypothesis or "",
        differs=np.abs(logged - reference) > tolerance,
    )


def _floats(frame: pl.DataFrame, name: str) -> Float:
    return frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def draw_series(ax: Axes, data: Series) -> None:
    """Lines beneath, points above; a ring around a point tells that the definition does not give it."""
    ink = text_color()
    ax.plot(data.step, data.reference, color=BLUE, label="by its name", linewidth=1.3)
    if data.explained is not None:
        ax.plot(
            data.step,
            data.explained,
            color=VERMILLION,
            linestyle=(0, (4, 2)),
            linewidth=1.1,
            label=shorten(drawable(data.hypothesis, spaces=False), _LONGEST),
        )
    low, high = data.logged - data.precision, data.logged + data.precision
    ax.fill_between(data.step, low, high, color=ink, alpha=0.18, linewidth=0)
    ax.plot(
        data.step, data.logged, color=ink, linestyle="", marker="o", markersize=2.2, label="logged ± rounding"
    )
    if data.differs.any():
        ax.plot(
            data.step[data.differs],
            data.logged[data.differs],
            color=VERMILLION,
            linestyle="",
            marker="o",
            markersize=5,
            fillstyle="none",
            markeredgewidth=0.8,
            label=f"differs ({int(data.differs.sum())} of {len(data.step)})",
        )
    ax.set_xlabel("step" if data.has_steps else "line of the log")
    ax.set_ylabel(shorten(drawable(data.title, spaces=False), _LONGEST))
    place_legend(ax, columns=2)
