"""Calibration while a model trains: its error, what sampling alone would show, and which way confidence leans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray

from logitbox.analysis.calibration.dumped import CalibrationTable
from logitbox.analysis.populations import ALL
from logitbox.errors import InputError
from logitbox.reports.curves import Curve, thinned
from logitbox.reports.reliability import told_of
from logitbox.reports.selection import chosen, rows_of
from logitbox.reports.style import BLUE, VERMILLION, FreeAxes, place_legend, text_color
from logitbox.reports.texts import drawable, shorten

Float = NDArray[np.float64]

_LONGEST = 50

_DOTS = 12
"""With so few steps each is marked."""


@dataclass(frozen=True)
class Steps:
    """Over training steps: the calibration error, confidence − accuracy, and the error of a calibrated model.

    Attributes:
        ece, gap: with 95 % intervals; NaN where none is known.
        noise: [steps]; NaN where unknown.
        where: what the tokens are.
    """

    ece: Curve
    gap: Curve
    noise: Curve
    where: str


def prepare_steps(
    result: CalibrationTable, phase: str | None = None, token_type: str = ALL, **where: Any
) -> Steps:
    """One phase and type at all its steps.

    Args:
        result: a calibration with by="step".
        phase: by default the last phase that is not train, else train.
        token_type: by default all tokens.
        where: value of each other by-column; by default the last there is.

    Raises:
        InputError: nothing matches, or steps are not told apart.
    """
    if "step" not in result.frame.columns:
        raise InputError("the result does not tell steps apart; use calibration(dump, by='step')")
    _, keys = chosen(result.frame, phase, token_type, where)
    fixed = {name: value for name, value in keys.items() if name != "step"}
    rows = rows_of(result.frame, fixed).filter(pl.col("n") > 0).sort("step")
    step = rows["step"].to_numpy().astype(np.float64)

    def curve(name: str, key: str, *, has_interval: bool = True) -> Curve:
        low, high = (f"{key}_low", f"{key}_high") if has_interval else (key, key)
        return Curve(name, key, step, *(_floats(rows, column) for column in (key, low, high)))

    return Steps(
        curve("ECE, 95 %", "ece"),
        curve("confidence − accuracy, 95 %", "overconfidence"),
        curve("ECE by chance alone", "ece_noise", has_interval=False),
        told_of(fixed),
    )


def _floats(rows: pl.DataFrame, name: str) -> Float:
    return rows[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def draw_steps(ax: Axes, data: Steps) -> None:
    """Both in one unit; near the dotted line an error means nothing, above 0 the gap is over-confidence."""
    ink = text_color()
    ax.axhline(0, color=ink, linewidth=0.8)
    noise = thinned(data.noise)
    if np.isfinite(noise.value).any():
        ax.plot(noise.step, noise.value, color=ink, linewidth=1.1, linestyle=(0, (1, 1.5)), label=noise.label)
    for whole, color, dash in ((data.gap, VERMILLION, (0, (5, 1.5))), (data.ece, BLUE, "-")):
        curve = thinned(whole)
        marker = "o" if len(curve.step) <= _DOTS else ""
        ax.plot(
            curve.step,
            curve.value,
            label=curve.label,
            color=color,
            linestyle=dash,
            marker=marker,
            markersize=3,
        )
        if np.isfinite(curve.low).any():
            ax.fill_between(curve.step, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
    ax.locator_params(nbins=5)
    ax.set_xlabel("step")
    ax.set_ylabel("probability")
    if not isinstance(ax, FreeAxes):  # there the legend stands inside
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.5 * (high - low))
    place_legend(ax, columns=2)
    legend = ax.get_legend()
    if legend is not None:  # it stands on top, so that its title is the figure's
        legend.set_title(shorten(drawable(data.where, spaces=False), _LONGEST), prop=FontProperties(size=8.5))
        legend.set_alignment("left")
