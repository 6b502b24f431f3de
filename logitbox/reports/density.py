"""The tokens of one evaluation by p(gold) and p(arg-max), with the regions of the token classes drawn in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from numpy.typing import NDArray

from logitbox.analysis.classes import Thresholds
from logitbox.analysis.pairs.choice import Choice
from logitbox.reports.style import text_color

COUNT_COLORS = ListedColormap(colormaps["viridis"](np.linspace(0.25, 0.95, 256)))
"""Visible on white and on black."""

_BINS = 50
_FLOOR = 1e-4
"""Least p(gold) that is shown apart; anything below is drawn there."""


@dataclass(frozen=True)
class Density:
    """Tokens by ln p(gold) (columns) and p(arg-max) (rows): counts and the edges of the cells."""

    counts: NDArray[np.float64]
    gold: NDArray[np.float64]
    top: NDArray[np.float64]
    thresholds: Thresholds
    n: int


def prepare_density(choice: Choice, thresholds: Thresholds) -> Density:
    """Count the finite tokens of a choice, shard by shard."""
    gold, top = np.geomspace(_FLOOR, 1, _BINS + 1), np.linspace(0, 1, _BINS + 1)
    counts = np.zeros((_BINS, _BINS))
    for found in choice.scan(["nll", "top_nll"]):
        finite = np.isfinite(found["nll"]) & np.isfinite(found["top_nll"])
        p_gold, p_top = (np.exp(-found[name][finite].astype(np.float64)) for name in ("nll", "top_nll"))
        counts += np.histogram2d(np.minimum(p_top, 1), np.clip(p_gold, _FLOOR, 1), [top, gold])[0]
    return Density(counts, gold, top, thresholds, int(counts.sum()))


def draw_density(ax: Axes, data: Density) -> None:
    """Right tokens lie on the curve p(gold) = p(arg-max); all others to its left."""
    shown = np.ma.masked_equal(data.counts, 0)
    norm = LogNorm(1, max(float(data.counts.max()), 2))
    mesh = ax.pcolormesh(data.gold, data.top, shown, norm=norm, cmap=COUNT_COLORS, rasterized=True)
    ax.set_xscale("log")
    p = np.linspace(_FLOOR, 1, 200)
    ax.plot(p, p, color=text_color(), linewidth=0.7)
    likely, near = data.thresholds.likely, float(np.exp(-data.thresholds.near))
    for x, y in ((p[p < likely] * near, p[p < likely]), (np.array([_FLOOR, 1]), np.full(2, likely))):
        ax.plot(x, y, color=text_color(), linewidth=0.7, linestyle=(0, (3, 2)))
    # Beside the tokens, not over them.
    ax.text(0, 1.01, "confidently wrong", transform=ax.transAxes, ha="left", va="bottom")
    ax.text(1, 1.01, "sure and right", transform=ax.transAxes, ha="right", va="bottom")
    ax.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1], ["less", "0.001", "0.01", "0.1", "1"])
    ax.minorticks_off()
    ax.set_xlim(_FLOOR, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("p(gold)\nbelow: off or lost · near misses between the lines · barely right")
    ax.set_ylabel("p(arg-max)")
    figure = ax.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(mesh, ax=ax, label="tokens", format=lambda value, _: f"{value:,.0f}")
        bar.minorticks_off()
