"""Calibration: diagrams of every stream and of every token type of it, how sure the errors are, and steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from logitbox.analysis.populations import ALL
from logitbox.reports import texts
from logitbox.reports.figures import draw
from logitbox.reports.reliability import DIAGRAM, draw_reliability, prepare_reliability
from logitbox.reports.sections.pieces import PageFigure, page_figure
from logitbox.reports.streams import Material, Stream
from logitbox.reports.style import canvas

_MAX_FIGURES = 9
"""Diagrams on the page; the streams share them out."""

_MAX_OVER_STEPS = 3
"""Streams whose calibration is drawn over training steps."""

_MAX_WORST = 5
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Calibrated:
    """One stream.

    Attributes:
        worst: which types are off by more than chance, in a sentence; "" if there are no types or nothing is known of chance.
        without_training: whether training was recorded too, and is not shown.
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
    without_training: bool


def build(material: Material) -> tuple[Calibrated, ...]:
    """Evaluations if there are any, else training."""
    evaluations = [stream for stream in material.streams if stream.phase != "train"]
    shown = [stream for stream in evaluations or material.streams if not stream.calibration.frame.is_empty()]
    each = max(1, _MAX_FIGURES // max(1, len(shown)))
    return tuple(
        _stream(
            stream,
            f"cal-{i}",
            material,
            each,
            place=i,
            without_training=len(evaluations) < len(material.streams),
        )
        for i, stream in enumerate(shown)
    )


def _stream(
    stream: Stream, name: str, material: Material, most: int, *, place: int, without_training: bool
) -> Calibrated:
    result = stream.calibration
    wanted = [ALL, *sorted(material.populations)]
    rows = [
        row for kind in wanted for row in result.frame.filter(pl.col("type") == kind).iter_rows(named=True)
    ]
    # All tokens come first here too: no type has more.
    drawn = sorted(rows, key=lambda row: -row["n"])[:most]
    # One legend is enough, and a page must not grow too large.
    shown = [row for row in rows if row in drawn]
    table = result.table.filter(pl.col("type") == ALL).sort("bin")
    return Calibrated(
        label=stream.label,
        step=stream.step,
        verdict=result.verdict,
        bins=result.bins,
        figures=tuple(
            _figure(stream, row, f"{name}-{j}", legend=row is shown[0])
            for j, row in enumerate(rows)
            if row in drawn
        ),
        n_drawable=len(rows),
        worst=_worst(stream, {row["type"] for row in rows}),
        types=tuple(_type_row(row, result.table) for row in rows),
        table=tuple(_bin_row(row) for row in table.iter_rows(named=True)),
        over_steps=_over_steps(stream, f"{name}-steps") if place < _MAX_OVER_STEPS else (),
        without_training=without_training and not place and stream.phase != "train",
    )


def _figure(stream: Stream, row: dict[str, Any], name: str, *, legend: bool) -> PageFigure:
    # What the tokens are is told by the caption and the heading.
    data = replace(prepare_reliability(stream.calibration, stream.phase, row["type"]), where="")
    with canvas(None, DIAGRAM) as ax:
        draw_reliability(ax, data, legend=legend)
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
    """Types that a calibrated model would hardly show, worst first; or that there are none."""
    if types <= {ALL}:
        return ""
    ranked = stream.calibration.worst(None, by="type").filter(pl.col("type").is_in(types - {ALL}))
    if ranked["p_adjusted"].null_count() == ranked.height:
        return ""
    found = ranked.filter(pl.col("p_adjusted") <= _SIGNIFICANT)
    names = [f"{row['type']} ({texts.share(row['ece'])})" for row in found.iter_rows(named=True)]
    if not names:
        return (
            f"None of the types is off by more than chance (no p ≤ {_SIGNIFICANT}, corrected for all types)."
        )
    more = f" and {len(names) - _MAX_WORST} more" if len(names) > _MAX_WORST else ""
    told = f"{', '.join(names[:_MAX_WORST])}{more}"
    return f"Off by more than chance (p ≤ {_SIGNIFICANT}, corrected for all types; with their ECE): {told}."


def _range(row: dict[str, Any], name: str, *, signed: bool = False) -> str:
    """A value with its interval in brackets."""
    told = texts.signed if signed else texts.share
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if low is None or high is None else f" [{told(low)}, {told(high)}]"
    return f"{told(row[name])}{interval}"


def _type_row(row: dict[str, Any], table: pl.DataFrame) -> tuple[str, ...]:
    return (
        row["type"] or "all tokens",
        texts.count(row["n"]),
        texts.share(row["confidence"]),
        texts.share(row["accuracy"]),
        _range(row, "overconfidence", signed=True),
        _range(row, "ece"),
        texts.share(row["ece_noise"]),
        _largest(row, table),
    )


def _largest(row: dict[str, Any], table: pl.DataFrame) -> str:
    """The gap of the worst bin, and how many tokens it is over."""
    bins = table.filter(pl.col("type") == row["type"]).sort(pl.col("gap").abs(), descending=True)
    return f"{texts.share(row['mce'])} ({bins['n'][0]:,})" if bins.height else texts.share(row["mce"])


def _bin_row(row: dict[str, Any]) -> tuple[str, ...]:
    gap = texts.share(abs(row["gap"]))
    sign = "" if set(gap) <= set("0.") else "+" if row["gap"] < 0 else "−"  # confidence − accuracy
    told = (texts.count(row["n"]), texts.share(row["confidence"]), texts.share(row["accuracy"]), sign + gap)
    return (f"{row['low']:.3f} – {row['high']:.3f}", *told)
