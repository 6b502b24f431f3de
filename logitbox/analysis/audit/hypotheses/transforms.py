"""What is done to an average before it is logged."""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np

from logitbox.analysis.audit.hypotheses.entries import Float, Transform

NATS_CAP = 20.0
"""Megatron-LM logs exp(min(20, loss))."""

PERPLEXITY_CAP = 1e6
"""Seed 001 caps its perplexities there."""

_ARITHMETIC = 2e-6
"""How far float32 arithmetic moves a value before it is rounded further."""


def to_bfloat16(values: Float) -> Float:
    """The nearest numbers with 8 significant bits, ties to even: bfloat16 without its limits of range."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 256.0), exponent - 8)


def _exact(name: str, about: str, function: Callable[[Float], Float], *, inside: bool = False) -> Transform:
    return Transform(name, about, function, function, inside)


def _capped_exp(values: Float) -> Float:
    return np.exp(np.minimum(values, log(PERPLEXITY_CAP)))


def _rounded_down(values: Float) -> Float:
    return to_bfloat16(values - _ARITHMETIC * np.abs(values))


def _rounded_up(values: Float) -> Float:
    return to_bfloat16(values + _ARITHMETIC * np.abs(values))


TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        _exact("identity", "the average itself", lambda values: values),
        _exact("exp", "e to the average", np.exp),
        _exact(
            "exp_cap_20",
            "e to the average, or to 20 if that is less",
            lambda x: np.exp(np.minimum(x, NATS_CAP)),
        ),
        _exact("exp_cap_1e6", "e to the average, or 10⁶ if that is less", _capped_exp),
        _exact("mean_exp", "average of e to the groups' averages", np.exp, inside=True),
        _exact(
            "mean_exp_cap_1e6",
            "average of e to the groups' averages, each at most 10⁶",
            _capped_exp,
            inside=True,
        ),
        _exact("bits", "the average ÷ ln 2", lambda values: values / log(2)),
        _exact("percent", "100 times the average", lambda values: 100 * values),
        _exact("power_2", "2 to the average", np.exp2),
        _exact("exp_of_bits", "e to (the average ÷ ln 2)", lambda values: np.exp(values / log(2))),
        Transform("bfloat16", "the average, rounded to bfloat16", _rounded_down, _rounded_up),
        Transform(
            "mean_bfloat16",
            "average of the groups' averages, each rounded to bfloat16",
            _rounded_down,
            _rounded_up,
            inside=True,
        ),
    )
}
"""Every transform by its name."""
