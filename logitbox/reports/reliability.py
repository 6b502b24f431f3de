"""The reliability diagram: accuracy against confidence, bin by bin and as lines, and where the tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from logitbox.analysis.calibration import corp, smooth
from logitbox.analysis.calibration.dumped import CalibrationTable
from logitbox.analysis.calibration.result import Calibration
from logitbox.analysis.populations import ALL
from logitbox.errors import InputError
from logitbox.reports.diagram_lines import MAX_POINTS, simplified
from logitbox.reports.selection import chosen
from logitbox.reports.style import BLUE, GREEN, VERMILLION, FreeAxes, text_color
from logitbox.reports.texts import drawable, shorten

Float = NDArray[np.float64]
Line = tuple[Float, Float]

DIAGRAM = (3.1, 3.5)
"""Size of a figure, inches."""

_MESH = 400
"""Places where the smooth line is computed, before all but a few are left out."""

_TICKS, _TICK_LABELS = (0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1")

_TOP = 1.27
"""Upper end of the vertical axis of the user's Axes, with room for token counts above accuracy 1."""

_NEARBY = 10
"""Tokens within the reach of the kernel that a place of the smooth line needs."""

_WIDE_GAP = 0.1
"""Confidences so far apart, with no tokens between, are not joined by a line."""

_MOST_RUNS = 10
"""Unbroken parts of the smooth line, the longest ones."""

_LONGEST = 38
"""Characters of the line below a title."""


@dataclass(frozen=True)
class Reliability:
    """One reliability table, bins that have tokens only, and lines through it.

    Attributes:
        low, high, n, accuracy, confidence: per bin.
        accuracy_low, accuracy_high: 95 % interval of a bin's accuracy; NaN where none is known.
        ece: calibration error, and its 95 % interval, if known.
        total: tokens.
        where: what they are, in words.
        corp: (confidence, accuracy after the best monotone recalibration).
        smooth: (confidence, smoothed accuracy), where there are tokens nearby.
    """

    low: Float
    high: Float
    n: Float
    accuracy: Float
    confidence: Float
    accuracy_low: Float
    accuracy_high: Float
    ece: float
    ece_interval: tuple[float, float] | None
    total: int
    where: str
    corp: Line
    smooth: Line

    @property
    def error(self) -> str:
        """ECE with its interval."""
        interval = "" if self.ece_interval is None else " [{:.4f}, {:.4f}]".format(*self.ece_interval)
        return f"ECE {self.ece:.4f}{interval}"


def prepare_reliability(
    result: CalibrationTable, phase: str | None = None, token_type: str = ALL, **where: Any
) -> Reliability:
    """The diagram of one phase and token type.

    Args:
        result: a calibration.
        phase: by default the last phase that is not train, else train.
        token_type: by default all tokens.
        where: value of each by-column; by default the last there is.

    Raises:
        InputError: nothing matches.
    """
    found, told = picked(result, phase, token_type, where)
    return reliability_of(found, told)


def picked(
    result: CalibrationTable, phase: str | None, token_type: str, where: dict[str, Any]
) -> tuple[Calibration, str]:
    """The calibration of one phase, type and value of each by-column, and what it is of, in words."""
    _, keys = chosen(result.frame, phase, token_type, where)
    by = {name: value for name, value in keys.items() if name not in ("phase", "type")}
    found = result.of(keys["phase"], keys["type"], **by)
    return found, told_of(keys)


def told_of(keys: dict[str, Any]) -> str:
    """Values of by-columns in words: `eval · coord · step 8`."""
    by = (f"{name} {value}" for name, value in keys.items() if name not in ("phase", "type") and value != "")
    return " · ".join(part for part in (keys["phase"], keys["type"], *by) if part)


def reliability_of(found: Calibration, where: str | None = None) -> Reliability:
    """The diagram of a calibration.

    Raises:
        InputError: it has no tokens.
    """
    if not found.n:
        raise InputError(f"there is nothing to draw ({found}); choose other tokens")
    names = ("low", "high", "n", "accuracy", "confidence", "accuracy_low", "accuracy_high")
    columns = (found.table[name].cast(float).fill_null(float("nan")).to_numpy() for name in names)
    return Reliability(
        *columns,
        ece=found.value("ece") or 0.0,
        ece_interval=found.interval("ece"),
        total=found.n,
        where=found.of if where is None else where,
        corp=_steps(*corp.curve(found.evidence)),
        smooth=_smooth(found),
    )


def _smooth(found: Calibration) -> Line:
    """The smoothed accuracy where there are tokens nearby, with gaps (NaN) where it would be made up."""
    x, y, density = smooth.smooth_curve(found.evidence, points=_MESH)
    reach = np.sqrt(2 * np.pi) * max(smooth.bandwidth(found.evidence), 1 / _MESH)
    table = found.evidence.table
    known = (
        (density * reach * found.n >= _NEARBY) & (x >= table.mean[0]) & (x <= table.mean[-1]) & np.isfinite(y)
    )
    known |= _narrow_gaps(known, x) & np.isfinite(y)
    runs = _runs(known)
    return _joined([(x[start:end], y[start:end]) for start, end in runs])


def _steps(x: Float, y: Float) -> Line:
    """Blocks of one accuracy as steps, from (confidence, accuracy) of their ends; with gaps (NaN), see `_WIDE_GAP`."""
    cuts = np.flatnonzero((np.diff(y) > 0) & (np.diff(x) > _WIDE_GAP)) + 1
    return _joined(
        [_stepped(x[start:end], y[start:end]) for start, end in pairwise([0, *cuts.tolist(), len(x)])]
    )


def _stepped(x: Float, y: Float) -> Line:
    """Up in the middle between blocks."""
    up = np.flatnonzero(np.diff(y) > 0)
    at, middle = np.repeat(up + 1, 2), np.repeat((x[up] + x[up + 1]) / 2, 2)
    return np.insert(x, at, middle), np.insert(y, at, np.stack([y[up], y[up + 1]], axis=1).ravel())


def _narrow_gaps(known: NDArray[np.bool_], x: Float) -> NDArray[np.bool_]:
    """Places between known ones that are near each other."""
    found = np.zeros_like(known)
    runs = _runs(known)
    for (_, end), (start, _) in pairwise(runs):
        if x[start] - x[end - 1] <= _WIDE_GAP:
            found[end:start] = True
    return found


def _runs(known: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, last + 1) of unbroken parts, at most `_MOST_RUNS`, the longest ones; ascending."""
    runs = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0, append=0)).reshape(-1, 2).tolist()
    return sorted((start, end) for start, end in sorted(runs, key=lambda run: run[0] - run[1])[:_MOST_RUNS])


def _joined(pieces: Sequence[Line]) -> Line:
    """Lines as one with gaps (NaN), in few points; a lone point is no line."""
    long = [piece for piece in pieces if len(piece[0]) > 1]
    if not long:
        return np.zeros(0), np.zeros(0)
    most = max(MAX_POINTS // len(long) - 1, 2)
    nothing = np.full(1, np.nan)
    parts = [part for x, y in long for part in (simplified(x, y, most), (nothing, nothing))][:-1]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def draw_reliability(ax: Axes, data: Reliability, *, legend: bool = True) -> None:
    """Accuracy of bins with whiskers, both lines, the diagonal, and a strip of token counts on top.

    Args:
        ax: where.
        data: what.
        legend: False where the text around tells what the lines are.
    """
    is_own = isinstance(ax, FreeAxes)
    if is_own:
        _draw_grid(ax)
    draw_bins(ax, data)
    ax.set_xlabel("confidence, p(arg-max)")
    ax.set_ylabel("accuracy")
    below = f"{data.total:,} tokens" + (f" · {data.where}" if data.where else "")
    if is_own:
        title = f"{data.error}\n{shorten(drawable(below, spaces=False), _LONGEST)}"
        ax.set_title(title, loc="left", pad=12, fontsize=8, parse_math=False)
    else:  # above the axes is the place of the user's title
        told = f"{data.error}\n{shorten(drawable(below, spaces=False), _LONGEST)}"
        ax.text(0.03, 0.97, told, va="top", fontsize="small", parse_math=False)
    if legend and is_own:
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.46, -0.17),
            ncols=3,
            columnspacing=1,
            handlelength=1.4,
            handletextpad=0.5,
            borderaxespad=0,
            fontsize=7.5,
        )
    elif legend:
        ax.legend(loc="lower right", fontsize="small")
    _draw_counts(ax, data)


def _draw_grid(ax: Axes) -> None:
    """Four squares a side; all lines in one path."""
    at, nothing = np.array(_TICKS), np.full(len(_TICKS), np.nan)
    along = np.column_stack([at, at, nothing]).ravel()
    across = np.column_stack([0 * at, 0 * at + 1, nothing]).ravel()
    ax.grid(visible=False)
    x, y = np.append(along, across), np.append(across, along)
    ax.plot(x, y, color=text_color(), alpha=0.12, linewidth=0.6, zorder=1)
    ax.set_xticks(_TICKS, _TICK_LABELS)
    ax.set_yticks(_TICKS, _TICK_LABELS)


def draw_bins(ax: Axes, data: Reliability, size: float = 3.5) -> None:
    """Bins, lines and diagonal, without any text; `size` is that of the dots, in points."""
    ax.plot([0, 1], [0, 1], color=text_color(), linestyle=(0, (3, 2)), linewidth=0.9)
    if len(data.corp[0]) > 1:
        ax.plot(*data.corp, color=VERMILLION, linewidth=1.1, linestyle=(0, (4, 1.2)), label="monotone (CORP)")
    if len(data.smooth[0]) > 1:
        ax.plot(*data.smooth, color=GREEN, linewidth=1.3, label="smoothed")
    known = np.isfinite(data.accuracy_low)
    # One path for all whiskers.
    x = np.repeat(data.confidence[known], 3)
    y = np.column_stack([data.accuracy_low, data.accuracy_high, np.full(len(data.n), np.nan)])[known].ravel()
    ax.plot(x, y, color=BLUE, linewidth=1.1, solid_capstyle="butt")
    ax.plot(
        data.confidence,
        data.accuracy,
        label="bins, 95 %",
        color=BLUE,
        linestyle="none",
        marker="o",
        markersize=size,
        markeredgewidth=0,
        zorder=3,
        clip_on=False,
    )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)


def _draw_counts(ax: Axes, data: Reliability) -> None:
    """Tokens per bin on a logarithmic scale, so that rare confidences stay in sight."""
    is_own = isinstance(ax, FreeAxes)
    most = f"tokens per bin, log scale; most {data.n.max():,.0f}"
    if is_own:
        strip = ax.inset_axes((0, 1.03, 1, 0.14))
    else:  # what lies above the user's Axes is not ours
        ax.set_ylim(0, _TOP)
        ax.set_yticks(_TICKS, _TICK_LABELS)
        strip = ax.inset_axes((0, 1.03 / _TOP, 1, 0.14 / _TOP))
    fill_counts(strip, data)
    strip.set_axis_off()
    size = 7 if is_own else "x-small"
    strip.text(0.01, 1.02, most, transform=strip.transAxes, fontsize=size, va="bottom")


def fill_counts(ax: Axes, data: Reliability) -> None:
    """A histogram of confidence: log10 of tokens + 1, one outline for all bins."""
    height = np.log10(data.n + 1)
    x = np.column_stack([data.low, data.low, data.high, data.high]).ravel()
    y = np.column_stack([np.zeros_like(height), height, height, np.zeros_like(height)]).ravel()
    ax.fill(x, y, color=text_color(), alpha=0.4, linewidth=0)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, float(height.max()) * 1.05)
