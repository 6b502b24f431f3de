"""A dump against another evaluation of the same tokens: what sets them apart, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from logitbox.analysis.pairs.cells import CELLS
from logitbox.analysis.pairs.comparison import Comparison
from logitbox.analysis.pairs.heat import Temperature
from logitbox.analysis.pairs.paired import Difference
from logitbox.analysis.populations import ALL
from logitbox.reports import texts
from logitbox.reports.comparison import CELL_LABELS
from logitbox.reports.comparison import Kind as FigureKind
from logitbox.reports.figures import draw
from logitbox.reports.sections.head import default_title
from logitbox.reports.sections.pieces import PageFigure, page_figure
from logitbox.reports.sections.tokens import shown
from logitbox.reports.streams import MAX_TYPES

_TOKENS, _SUBSETS, _NAME = 15, 8, 40


@dataclass(frozen=True)
class Side:
    """A dump, which of its tokens, and whether its metrics are right."""

    name: str
    path: str
    chosen: str
    certificate: str
    holds: bool


@dataclass(frozen=True)
class Token:
    """One of those that hold the loss gap."""

    gold: str
    key: str
    numbers: tuple[str, ...]
    """Position, and the nll of A, of B, and the difference."""
    right: str
    types: str


@dataclass(frozen=True)
class ComparisonSection:
    """See `comparison.html`; all differences are A − B."""

    a: Side
    b: Side
    told: str
    unaligned: str
    metrics: tuple[tuple[str, ...], ...]
    figures: tuple[PageFigure, ...]
    cells: tuple[tuple[str, ...], ...]
    total: tuple[str, ...]
    types: tuple[tuple[str, ...], ...]
    n_types: int
    subsets: tuple[tuple[str, ...], ...]
    tokens: tuple[Token, ...]
    n_holding: int
    temperature: str
    parts: tuple[tuple[str, ...], ...]
    """Empty where the temperatures are not known."""


def build(result: Comparison) -> ComparisonSection:
    """The section of a comparison whose A is the report's dump."""
    a, b = _sides(result)
    frame = result.frame
    tokens = result.tokens(_TOKENS)
    sets = result.reversal if result.delta_tfce.sign > 0 else result.reversal_of_b
    typed = _types(frame)
    return ComparisonSection(
        a=a,
        b=b,
        told=result.told,
        unaligned=str(result.pair.unaligned),
        metrics=_metrics(result),
        figures=_figures(result),
        cells=tuple(
            (CELL_LABELS[row["cell"]], texts.count(row["n"]), texts.percent(row["share"]), *_parts(row))
            for row in frame.filter(pl.col("type") == ALL).iter_rows(named=True)
        ),
        total=(
            "all",
            texts.count(len(result.pair)),
            texts.percent(1.0),
            *(texts.signed(delta.value) for delta in (result.delta_tfa, result.delta_tfce)),
        ),
        types=typed[:MAX_TYPES],
        n_types=len(typed),
        subsets=_subsets(result),
        tokens=tuple(_token(row) for row in tokens.iter_rows(named=True)),
        n_holding=sets.tfce.tokens,
        temperature=str(result.temperature),
        parts=_temperatures(result.temperature),
    )


def _sides(result: Comparison) -> tuple[Side, Side]:
    """Both dumps; where their names are the same, what was chosen tells them apart."""
    choices = [result.pair.a.choice, result.pair.b.choice]
    names = [default_title(choice.dump) for choice in choices]
    if names[0] == names[1]:
        names = [f"{name}, {choice.told}" for name, choice in zip(names, choices, strict=True)]
    sides = [
        Side(name, str(choice.dump.path), choice.told, str(found), found.holds)
        for name, choice, found in zip(names, choices, result.certificates, strict=True)
    ]
    return sides[0], sides[1]


def _metrics(result: Comparison) -> tuple[tuple[str, ...], ...]:
    of = (
        ("accuracy (TFA)", result.tfa, result.delta_tfa),
        ("cross-entropy (TFCE), nats", result.tfce, result.delta_tfce),
    )
    return tuple(
        (name, texts.number(both.a), texts.number(both.b), *_difference(delta)) for name, both, delta in of
    )


def _difference(delta: Difference) -> tuple[str, str, str]:
    """Value, interval and p."""
    if delta.low is None or delta.high is None:
        return texts.signed(delta.value), "one sample only", "–"
    return (
        texts.signed(delta.value),
        f"{texts.signed(delta.low)} to {texts.signed(delta.high)}",
        texts.share(delta.p),
    )


def _figures(result: Comparison) -> tuple[PageFigure, ...]:
    gap = f"ΔTFCE {texts.signed(result.delta_tfce.value)} nats over {len(result.pair):,} tokens"
    sets = result.reversal if result.delta_tfce.sign > 0 else result.reversal_of_b
    gone = f"the loss gap without the tokens that hold most of it; it is gone after {sets.tfce.tokens:,}"
    captions: dict[FigureKind, tuple[str, str]] = {
        "cells": ("Who is right where, and what that does to the loss gap", gap),
        "reversal": (
            "How few tokens hold the loss gap",
            gone if sets.tfce.tokens else "there is no loss gap",
        ),
        "density": ("p(gold) of A against B", "tokens above the diagonal are likelier to A"),
    }
    return tuple(
        page_figure(draw(result, kind=kind), f"fig-against-{kind}", caption, f"{caption}: {spoken}")
        for kind, (caption, spoken) in captions.items()
    )


def _parts(row: dict[str, Any]) -> tuple[str, str]:
    return texts.signed(row["tfa_part"]), texts.signed(row["tfce_part"])


def _types(frame: pl.DataFrame) -> tuple[tuple[str, ...], ...]:
    """A row per type, most tokens first: tokens, those one side alone gets right, and the parts of both gaps."""
    rows: list[tuple[int, tuple[str, ...]]] = []
    for (name,), group in frame.filter(pl.col("type") != ALL).group_by("type", maintain_order=True):
        cells = {row["cell"]: row for row in group.iter_rows(named=True)}
        n = int(group["n"].sum())
        only = (texts.count(cells[cell]["n"]) for cell in ("only_a", "only_b"))
        loss = (texts.signed(cells[cell]["tfce_part"]) for cell in CELLS)
        whole = (texts.signed(float(group[part].sum())) for part in ("tfa_part", "tfce_part"))
        if n:
            rows.append((n, (str(name), texts.count(n), *only, *loss, *whole)))
    return tuple(row for _, row in sorted(rows, key=lambda one: -one[0]))


def _subsets(result: Comparison) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            f"{row['kind']} {texts.shorten(texts.visible(row['name']), _NAME)}",
            texts.count(row["n"]),
            texts.percent(row["share"]),
            _percent(row["part_share"]),
            texts.signed(row["difference"]),
            "–" if row["rest"] is None else texts.signed(row["rest"]),
            texts.share(row["p_adjusted"]),
        )
        for row in result.concentration.head(_SUBSETS).iter_rows(named=True)
    )


def _percent(value: float | None) -> str:
    """A part of a gap, which may be below 0."""
    return texts.percent(value).replace("-", "−")


def _token(row: dict[str, Any]) -> Token:
    a, b = row["nll_a"], row["nll_b"]
    who = {(True, True): "both", (True, False): "A", (False, True): "B", (False, False): "neither"}
    return Token(
        gold=shown(row["gold_text"]),
        key=texts.shorten(texts.visible(str(row["key"])), _NAME),
        numbers=(texts.count(row["pos"]), texts.number(a), texts.number(b), texts.signed(a - b)),
        right=who[row["right_a"], row["right_b"]],
        types=", ".join(row["types"]) or "–",
    )


def _temperatures(found: Temperature) -> tuple[tuple[str, ...], ...]:
    """The loss gap in two parts."""
    if found.miscalibration is None or found.refinement is None:
        return ()
    total = found.miscalibration.value + found.refinement.value
    named = (
        ("miscalibration: gone at each one's best temperature", found.miscalibration),
        ("refinement: left at each one's best temperature", found.refinement),
    )
    return tuple(
        (
            name,
            *_difference(part)[:2],
            _percent(part.value / total if total else None),
            _difference(part)[2],
        )
        for name, part in named
    )
