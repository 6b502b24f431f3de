"""The cumulative residual: how right and sure drift apart as tokens are added in order of confidence. No bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from logitbox.analysis.calibration import cumulative
from logitbox.analysis.calibration.result import Calibration
from logitbox.errors import InputError
from logitbox.reports.diagram_lines import simplified
from logitbox.reports.style import BLUE, VERMILLION, FreeAxes, text_color
from logitbox.reports.texts import drawable, shorten

Float = NDArray[np.float64]

_POINTS = 200
_LONGEST = 44


@dataclass(frozen=True)
class Cumulative:
    """Σ (correct − confidence)/N over the tokens up to a share of all, by ascending confidence.

    Attributes:
        share: of tokens, from 0.
        residual: from 0.
        low, high: least and greatest value; `kuiper` is their distance.
        p: probability of so large a range if the model were calibrated; None if unknown.
        total: tokens.
        where: what they are.
    """

    share: Float
    residual: Float
    low: float
    high: float
    kuiper: float
    p: float | None
    total: int
    where: str


def prepare_cumulative(found: Calibration, where: str | None = None) -> Cumulative:
    """The cumulative residual of a calibration.

    Raises:
        InputError: it has no tokens.
    """
    if not found.n:
        raise InputError(f"there is nothing to draw ({found}); choose other tokens")
    x, y = (np.asarray(part, np.float64) for part in cumulative.curve(found.evidence))
    told = found.of if where is None else where
    low, high = min(0.0, float(y.min())), max(0.0, float(y.max()))
    share, residual = simplified(x, y, _POINTS, least=(high - low) / 500)
    return Cumulative(
        share, residual, low, high, found.value("kuiper") or 0.0, found.value("kuiper_p"), found.n, told
    )


def draw_cumulative(ax: Axes, data: Cumulative) -> None:
    """The residual as a line, its range as a band, and what its slope means."""
    ink = text_color()
    ax.axhspan(data.low, data.high, color=VERMILLION, alpha=0.13, linewidth=0)
    for edge in (data.low, data.high):
        ax.axhline(edge, color=VERMILLION, linewidth=0.8, linestyle=(0, (4, 1.5)))
    ax.axhline(0, color=ink, linewidth=0.8)
    ax.plot(data.share, data.residual, color=BLUE)
    ax.set_xlim(0, 1)
    is_own, size = isinstance(ax, FreeAxes), (data.high - data.low) or 1e-3
    # Above the band there is no line, so that text there hides none.
    ax.set_ylim(data.low - 0.12 * size, data.high + (0.14 if is_own else 0.6) * size)
    x_label, slope = (
        "share of tokens, least confident first",
        "falling: over-confident · rising: under-confident",
    )
    ax.set_ylabel("Σ (right − confidence) / N")
    band = "between the dashed lines: Kuiper's range"
    p = "" if data.p is None else f" · p {data.p:.3f}" if data.p >= 1e-3 else " · p < 0.001"
    range_told = f"Kuiper range {data.kuiper:.4f}{p}"
    below = f"{data.total:,} tokens" + (f" · {data.where}" if data.where else "")
    below = shorten(drawable(below, spaces=False), _LONGEST)
    if is_own:
        ax.set_xlabel(f"{x_label}\n{slope}")
        ax.text(0.99, data.high + 0.02 * size, band, ha="right", va="bottom", fontsize=7)
        ax.set_title(f"{range_told}\n{below}", loc="left", fontsize=8.5, parse_math=False)
    else:  # above the axes is the place of the user's title, and below there may be room for one line only
        ax.set_xlabel(x_label)
        told = f"{range_told}\n{below}\n{slope}\n{band}"
        ax.text(0.02, 0.98, told, transform=ax.transAxes, va="top", fontsize="x-small", parse_math=False)
