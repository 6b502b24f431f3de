"""Writes the tables of docs/metrics.md from the registry, between their marker comments.

    .venv/bin/python scripts/metrics_table.py

Metrics that say the same of several token types are one row, with {type} (or {answer}) in the key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from logitbox.dumps.definitions.entries import FAMILIES, Family, Metric, prefix_of
from logitbox.dumps.definitions.registry import metrics_of, populations_of, quantities_of
from logitbox.dumps.spec import build_spec

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"

SPEC = build_spec(
    2000,
    None,
    {"coord": range(1000, 2000)},
    {"coord": {}},
    ["coord", "desc", "format", "reasoning", "tool_call"],
    probes=False,
    lse_beta="eval",
    scope="supervised",
    answers={"accept": [1, 2], "reject": [3, 4]},
)
"""A session that has every metric there is."""

QUANTITIES = {entry.name: entry for entry in quantities_of(SPEC)}
POPULATIONS = {entry.name: entry for entry in populations_of(SPEC)}
COARSE = {
    entry.name: entry
    for entry in quantities_of(replace(SPEC, detailed=replace(SPEC.detailed, columns=False)))
}
"""The same in a session without the optional columns."""

SPELLED: dict[Family, tuple[tuple[str, ...], set[str]]] = {
    "000": (("train",), {"", "coord", "desc", "format", "text"}),
    "001": (("train", "eval"), {"", "reasoning", "tool_call"}),
    "003": (("eval",), {"decision", "accept", "reject"}),
}
"""Of a seed: the phases and the types whose keys are spelled out below its table."""

ADDED = re.compile(r".*/(base_loss|composite_loss|n_nonfinite)|.*top10_entropy|decision_(elsewhere|slots)")
"""Keys of a seed's family that the seed does not name."""

COUNTED = {
    "n": "1",
    "n_nonfinite": "[nll, lse or entropy is NaN or infinite]",
    "n_duplicate": "[repeated to fill the last batch]",
}
REDUCTIONS = {
    "token_mean": "token mean",
    "exp_token_mean": "exp of the token mean",
    "count": "sum",
    "sum_of_means": "sum of both means",
}
HEAD = ("key", "what it says", "formula", "over", "reduction", "columns", "range", "in the loss", "seed")


def subject(metric: Metric) -> tuple[str, str]:
    """(the type or answer that a metric is about, what rows of several write for it)."""
    answer = metric.quantity.removeprefix("mass_")
    if metric.family == "003" and answer in SPEC.answers:
        return answer, "{answer}"
    of = metric.quantity.removeprefix("is_") if metric.quantity.startswith("is_") else metric.population
    return of.partition(".")[0], "{type}"


def templated(text: str, name: str, written: str) -> str:
    """Text in which a name is replaced, where it is no part of another word."""
    return re.sub(rf"(?<![a-zA-Z]){re.escape(name)}(?![a-zA-Z])", written, text) if name else text


def row(members: Sequence[Metric]) -> list[str]:
    """The cells of metrics that differ in their subject only."""
    first = members[0]
    cells = [
        f"`{first.key}`",
        first.about,
        formula_of(first),
        f"`{first.population or 'all'}`",
        REDUCTIONS[first.reduction],
        columns_of(first),
        range_of(first),
        first.in_loss,
    ]
    cells = [templated(cell, *subject(first)) if len(members) > 1 else cell for cell in cells]
    if first.family == "logitbox":
        return [*cells, "ours"]
    return [*cells, f"{first.family}, added" if ADDED.fullmatch(first.key) else first.family]


def formula_of(metric: Metric) -> str:
    """Of one token, in symbols; of a sum of means, its parts."""
    if metric.parts:
        return " + ".join(f"`{part}`" for part in metric.parts)
    if metric.quantity.startswith("is_"):
        return f"[the token is {metric.quantity.removeprefix('is_')}]"
    if metric.quantity in COUNTED:
        return COUNTED[metric.quantity]
    # The weights here are all 1; what they are called says more.
    return re.sub(r"\b1·(\w+)", r"\1_weight·\1", QUANTITIES[metric.quantity].formula)


def columns_of(metric: Metric) -> str:
    """Columns that the formula reads."""
    if metric.parts:
        return "of both"
    if metric.quantity.startswith("is_"):
        return listed(POPULATIONS[metric.quantity.removeprefix("is_")].needs)
    if metric.quantity not in QUANTITIES:
        return "–" if metric.quantity == "n" else "`flags`"
    needs, instead = QUANTITIES[metric.quantity].needs, COARSE[metric.quantity].needs
    return listed(needs) if needs == instead else f"{listed(needs)}; without it {listed(instead)}"


def range_of(metric: Metric) -> str:
    """Smallest and largest value."""
    if metric.reduction == "count":
        return "0, 1, 2, …"
    return f"[{metric.low:g}, ∞)" if math.isinf(metric.high) else f"[{metric.low:g}, {metric.high:,.0f}]"


def family_rows(metrics: Sequence[Metric]) -> list[list[str]]:
    """Metrics of the same subject in a row, and in the same row that of all tokens, if there is one."""
    alike: dict[tuple[str, ...], list[Metric]] = {}
    for metric in metrics:
        cells = (metric.key, metric.quantity, metric.population, columns_of(metric))
        same = tuple(templated(text, *subject(metric)) for text in cells)
        alike.setdefault(same, []).append(metric)
    rows: dict[tuple[str, ...], list[str]] = {}
    for cells in map(row, alike.values()):
        same = (cells[0].strip("`").removeprefix("{type}_"), *cells[2:3], *cells[4:])
        if same in rows:
            for i in (0, 3):
                rows[same][i] += f", {cells[i]}"
        else:
            rows[same] = cells
    return list(rows.values())


def family_table(family: Family) -> str:
    """The metrics of a family; of a seed also its keys as they are logged."""
    metrics = [metric for metric in metrics_of(SPEC) if metric.family == family]
    parts = [table(HEAD, family_rows(metrics))]
    phases, names = SPELLED.get(family, ((), set[str]()))
    for phase in phases:
        prefix = prefix_of(family, phase, ("train", "eval"))
        keys = " ".join(f"`{prefix}{metric.key}`" for metric in metrics if subject(metric)[0] in names)
        parts.append(f"As logged in phase `{phase}`: {keys}")
    return "\n\n".join(parts)


def population_table() -> str:
    """Populations, those of types and groups written once."""
    rows: dict[str, tuple[str, str, str]] = {}
    grouped = {group.name for group in SPEC.groups}
    for population in populations_of(SPEC):
        name = population.name.partition(".")[0]
        written = "{group}" if name in grouped else "{type}" if name in SPEC.types.names else name
        cells = (f"`{population.name or 'all'}`", population.about, listed(population.needs) or "–")
        key, about, columns = (templated(cell, name, written) for cell in cells)
        rows.setdefault(key, (key, about, columns))
    return table(("name", "tokens", "columns"), rows.values())


def listed(names: Iterable[str]) -> str:
    """Names as code."""
    return ", ".join(f"`{name}`" for name in names)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in cells] for cells in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: str) -> str:
    """The page with its tables written anew."""
    texts = {"populations": population_table()} | {family: family_table(family) for family in FAMILIES}
    for name, text in texts.items():
        start, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{PAGE.name} lacks the markers {start} and {end}; add both")
        page = f"{before}{start}\n{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
