"""Numbers as they were printed, and how exactly that tells them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

_NUMBER = re.compile(
    r"\s*(?:(?P<number>[+-]?(?P<whole>\d{0,400})(?:\.(?P<part>\d{0,400}))?(?:e(?P<power>[+-]?\d{1,4}))?)"
    r"|(?P<other>[+-]?(?:nan|inf|infinity)))\s*(?P<percent>%?)\s*",
    re.IGNORECASE | re.ASCII,
)
_FLOAT32 = 2.0**-23
"""Largest relative error of rounding to float32 and of printing that in as few digits as tell it, half of it each."""


@dataclass(frozen=True)
class Printed:
    """A number, and the digits that were printed of it.

    Attributes:
        value: what it says; 12.5 % is 0.125.
        decimals: digits after the point, so that one unit of the last of them is 10^−decimals; negative for 1e+05.
        digits: significant digits.
        least: half-width that its storage leaves open at least (float32).
    """

    value: float
    decimals: int = 0
    digits: int = 0
    least: float = 0.0


def printed(given: Any) -> Printed | None:
    """A number or its text; None for all that is none (truth values, too).

    A float in memory counts as what Python prints of it: all of its digits, or those that a trainer's rounding left.
    """
    if isinstance(given, str):
        return _parsed(given)
    if isinstance(given, Decimal):
        return _parsed(str(given))
    if isinstance(given, np.floating) and not isinstance(given, float):  # narrower than Python's
        found = _parsed(str(given))
        return found and Printed(found.value, found.decimals, found.digits, _FLOAT32 * abs(found.value))
    if isinstance(given, bool) or not isinstance(given, (int, float, np.integer)):
        return None
    try:
        return _parsed(repr(float(given)) if isinstance(given, float) else str(int(given)))
    except ValueError:  # more digits than Python prints
        return None


def _parsed(text: str) -> Printed | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match["other"]:
        return Printed(float(match["other"]))
    whole, part = match["whole"], match["part"] or ""
    if not whole and not part:
        return None
    decimals = len(part) - int(match["power"] or 0)
    value, shift = float(match["number"]), 2 if match["percent"] else 0
    return Printed(value / 10**shift, decimals + shift, len((whole + part).lstrip("0")))


def precisions(numbers: Iterable[Printed]) -> list[float]:
    """Half-width of what was printed, for all values of one key of one run.

    Printers drop trailing zeros, so that one value alone does not tell how it was rounded. All values of a key were
    rounded alike: either to the most decimals that any of them has, or to the most significant digits. Whichever leaves more
    open is taken.

    Returns:
        For each number, h with |value before printing − value| ≤ h; 0 for NaN and infinities.
    """
    numbers = list(numbers)
    finite = [one for one in numbers if math.isfinite(one.value)]
    if not finite:
        return [0.0] * len(numbers)
    fixed = _half_unit(max(one.decimals for one in finite))
    digits = max(one.digits for one in finite)
    return [
        max(fixed, _of_digits(one.value, digits), one.least) if math.isfinite(one.value) else 0.0
        for one in numbers
    ]


def _of_digits(value: float, digits: int) -> float:
    if value == 0.0:
        return 0.0
    return _half_unit(digits - 1 - math.floor(math.log10(abs(value))))


def _half_unit(decimals: int) -> float:
    """0.5 · 10^−decimals; as text, since powers of ten overflow."""
    return float(f"5e{-decimals - 1}")
