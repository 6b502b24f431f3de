"""The tokens of highest entropy, as people read them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from logitbox.analysis.entropy import high_entropy
from logitbox.reports import texts
from logitbox.reports.streams import Material

_CONTEXT, _TOKEN, _NAME = 240, 40, 60
"""Characters shown of a context, of a token, and of a sample's key or source."""

_ALTERNATIVE = re.compile(r"(.*?) (\d\.\d{3})(?: · |$)", re.DOTALL)


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
    above: str
    """Tokens more probable than gold (ties are not)."""
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
        choices=choices(row["alternatives"], row["gold_text"]),
        entropy=texts.number(row["entropy"]),
        p_gold=texts.share(row["p_gold"]),
        above=texts.count(row["n_gt"]),
        where=(*told, ("step", f"{row['step']:,}"), ("position", str(row["pos"]))),
    )


def shown(token: str) -> str:
    """A token with nothing invisible in it; an empty one is said to be so."""
    return texts.shorten(texts.visible(token, spaces=True), _TOKEN) or "(empty)"


def choices(alternatives: str, gold: str) -> tuple[Choice, ...]:
    """The model's best tokens with their probabilities, from a TokenList's `alternatives`."""
    return tuple(
        Choice(shown(token), probability, token == gold)
        for token, probability in _ALTERNATIVE.findall(alternatives)
    )
