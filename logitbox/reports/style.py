"""How figures look: colours, sizes, and Axes that need neither pyplot nor global state."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#010203"
"""Text, axes and grid of our own figures. Looks black; `to_svg` turns it into the page's text colour."""

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GREY = "#E69F00", "#56B4E9", "#8A8A8A"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
"""Okabe & Ito's colours (distinct to the colour-blind, visible on white and on black), without yellow."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Line styles of the first, second, … round through the colours."""

WIDE, SQUARE, TALL = (4.4, 2.6), (3.1, 3.3), (4.2, 3.1)
"""Figure sizes, inches."""

_RC: dict[Any, Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "white",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "hatch.linewidth": 0.8,
}


@contextmanager
def figure_style() -> Generator[None]:
    """The package's look, inside the `with` block only."""
    with rc_context(_RC):
        yield


class FreeFigure(Figure):
    """A Figure that pyplot does not know of, and that Jupyter shows all the same."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=144)
        return buffer.getvalue()


class FreeAxes(Axes):
    """Axes that Jupyter shows as their whole figure when they are a cell's last value."""

    def _repr_png_(self) -> bytes | None:
        figure = self.get_figure(root=True)
        return figure._repr_png_() if isinstance(figure, FreeFigure) else None  # pyright: ignore[reportPrivateUsage]


def new_axes(size: tuple[float, float]) -> Axes:
    """Axes of a new figure of their own; call it inside `figure_style`."""
    figure = FreeFigure(figsize=size)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(axes_class=FreeAxes)
    # Ticks are made when the figure is drawn, which may be after the style has ended.
    axes.tick_params(colors=INK, labelsize=8, width=0.6, length=3)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    return axes


@contextmanager
def canvas(ax: Axes | None, size: tuple[float, float]) -> Generator[Axes]:
    """The user's Axes with the user's style, or new Axes with ours."""
    if ax is not None:
        yield ax
        return
    with figure_style():
        yield new_axes(size)


def place_legend(ax: Axes, columns: int = 3) -> None:
    """A legend above our own Axes, where nothing is hidden; wherever there is room in the user's."""
    if isinstance(ax, FreeAxes):
        ax.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.2
        )
    else:
        ax.legend()


def text_color() -> Any:
    """The colour that text has at the moment, so that lines can share it."""
    return rcParams["text.color"]
