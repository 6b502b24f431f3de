"""nll of every token at another temperature, from a dump's columns: p_T(gold) ∝ e^{x/T}, and β = 1/T.

nll_T = L(β) + β·(nll − top_nll), with L of `logitbox.analysis.tail`. At T = 1 that is `nll` itself, and at the other
β of `NODES` it errs by 1e-6 nats in the mean. Between them the tail outside the top k is interpolated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.tail import NODES, Columns, Float, Tail, log_sums, tail_of
from logitbox.errors import InputError

COLUMNS = ("nll", "top_nll", "lse", "entropy", "n_finite", "lse_beta", "top_gap", "tail_mass")

_BLOCK = 8192
"""Rows at a time: their gaps stay in the cache."""


def nll_at(beta: float, columns: Columns) -> Float:
    """−ln p(gold) of each row at T = 1/β, nats, [rows]; infinite and NaN rows stay so.

    Args:
        beta: in [0.25, 2].
        columns: those of `COLUMNS`, lists as [rows, width] with NaN where one is shorter.

    Raises:
        InputError: beta is outside.
    """
    if not NODES[0] <= beta <= NODES[-1]:
        raise InputError(f"beta is {beta:g}; a dump knows 1/T from {NODES[0]:g} to {NODES[-1]:g}")
    parts = [band(beta, block, None)[0] for block in blocks(columns)]
    return np.concatenate([*parts, np.zeros(0)])


def band(beta: float, columns: Columns, tail: Tail | None) -> tuple[Float, Float, Float]:
    """(estimate, low, high) of nll, [rows]; at the nodes thrice the exact value."""
    nll = columns["nll"].astype(np.float64)
    if beta == 1:
        return nll, nll, nll
    with np.errstate(all="ignore"):  # NaN and infinite rows
        beyond = beta * (nll - columns["top_nll"])
        if beta in NODES:
            exact = log_sums(columns)[NODES.index(beta)] + beyond
            return exact, exact, exact
        tail = tail_of(columns) if tail is None else tail
        top, rest = tail.top(beta), tail.rest(beta)
        estimate, low, high = (np.log(top + part) + beyond for part in rest)
        return estimate, low, high


def blocks(columns: Columns) -> Iterator[dict[str, NDArray[Any]]]:
    """The rows, some thousand at a time."""
    for start in range(0, len(columns["nll"]), _BLOCK):
        yield {name: values[start : start + _BLOCK] for name, values in columns.items()}
