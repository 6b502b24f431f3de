"""Why accuracy and cross-entropy differ: the TFA/TFCE table."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from logitbox.analysis.explain import CELL_WORDS
from logitbox.analysis.populations import ALL, CELLS
from logitbox.reports import texts
from logitbox.reports.figures import draw
from logitbox.reports.sections.pieces import PageFigure, page_figure
from logitbox.reports.streams import Material, Stream


@dataclass(frozen=True)
class TypeRow:
    """What one token type brings to the loss."""

    name: str
    n: str
    tfa: str
    tfce: str
    part: str
    """Its share of all tokens' Σ nll."""
    wrong_likely: str
    """Share of its tokens that are confidently wrong."""


@dataclass(frozen=True)
class Explained:
    """One stream."""

    label: str
    step: int
    verdict: str
    figure: PageFigure
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...]
    types: tuple[TypeRow, ...]


def build(material: Material) -> tuple[Explained, ...]:
    """Every stream that has finite tokens."""
    streams = enumerate(material.streams)
    return tuple(_stream(s, i, material) for i, s in streams if not s.explanation.frame.is_empty())


def _stream(stream: Stream, i: int, material: Material) -> Explained:
    frame = stream.explanation.frame
    cells = {row["cell"]: row for row in frame.filter(pl.col("type") == ALL).iter_rows(named=True)}
    tfa, tfce = cells[CELLS[0]]["tfa"], cells[CELLS[0]]["tfce"]
    n = sum(row["n"] for row in cells.values())
    rows = tuple(
        (
            CELL_WORDS[name],
            texts.count(cells[name]["n"]),
            texts.percent(cells[name]["share"]),
            texts.share(cells[name]["tfa_part"]),
            texts.number(cells[name]["tfce_part"]),
            texts.percent(cells[name]["tfce_part"] / tfce if tfce > 0 else None),
            texts.number(cells[name]["mean_nll"]),
        )
        for name in CELLS
    )
    # The cells' own mean nll has no total but the loss itself.
    total = (
        "all",
        texts.count(n),
        texts.percent(1.0),
        texts.share(tfa),
        texts.number(tfce),
        texts.percent(1.0),
        texts.number(tfce),
    )
    figure = page_figure(
        draw(stream.explanation, phase=stream.phase),
        f"fig-parts-{i}",
        "Which tokens make up accuracy and loss",
        f"{stream.label}: {stream.explanation.verdict}",
    )
    types = tuple(
        _type_row(name, frame.filter(pl.col("type") == name), n * tfce)
        for name in sorted(material.populations)
        if name in frame["type"]
    )
    return Explained(stream.label, stream.step, stream.explanation.verdict, figure, rows, total, types)


def _type_row(name: str, rows: pl.DataFrame, total_nll: float) -> TypeRow:
    n, tfa, tfce = int(rows["n"].sum()), float(rows["tfa"][0]), float(rows["tfce"][0])
    confident = rows.filter(pl.col("cell") == "wrong_likely")["share"][0]
    part = n * tfce / total_nll if total_nll > 0 else None
    told = (
        texts.count(n),
        texts.share(tfa),
        texts.number(tfce),
        texts.percent(part),
        texts.percent(confident),
    )
    return TypeRow(name, *told)
