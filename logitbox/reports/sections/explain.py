"""Why accuracy and cross-entropy differ: the TFA/TFCE table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from logitbox.analysis.bounds import BOUNDS
from logitbox.analysis.certificates import certify
from logitbox.analysis.checks import CHECKS
from logitbox.analysis.classes import WORDS
from logitbox.analysis.discordance import discordance_of
from logitbox.analysis.pairs.choice import choose
from logitbox.analysis.parting import steps_of, told_parting
from logitbox.analysis.populations import ALL
from logitbox.analysis.tally import Tally
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
    confident: str
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
    rules: tuple[tuple[str, ...], ...]
    """Each class, its rule, and what it does to both metrics."""
    certificate: str
    holds: bool
    checks: tuple[tuple[str, ...], ...]
    """Statement, tokens, violations, closest margin and its tolerance; of all but the first stream what is broken."""
    discordance: str
    parting: str


def build(material: Material) -> tuple[Explained, ...]:
    """Every stream that has finite tokens."""
    streams = enumerate(material.streams)
    return tuple(_stream(s, i, material) for i, s in streams if not s.explanation.frame.is_empty())


def _stream(stream: Stream, i: int, material: Material) -> Explained:
    frame = stream.explanation.frame
    whole = frame.filter(pl.col("type") == ALL)
    n, tfce = int(whole["n"].sum()), float(whole["tfce"][0])
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
    choice = choose(material.dump, stream.phase, stream.step, stream.dataset or None)
    shown = certify(choice)
    return Explained(
        label=stream.label,
        step=stream.step,
        verdict=stream.explanation.verdict,
        figure=figure,
        rows=tuple(_class_row(row) for row in whole.iter_rows(named=True) if row["n"]),
        total=_total(whole),
        types=types,
        rules=tuple((row[1], *row[2:]) for row in stream.explanation.rules.iter_rows()),
        certificate=str(shown),
        holds=shown.holds,
        checks=_checks(shown.frame, everything=i == 0),
        discordance=str(discordance_of(choice)),
        parting=_parting(stream, material),
    )


def _class_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        WORDS[row["cell"]],
        texts.count(row["n"]),
        texts.percent(row["share"]),
        texts.share(row["tfa_part"]),
        texts.number(row["tfce_part"]),
        texts.percent(row["tfce_part"] / row["tfce"] if row["tfce"] > 0 else None),
        texts.number(row["mean_nll"]),
    )


def _total(rows: pl.DataFrame) -> tuple[str, ...]:
    """The classes' own mean nll has no total but the loss itself."""
    tfa, tfce = float(rows["tfa"][0]), float(rows["tfce"][0])
    parts = (texts.share(tfa), texts.number(tfce), texts.percent(1.0), texts.number(tfce))
    return ("all", texts.count(int(rows["n"].sum())), texts.percent(1.0), *parts)


def _checks(frame: pl.DataFrame, *, everything: bool) -> tuple[tuple[str, ...], ...]:
    """What is broken, and if wanted all the rest but what vocabulary groups add: there can be many."""
    general = pl.col("name").is_in([entry.name for entry in (*CHECKS, *BOUNDS)]) & (pl.col("n") > 0)
    frame = frame.filter((pl.col("violations") > 0) | (general & pl.lit(everything)))
    return tuple(
        (
            row["statement"],
            texts.count(row["n"]),
            texts.count(row["violations"]),
            _small(row["margin"]),
            _small(row["tolerance"]),
        )
        for row in frame.iter_rows(named=True)
    )


def _small(value: float | None) -> str:
    return texts.number(value) if not value else f"{value:.1e}"


def _parting(stream: Stream, material: Material) -> str:
    """Of evaluations only: training steps are many, and each is on other samples."""
    if stream.phase == "train" or stream.steps < 2:
        return ""
    here = (pl.col("phase") == stream.phase) & (pl.col("dataset") == stream.dataset)
    return told_parting(steps_of(material.dump, Tally(material.tally.cells.filter(here))))


def _type_row(name: str, rows: pl.DataFrame, total_nll: float) -> TypeRow:
    n, tfa, tfce = int(rows["n"].sum()), float(rows["tfa"][0]), float(rows["tfce"][0])
    confident = rows.filter(pl.col("cell") == "confidently_wrong")["share"][0]
    part = n * tfce / total_nll if total_nll > 0 else None
    told = (
        texts.count(n),
        texts.share(tfa),
        texts.number(tfce),
        texts.percent(part),
        texts.percent(confident),
    )
    return TypeRow(name, *told)
