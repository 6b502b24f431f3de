"""The tokens of highest entropy, as people read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from logitbox.analysis.entropy import high_entropy
from logitbox.reports import texts
from logitbox.reports.streams import Material

_CONTEXT, _TOKEN, _NAME = 240, 40, 60
"""Characters shown of a context, of a token, and of a sample's key or source."""


@dataclass(frozen=True)
class Choice:
    """A token that the model considered."""

    text: str
    probability: str
    is_gold: bool


@dataclass(frozen=True)
class Token:
    """One position."""

    context: str
    gold: str
    choices: tuple[Choice, ...]
    entropy: str
    p_gold: str
    rank: str
    """Rank of gold, 1 the best; among equals the lowest id comes first."""
    where: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Tokens:
    """See `tokens.html`."""

    verdict: str
    tokens: tuple[Token, ...]
    has_text: bool


def build(material: Material, n: int) -> Tokens:
    """The `n` tokens of highest entropy at the last step."""
    result = high_entropy(material.dump, n)
    tokens = tuple(_token(row) for row in result.frame.iter_rows(named=True))
    return Tokens(result.verdict, tokens, any(session.has_token_text for session in material.dump.sessions))


def _token(row: dict[str, Any]) -> Token:
    context = texts.visible(row["context"])
    if len(context) > _CONTEXT:
        context = "…" + context[1 - _CONTEXT :]
    where = [
        ("sample", row["key"]),
        ("source", row["source"]),
        ("phase", row["phase"]),
        ("dataset", row["dataset"]),
    ]
    told = [(name, texts.shorten(texts.visible(value), _NAME)) for name, value in where if value]
    return Token(
        context=context,
        gold=shown(row["gold_text"]),
        choices=choices(row["best"], row["gold"]),
        entropy=texts.number(row["entropy"]),
        p_gold=texts.share(row["p_gold"]),
        rank=texts.count(row["rank"] + 1),
        where=(*told, ("step", f"{row['step']:,}"), ("position", str(row["pos"]))),
    )


def shown(token: str) -> str:
    """A token with nothing invisible in it; an empty one is said to be so."""
    return texts.shorten(texts.visible(token, spaces=True), _TOKEN) or "(empty)"


def choices(best: list[dict[str, Any]], gold: int) -> tuple[Choice, ...]:
    """The model's preferred tokens, from a TokenList's `best`."""
    return tuple(Choice(shown(one["text"]), f"{one['p']:.3f}", one["id"] == gold) for one in best)
