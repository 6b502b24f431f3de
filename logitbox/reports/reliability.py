"""The reliability diagram: accuracy against confidence, bin by bin, and where the tokens are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from logitbox.analysis.calibration import Calibration
from logitbox.analysis.populations import ALL
from logitbox.reports.selection import pick, rows_of
from logitbox.reports.style import BLUE, VERMILLION, FreeAxes, text_color

Float = NDArray[np.float64]
_FIXED = ("phase", "type", "bin", "low", "high", "n", "accuracy", "confidence", "gap", "ece", "mce")


@dataclass(frozen=True)
class Reliability:
    """One reliability table, bins that have tokens only."""

    low: Float
    high: Float
    n: Float
    accuracy: Float
    confidence: Float
    ece: float
    total: int
    where: str


def prepare_reliability(
    result: Calibration, phase: str | None = None, token_type: str = ALL, **where: Any
) -> Reliability:
    """The table of one phase and token type.

    Args:
        result: a calibration.
        phase: by default the last phase that is not train, else train.
        token_type: by default all tokens.
        where: value of each by-column; by default the last there is.

    Raises:
        InputError: nothing matches.
    """
    rows, keys = pick(result.frame, _FIXED, phase, token_type, where)
    table = rows_of(result.table, keys).sort("bin")
    low, high, n, accuracy, confidence = (
        table[name].to_numpy().astype(np.float64) for name in ("low", "high", "n", "accuracy", "confidence")
    )
    by = (f"{name} {value}" for name, value in keys.items() if name not in ("phase", "type") and value != "")
    told = " · ".join(part for part in (keys["phase"], keys["type"], *by) if part)
    return Reliability(low, high, n, accuracy, confidence, float(rows["ece"][0]), int(rows["n"][0]), told)


def draw_reliability(ax: Axes, data: Reliability) -> None:
    """Bars of accuracy, hatched gaps up or down to the mean confidence, a strip of token counts on top."""
    ink = text_color()
    width = data.high - data.low
    ax.bar(data.low, data.accuracy, width * 0.94, align="edge", color=BLUE, alpha=0.85, label="accuracy")
    ax.bar(
        data.low,
        data.confidence - data.accuracy,
        width * 0.94,
        bottom=data.accuracy,
        align="edge",
        facecolor="none",
        edgecolor=VERMILLION,
        hatch="////",
        linewidth=0.8,
        label="gap to mean confidence",
    )
    ax.plot([0, 1], [0, 1], color=ink, linestyle=(0, (3, 2)), linewidth=0.9)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("confidence, p(arg-max)")
    ax.set_ylabel("accuracy")
    ece, total = f"ECE {data.ece:.4f}", f"{data.total:,} tokens"
    if isinstance(ax, FreeAxes):
        ax.set_title(f"{ece} · {total}", loc="left", pad=16)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1.2, borderaxespad=0)
    else:  # above the axes is the place of the user's title
        ax.text(0.03, 0.97, f"{ece}\n{total}", transform=ax.transAxes, va="top")
        ax.legend(loc="lower right")
    _draw_counts(ax, data, width)


def _draw_counts(ax: Axes, data: Reliability, width: Float) -> None:
    """Tokens per bin on a logarithmic scale, so that rare confidences stay in sight."""
    ink = text_color()
    strip = ax.inset_axes((0, 1.03, 1, 0.14))
    strip.bar(data.low, np.log10(data.n + 1), width * 0.94, align="edge", color=ink, alpha=0.45)
    strip.set_xlim(0, 1)
    strip.set_axis_off()
    if isinstance(ax, FreeAxes):
        strip.text(0, 1.02, "tokens per bin, log scale", transform=strip.transAxes, fontsize=7, va="bottom")
