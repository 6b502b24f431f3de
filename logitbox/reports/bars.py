"""Horizontal bars: flip rates with their intervals, and the entropy of single tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from numpy.typing import NDArray

from logitbox.analysis.entropy import TokenList
from logitbox.analysis.flips import Flips
from logitbox.errors import InputError
from logitbox.reports.style import BLUE, VERMILLION, text_color
from logitbox.reports.texts import drawable, shorten

Which = Literal["rates", "masses"]
Float = NDArray[np.float64]
_LONGEST = 14
"""Characters of a token that fit beside its bar."""


@dataclass(frozen=True)
class Bars:
    """Values with labels, topmost first; `low` and `high` are NaN where there is no interval."""

    labels: tuple[str, ...]
    value: Float
    low: Float
    high: Float


def prepare_flips(result: Flips, which: Which = "rates") -> Bars:
    """Flip rates or group masses; of several steps the last.

    Raises:
        InputError: unknown `which`, or nothing to draw.
    """
    if which not in ("rates", "masses"):
        raise InputError(f"which is {which!r}; allowed are 'rates' and 'masses'")
    rows = (result.rates if which == "rates" else result.masses).filter(pl.col("value").is_not_null())
    if rows.is_empty():
        raise InputError(f"nothing to draw: {result.verdict}")
    if "step" in rows.columns:
        rows = rows.filter(pl.col("step") == pl.col("step").max().over("key"))
    low, high = (rows[name].fill_null(float("nan")).to_numpy() for name in ("low", "high"))
    return Bars(tuple(flip_words(key) for key in rows["key"]), rows["value"].to_numpy(), low, high)


def flip_words(key: str) -> str:
    """The readable part of a monitor's key: what flips to what, or where the mass was looked for."""
    head, _, name = key.rpartition("/")
    head = head.removesuffix("_monitor")
    if name.startswith("flip_"):
        source, _, target = name.removeprefix("flip_").rpartition("_to_")
        group = source if target == f"non{source}" else target
        told = f"{source} → {target}"
    else:
        group, _, kind = name.partition("_vocab_mass_at_gt_")
        told = f"{group} mass at {kind}"
    phase = head.removesuffix(group).removesuffix("_")
    return f"{phase}: {told}" if phase else told


def prepare_tokens(result: TokenList, n: int = 20) -> Bars:
    """Entropies of the first `n` tokens, labelled with gold and the model's choice."""
    rows = result.frame.head(n)
    golds, tops = (
        [shorten(drawable(text), _LONGEST) for text in rows[name]] for name in ("gold_text", "top_text")
    )
    labels = tuple(f"{gold} ({top})" for gold, top in zip(golds, tops, strict=True))
    nothing = np.full(rows.height, np.nan)
    return Bars(labels, rows["entropy"].to_numpy().astype(np.float64), nothing, nothing)


def draw_bars(ax: Axes, data: Bars, label: str, color: str = BLUE) -> None:
    """Bars from the top down, each with its value in text."""
    ink = text_color()
    places = np.arange(len(data.labels))
    ax.barh(places, data.value, 0.66, color=color, alpha=0.85)
    known = np.isfinite(data.low) & np.isfinite(data.high)
    ax.hlines(places[known], data.low[known], data.high[known], color=ink, linewidth=1.2)
    ends = np.fmax(data.value, data.high)
    right = max(float(ends.max()), 1e-12) if len(ends) else 1.0
    for place, (value, end) in enumerate(zip(data.value, ends, strict=True)):
        ax.text(end + 0.015 * right, place, f"{value:.4f}", va="center", ha="left")
    ax.set_yticks(places, [shorten(drawable(name, spaces=False), 40) for name in data.labels])
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.set_xlim(0, right * 1.22)
    if 0.8 < right <= 1:
        ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    ax.set_xlabel(label)
    ax.grid(visible=False, axis="y")
    for text in ax.get_yticklabels():
        text.set_parse_math(False)


def height_of(bars: int) -> float:
    """Inches that a figure of so many bars needs."""
    return 0.6 + 0.24 * max(bars, 2)


FLIP_COLORS: dict[Which, str] = {"rates": VERMILLION, "masses": BLUE}
FLIP_LABELS: dict[Which, str] = {
    "rates": "share of tokens whose arg-max flips",
    "masses": "mean probability mass",
}
