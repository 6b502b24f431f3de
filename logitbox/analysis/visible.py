"""Token text with nothing invisible in it. It is plain text: whoever makes HTML of it escapes it there."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"
_ESCAPED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MARKS = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def visible(text: str, *, spaces: bool = False) -> str:
    """Text in which nothing is invisible: controls are marked or escaped, spaces too if asked.

    Bidirectional controls would reorder the page around a token; they are escaped like any other.
    """
    return "".join(_visible(char, spaces=spaces) for char in text)


def _visible(char: str, *, spaces: bool) -> str:
    if char == " ":
        return "␣" if spaces else char
    if char in _MARKS:
        return _MARKS[char]
    category = unicodedata.category(char)
    if category in _ESCAPED and char not in _JOINERS:
        return f"\\u{ord(char):04x}"
    return f"\\u{ord(char):04x}" if category == "Zs" else char
