"""What a calibration is computed from, wherever it came from: atoms, sums of other quantities, and sums by cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.histogram import Grid

Int = NDArray[np.int64]

CLUSTER_GRID = Grid(300, 12)
"""Bins of the sums by cluster: of intervals only."""

MOST_CLUSTERS = 2048
"""Clusters told apart. Beyond, they are put together by hash into so many: sums over independent clusters are as
independent, and 2,047 degrees of freedom are plenty."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Sums by cluster (sample), the unit that is independent of the others.

    Attributes:
        unit: [clusters], which of all units of the analysis each is; ascending.
        universe: how many units there are in all; resampling draws from these, so that analyses of the same units can
            be drawn alike.
        grid: of the bins.
        n: [clusters, bins], Σ weight.
        residual: [clusters, bins], Σ weight · (correct − confidence).
        sums: quantity to [clusters], Σ weight · x.
        total: clusters before any were put together.
    """

    unit: Int
    universe: int
    grid: Grid
    n: Float
    residual: Float
    sums: Mapping[str, Float]
    total: int

    def __len__(self) -> int:
        return len(self.unit)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that measures may use; what is costly is made when first asked for.

    Attributes:
        count: tokens.
        left_out: tokens with NaN or infinite values, counted but in nothing else.
        n: Σ weight. From arrays the largest weight is from 1 to 2 (see `checking`), and equal ones are 1.
        bins: equal-width (and equal-mass) bins asked for.
        table: the equal-width bins that have tokens.
        sums: quantity to Σ weight · x: `brier` (confidence − correct)², `log` −ln of the probability given to what
            happened (confidence if right, 1 − confidence if wrong), `nll` −ln p(gold), `entropy`; those that are known.
        make_atoms: finest atoms there are.
        make_clusters: None where nothing is known of clusters.
        straddling: what `table` may err by in Σ |residual| because finer bins lay across its edges; 0 where exact.
    """

    count: int
    left_out: int
    n: float
    bins: int
    table: Atoms
    sums: Mapping[str, float]
    make_atoms: Callable[[], Atoms]
    make_clusters: Callable[[], Clusters] | None = None
    straddling: float = 0.0

    @cached_property
    def atoms(self) -> Atoms:
        """Finest atoms there are."""
        return self.make_atoms()

    @cached_property
    def clusters(self) -> Clusters | None:
        """Sums by cluster, if known."""
        return None if self.make_clusters is None else self.make_clusters()

    def mean(self, name: str) -> float | None:
        """Token mean of one of `sums`; None where unknown or without tokens."""
        return self.sums[name] / self.n if self.n and name in self.sums else None
