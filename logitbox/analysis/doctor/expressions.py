"""Bounds of rules: numbers, or short arithmetic in the number of classes C and the profile's own constants.

What depends on the number of classes is written in it: chance-corrected accuracy κ is the accuracy 1/C + κ (1 − 1/C),
and an entropy h among 8 classes is h · ln(C)/ln(8). Parsed with `ast`; only + − * / ln(…) max(…), names and numbers.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass

from logitbox.errors import InputError

_LONGEST = 200
"""Characters of an expression; no bound needs more, and a parser should not be given more."""
ALLOWED = "numbers, +, -, *, /, ln(…), max(…, …), brackets, C and the profile's [constants]"


class UnknownName(Exception):  # noqa: N818 (no error: what is missing is told in the finding)
    """A bound needs a number that is not known, such as C."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Bound:
    """A number, or an expression for one.

    Attributes:
        text: as the profile has it.
        names: the names in it, such as "C".
    """

    text: str
    names: frozenset[str]

    def value(self, known: Mapping[str, float | None]) -> float:
        """The number, in float64.

        Raises:
            UnknownName: a name in it has no value here.
            InputError: there is no such number (a division by zero, ln of 0).
        """
        try:
            found = _value(ast.parse(self.text, mode="eval").body, known)
        except (ArithmeticError, ValueError) as error:
            raise InputError(
                f"the bound {self.text!r} has no value here ({error}); check its [constants]"
            ) from error
        if not math.isfinite(found):
            raise InputError(f"the bound {self.text!r} comes to {found}; give one that stays finite")
        return found


def bound(given: object, constants: frozenset[str] = frozenset()) -> Bound:
    """A bound from what a profile gives.

    Raises:
        InputError: it is neither a finite number nor arithmetic in `ALLOWED`.
    """
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise InputError(f"is {given!r}; give a number or arithmetic of {ALLOWED}")
    if not isinstance(given, str):
        if not math.isfinite(given):
            raise InputError(f"is {given!r}; give a finite number, or leave the bound away")
        return Bound(repr(given), frozenset())
    if len(given) > _LONGEST:
        raise InputError(f"has {len(given)} characters; an expression has at most {_LONGEST}")
    try:
        tree = ast.parse(given.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"is {given!r}, which is no arithmetic; allowed are {ALLOWED}") from error
    names = frozenset(_names(tree, given))
    for name in sorted(names - constants - {"C"}):
        raise InputError(f"is {given!r}, and {name} is unknown; allowed are {ALLOWED}")
    return Bound(given.strip(), names)


def _names(node: ast.expr, text: str) -> list[str]:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return []
        case ast.Name(id=name):
            return [name]
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=inner):
            return _names(inner, text)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            return _names(left, text) + _names(right, text)
        case ast.Call(func=ast.Name(id="ln"), args=[inner], keywords=[]):
            return _names(inner, text)
        case ast.Call(func=ast.Name(id="max"), args=[left, right], keywords=[]):
            return _names(left, text) + _names(right, text)
        case _:
            raise InputError(f"is {text!r}, which holds {ast.unparse(node)!r}; allowed are {ALLOWED}")


def _value(node: ast.expr, known: Mapping[str, float | None]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            number = known.get(name)
            if number is None:
                raise UnknownName(name)
            return float(number)
        case ast.UnaryOp(op=op, operand=inner):
            value = _value(inner, known)
            return -value if isinstance(op, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _value(left, known), _value(right, known))
        case ast.Call(args=[inner]):
            return math.log(_value(inner, known))
        case ast.Call(args=[left, right]):
            return max(_value(left, known), _value(right, known))
        case _:
            raise InputError(f"{ast.unparse(node)!r} is no arithmetic; allowed are {ALLOWED}")


def _binary(op: ast.operator, left: float, right: float) -> float:
    if isinstance(op, ast.Add):
        return left + right
    if isinstance(op, ast.Sub):
        return left - right
    return left * right if isinstance(op, ast.Mult) else left / right
