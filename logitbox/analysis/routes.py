"""TFA and TFCE by two routes each, from different columns, as sums that add up over shards."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from logitbox.analysis.checks import gap_at_gold, gap_tolerance, place, rank
from logitbox.dumps.definitions.rows import Rows


@dataclass(frozen=True)
class Routes:
    """Sums over tokens.

    Attributes:
        n_ids: tokens with recorded ids; `by_rank` of them are right by rank, `by_id` by `top_ids[0]`, and `disagree`
            by one of both only.
        n_gaps: tokens whose gold is among the recorded best; `by_nll` is their Σ nll, `by_gap` their
            Σ (top_nll + top_gap), `rounding` by how much the float16 of `top_gap` may put them apart.
        n: tokens in all.
    """

    n: int
    n_ids: int
    by_rank: int
    by_id: int
    disagree: int
    n_gaps: int
    by_nll: float
    by_gap: float
    rounding: float

    def __add__(self, other: Routes) -> Routes:
        return Routes(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Routes)))

    @property
    def tfa(self) -> tuple[float, float] | None:
        """By rank, and by `top_ids`; None where no ids were recorded."""
        return (self.by_rank / self.n_ids, self.by_id / self.n_ids) if self.n_ids else None

    @property
    def tfce(self) -> tuple[float, float] | None:
        """By `nll`, and by `top_nll + top_gap`, nats, over the same tokens; None where there are none."""
        return (self.by_nll / self.n_gaps, self.by_gap / self.n_gaps) if self.n_gaps else None

    def __str__(self) -> str:
        if self.tfa is None:
            return "no second route was recorded (no top_ids)"
        agree = "on every token" if not self.disagree else f"but for {self.disagree:,} tokens"
        told = f"TFA by rank and by arg-max id agree {agree} ({self.tfa[0]:.4f})"
        if self.tfce is None:
            return f"{told}; gold is nowhere among the recorded best, so TFCE has one route"
        first, second = self.tfce
        return (
            f"{told}, TFCE by nll and by logit distance to {abs(first - second):.1e} nats over the "
            f"{self.n_gaps / self.n:.1%} of tokens whose gold is among the recorded best"
        )


NO_ROUTES = Routes(0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0)


def routes_of(rows: Rows) -> Routes:
    """Of some rows, floats in float64."""
    n = len(rows["gold"])
    if "top_ids" not in rows:
        return Routes(n, *(getattr(NO_ROUTES, one.name) for one in fields(Routes)[1:]))
    has_ids = rows["top_1"] >= 0
    right, by_id = (rank(rows) == 0) & has_ids, (rows["top_1"] == rows["gold"]) & has_ids
    gap = gap_at_gold(rows)
    there = (place(rows) >= 0) & np.isfinite(gap)
    gap = gap[there]
    return Routes(
        n=n,
        n_ids=int(has_ids.sum()),
        by_rank=int(right.sum()),
        by_id=int(by_id.sum()),
        disagree=int((right != by_id).sum()),
        n_gaps=int(there.sum()),
        by_nll=float(rows["nll"][there].sum()),
        by_gap=float((rows["top_nll"][there] + gap).sum()),
        rounding=float(gap_tolerance(gap).sum()),
    )
