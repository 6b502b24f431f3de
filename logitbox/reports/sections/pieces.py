"""What several sections share: figures with captions, and metric values with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup
from matplotlib.axes import Axes

from logitbox.analysis.flips import Flips
from logitbox.dumps.definitions import agent, decisions
from logitbox.dumps.definitions.entries import Metric
from logitbox.reports import texts
from logitbox.reports.bars import flip_words
from logitbox.reports.streams import Stream
from logitbox.reports.svg import to_svg


@dataclass(frozen=True)
class PageFigure:
    """A drawing with its caption."""

    svg: Markup
    caption: str


def page_figure(ax: Axes, name: str, caption: str, label: str = "") -> PageFigure:
    """The figure of some Axes; `name` is unique within the page, `label` tells the unsighted what it shows."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError(f"the Axes of {name} belong to no figure")
    # to_svg escapes every text through its XML writer.
    return PageFigure(Markup(to_svg(figure, name, texts.plain(label or caption))), caption)  # noqa: S704 (our own SVG, its labels escaped)


@dataclass(frozen=True)
class Cell:
    """One metric of one stream: text, 95 % interval, number of tokens; or why there is no value."""

    key: str
    value: float | None
    text: str
    interval: str
    note: str
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One metric, a cell per stream."""

    key: str
    about: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Metrics under one heading, and what they have in common."""

    heading: str
    about: str
    rows: tuple[Row, ...]


def is_monitor(metric: Metric) -> bool:
    """Flips and masses have a section of their own."""
    return "_monitor/" in metric.key


def flip_verdict(stream: Stream) -> str:
    """The most frequent flip of a stream at its last step, in words."""
    rates = Flips(stream.frame, "").rates.filter(pl.col("value").is_not_null())
    if rates.is_empty():
        return "no supervised token has its gold in a recorded vocabulary group, or outside one"
    worst = rates.sort("value", descending=True, maintain_order=True).row(0, named=True)
    if worst["value"] == 0:
        return f"none: the arg-max is always in gold's class ({texts.plural(rates.height, 'rate')})"
    words = flip_words(stream.bare(str(worst["key"])))
    return f"most often {words}: {texts.share(worst['value'])} of {texts.plural(worst['n'], 'such token')}"


def groups_of(metrics: Sequence[Metric], streams: Sequence[Stream]) -> tuple[Group, ...]:
    """Metrics under their headings, in the order of the registry."""
    headings = dict.fromkeys(metric.group for metric in metrics)
    return tuple(
        Group(
            heading, _about(heading, streams), tuple(_row(m, streams) for m in metrics if m.group == heading)
        )
        for heading in headings
    )


def _about(heading: str, streams: Sequence[Stream]) -> str:
    """What a heading's metrics have in common, in a sentence or two."""
    keys = list(dict.fromkeys(stream.keys.get("entropy", "") for stream in streams))
    told = {
        "tokens": "Over all supervised tokens; infinite and repeated ones are left out of everything, and counted here.",
        "token types": "Over the tokens of each type, of each vocabulary group, and of the rest of a group.",
        agent.HEADING: "Without special tokens (bos, eos, padding), so values may differ from those of all tokens; entropies "
        f"here are in bits. Keys begin with the phase: {', '.join(keys)}.",
        decisions.HEADING: "Over the slots where an answer is due, one of a sample; what is missing in the mass is on no answer.",
    }
    if heading in told:
        return told[heading]
    if heading.endswith(" loss"):
        return (
            "Over tokens whose gold is in the group, but for base_loss, which is over all others; the composite loss is "
            "the sum of the two means, each with a denominator of its own."
        )
    return "Both ways: gold inside the group and the arg-max or the mass outside, and the other way round."


def _row(metric: Metric, streams: Sequence[Stream]) -> Row:
    return Row(metric.key, metric.about, tuple(_cell(metric, stream) for stream in streams))


def _cell(metric: Metric, stream: Stream) -> Cell:
    key = stream.keys[metric.key]
    row = stream.rows.get(metric.key)
    if row is None or row["value"] is None:
        why = "not recorded at this step" if row is None else str(row["reason"])
        return Cell(key, None, "–", "", "", why)
    low, high = row["low"], row["high"]
    interval = (
        "" if low is None or high is None else f"{value_text(metric, low)} – {value_text(metric, high)}"
    )
    note = "" if metric.reduction == "count" else f"n {texts.count(row['n'])}"
    return Cell(key, row["value"], value_text(metric, row["value"]), interval, note)


def value_text(metric: Metric, value: float) -> str:
    """A value in the form of its kind: counts, shares, or anything else."""
    if metric.reduction == "count":
        return texts.count(value)
    return texts.share(value) if metric.high == 1 else texts.number(value)
