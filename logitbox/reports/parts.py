"""The TFA/TFCE table as a figure: who the tokens are, who makes accuracy, who makes cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from numpy.typing import NDArray

from logitbox.analysis.classes import CLASSES, NAMES, WORDS
from logitbox.analysis.explain import Explanation
from logitbox.analysis.populations import ALL
from logitbox.reports.curves import Curve
from logitbox.reports.selection import pick, rows_of
from logitbox.reports.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, FreeAxes

CLASS_COLORS = dict(zip(NAMES, (GREY, GREEN, SKY, VERMILLION, ORANGE, PURPLE, BLUE), strict=True))
ExplanationKind = Literal["parts", "density", "steps"]
_FIXED = ("phase", "type", "cell", "n", "share", "tfa_part", "tfce_part", "mean_nll", "tfa", "tfce")


@dataclass(frozen=True)
class Parts:
    """Shares of the token classes (columns, as in `classes.NAMES`) in tokens, TFA and TFCE (rows); each row adds up to 1, or to 0."""

    share: NDArray[np.float64]
    tfa: float
    tfce: float
    n: int


def prepare_parts(
    result: Explanation, phase: str | None = None, token_type: str = ALL, **where: Any
) -> Parts:
    """The table of one phase and token type, as shares.

    Args:
        result: an explanation.
        phase: by default the last phase that is not train, else train.
        token_type: by default all tokens.
        where: value of each by-column; by default the last there is.

    Raises:
        InputError: nothing matches.
    """
    rows, _ = pick(result.frame, _FIXED, phase, token_type, where)
    cell = {row["cell"]: row for row in rows.iter_rows(named=True)}
    tfa, tfce = (float(rows[name][0]) for name in ("tfa", "tfce"))
    parts = np.array(
        [[cell[c][p] for c in NAMES] for p in ("share", "tfa_part", "tfce_part")], dtype=np.float64
    )
    totals = np.array([[1.0], [tfa], [tfce]])
    shares = np.divide(parts, totals, out=np.zeros_like(parts), where=totals > 0)
    return Parts(shares, tfa, tfce, int(rows["n"].sum()))


def draw_parts(ax: Axes, data: Parts) -> None:
    """Three bars, each cut into the classes; those without tokens are not named."""
    names = (f"tokens\n{data.n:,}", f"TFA\n{data.tfa:.4f}", f"TFCE\n{data.tfce:.4f}")
    left = np.zeros(3)
    for i, name in enumerate(NAMES):
        width = data.share[:, i]
        if not width.any():
            continue
        ax.barh([0, 1, 2], width, 0.72, left=left, color=CLASS_COLORS[name], label=WORDS[name])
        ink = "white" if CLASS_COLORS[name] == BLUE else "black"
        for place, (start, part) in enumerate(zip(left, width, strict=True)):
            if part >= 0.07:  # narrower than its own text
                ax.text(start + part / 2, place, f"{part:.0%}", ha="center", va="center", color=ink)
        left = left + width
    ax.set_yticks([0, 1, 2], names)
    ax.set_ylim(2.55, -0.55)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.set_xlabel("share of each total")
    ax.grid(visible=False, axis="y")
    if isinstance(ax, FreeAxes):
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2, columnspacing=1.2)
    else:
        ax.legend()


def prepare_class_curves(
    result: Explanation, phase: str | None = None, dataset: str | None = None
) -> list[Curve]:
    """The part of mean nll that every class has, over the steps of one phase; their sum is TFCE.

    Args:
        result: an explanation that knows its dump.
        phase: by default the last that is not train, else train.
        dataset: needed where a phase has several.

    Raises:
        InputError: nothing matches.
    """
    where = {} if dataset is None else {"dataset": dataset}
    every = result.by_step().frame
    _, keys = pick(every, _FIXED, phase, ALL, where)
    frame = rows_of(every, {name: value for name, value in keys.items() if name != "step"}).sort("step")
    curves: list[Curve] = []
    for kind in CLASSES:
        of_class = frame.filter(pl.col("cell") == kind.name)
        step, part = (of_class[name].to_numpy().astype(np.float64) for name in ("step", "tfce_part"))
        nothing = np.full(len(step), np.nan)
        if part.any():
            curves.append(Curve(kind.words, kind.name, step, part, nothing, nothing))
    return curves
