"""Metrics over steps, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from numpy.typing import NDArray

from logitbox.analysis.metrics import Metrics
from logitbox.dumps.definitions.entries import FAMILIES, prefix_of
from logitbox.errors import InputError
from logitbox.reports.style import CYCLE, DASHES, place_legend
from logitbox.reports.texts import drawable

MAX_POINTS, FIGURE_POINTS = 400, 1600
"""Points drawn per line and per figure: a long run's figure must stay small."""
_MAX_BANDS = 6

_VALUES = ("key", "value", "n", "reduction", "low", "high", "reason", "step")
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One line; `low` and `high` are NaN where there is no interval."""

    label: str
    key: str
    step: Float
    value: Float
    low: Float
    high: Float


def prefixes(result: Metrics) -> list[str]:
    """Key prefixes of the phases in a result ("" for most keys of train)."""
    every = (prefix_of(family, phase, result.phases) for phase in result.phases for family in FAMILIES)
    return list(dict.fromkeys(every))


def prepare_curves(result: Metrics, keys: str | Sequence[str] = "nll") -> list[Curve]:
    """The lines of some metrics, one per key and by-column.

    Args:
        result: metrics split by step.
        keys: keys as in the frame; one without a phase's prefix stands for that metric in every phase.

    Raises:
        InputError: not split by step, or no such key.
    """
    frame = result.frame
    if "step" not in frame.columns:
        raise InputError(
            "these metrics are not split by step; ask for metrics(dump, by='step') to draw curves"
        )
    known = frame["key"].unique(maintain_order=True).to_list()
    wanted = [
        key
        for name in ([keys] if isinstance(keys, str) else keys)
        for key in _matching(name, known, prefixes(result))
    ]
    by = [name for name in frame.columns if name not in _VALUES]
    rows = frame.filter(pl.col("key").is_in(wanted) & pl.col("value").is_not_null())
    order = pl.col("key").replace_strict({key: i for i, key in enumerate(wanted)}, return_dtype=pl.Int64)
    groups = rows.sort([order, *by, "step"], nulls_last=True).group_by(["key", *by], maintain_order=True)
    return [_curve([str(part) for part in parts if part not in ("", None)], part) for parts, part in groups]


def _matching(name: str, known: Sequence[str], before: Sequence[str]) -> list[str]:
    found = [key for key in dict.fromkeys(prefix + name for prefix in before) if key in known]
    if name in known and name not in found:
        found.append(name)
    if not found:
        raise InputError(f"keys names {name!r}; these metrics have {', '.join(known)}")
    return found


def _curve(parts: Sequence[str], rows: pl.DataFrame) -> Curve:
    low, high = (rows[name].fill_null(float("nan")).to_numpy() for name in ("low", "high"))
    return Curve(
        " · ".join(parts),
        parts[0],
        rows["step"].to_numpy().astype(np.float64),
        rows["value"].to_numpy(),
        low,
        high,
    )


def point_limit(lines: int) -> int:
    """Points that each of so many lines may have."""
    return min(MAX_POINTS, FIGURE_POINTS // max(lines, 1))


def thinned(curve: Curve, limit: int = MAX_POINTS) -> Curve:
    """At most `limit` points, evenly chosen, the first and the last among them."""
    n = len(curve.step)
    if n <= limit:
        return curve
    kept = np.unique(np.linspace(0, n - 1, limit).round().astype(np.int64))
    return replace(
        curve, step=curve.step[kept], value=curve.value[kept], low=curve.low[kept], high=curve.high[kept]
    )


def draw_curves(
    ax: Axes,
    curves: Sequence[Curve],
    overlay: Sequence[Curve] = (),
    label: str = "",
    *,
    is_share: bool = False,
) -> None:
    """Draw lines with interval bands; `overlay` thin and dashed, in the colour of the curve with its key."""
    colors: dict[str, str] = {}
    limit = point_limit(len(curves) + len(overlay))
    for i, whole in enumerate(curves):
        curve = thinned(whole, limit)
        color = CYCLE[i % len(CYCLE)]
        colors.setdefault(curve.key, color)
        dash = DASHES[i // len(CYCLE) % len(DASHES)]
        marker = "o" if len(curve.step) <= 12 else ""
        ax.plot(
            curve.step,
            curve.value,
            label=drawable(curve.label, spaces=False),
            color=color,
            linestyle=dash,
            marker=marker,
            markersize=3,
        )
        if len(curves) <= _MAX_BANDS and np.isfinite(curve.low).any():
            ax.fill_between(curve.step, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
    _draw_overlay(ax, overlay, colors, limit)
    ax.set_xlabel("step")
    ax.set_ylabel(drawable(label, spaces=False))
    if is_share:
        _fit_share(ax, curves)
    if len(curves) + len(overlay) > 1:
        longest = max(len(curve.label) for curve in (*curves, *overlay))
        place_legend(ax, columns=3 if longest < 12 else 2 if longest < 26 else 1)


def _draw_overlay(ax: Axes, overlay: Sequence[Curve], colors: Mapping[str, str], limit: int) -> None:
    for whole in overlay:
        curve = thinned(whole, limit)
        color = colors.get(curve.key, CYCLE[-1])
        ax.plot(
            curve.step,
            curve.value,
            label=drawable(curve.label, spaces=False),
            color=color,
            linestyle=(0, (2, 2)),
            linewidth=0.9,
        )


def _fit_share(ax: Axes, curves: Sequence[Curve]) -> None:
    """Shares keep their range in sight: from 0, and up to 1 unless all are small."""
    top = max((float(np.nanmax(curve.value)) for curve in curves if len(curve.value)), default=1.0)
    ax.set_ylim(-0.02 if top > 0.25 else None, 1.02 if top > 0.25 else None)
