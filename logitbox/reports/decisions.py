"""Figures of decisions: means over steps, accuracy against confidence, and how sure the right and wrong ones are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from logitbox.analysis.decisions import Decisions
from logitbox.errors import InputError
from logitbox.reports.curves import Curve
from logitbox.reports.style import BLUE, VERMILLION, FreeAxes, place_legend, text_color

Float = NDArray[np.float64]
Kind = Literal["evolution", "calibration", "histogram"]

KINDS: tuple[Kind, ...] = ("evolution", "calibration", "histogram")
MAX_ANSWERS = 4
"""Answers with a curve of their own: more cannot be told apart beside the other three."""

_CONFIDENCE = "confidence, p(likeliest answer)"
_LABELS = {
    "decision_prob_mass": "all answers",
    "decision_confidence": "confidence",
    "decision_accuracy": "accuracy",
}


@dataclass(frozen=True)
class Bins:
    """Equal-width bins of confidence: `n` decisions in each, of them `right`; means NaN where a bin is empty."""

    low: Float
    high: Float
    n: Float
    right: Float
    confidence: Float
    accuracy: Float
    accuracy_low: Float
    accuracy_high: Float
    ece: float

    @property
    def total(self) -> int:
        """All decisions."""
        return int(self.n.sum())


def evolution_labels(answers: Sequence[str]) -> dict[str, str]:
    """Keys of the curves, without prefix, and what to call them."""
    return {f"avg_p_{name}": f"p({name})" for name in answers[:MAX_ANSWERS]} | _LABELS


def prepare_evolution(result: Decisions) -> list[Curve]:
    """Mean probability of each answer, of all, confidence and accuracy over steps, without intervals.

    Raises:
        InputError: no step has decisions.
    """
    frame, curves = result.evolution, list[Curve]()
    if frame.is_empty():
        raise InputError(f"there is nothing to draw ({result}); choose another phase")
    for key, label in evolution_labels(result.answers).items():
        rows = frame.filter(pl.col(key).is_not_null())
        nothing = np.full(rows.height, np.nan)
        step = rows["step"].to_numpy().astype(np.float64)
        curves.append(Curve(label, key, step, rows[key].to_numpy(), nothing, nothing))
    return curves


def prepare_bins(result: Decisions, kind: Kind, bins: int | None = None) -> Bins:
    """All bins of a histogram, or those of a reliability curve that have decisions.

    Raises:
        InputError: an unknown kind or number of bins, or no decisions.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; allowed are {', '.join(KINDS)}")
    if result.frame.is_empty():
        raise InputError(f"there is nothing to draw ({result}); choose another phase or step")
    number = bins or (20 if kind == "histogram" else 15)
    counts, table = result.histogram(number), result.reliability(number)
    joined = counts.join(table.drop("n", "high"), on="low", how="left", maintain_order="left")
    kept = joined if kind == "histogram" else joined.filter(pl.col("n") > 0)
    names = ("low", "high", "n", "right", "confidence", "accuracy", "accuracy_low", "accuracy_high")
    columns = (kept[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names)
    return Bins(*columns, ece=result.ece(number) or 0.0)


def draw_calibration(ax: Axes, data: Bins) -> None:
    """Accuracy with Wilson intervals at the mean confidence of each bin, and a strip of counts on top."""
    ink = text_color()
    reach = np.array([data.accuracy - data.accuracy_low, data.accuracy_high - data.accuracy])
    ax.plot([0, 1], [0, 1], color=ink, linestyle=(0, (3, 2)), linewidth=0.9)
    ax.errorbar(
        data.confidence,
        data.accuracy,
        np.clip(reach, 0, None),
        color=BLUE,
        marker="o",
        markersize=4,
        linewidth=1.2,
        elinewidth=0.9,
        capsize=2,
        label="accuracy, 95 % interval",
    )
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel(_CONFIDENCE)
    ax.set_ylabel("accuracy")
    ece, total = f"ECE {data.ece:.4f}", f"{data.total:,} decisions"
    if isinstance(ax, FreeAxes):
        ax.set_title(f"{ece} · {total}", loc="left", pad=16)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), borderaxespad=0)
    else:  # above the axes is the place of the user's title
        ax.text(0.03, 0.97, f"{ece}\n{total}", transform=ax.transAxes, va="top")
        ax.legend(loc="lower right")
    strip = ax.inset_axes((0, 1.03, 1, 0.14))
    strip.bar(data.low, data.n, (data.high - data.low) * 0.94, align="edge", color=ink, alpha=0.45)
    strip.set_xlim(0, 1)
    strip.set_axis_off()
    if isinstance(ax, FreeAxes):
        most = f"decisions per bin, at most {int(data.n.max()):,}"
        strip.text(0, 1.02, most, transform=strip.transAxes, fontsize=7, va="bottom")


def draw_histogram(ax: Axes, data: Bins) -> None:
    """Right decisions, and the wrong ones on top of them."""
    width = float(data.high[0] - data.low[0]) * 0.94
    some, wrong = data.right > 0, data.n > data.right  # a bar of no height would still have an edge
    ax.bar(data.low[some], data.right[some], width, align="edge", color=BLUE, alpha=0.85, label="right")
    ax.bar(
        data.low[wrong],
        (data.n - data.right)[wrong],
        width,
        bottom=data.right[wrong],
        align="edge",
        facecolor="none",
        edgecolor=VERMILLION,
        hatch="////",
        linewidth=0.8,
        label="wrong",
    )
    ax.set_xlim(0, 1)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(_CONFIDENCE)
    ax.set_ylabel("decisions")
    place_legend(ax)
