"""Decisions between answers: what they are worth at the last step, over steps, and the surest wrong ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from logitbox.analysis.decisions import Decisions, decisions
from logitbox.analysis.slots import answers_of
from logitbox.reports import texts
from logitbox.reports.decisions import MAX_ANSWERS, evolution_labels
from logitbox.reports.figures import draw
from logitbox.reports.sections.curves import curve_figure, stream_curves
from logitbox.reports.sections.pieces import PageFigure, page_figure
from logitbox.reports.streams import Material, Stream

_MAX_STREAMS, _MAX_WRONG = 3, 8
_NAME = 40
"""Characters shown of a sample's key or of a token."""


@dataclass(frozen=True)
class Wrong:
    """A wrong decision."""

    key: str
    gt: str
    pred: str
    probabilities: tuple[str, ...]
    prob_mass: str
    top: str


@dataclass(frozen=True)
class Decided:
    """One stream; `names` are the columns of `probabilities`."""

    label: str
    step: int
    verdict: str
    figures: tuple[PageFigure, ...]
    names: tuple[str, ...]
    wrong: tuple[Wrong, ...]
    n_wrong: int


@dataclass(frozen=True)
class DecisionsSection:
    """See `decisions.html`."""

    answers: tuple[str, ...]
    streams: tuple[Decided, ...]
    others: tuple[str, ...]
    """Streams with decisions that are not shown."""


def build(material: Material) -> DecisionsSection | None:
    """Evaluations if any has decision slots, else training; None where no answers were recorded."""
    answers = answers_of(material.dump)
    if not answers:
        return None
    deciding = [stream for stream in material.streams if stream.value("decision_slots")]
    wanted = [stream for stream in deciding if stream.phase != "train"] or deciding
    return DecisionsSection(
        answers,
        tuple(_stream(stream, i, material) for i, stream in enumerate(wanted[:_MAX_STREAMS])),
        tuple(stream.label for stream in wanted[_MAX_STREAMS:]),
    )


def _stream(stream: Stream, number: int, material: Material) -> Decided:
    result = decisions(material.dump, phase=stream.phase, dataset=stream.dataset, step=stream.step)
    wrong = result.frame.filter(~pl.col("correct")).sort("confidence", descending=True, maintain_order=True)
    names = tuple(f"p({name})" for name in result.answers)
    return Decided(
        stream.label,
        stream.step,
        result.verdict.removeprefix(f"{stream.phase}, step {stream.step:,}: "),
        _figures(result, stream, number, material),
        names if len(names) <= MAX_ANSWERS else ("p(predicted)", "p(gold)"),
        tuple(_wrong(row, result.answers) for row in wrong.head(_MAX_WRONG).iter_rows(named=True)),
        wrong.height,
    )


def _figures(result: Decisions, stream: Stream, number: int, material: Material) -> tuple[PageFigure, ...]:
    figures: list[PageFigure] = []
    labels = evolution_labels(result.answers)
    if stream.steps > 1 and (curves := stream_curves(material, stream, list(labels))):
        curves = [replace(curve, label=labels[curve.label]) for curve in curves]
        caption = f"{stream.label}: decisions over steps"
        if len(result.answers) > MAX_ANSWERS:
            caption += f"; {MAX_ANSWERS} of {len(result.answers)} answers"
        name = f"fig-decisions-{number}-steps"
        figures.append(curve_figure(curves, name, caption, "mean over decisions", is_share=True))
    n = result.frame.height
    right = int(result.frame["correct"].sum())
    sure, accuracy = (texts.share(value) for value in (result.confidence, result.accuracy))
    means = f"mean confidence {sure}, accuracy {accuracy} over {texts.plural(n, 'decision')}"
    told = (
        ("histogram", "How sure the decisions are", f"{right:,} right, {n - right:,} wrong"),
        ("calibration", "Accuracy against confidence", f"ECE {texts.share(result.ece())}"),
    )
    for kind, caption, numbers in told:
        ax = draw(result, kind=kind)
        spoken = f"{caption}, {stream.label}: {numbers}; {means}"
        figures.append(page_figure(ax, f"fig-decisions-{number}-{kind}", caption, spoken))
    return tuple(figures)


def _wrong(row: dict[str, Any], answers: tuple[str, ...]) -> Wrong:
    shown = answers if len(answers) <= MAX_ANSWERS else (row["pred"], row["gt"])
    return Wrong(
        texts.shorten(texts.visible(str(row["sample"] if row["key"] is None else row["key"])), _NAME),
        row["gt"] or "no answer",
        row["pred"] or "none",
        tuple(texts.share(row.get(f"p_{name}")) for name in shown),
        texts.share(row["prob_mass"]),
        texts.shorten(texts.visible(row["top_text"] or "", spaces=True), _NAME) or "(empty)",
    )
