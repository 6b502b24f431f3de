"""Numbers and token text as they are shown."""

from __future__ import annotations

import math
import unicodedata
from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont, get_font

from logitbox.analysis.visible import visible


def plain(text: str) -> str:
    """Text for a page: `visible`, but spaces of every kind are left as they are."""
    return "".join(char if unicodedata.category(char) == "Zs" else visible(char) for char in text)


def drawable(text: str, *, spaces: bool = True) -> str:
    """`visible` text with characters that matplotlib's present font lacks escaped: it would draw empty boxes."""
    font = findfont(FontProperties())
    return "".join(
        char if _has_glyph(font, char) else f"\\u{ord(char):04x}" for char in visible(text, spaces=spaces)
    )


@lru_cache(maxsize=4096)
def _has_glyph(font: str, char: str) -> bool:
    return get_font(font).get_char_index(ord(char)) != 0


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the end cut off visibly."""
    return text if len(text) <= length else text[: length - 1] + "…"


def count(value: float | None) -> str:
    """An integer with thousands separators."""
    return "–" if value is None else f"{int(value):,}"


def share(value: float | None) -> str:
    """A share or probability with four decimals; a tiny one keeps its size instead of becoming 0."""
    if value is None:
        return "–"
    if value != 0 and abs(value) < 5e-5:
        return "0.0000" if abs(value) < 1e-12 else f"{value:.1e}"
    return f"{value:.4f}"


def percent(value: float | None) -> str:
    """A share in percent with one decimal."""
    return "–" if value is None else f"{value:.1%}".replace("%", " %")


def number(value: float | None) -> str:
    """Any other quantity with four decimals, fewer for large ones."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if 0 < abs(value) < 5e-5:
        return share(value)
    return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def signed(value: float) -> str:
    """A difference with its sign; one that four decimals cannot show is rounding, and shown as 0."""
    if math.isnan(value):
        return number(value)
    if abs(value) < 5e-5:
        return number(0.0)
    return ("+" if value > 0 else "−") + number(abs(value))


def plural(n: int, word: str, words: str | None = None) -> str:
    """`1 token`, `2 tokens`."""
    return f"{n:,} {word if n == 1 else words or word + 's'}"
