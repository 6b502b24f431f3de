"""Matches of a pattern, and which stretches of text they overlap."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.errors import InputError

Spans = NDArray[np.int64]
"""Starts and ends of n pieces of text: [n, 2]."""

GROUP = "type"


def compile_pattern(name: str, pattern: object) -> re.Pattern[str]:
    """A pattern of `str`, where `.` matches line breaks too; one that is compiled already keeps its flags.

    Raises:
        InputError: no regular expression, or one on bytes.
    """
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern
    if not isinstance(pattern, str):
        raise InputError(
            f"the pattern of {name!r} is {pattern!r}; give a string, or a regular expression compiled from one"
        )
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InputError(
            f"the pattern of {name!r}, {pattern!r}, is no regular expression: {error}; "
            "see the syntax of Python's `re`, and escape what is meant literally with `re.escape`"
        ) from error


def find_spans(pattern: re.Pattern[str], text: str) -> Spans:
    """Spans of all matches that are not empty: of the group `(?P<type>…)` if the pattern has one, else whole."""
    group = GROUP if GROUP in pattern.groupindex else 0
    found = [match.span(group) for match in pattern.finditer(text)]
    spans = np.array(found, dtype=np.int64).reshape(-1, 2)
    return spans[spans[:, 0] < spans[:, 1]]  # (−1, −1) is a group that took no part


def overlaps(starts: NDArray[Any], ends: NDArray[Any], spans: Spans) -> NDArray[np.bool_]:
    """Which of the pieces [start, end) share at least one place with a span; an empty piece shares none.

    The pieces may come in any order. Spans that begin before a piece's end, less those that end by its
    start, are the ones that overlap it.
    """
    begun = np.searchsorted(np.sort(spans[:, 0]), ends, side="left")
    over = np.searchsorted(np.sort(spans[:, 1]), starts, side="right")
    return (begun > over) & (starts < ends)
