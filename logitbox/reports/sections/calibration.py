"""Reliability: diagrams of every stream, and of every token type of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from logitbox.analysis.populations import ALL
from logitbox.reports import texts
from logitbox.reports.figures import draw
from logitbox.reports.sections.pieces import PageFigure, page_figure
from logitbox.reports.streams import Material, Stream

_MAX_FIGURES = 9
"""Diagrams on the page; the streams share them out."""


@dataclass(frozen=True)
class Calibrated:
    """One stream."""

    label: str
    step: int
    verdict: str
    bins: int
    figures: tuple[PageFigure, ...]
    n_drawable: int
    types: tuple[tuple[str, ...], ...]
    table: tuple[tuple[str, ...], ...]


def build(material: Material) -> tuple[Calibrated, ...]:
    """Evaluations if there are any, else training."""
    evaluations = [stream for stream in material.streams if stream.phase != "train"]
    shown = [stream for stream in evaluations or material.streams if not stream.calibration.frame.is_empty()]
    each = max(1, _MAX_FIGURES // max(1, len(shown)))
    return tuple(_stream(stream, f"fig-reliability-{i}", material, each) for i, stream in enumerate(shown))


def _stream(stream: Stream, name: str, material: Material, most: int) -> Calibrated:
    result = stream.calibration
    wanted = [ALL, *sorted(material.populations)]
    rows = [
        row for kind in wanted for row in result.frame.filter(pl.col("type") == kind).iter_rows(named=True)
    ]
    # All tokens come first here too: no type has more.
    drawn = sorted(rows, key=lambda row: -row["n"])[:most]
    figures = tuple(_figure(stream, row, f"{name}-{j}") for j, row in enumerate(rows) if row in drawn)
    table = result.table.filter(pl.col("type") == ALL).sort("bin")
    return Calibrated(
        stream.label,
        stream.step,
        result.verdict,
        result.bins,
        figures,
        len(rows),
        tuple(_type_row(row) for row in rows),
        tuple(_bin_row(row) for row in table.iter_rows(named=True)),
    )


def _figure(stream: Stream, row: dict[str, Any], name: str) -> PageFigure:
    ax = draw(stream.calibration, phase=stream.phase, token_type=row["type"])
    told = f"{row['type'] or 'all tokens'}: ECE {row['ece']:.4f}"
    spoken = (
        f"Reliability diagram, {stream.label}, {told} over {row['n']:,} tokens; mean confidence "
        f"{row['confidence']:.4f}, accuracy {row['accuracy']:.4f}"
    )
    return page_figure(ax, name, row["type"] or "all tokens", spoken)


def _type_row(row: dict[str, Any]) -> tuple[str, ...]:
    shares = (texts.share(row[name]) for name in ("accuracy", "confidence", "ece", "mce"))
    return (row["type"] or "all tokens", texts.count(row["n"]), *shares)


def _bin_row(row: dict[str, Any]) -> tuple[str, ...]:
    gap = texts.share(abs(row["gap"]))
    sign = "" if set(gap) <= set("0.") else "−" if row["gap"] < 0 else "+"
    told = (texts.count(row["n"]), texts.share(row["accuracy"]), texts.share(row["confidence"]), sign + gap)
    return (f"{row['low']:.3f} – {row['high']:.3f}", *told)
