"""Curves over steps: the main quantities of every phase, and the accuracy of every token type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from logitbox.errors import InputError
from logitbox.reports import texts
from logitbox.reports.curves import Curve, draw_curves, point_limit, prepare_curves, thinned
from logitbox.reports.sections.logged import Match
from logitbox.reports.sections.pieces import PageFigure, page_figure
from logitbox.reports.streams import Material, Stream
from logitbox.reports.style import WIDE, figure_style, new_axes

_MAIN = (
    ("nll", "Mean nll (TFCE)", "nats", False),
    ("token_acc", "Accuracy (TFA)", "share of tokens", True),
    ("full_entropy", "Mean entropy", "nats", False),
)
_MAX_STREAMS_BY_TYPE = 3
_MAX_ROWS = 40


@dataclass(frozen=True)
class StepTable:
    """Numbers behind the curves of one stream."""

    label: str
    rows: tuple[tuple[str, ...], ...]
    n_steps: int


@dataclass(frozen=True)
class Curves:
    """See `curves.html`."""

    figures: tuple[PageFigure, ...]
    tables: tuple[StepTable, ...]


def build(material: Material, matches: Sequence[Match]) -> Curves:
    """Figures where at least one stream has two steps or more."""
    long = [stream for stream in material.streams if stream.steps > 1]
    if not long:
        return Curves((), ())
    figures = [_main_figure(material, matches, *main) for main in _MAIN]
    for i, stream in enumerate(long[:_MAX_STREAMS_BY_TYPE]):
        curves = stream_curves(material, stream, [f"{name}_token_acc" for name in material.types])
        curves = [replace(curve, label=curve.label.removesuffix("_token_acc")) for curve in curves]
        if curves:
            caption = f"{stream.label}: accuracy by token type"
            figures.append(curve_figure(curves, f"fig-types-{i}", caption, "share of tokens", is_share=True))
    return Curves(
        tuple(figure for figure in figures if figure is not None),
        tuple(_table(material, stream) for stream in long),
    )


def stream_curves(material: Material, stream: Stream, keys: Sequence[str]) -> list[Curve]:
    """Curves of one stream, labelled by key without prefix; keys without any value are left out."""
    metrics = material.steps_of(stream)
    known = set(metrics.frame["key"].unique())
    names = {stream.keys[key]: key for key in keys if key in stream.keys}
    wanted = [key for key in names if key in known]
    if not wanted:
        return []
    # A key that is itself another phase's prefixed key would be matched there; the stream's frame has one phase.
    found = [curve for curve in prepare_curves(metrics, wanted) if curve.key in names]
    return [replace(curve, label=names[curve.key]) for curve in found]


def _main_figure(
    material: Material, matches: Sequence[Match], key: str, title: str, unit: str, is_share: bool
) -> PageFigure | None:
    curves = [
        replace(curve, label=stream.label, key=stream.label)
        for stream in material.streams
        for curve in stream_curves(material, stream, [key])
    ]
    if not curves:
        return None
    overlay = [match.curve() for match in matches if match.metric == key and match.frame.height > 1]
    caption = f"{title} by phase"
    return curve_figure(curves, f"fig-{key}", caption, unit, overlay, is_share=is_share)


def curve_figure(
    curves: Sequence[Curve],
    name: str,
    caption: str,
    unit: str,
    overlay: Sequence[Curve] = (),
    *,
    is_share: bool,
) -> PageFigure:
    """A figure of curves that says in its caption when lines were thinned."""
    with figure_style():
        ax = new_axes(WIDE)
        draw_curves(ax, curves, overlay, unit, is_share=is_share)
    limit = point_limit(len(curves) + len(overlay))
    most = max(len(curve.step) for curve in (*curves, *overlay))
    if most > limit:
        caption += (
            f"; lines thinned to {len(thinned(_longest(curves, overlay), limit).step)} of {most:,} steps"
        )
    ends = "; ".join(f"{curve.label} {texts.number(float(curve.value[-1]))}" for curve in curves)
    return page_figure(ax, name, caption, f"{caption}. Last values: {ends}")


def _longest(curves: Sequence[Curve], overlay: Sequence[Curve]) -> Curve:
    return max((*curves, *overlay), key=lambda curve: len(curve.step))


def _table(material: Material, stream: Stream) -> StepTable:
    keys = ("n_tokens", "nll", "token_acc", "full_entropy")
    frame = material.steps_of(stream).frame.filter(pl.col("key").is_in([stream.keys[key] for key in keys]))
    values: dict[int, dict[str, float | None]] = {}
    for step, key, value in frame.select("step", "key", "value").iter_rows():
        values.setdefault(step, {})[stream.bare(key)] = value
    steps = sorted(values)
    if len(steps) > _MAX_ROWS:
        steps = [steps[round(i * (len(steps) - 1) / (_MAX_ROWS - 1))] for i in range(_MAX_ROWS)]
    shown = (texts.count, texts.number, texts.share, texts.number)
    rows = (
        (f"{step:,}", *(form(values[step].get(key)) for form, key in zip(shown, keys, strict=True)))
        for step in steps
    )
    if stream.steps != len(values):
        raise InputError(f"{stream.label} has {stream.steps} steps but metrics of {len(values)}")
    return StepTable(stream.label, tuple(rows), stream.steps)
