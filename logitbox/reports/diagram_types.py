"""Small multiples: the reliability diagram of every token type, side by side in one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from logitbox.analysis.calibration.dumped import CalibrationTable
from logitbox.analysis.populations import ALL
from logitbox.reports.reliability import Reliability, draw_bins, fill_counts, reliability_of
from logitbox.reports.selection import chosen, rows_of
from logitbox.reports.style import BLUE, GREEN, VERMILLION, FreeAxes, text_color
from logitbox.reports.texts import drawable, shorten

MOST = 12
"""Diagrams of one figure: those with most tokens."""

_ACROSS = 4
_LONGEST = 20


@dataclass(frozen=True)
class Panel:
    """One small diagram."""

    name: str
    data: Reliability


def prepare_types(result: CalibrationTable, phase: str | None = None, **where: Any) -> list[Panel]:
    """All tokens, then the types that have tokens, most tokens first.

    Args:
        result: a calibration.
        phase: by default the last phase that is not train, else train.
        where: value of each by-column; by default the last there is.

    Raises:
        InputError: nothing matches.
    """
    _, keys = chosen(result.frame, phase, ALL, where)
    shared = {name: value for name, value in keys.items() if name != "type"}
    rows = rows_of(result.frame, shared).filter(pl.col("n") > 0)
    order = rows.sort(pl.col("type") != ALL, -pl.col("n").cast(pl.Int64), "type")["type"].to_list()
    by = {name: value for name, value in shared.items() if name != "phase"}
    return [
        Panel(name or "all tokens", reliability_of(result.of(shared["phase"], name, **by), name))
        for name in order[:MOST]
    ]


def layout(n: int) -> tuple[int, int]:
    """Rows and columns of so many diagrams."""
    across = min(n, _ACROSS if n > 6 else 3)
    return math.ceil(n / across), across


def size_of(n: int) -> tuple[float, float]:
    """Inches of a figure of so many diagrams."""
    rows, across = layout(n)
    return 1.75 * across + 0.5, 1.95 * rows + 0.6


def draw_types(ax: Axes, panels: Sequence[Panel]) -> None:
    """Panels inside the given Axes, which themselves become invisible; ticks stand at the outer edge only."""
    rows, across = layout(len(panels))
    ax.set_axis_off()
    # For the legend; of the user's Axes, which may be small, a larger share.
    foot = 0.5 / (1.95 * rows + 0.6) if isinstance(ax, FreeAxes) else 0.2
    wide, high = 1 / across, (1 - foot) / rows
    for i, panel in enumerate(panels):
        row, column = divmod(i, across)
        left, bottom = column * wide, 1 - (row + 1) * high
        inset = ax.inset_axes((left + 0.12 * wide, bottom + 0.1 * high, 0.84 * wide, 0.6 * high))
        strip = ax.inset_axes((left + 0.12 * wide, bottom + 0.7 * high, 0.84 * wide, 0.08 * high))
        _draw_panel(inset, strip, panel)
        is_last = i + across >= len(panels)
        inset.set_xticks([0, 0.5, 1], ["0", "½", "1"] if is_last else [])
        inset.set_yticks([0, 0.5, 1], ["0", "½", "1"] if column == 0 else [])
    _draw_legend(ax)


def _draw_panel(inset: Axes, strip: Axes, panel: Panel) -> None:
    ink = text_color()
    draw_bins(inset, panel.data, size=2.5)
    inset.tick_params(colors=ink, labelsize=7, width=0.5, length=2)
    inset.grid(color=ink, alpha=0.12, linewidth=0.5)
    fill_counts(strip, panel.data)
    strip.set_axis_off()
    name = shorten(drawable(panel.name, spaces=False), _LONGEST)
    told = f"{name}\nECE {panel.data.ece:.4f} · n {_brief(panel.data.total)}"
    strip.text(0, 1.15, told, transform=strip.transAxes, fontsize=7, va="bottom", parse_math=False)


def _draw_legend(ax: Axes) -> None:
    """One for all, below."""
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=3, linewidth=1.1, label="bins, 95 %"),
        Line2D([], [], color=VERMILLION, linewidth=1.1, linestyle=(0, (4, 1.2)), label="monotone (CORP)"),
        Line2D([], [], color=GREEN, linewidth=1.3, label="smoothed"),
    ]
    ax.legend(
        handles=handles,
        loc="lower center",
        ncols=3,
        title="accuracy against confidence; above: tokens, log scale",
        title_fontsize=7.5,
        fontsize=7.5,
        borderaxespad=0,
        frameon=False,
    )


def _brief(n: int) -> str:
    """12,345 → 12.3k."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if n >= 10 * size:
            return f"{n / size:.3g}{unit}"
    return f"{n:,}"
