"""Calibration: diagrams of every stream and of every token type of it, how sure the errors are, and steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from logitbox.analysis.populations import ALL
from logitbox.reports import texts
from logitbox.reports.figures import draw
from logitbox.reports.reliability import draw_reliability, prepare_reliability
from logitbox.reports.sections.pieces import PageFigure, page_figure
from logitbox.reports.streams import Material, Stream
from logitbox.reports.style import canvas

_MAX_FIGURES = 9
"""Diagrams on the page; the streams share them out."""

_MAX_OVER_STEPS = 3
"""Streams whose calibration is drawn over training steps."""

_SIZE = (3.1, 3.3)
"""Of a diagram without a legend, inches."""

_MAX_WORST = 5
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Calibrated:
    """One stream.

    Attributes:
        worst: types that are off by more than chance, in a sentence; "" if there are none.
        types: cells of the table of types.
        table: cells of the reliability table.
        over_steps: the figure over training steps, if there are several.
    """

    label: str
    step: int
    verdict: str
    bins: int
    figures: tuple[PageFigure, ...]
    n_drawable: int
    worst: str
    types: tuple[tuple[str, ...], ...]
    table: tuple[tuple[str, ...], ...]
    over_steps: tuple[PageFigure, ...]


def build(material: Material) -> tuple[Calibrated, ...]:
    """Evaluations if there are any, else training."""
    evaluations = [stream for stream in material.streams if stream.phase != "train"]
    shown = [stream for stream in evaluations or material.streams if not stream.calibration.frame.is_empty()]
    each = max(1, _MAX_FIGURES // max(1, len(shown)))
    return tuple(
        _stream(stream, f"cal-{i}", material, each, over_steps=i < _MAX_OVER_STEPS)
        for i, stream in enumerate(shown)
    )


def _stream(stream: Stream, name: str, material: Material, most: int, *, over_steps: bool) -> Calibrated:
    result = stream.calibration
    wanted = [ALL, *sorted(material.populations)]
    rows = [
        row for kind in wanted for row in result.frame.filter(pl.col("type") == kind).iter_rows(named=True)
    ]
    # All tokens come first here too: no type has more.
    drawn = sorted(rows, key=lambda row: -row["n"])[:most]
    table = result.table.filter(pl.col("type") == ALL).sort("bin")
    return Calibrated(
        label=stream.label,
        step=stream.step,
        verdict=result.verdict,
        bins=result.bins,
        figures=tuple(_figure(stream, row, f"{name}-{j}") for j, row in enumerate(rows) if row in drawn),
        n_drawable=len(rows),
        worst=_worst(stream, {row["type"] for row in rows}),
        types=tuple(_type_row(row) for row in rows),
        table=tuple(_bin_row(row) for row in table.iter_rows(named=True)),
        over_steps=_over_steps(stream, f"{name}-steps") if over_steps else (),
    )


def _figure(stream: Stream, row: dict[str, Any], name: str) -> PageFigure:
    # What the tokens are is told by the caption and the heading.
    data = replace(prepare_reliability(stream.calibration, stream.phase, row["type"]), where="")
    with canvas(None, _SIZE) as ax:
        draw_reliability(ax, data, legend=False)
    told = f"{row['type'] or 'all tokens'}: ECE {row['ece']:.4f}"
    spoken = (
        f"Reliability diagram, {stream.label}, {told} over {row['n']:,} tokens; mean confidence "
        f"{row['confidence']:.4f}, accuracy {row['accuracy']:.4f}"
    )
    return page_figure(ax, name, row["type"] or "all tokens", spoken)


def _over_steps(stream: Stream, name: str) -> tuple[PageFigure, ...]:
    """Error and lean at every step, if there are several."""
    if stream.steps < 2:
        return ()
    ax = draw(stream.calibration_by_step, kind="steps", phase=stream.phase)
    caption = "Calibration over steps"
    spoken = (
        f"{caption}, {stream.label}: calibration error and confidence minus accuracy at {stream.steps} steps"
    )
    return (page_figure(ax, name, caption, spoken),)


def _worst(stream: Stream, types: set[str]) -> str:
    """Types that a calibrated model would hardly show, worst first."""
    if types <= {ALL}:
        return ""
    ranked = stream.calibration.worst(None, by="type")
    found = ranked.filter((pl.col("p_adjusted") < _SIGNIFICANT) & pl.col("type").is_in(types - {ALL}))
    names = [f"{row['type']} ({texts.share(row['ece'])})" for row in found.iter_rows(named=True)]
    more = f" and {len(names) - _MAX_WORST} more" if len(names) > _MAX_WORST else ""
    return "" if not names else f"{', '.join(names[:_MAX_WORST])}{more}"


def _range(row: dict[str, Any], name: str, *, signed: bool = False) -> str:
    """A value with its interval in brackets."""
    told = texts.signed if signed else texts.share
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if low is None or high is None else f" [{told(low)}, {told(high)}]"
    return f"{told(row[name])}{interval}"


def _type_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["type"] or "all tokens",
        texts.count(row["n"]),
        texts.share(row["confidence"]),
        texts.share(row["accuracy"]),
        _range(row, "overconfidence", signed=True),
        _range(row, "ece"),
        texts.share(row["ece_noise"]),
        texts.share(row["mce"]),
    )


def _bin_row(row: dict[str, Any]) -> tuple[str, ...]:
    gap = texts.share(abs(row["gap"]))
    sign = "" if set(gap) <= set("0.") else "−" if row["gap"] < 0 else "+"
    told = (texts.count(row["n"]), texts.share(row["accuracy"]), texts.share(row["confidence"]), sign + gap)
    return (f"{row['low']:.3f} – {row['high']:.3f}", *told)
