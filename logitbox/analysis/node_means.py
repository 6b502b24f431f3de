"""What a dump knows exactly of mean nll at other temperatures, and what that bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.convex import Known, Point, lowest
from logitbox.analysis.scaling import COLUMNS
from logitbox.analysis.tail import NODES, Columns, log_sums
from logitbox.dumps.spec import BETAS

Read = Callable[[Sequence[str]], Iterable[Columns]]
"""Column names to chunks of rows with those of them that are there: `Choice.scan`, for one."""

ROUNDING = 1e-4
"""What float16 gaps may do to a bound of mean nll, in nats; measured: 2e-5."""

_FOR_MEANS = COLUMNS[:6]
ONE = NODES.index(1.0)


@dataclass(frozen=True)
class NoFit:
    """Why there is no temperature."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Means:
    """Exact means: `nll` at `NODES`, `uniform` at β = 0, and d nll/dβ = nll − entropy at β = 1."""

    nll: list[float]
    uniform: float
    slope: float
    tokens: int
    left_out: int

    @property
    def bracket(self) -> tuple[float, float]:
        """Where the least mean is, by convexity; twice 1 if there, as for a model that is always sure and right."""
        j = int(np.argmin(self.nll))
        if self.nll[ONE] > self.nll[j] + 1e-12:
            return NODES[max(j - 1, 0)], NODES[min(j + 1, len(NODES) - 1)]
        if self.slope == 0:
            return 1.0, 1.0
        return (NODES[ONE - 1], 1.0) if self.slope > 0 else (1.0, NODES[ONE + 1])

    def least_above(self, below: Sequence[Point], above: Sequence[Point]) -> float:
        """What the least mean cannot be under, given the means of every token's bounds at some β.

        Between two nodes the lower bound, the logarithm of sums of e^{linear in β}, is convex as well.
        """
        exact = [(0.0, self.uniform), *zip(NODES, self.nll, strict=True)]
        slope = (1.0, self.nll[ONE], self.slope)
        of_mean = Known(exact, slope, [(x, y + ROUNDING) for x, y in above])
        first, last = self.bracket
        found = [self.nll[ONE]] if first == last else []
        for a, b in pairwise(NODES):
            if first <= a and b <= last:
                known = {x: y for x, y in (*below, *exact) if a <= x <= b}
                widened = [(x, y - ROUNDING) for x, y in known.items()]
                found.append(lowest(of_mean, widened, a, b))
        return min(found)


def means_of(read: Read) -> Means | NoFit:
    """In one pass, which needs no gaps."""
    sums, uniform, slope = np.zeros(len(NODES)), 0.0, 0.0
    tokens = left_out = missing = 0
    for columns in read(_FOR_MEANS):
        rows, dropped = finite(columns)
        n = len(rows["nll"])
        tokens, left_out = tokens + n, left_out + dropped
        missing += n - _known(rows)
        if missing:
            continue
        nll = rows["nll"].astype(np.float64)
        at_nodes = log_sums(rows) + np.array(NODES)[:, None] * (nll - rows["top_nll"])
        at_nodes[ONE] = nll
        sums += at_nodes.sum(axis=1)
        uniform += float(np.log(rows["n_finite"]).sum())
        slope += float((nll - rows["entropy"]).sum())
    if not tokens:
        return NoFit("no token with a finite nll")
    if missing:
        return NoFit(
            f"no lse_beta for {missing:,} of {tokens:,} tokens; "
            'record with lse_beta="always", or in another phase than train'
        )
    return Means((sums / tokens).tolist(), uniform / tokens, slope / tokens, tokens, left_out)


def finite(columns: Columns) -> tuple[Columns, int]:
    """(the rows of finite nll, how many others)."""
    keep: NDArray[Any] = np.isfinite(columns["nll"]) & np.isfinite(columns["top_nll"])
    dropped = len(keep) - int(keep.sum())
    return ({name: values[keep] for name, values in columns.items()} if dropped else columns), dropped


def _known(columns: Columns) -> int:
    """Rows with all of `lse_beta`."""
    sums = columns.get("lse_beta")
    return 0 if sums is None or sums.shape[1] < len(BETAS) else int(np.isfinite(sums).all(axis=1).sum())
