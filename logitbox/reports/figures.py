"""`draw`: the figure of any result. What `Result.plot` calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any, Literal, get_args

from matplotlib.axes import Axes

from logitbox.analysis.audit.audit import Audit
from logitbox.analysis.calibration.dumped import CalibrationTable
from logitbox.analysis.calibration.result import Calibration
from logitbox.analysis.decisions import Decisions
from logitbox.analysis.entropy import TokenList
from logitbox.analysis.explain import Explanation
from logitbox.analysis.flips import Flips
from logitbox.analysis.metrics import Metrics
from logitbox.analysis.pairs.comparison import Comparison
from logitbox.analysis.populations import ALL
from logitbox.errors import InputError
from logitbox.reports.audited import audit_plot
from logitbox.reports.bars import (
    FLIP_COLORS,
    FLIP_LABELS,
    Which,
    draw_bars,
    height_of,
    prepare_flips,
    prepare_tokens,
)
from logitbox.reports.comparison import Kind as PairKind
from logitbox.reports.comparison import draw_cells, draw_reversal
from logitbox.reports.comparison import draw_density as draw_pair_density
from logitbox.reports.curves import draw_curves, prefixes, prepare_curves
from logitbox.reports.decisions import (
    Kind,
    draw_calibration,
    draw_histogram,
    prepare_bins,
    prepare_evolution,
)
from logitbox.reports.density import draw_density, prepare_density
from logitbox.reports.diagram_cumulative import draw_cumulative, prepare_cumulative
from logitbox.reports.diagram_steps import draw_steps, prepare_steps
from logitbox.reports.diagram_types import draw_types, prepare_types, size_of
from logitbox.reports.parts import ExplanationKind, draw_parts, prepare_class_curves, prepare_parts
from logitbox.reports.reliability import (
    DIAGRAM,
    draw_reliability,
    picked,
    prepare_reliability,
    reliability_of,
)
from logitbox.reports.style import SQUARE, TALL, WIDE, canvas

CalibrationKind = Literal["reliability", "cumulative"]
TableKind = Literal["reliability", "cumulative", "types", "steps"]


@singledispatch
def draw(result: object, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw a result.

    Args:
        result: what an analysis returned.
        ax: where to draw, in the style in force; by default a new figure (`ax.figure`) that pyplot need not
            know of.
        options: by type of result. Calibration: `kind` ("reliability" or "cumulative"); CalibrationTable also "types"
            (all types side by side) and "steps" (needs by="step"), `phase`, `token_type` (or `type`) and by-columns, as Explanation;
            Metrics: `keys`; Flips: `which` ("rates" or "masses"); TokenList: `n`; Decisions: `kind` ("evolution",
            "calibration" or "histogram") and `bins`; Explanation also `kind` ("parts", "density" with `phase`, `step` and
            `dataset`, or "steps" with `phase` and `dataset`); Comparison: `kind` ("cells", "reversal", "density"); Audit: `key`
            and `difference`.

    Raises:
        InputError: there is no figure of this.
    """
    del ax, options
    known = ", ".join(sorted(kind.__name__ for kind in draw.registry if kind is not object))
    raise InputError(f"a {type(result).__name__} has no figure; figures exist of {known}")


@draw.register(Calibration)
def _calibration(result: Calibration, ax: Axes | None = None, kind: CalibrationKind = "reliability") -> Axes:
    _check_kind(kind, CalibrationKind, "a calibration")
    if kind == "cumulative":
        residual = prepare_cumulative(result)
        with canvas(ax, TALL) as axes:
            draw_cumulative(axes, residual)
            return axes
    data = reliability_of(result)
    with canvas(ax, DIAGRAM) as axes:
        draw_reliability(axes, data)
        return axes


@draw.register(CalibrationTable)
def _calibration_table(
    result: CalibrationTable, ax: Axes | None = None, kind: TableKind = "reliability", **options: Any
) -> Axes:
    _check_kind(kind, TableKind, "a calibration of a dump")
    if "type" in options:  # as in frames and in `.of`
        options.setdefault("token_type", options.pop("type"))
    if kind == "types":
        panels = prepare_types(result, **options)
        with canvas(ax, size_of(len(panels))) as axes:
            draw_types(axes, panels)
            return axes
    if kind == "steps":
        steps = prepare_steps(result, **options)
        with canvas(ax, WIDE) as axes:
            draw_steps(axes, steps)
            return axes
    if kind == "cumulative":
        return _cumulative_of(result, ax, **options)
    data = prepare_reliability(result, **options)
    with canvas(ax, DIAGRAM) as axes:
        draw_reliability(axes, data)
        return axes


def _cumulative_of(
    result: CalibrationTable,
    ax: Axes | None,
    phase: str | None = None,
    token_type: str = ALL,
    **where: Any,
) -> Axes:
    residual = prepare_cumulative(*picked(result, phase, token_type, where))
    with canvas(ax, TALL) as axes:
        draw_cumulative(axes, residual)
        return axes


def _check_kind(kind: str, kinds: Any, what: str) -> None:
    if kind not in get_args(kinds):
        raise InputError(f"kind is {kind!r}; {what} has {', '.join(get_args(kinds))}")


@draw.register(Metrics)
def _metrics(result: Metrics, ax: Axes | None = None, keys: str | Sequence[str] = "nll") -> Axes:
    curves = prepare_curves(result, keys)
    is_share = all(curve.key.endswith(("_acc", "_top5", "_frac", "confidence")) for curve in curves)
    known = prefixes(result)
    bare = {
        curve.key.removeprefix(max(filter(curve.key.startswith, known), key=len, default=""))
        for curve in curves
    }
    with canvas(ax, WIDE) as axes:
        draw_curves(axes, curves, label=bare.pop() if len(bare) == 1 else "", is_share=is_share)
        return axes


@draw.register(Flips)
def _flips(result: Flips, ax: Axes | None = None, which: Which = "rates") -> Axes:
    data = prepare_flips(result, which)
    with canvas(ax, (WIDE[0], height_of(len(data.labels)))) as axes:
        draw_bars(axes, data, FLIP_LABELS[which], FLIP_COLORS[which])
        return axes


@draw.register(TokenList)
def _tokens(result: TokenList, ax: Axes | None = None, n: int = 20) -> Axes:
    with canvas(ax, (WIDE[0], height_of(min(n, result.frame.height)))) as axes:
        data = prepare_tokens(
            result, n
        )  # in the style at hand: which characters can be drawn depends on its font
        draw_bars(axes, data, "entropy, nats; beside each bar: gold (arg-max)")
        return axes


@draw.register(Explanation)
def _explanation(
    result: Explanation, ax: Axes | None = None, kind: ExplanationKind = "parts", **options: Any
) -> Axes:
    _check_kind(kind, ExplanationKind, "an explanation")
    if kind == "density":
        density = prepare_density(result.choice(**options), result.thresholds)
        with canvas(ax, TALL) as axes:
            draw_density(axes, density)
            return axes
    if kind == "steps":
        curves = prepare_class_curves(result, **options)
        with canvas(ax, WIDE) as axes:
            draw_curves(axes, curves, label="part of mean nll, nats")
            return axes
    data = prepare_parts(result, **options)
    with canvas(ax, WIDE) as axes:
        draw_parts(axes, data)
        return axes


@draw.register(Comparison)
def _comparison(result: Comparison, ax: Axes | None = None, kind: PairKind = "cells") -> Axes:
    drawing = {"cells": draw_cells, "reversal": draw_reversal, "density": draw_pair_density}
    if kind not in drawing:
        raise InputError(f"kind is {kind!r}; a comparison has {', '.join(drawing)}")
    with canvas(ax, TALL if kind == "density" else WIDE) as axes:
        drawing[kind](axes, result)
        return axes


@draw.register(Decisions)
def _decisions(
    result: Decisions, ax: Axes | None = None, kind: Kind = "evolution", bins: int | None = None
) -> Axes:
    if kind == "evolution":
        curves = prepare_evolution(result)
        with canvas(ax, WIDE) as axes:
            draw_curves(axes, curves, label="mean over decisions", is_share=True)
            return axes
    data = prepare_bins(result, kind, bins)
    with canvas(ax, SQUARE if kind == "calibration" else WIDE) as axes:
        (draw_calibration if kind == "calibration" else draw_histogram)(axes, data)
        return axes


@draw.register(Audit)
def _audit(
    result: Audit, ax: Axes | None = None, key: str | None = None, *, difference: bool | None = None
) -> Axes:
    return audit_plot(result, key, ax, difference=difference)
