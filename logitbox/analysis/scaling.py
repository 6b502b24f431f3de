"""nll of every token at another temperature, from a dump's columns: p_T(gold) ∝ e^{x/T}, and β = 1/T.

nll_T = L(β) + β·(nll − top_nll), with L of `logitbox.analysis.tail`. At T = 1 that is `nll` itself, and at the other
β of `NODES` it errs by 1e-6 nats in the mean. Between them the tail outside the top k is interpolated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.tail import NODES, Columns, Float, Tail, log_sums, tail_of
from logitbox.analysis.tail_bounds import loose_of
from logitbox.dumps.spec import BETAS
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


def bands(betas: Sequence[float], columns: Columns) -> Float:
    """(estimate, floor, low, high) of nll at every β, [betas, 4, rows]; rows without `lse_beta` have no estimate, but bounds.

    `floor` is convex in β between two of `NODES`; `low` is less by what rounding can do to it.
    """
    found = np.empty((len(betas), 4, len(columns["nll"])))
    known = has_sums(columns)
    for of_known, rows in ((True, np.flatnonzero(known)), (False, np.flatnonzero(~known))):
        if not len(rows):
            continue
        whole = len(rows) == len(known)
        part = columns if whole else {name: values[rows] for name, values in columns.items()}
        of_part = _bands(betas, part) if of_known else _loose_bands(betas, part)
        if whole:
            return of_part
        found[:, :, rows] = of_part
    return found


def _bands(betas: Sequence[float], columns: Columns) -> Float:
    tail = tail_of(columns)
    each = (band(beta, columns, tail) for beta in betas)
    return np.array([(estimate, low, low, high) for estimate, low, high in each])


def _loose_bands(betas: Sequence[float], columns: Columns) -> Float:
    loose = loose_of(columns)
    beyond = columns["nll"].astype(np.float64) - columns["top_nll"]
    found = np.empty((len(betas), 4, len(beyond)))
    for i, beta in enumerate(betas):
        found[i, 1:] = loose.at(beta) + beta * beyond
        found[i, 0] = found[i, 2:].mean(axis=0)
    return found


def has_sums(columns: Columns) -> NDArray[np.bool_]:
    """Which rows have all of `lse_beta`."""
    sums = columns.get("lse_beta")
    if sums is None or sums.shape[1] < len(BETAS):
        return np.zeros(len(columns["nll"]), dtype=bool)
    return np.asarray(np.isfinite(sums).all(axis=1), dtype=bool)


def blocks(columns: Columns) -> Iterator[dict[str, NDArray[Any]]]:
    """The rows, some thousand at a time."""
    for start in range(0, len(columns["nll"]), _BLOCK):
        yield {name: values[start : start + _BLOCK] for name, values in columns.items()}
