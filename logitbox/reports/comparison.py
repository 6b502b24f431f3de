"""Figures of two evaluations of the same tokens: the cells as a waterfall, the reversal curve, p(gold) against p(gold)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from logitbox.analysis.pairs.cells import CELLS
from logitbox.analysis.pairs.comparison import Comparison
from logitbox.analysis.populations import ALL
from logitbox.reports.density import COUNT_COLORS
from logitbox.reports.style import BLUE, GREY, ORANGE, VERMILLION, text_color

Kind = Literal["cells", "reversal", "density"]

CELL_LABELS = {
    "both_right": "both right",
    "only_a": "only A right",
    "only_b": "only B right",
    "both_wrong": "both wrong",
}
_BINS = 60
_FLOOR = 1e-4
"""Least probability that the density shows apart; anything below is drawn there."""


@dataclass(frozen=True)
class Waterfall:
    """ΔTFCE as a sum over the cells: label, start and length of each step, and tokens."""

    labels: tuple[str, ...]
    start: NDArray[np.float64]
    part: NDArray[np.float64]
    n: NDArray[np.int64]


def prepare_waterfall(result: Comparison, token_type: str = ALL) -> Waterfall:
    """The cells of one token type, in order, and their total."""
    rows = result.frame.filter(pl.col("type") == token_type)
    part = np.array([rows.filter(pl.col("cell") == cell)["tfce_part"][0] for cell in CELLS])
    n = np.array([rows.filter(pl.col("cell") == cell)["n"][0] for cell in CELLS])
    start = np.concatenate([[0.0], np.cumsum(part)])
    labels = (*(CELL_LABELS[cell] for cell in CELLS), "ΔTFCE")
    return Waterfall(labels, np.append(start[:-1], 0.0), np.append(part, part.sum()), np.append(n, n.sum()))


def draw_waterfall(ax: Axes, data: Waterfall) -> None:
    """Steps to the right cost A, steps to the left cost B."""
    places = np.arange(len(data.labels))
    colors = [VERMILLION if part > 0 else BLUE for part in data.part[:-1]] + [GREY]
    ax.barh(places, data.part, 0.66, left=data.start, color=colors)
    ends = data.start + data.part
    for place, end in zip(places[:-1], ends[:-1], strict=True):
        ax.plot([end, end], [place, place + 1], color=text_color(), linewidth=0.6)
    span = max(float(np.abs(np.append(ends, data.start)).max()), 1e-12)
    for place, start, part in zip(places.tolist(), data.start, data.part, strict=True):
        ax.text(max(start, start + part) + 0.02 * span, place, f"{part:+.4f}", va="center")
    ax.axvline(0, color=text_color(), linewidth=0.6)
    named = [f"{label}\n{n:,} tokens" for label, n in zip(data.labels, data.n, strict=True)]
    ax.set_yticks(places, named)
    ax.set_ylim(len(places) - 0.5, -0.5)
    low, high = min(0.0, *ends, *data.start), max(0.0, *ends, *data.start)
    ax.set_xlim(low - 0.05 * span, high + 0.3 * span)  # room for the numbers
    ax.set_xlabel("part of mean nll, A − B, nats")
    ax.grid(visible=False, axis="y")


def draw_cells(ax: Axes, result: Comparison) -> None:
    """The cells of all tokens as a waterfall."""
    draw_waterfall(ax, prepare_waterfall(result))


def draw_reversal(ax: Axes, result: Comparison) -> None:
    """The loss gap that is left as tokens are removed, worst first, and where it is gone."""
    curve = result.curve
    n = len(result.pair)
    ax.plot(100 * curve.removed / n, curve.gap, color=VERMILLION)
    ax.axhline(0, color=text_color(), linewidth=0.6)
    sets = result.reversal if result.delta_tfce.sign > 0 else result.reversal_of_b
    if sets.tfce.tokens:
        share = 100 * sets.tfce.tokens / n
        ax.axvline(share, color=text_color(), linewidth=0.6, linestyle=(0, (2, 2)))
        ax.annotate(
            f"{sets.tfce.tokens:,} of {n:,} tokens",
            (share, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            va="top",
        )
        widest = min(3 * share, 100.0)
        ax.set_xlim(-0.02 * widest, widest)
        inside = curve.gap[curve.removed <= 3 * sets.tfce.tokens]
        ax.set_ylim(min(float(inside.min()), -0.1 * float(inside.max())), 1.05 * float(inside.max()))
    better, worse = ("B", "A") if result.delta_tfce.sign >= 0 else ("A", "B")
    ax.set_xlabel("tokens removed, worst first, % of all")
    ax.set_ylabel(f"mean nll, {worse} − {better}, nats")


def draw_density(ax: Axes, result: Comparison) -> None:
    """p(gold) of A against p(gold) of B, counts as shades; the diagonal is where both give the same."""
    edges = np.geomspace(_FLOOR, 1, _BINS + 1)
    p_a, p_b = (np.clip(np.exp(-nll), _FLOOR, 1) for nll in result.pair.nll)
    counts, _, _ = np.histogram2d(p_b, p_a, [edges, edges])
    shown = np.ma.masked_equal(counts.T, 0)
    norm = LogNorm(1, max(float(counts.max()), 2))
    mesh = ax.pcolormesh(edges, edges, shown, norm=norm, cmap=COUNT_COLORS, rasterized=True)
    ax.plot([_FLOOR, 1], [_FLOOR, 1], color=ORANGE, linewidth=0.9, linestyle=(0, (3, 2)))
    ticks = [1e-4, 1e-3, 1e-2, 1e-1, 1]
    for axis, scale in ((ax.xaxis, ax.set_xscale), (ax.yaxis, ax.set_yscale)):
        scale("log")
        axis.set_ticks(ticks, [f"{tick:g}" if tick > _FLOOR else "less" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    ax.set_xlabel("p(gold), B")
    ax.set_ylabel("p(gold), A")
    figure = ax.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(mesh, ax=ax, label="tokens", format=lambda value, _: f"{value:,.0f}")
        bar.minorticks_off()
