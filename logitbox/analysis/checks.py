"""What must hold of every recorded token, whatever the model: the inequalities between its columns, as data.

A check gives a *margin* per token, which is ≥ 0 in exact arithmetic (for an equality, minus the distance), and how
much rounding may take from it. Ranks and ids are whole numbers and have no tolerance. Floats are recorded in float32
and were computed in it: 16 roundings, 16·2⁻²³, relative to 1 plus the magnitudes compared; `top_gap` is a float16,
off by up to 2⁻¹¹ of itself. NaN where a check applies is a violation.

p₁ = p(arg-max), p_y = p(gold), H the entropy, h₂(p) = −p ln p − (1−p) ln(1−p), k the ids in `top_ids`, rank from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.spec import RecordSpec

Array = NDArray[Any]
Mask = NDArray[np.bool_]

_F32, _F16 = 16 * 2.0**-23, 2.0**-11
_TINY16 = 2.0**-25
"""Half the smallest float16 above 0."""


@dataclass(frozen=True)
class Finding:
    """A check's outcome, [n] each: where it applies, its margin there, and how far below 0 rounding may take it."""

    applies: Mask
    margin: Array
    tolerance: Array


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: short, one word where it can be.
        statement: as a formula.
        needs: columns of `tokens`.
        of: rows (finite ones; floats in float64) to what is found.
    """

    name: str
    statement: str
    needs: tuple[str, ...]
    of: Callable[[Rows], Finding]


def rank(rows: Rows) -> Array:
    """Of gold, from 0."""
    return rows["n_gt"].astype(np.int64) + rows["n_eq_before"]


def place(rows: Rows) -> Array:
    """Of gold in `top_ids`, −1 where it is not there."""

    def make() -> Array:
        hit = rows["top_ids"] == rows["gold"][:, None]
        return np.where(hit.any(axis=1), hit.argmax(axis=1), -1) if hit.shape[1] else np.full(len(hit), -1)

    return rows.once("place", make)


def gap_at_gold(rows: Rows) -> Array:
    """Recorded distance of gold's logit below the best; NaN where gold is not in `top_ids`."""
    gaps, at = rows["top_gap"].astype(np.float64), place(rows)
    if not gaps.shape[1]:
        return np.full(len(at), np.nan)
    return np.where(at >= 0, np.take_along_axis(gaps, np.maximum(at, 0)[:, None], axis=1)[:, 0], np.nan)


def gap_tolerance(gap: Array) -> Array:
    """How far a float16 distance may be off."""
    return _F16 * gap + _TINY16


def at_least(left: Array, right: Array | float, applies: Mask | None = None) -> Finding:
    """The check left ≥ right of numbers computed in float32."""
    where = np.ones(len(left), dtype=bool) if applies is None else applies
    return Finding(where, left - right, _F32 * (1 + np.abs(left) + np.abs(right)))


def _exact(holds: Mask, applies: Mask | None = None) -> Finding:
    where = np.ones(len(holds), dtype=bool) if applies is None else applies
    return Finding(where, np.where(holds, 0.0, -1.0), np.zeros(len(holds)))


def _other(rows: Rows) -> Array:
    """1 − p₁, exact near 0."""
    return -np.expm1(-rows["top_nll"])


def _binary_entropy(rows: Rows) -> Array:
    q = _other(rows)
    return np.exp(-rows["top_nll"]) * rows["top_nll"] - q * np.log(np.where(q > 0, q, 1.0))


def _counts(rows: Rows) -> Finding:
    above, equal, before = (rows[name].astype(np.int64) for name in ("n_gt", "n_eq", "n_eq_before"))
    ordered = (above >= 0) & (before >= 0) & (before <= equal)
    return _exact(ordered & (above + equal < rows["n_finite"]))


def _has_ids(rows: Rows) -> Mask:
    return rows["top_1"] >= 0


def _place(rows: Rows) -> Finding:
    kept, at = (rows["top_ids"] >= 0).sum(axis=1), place(rows)
    return _exact(np.where(at >= 0, at == rank(rows), rank(rows) >= kept), _has_ids(rows))


def _distance(rows: Rows) -> Finding:
    gap = gap_at_gold(rows)
    applies = np.isfinite(gap) & (place(rows) >= 0)
    gap = np.where(applies, gap, 0.0)
    equal = at_least(rows["nll"], rows["top_nll"] + gap, applies)
    return Finding(applies, -np.abs(equal.margin), equal.tolerance + gap_tolerance(gap))


def _sum(rows: Rows) -> Finding:
    gaps = rows["top_gap"].astype(np.float64)
    there = np.isfinite(gaps)  # a masked logit has p = 0
    gaps = np.where(there, gaps, 0.0)
    p = np.where(there, np.exp(-rows["top_nll"][:, None] - gaps), 0.0)
    total = p.sum(axis=1) + rows["tail_mass"]
    rounded = 1.05 * (p * gap_tolerance(gaps)).sum(axis=1)  # e^x − 1 ≤ 1.05 x where p is not nothing
    return Finding(_has_ids(rows), -np.abs(total - 1), rounded + 2 * _F32)


def _tail(rows: Rows) -> Finding:
    return at_least(rows["tail_mass"], np.exp(-rows["nll"]), _has_ids(rows) & (place(rows) < 0))


def _best(rows: Rows) -> Finding:
    equal = at_least(rows["nll"], rows["top_nll"], rows["n_gt"] == 0)
    return Finding(equal.applies, -np.abs(equal.margin), equal.tolerance)


def _entropy_range(rows: Rows) -> Finding:
    h, most = rows["entropy"], np.log(np.maximum(rows["n_finite"], 1))
    return Finding(np.ones(len(h), dtype=bool), np.minimum(h, most - h), _F32 * (1 + np.abs(h) + most))


def _entropy_high(rows: Rows) -> Finding:
    others = np.log(np.maximum(rows["n_finite"] - 1, 1))
    return at_least(_binary_entropy(rows) + _other(rows) * others, rows["entropy"])


def _wrong_entropy(rows: Rows) -> Finding:
    """As probabilities: near H = 0 the logarithm would blow its rounding up."""
    return at_least(-np.expm1(-rows["entropy"]), np.exp(-rows["nll"]), rank(rows) > 0)


_RANK, _BEST = ("n_gt", "n_eq_before"), ("top_ids", "top_gap")

CHECKS: tuple[Check, ...] = (
    Check("counts", "0 ≤ n_gt, 0 ≤ n_eq_before ≤ n_eq, n_gt + n_eq < n_finite", (*_RANK, "n_eq", "n_finite"), _counts),
    Check("arg-max", "rank = 0 ⇔ top_ids[0] = gold", (*_RANK, "top_ids"),
          lambda r: _exact((rank(r) == 0) == (r["top_1"] == r["gold"]), _has_ids(r))),
    Check("place", "gold stands in top_ids at its rank, or its rank is k or more", (*_RANK, "top_ids"), _place),
    Check("distance", "nll = top_nll + top_gap[rank], where gold is in top_ids", ("nll", "top_nll", *_BEST), _distance),
    Check("best", "no logit above gold's ⇒ nll = −ln p₁", ("nll", "top_nll", "n_gt"), _best),
    Check("above best", "nll ≥ −ln p₁", ("nll", "top_nll"), lambda r: at_least(r["nll"], r["top_nll"])),
    Check("wrong", "rank > 0 ⇒ nll ≥ ln 2", ("nll", *_RANK), lambda r: at_least(r["nll"], log(2), rank(r) > 0)),
    Check("rank", "nll ≥ ln(n_gt + n_eq + 1) ≥ ln(rank + 1)", ("nll", *_RANK, "n_eq"),
          lambda r: at_least(r["nll"], np.log(np.maximum(r["n_gt"].astype(np.int64) + r["n_eq"] + 1, 1)))),
    Check("tail", "gold not in top_ids ⇒ p_y ≤ tail_mass", ("nll", "top_ids", "tail_mass"), _tail),
    Check("sum", "Σ p of top_ids + tail_mass = 1", ("top_nll", *_BEST, "tail_mass"), _sum),
    Check("entropy", "0 ≤ H ≤ ln n_finite", ("entropy", "n_finite"), _entropy_range),
    Check("entropy top", "H ≥ −ln p₁", ("entropy", "top_nll"), lambda r: at_least(r["entropy"], r["top_nll"])),
    Check("entropy low", "H ≥ h₂(p₁)", ("entropy", "top_nll"), lambda r: at_least(r["entropy"], _binary_entropy(r))),
    Check("entropy high", "H ≤ h₂(p₁) + (1 − p₁) ln(n_finite − 1)", ("entropy", "top_nll", "n_finite"), _entropy_high),
    Check("right", "rank = 0 ⇒ nll ≤ H", ("nll", "entropy", *_RANK),
          lambda r: at_least(r["entropy"], r["nll"], rank(r) == 0)),
    Check("wrong entropy", "rank > 0 ⇒ nll ≥ −ln(1 − e^−H)", ("nll", "entropy", *_RANK), _wrong_entropy),
    Check("mean logit", "lse − mean_logit ≥ ln n_finite", ("lse", "mean_logit", "n_finite"),
          lambda r: at_least(r["lse"], r["mean_logit"] + np.log(np.maximum(r["n_finite"], 1)))),
)  # fmt: skip
"""In the order they are shown."""


def checks_of(spec: RecordSpec) -> tuple[Check, ...]:
    """All checks of a session: `CHECKS`, and three for each vocabulary group."""
    return (*CHECKS, *(check for group in spec.groups for check in _group_checks(group.name)))


def _group_checks(name: str) -> tuple[Check, ...]:
    column = f"logmass_{name}"

    def mass(rows: Rows) -> Array:
        return np.exp(rows[column])

    def top_in(rows: Rows) -> Mask:
        return rows.inside(name, "top_1") & _has_ids(rows)

    def top_out(rows: Rows) -> Mask:
        return ~rows.inside(name, "top_1") & _has_ids(rows)

    return (
        Check(f"{name} gold", f"gold in {name} ⇒ −ln mass ≤ nll", (column, "nll"),
              lambda r: at_least(r["nll"], -r[column], r.inside(name))),
        Check(f"{name} in", f"arg-max in {name} ⇒ mass ≥ p₁", (column, "top_nll", "top_ids"),
              lambda r: at_least(mass(r), np.exp(-r["top_nll"]), top_in(r))),
        Check(f"{name} out", f"arg-max outside {name} ⇒ mass ≤ 1 − p₁", (column, "top_nll", "top_ids"),
              lambda r: at_least(_other(r), mass(r), top_out(r))),
    )  # fmt: skip
