"""What must hold of the means TFA and TFCE themselves: the inequalities between them, as data.

Each follows from the checks of single tokens; here they say how much the one metric alone allows the other.
A₁ is TFA, A₅ top-5 accuracy, CE is TFCE in nats, MRR the mean of 1/(rank + 1), rank from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, expm1, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.checks import rank
from logitbox.dumps.definitions.rows import Rows

Means = Mapping[str, float]

_NEEDS = ("nll", "top_nll", "n_gt", "n_eq_before", "entropy")
_F32 = 16 * 2.0**-23


@dataclass(frozen=True)
class Bound:
    """left ≥ right, of means over the same tokens."""

    name: str
    statement: str
    left: Callable[[Means], float]
    right: Callable[[Means], float]

    def margin(self, means: Means) -> tuple[float, float]:
        """(left − right, how far below 0 the rounding of float32 values may take it)."""
        left, right = self.left(means), self.right(means)
        return left - right, _F32 * (1 + abs(left) + abs(right))


def parts(rows: Rows) -> dict[str, NDArray[Any]]:
    """Per token what the bounds take means of, [n]; nothing where a column was not recorded."""
    if any(name not in rows for name in _NEEDS):
        return {}
    place = np.maximum(rank(rows), 0)
    return {
        "ce": rows["nll"],
        "a1": rank(rows) == 0,
        "a5": rank(rows) < 5,
        "mrr": 1.0 / (place + 1),
        "ln_rank": np.log(place + 1),
        "p_top": np.exp(-rows["top_nll"]),
        "p_gold": np.exp(-rows["nll"]),
        "h": rows["entropy"],
    }


def _by_entropy(means: Means) -> float:
    """Least CE at this accuracy and mean entropy: q·(−ln(1 − e^(−H/q))), q the share of wrong tokens."""
    q, h = 1 - means["a1"], means["h"]
    # Rounding of H goes in here: the bound grows without limit as H goes to 0.
    h = max(h, 0.0) + _F32 * (1 + abs(h))
    return -q * log(-expm1(-h / q)) if q > 0 else 0.0


BOUNDS: tuple[Bound, ...] = (
    Bound("CE by accuracy", "CE ≥ (1 − A₁) ln 2", lambda m: m["ce"], lambda m: (1 - m["a1"]) * log(2)),
    Bound(
        "CE by top 5",
        "CE ≥ (A₅ − A₁) ln 2 + (1 − A₅) ln 6",
        lambda m: m["ce"],
        lambda m: (m["a5"] - m["a1"]) * log(2) + (1 - m["a5"]) * log(6),
    ),
    Bound("CE by rank", "CE ≥ mean ln(rank + 1)", lambda m: m["ce"], lambda m: m["ln_rank"]),
    Bound("CE by entropy", "CE ≥ −q ln(1 − e^(−H/q)), q = 1 − A₁, H the mean entropy", lambda m: m["ce"], _by_entropy),
    Bound("MRR", "MRR ≥ mean p_y ≥ e^−CE", lambda m: m["mrr"], lambda m: max(m["p_gold"], exp(-m["ce"]))),
    Bound("confidence", "mean p₁ ≥ mean p_y", lambda m: m["p_top"], lambda m: m["p_gold"]),
)  # fmt: skip
