"""A logged series beside what its name promises and what explains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from logitbox.analysis.audit.audit import Audit
from logitbox.analysis.audit.result import VERDICTS, KeyVerdict
from logitbox.errors import InputError
from logitbox.reports.curves import MAX_POINTS
from logitbox.reports.style import BLUE, VERMILLION, WIDE, FreeAxes, canvas, place_legend, text_color
from logitbox.reports.texts import drawable, shorten

Float = NDArray[np.float64]

_LONGEST = 48
_LONGEST_LABEL = 30
"""Beyond it a label of the vertical axis is longer than the axis."""

_SMALL = 0.02
"""Share of the series' range below which a difference is drawn by itself: both lines would be one."""

PROMISED = "what its name promises"


@dataclass(frozen=True)
class Series:
    """One logged key over its compared lines, all arrays [lines]; NaN where nothing is known.

    Attributes:
        key: with its run, where the log has several.
        title: the key and its verdict; on a second line how many other keys there are.
        step: of each line, or its number where the log has no steps.
        has_steps: which of the two.
        logged, precision: value as logged; half a unit of its last digit.
        reference: what the name's own definition gives.
        explained: what the matching hypothesis gives; None where that is the definition, or nothing fits.
        hypothesis: its id.
        differs: whether the definition is further off than the tolerance.
        is_difference: whether the definition has been subtracted.
    """

    key: str
    title: str
    step: Float
    has_steps: bool
    logged: Float
    precision: Float
    reference: Float
    explained: Float | None
    hypothesis: str
    differs: NDArray[np.bool_]
    is_difference: bool = False

    @property
    def is_close(self) -> bool:
        """Whether it differs from the definition, but by too little to be seen beside its range."""
        known = np.isfinite(self.logged) & np.isfinite(self.reference)
        if not (known & self.differs).any():
            return False
        off = np.abs(self.logged - self.reference)[known].max()
        return bool(off < _SMALL * np.ptp(self.logged[known]))


def audit_plot(
    result: Audit, key: str | None = None, ax: Axes | None = None, *, difference: bool | None = None
) -> Axes:
    """Draw one key of an audit: logged points with their rounding, the definition's line, the matching hypothesis.

    Args:
        result: of `logitbox.audit`.
        key: as logged, "KEY (run 2)" for those of a second run; by default the worst that was compared with a dump.
        ax: where to draw, in the style in force; by default a new figure.
        difference: draw everything less what the name's own definition gives; by default where the largest difference is below
            2 % of what the key ranges over, so that it could not be seen otherwise.

    Raises:
        InputError: there is no such key, or none was compared with a dump.
    """
    with canvas(ax, WIDE) as axes:
        series = prepare_series(result.keys, key)
        is_difference = series.is_close if difference is None else difference
        draw_series(axes, less_reference(series) if is_difference else series)
    return axes


def prepare_series(verdicts: Sequence[KeyVerdict], key: str | None = None) -> Series:
    """The arrays behind the figure; see `audit_plot`. At most `MAX_POINTS` lines, evenly chosen."""
    compared = {verdict.label: verdict for verdict in verdicts if not verdict.lines.is_empty()}
    if not compared:
        raise InputError(
            "there is nothing to draw without a dump that covers lines of the log; give one: audit(logged, dump)"
        )
    if key is not None and key not in compared:
        raise InputError(
            f"key {key!r} was not compared with a dump; those that were are {', '.join(compared)}"
        )
    if key is not None:
        return _series(compared[key])
    worst = min(compared.values(), key=lambda verdict: VERDICTS.index(verdict.verdict))
    found = _series(worst)
    if len(compared) == 1:
        return found
    return replace(found, title=f"{found.title}\n1 of {len(compared)} keys; plot(key=…) draws another")


def less_reference(data: Series) -> Series:
    """The same with the definition subtracted from all of it."""
    explained = None if data.explained is None else data.explained - data.reference
    return replace(
        data,
        is_difference=True,
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
        key=verdict.label,
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
    ax.plot(data.step, data.reference, color=BLUE, label=PROMISED, linewidth=1.3)
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
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    of = "difference in " * data.is_difference
    ax.set_ylabel(of + shorten(drawable(data.key, spaces=False), _LONGEST_LABEL - len(of)))
    _place_title(ax, data.title)


def _place_title(ax: Axes, title: str) -> None:
    """Above the legend, which stands above our own Axes; as the title of the user's."""
    shown = "\n".join(shorten(drawable(line, spaces=False), _LONGEST) for line in title.split("\n"))
    place_legend(ax, columns=2)
    legend = ax.get_legend()
    if isinstance(ax, FreeAxes) and legend is not None:
        legend.set_title(shown, prop=FontProperties(size=8.5))
        legend.set_alignment("left")
    else:
        ax.set_title(shown)
