"""Dicts inside any text, as Python or JSON print them. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from logitbox.analysis.logs.raw import Row

# Every repetition is bounded or of one class of characters, so that no text makes them slow.
_START = re.compile(r"\{\s{0,200}(?=['\"])")
_KEY = re.compile(r"\s{0,200}(?:'([^'\\\n]{1,300})'|\"([^\"\\\n]{1,300})\")\s{0,20}:\s{0,200}")
_STRING = re.compile(r"'((?:[^'\\\n]|\\.){0,5000})'|\"((?:[^\"\\\n]|\\.){0,5000})\"")
_CALL = re.compile(r"[A-Za-z_][\w.]{0,60}\(\s{0,20}")
"""Beginning of `np.float64(0.5)` or `tensor(0.5, device='cuda:0')`."""
_WORD = re.compile(r"[+-]?\w[\w.+%-]{0,400}|[+-]?\.\w{1,400}")
_OTHER = re.compile(r"[^'\"()\[\]{}]{1,10000}")
_END = re.compile(r"\s{0,200}(,\s{0,200}\}|,|\})")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_DEEPEST = 20
_BEFORE = 100
_WORDS: dict[str, Any] = {
    "None": None,
    "null": None,
    "True": True,
    "true": True,
    "False": False,
    "false": False,
}


class _NoDictError(Exception):
    """What stands there is no dict; the argument is the position where that was seen."""


def dicts_in(text: str, broken: list[Row] | None = None) -> Iterator[Row]:
    """Dicts in a text, in order; numbers as text, values that are neither numbers nor text as `...`.

    Takes time linear in the text: what is no dict is not read again.

    Args:
        text: any.
        broken: gets what was read of dicts that break off, as the text ends or something else is printed into them.
    """
    at = 0
    while match := _START.search(text, at):
        row: Row = {}
        try:
            at = _read(row, text, match.end())
        except _NoDictError as error:
            at = max(match.end(), int(error.args[0]))
            if broken is not None and row:
                broken.append(row)
            continue
        yield row


def _read(row: Row, text: str, at: int) -> int:
    """Fills in the dict whose first key is at `at`, and gives where it ends."""
    while True:
        key = _KEY.match(text, at)
        if (
            key is None or (key[1] or key[2]) in row
        ):  # a key comes twice where two are printed into each other
            raise _NoDictError(at)
        value, at = _value(text, key.end())
        row[key[1] or key[2]] = value
        end = _END.match(text, at)
        if end is None:
            raise _NoDictError(at)
        at = end.end()
        if end[1] != ",":
            return at


def _value(text: str, at: int) -> tuple[Any, int]:
    if match := _STRING.match(text, at):
        return (match[1] if match[1] is not None else match[2]), match.end()
    if match := _CALL.match(text, at):
        inner = _WORD.match(text, match.end())
        return (inner[0] if inner else ...), _behind(text, match.end(), [")"])
    if match := _WORD.match(text, at):
        return _WORDS.get(match[0], match[0]), match.end()
    opening = text[at : at + 1]
    if opening in ("(", "[", "{"):
        return ..., _behind(text, at + 1, [_CLOSING[opening]])
    raise _NoDictError(at)


def _behind(text: str, at: int, open_: list[str]) -> int:
    """Where the brackets that are open end."""
    while open_:
        if match := _STRING.match(text, at) or _OTHER.match(text, at):
            at = match.end()
            continue
        mark = text[at : at + 1]
        if mark == "{" and _is_another(text, at):
            raise _NoDictError(at)
        if mark in _CLOSING and mark:
            open_.append(_CLOSING[mark])
        elif mark != open_[-1] or not mark:
            raise _NoDictError(at)
        else:
            open_.pop()
        if len(open_) > _DEEPEST:
            raise _NoDictError(at)
        at += 1
    return at


def _is_another(text: str, at: int) -> bool:
    """Whether a dict that begins here is no part of the brackets around it: they break off, and the next row follows."""
    before = text[max(0, at - _BEFORE) : at].rstrip()
    return bool(_START.match(text, at)) and before[-1:] not in tuple(":,([{")
