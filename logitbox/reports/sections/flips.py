"""Flips between classes of tokens, and the probability mass that leaks: last step, and over steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from logitbox.analysis.flips import Flips
from logitbox.reports.bars import Which, flip_words
from logitbox.reports.figures import draw
from logitbox.reports.sections.curves import curve_figure, stream_curves
from logitbox.reports.sections.pieces import (
    Group,
    PageFigure,
    flip_verdict,
    groups_of,
    is_monitor,
    page_figure,
)
from logitbox.reports.streams import Material, Stream

_MAX_BARS, _MAX_LINES, _MAX_STREAMS = 16, 8, 2
_NAMES: dict[Which, str] = {"rates": "flip rates", "masses": "group masses"}
_UNITS: dict[Which, str] = {"rates": "share of tokens", "masses": "probability mass"}


@dataclass(frozen=True)
class FlipsSection:
    """See `flips.html`."""

    recorded: bool
    verdicts: tuple[tuple[str, str], ...]
    figures: tuple[PageFigure, ...]
    curves: tuple[PageFigure, ...]
    groups: tuple[Group, ...]


def build(material: Material) -> FlipsSection:
    """Empty, with `recorded` false, where no vocabulary group was recorded."""
    if not any(session.spec.groups for session in material.dump.sessions):
        return FlipsSection(recorded=False, verdicts=(), figures=(), curves=(), groups=())
    metrics = [metric for metric in material.metrics if is_monitor(metric)]
    shown = material.streams[:_MAX_STREAMS]
    both: tuple[Which, Which] = ("rates", "masses")
    places: list[tuple[str, Stream, Which]] = [
        (f"{which}-{i}", stream, which) for i, stream in enumerate(shown) for which in both
    ]
    figures = [_bars(*place, material) for place in places]
    curves = [_curves(*place, material) for place in places]
    return FlipsSection(
        recorded=True,
        verdicts=tuple((stream.label, flip_verdict(stream)) for stream in material.streams),
        figures=tuple(figure for figure in figures if figure is not None),
        curves=tuple(figure for figure in curves if figure is not None),
        groups=groups_of(metrics, material.streams),
    )


def _highest(stream: Stream, which: Which, material: Material, most: int) -> tuple[pl.DataFrame, int]:
    """(rows of the highest values in their own order, how many there are in all)."""
    shown = {stream.keys[metric.key] for metric in material.metrics}
    flips = Flips(stream.frame, "")
    rows = (flips.rates if which == "rates" else flips.masses).filter(
        pl.col("value").is_not_null() & pl.col("key").is_in(shown)
    )
    top = rows.sort("value", descending=True, maintain_order=True).head(most)
    return rows.filter(pl.col("key").is_in(top["key"].to_list())), rows.height


def _bars(name: str, stream: Stream, which: Which, material: Material) -> PageFigure | None:
    rows, every = _highest(stream, which, material, _MAX_BARS)
    if rows.is_empty():
        return None
    bare = rows.with_columns(pl.col("key").replace_strict({key: stream.bare(key) for key in rows["key"]}))
    ax = draw(Flips(bare, ""), which=which)
    caption = f"{stream.label}, step {stream.step:,}: {_NAMES[which]}"
    if every > rows.height:
        caption += f"; the {rows.height} highest of {every}"
    spoken = "; ".join(
        f"{flip_words(key)} {value:.4f}" for key, value in bare.select("key", "value").iter_rows()
    )
    return page_figure(ax, f"fig-{name}", caption, f"{caption}: {spoken}")


def _curves(name: str, stream: Stream, which: Which, material: Material) -> PageFigure | None:
    rows, every = _highest(stream, which, material, _MAX_LINES)
    if stream.steps < 2 or rows.is_empty():
        return None
    keys = [stream.bare(str(key)) for key in rows["key"]]
    curves = [replace(c, label=flip_words(c.label)) for c in stream_curves(material, stream, keys)]
    caption = f"{stream.label}: {_NAMES[which]} over steps"
    if every > rows.height:
        caption += f"; the {rows.height} highest of {every}"
    return curve_figure(curves, f"fig-steps-{name}", caption, _UNITS[which], is_share=True)
