"""Checks of plain values that users give, and the errors they get."""

from __future__ import annotations

import operator
import re
import sys
from typing import Any, TypeGuard

from logitbox.errors import InputError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_name(name: str, what: str) -> str:
    """Return `name` if it can be part of a column name or metric key."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{what} name {name!r}: use letters, digits and _, starting with a letter")
    return name


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is an int or float that a float64 can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # an int of 400 digits has no float64


def as_integer(value: Any) -> int | None:
    """`value` as an int: NumPy integers and the like are taken; fractions and booleans are none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def whole_number(name: str, value: Any, at_least: int) -> int:
    """`value` as an int that is not too small."""
    number = as_integer(value)
    if number is None or number < at_least:
        raise InputError(f"{name} is {value!r}; give a whole number, {at_least} or more")
    return number


def optional_whole(name: str, value: Any, at_least: int) -> int | None:
    """`whole_number`, or None for None."""
    return None if value is None else whole_number(name, value, at_least)
