"""The reliability table of one set of tokens, with intervals of every bin's accuracy."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.special import stdtrit

from logitbox.analysis.bins import wilson
from logitbox.analysis.calibration.atoms import Atoms, Float
from logitbox.analysis.calibration.evidence import Clusters, Evidence
from logitbox.analysis.calibration.few import degrees, rest
from logitbox.analysis.intervals import Z95

_ROUNDING = 1e-9
"""Shares nearer to 0 or 1 than this are 0 or 1."""


def reliability(evidence: Evidence) -> pl.DataFrame:
    """Reliability of every equal-width bin that has tokens.

    The interval of accuracy is Wilson's at the number of independent tokens that would be as uncertain, accuracy ·
    (1 − accuracy) / error², with the error clustered by sample (ratio linearisation, with the allowance of `few` for few
    and unequal clusters), and never more than there are; where all are right or all wrong, at the number of clusters. So
    it does not leave [0, 1], and is nearly the normal one where tokens are many. (The effective number is that of Korn &
    Graubard 1998, Survey Methodology 24.)

    Returns:
        `low`, `high`, `n` (tokens), `accuracy`, `confidence`, `gap` = accuracy − confidence, and the 95 % interval of
        accuracy, `accuracy_low` and `accuracy_high`.
    """
    table = evidence.table
    right = np.clip(table.right / table.n, 0.0, 1.0)
    size = table.effective
    if evidence.clusters is not None and len(table):
        size = _independent(
            evidence.clusters, table, right, is_by_row=evidence.clusters.total == evidence.count
        )
    low, high = wilson(right * size, size)
    columns = {
        "low": table.low,
        "high": table.high,
        "n": table.count.astype(np.int64),
        "accuracy": right,
        "confidence": table.mean,
        "gap": right - table.mean,
        "accuracy_low": np.minimum(low, right),  # at a share of 0 or 1 the ends may miss it by a rounding
        "accuracy_high": np.maximum(high, right),
    }
    return pl.DataFrame(columns)


def _independent(clusters: Clusters, table: Atoms, share: Float, *, is_by_row: bool) -> Float:
    """How many independent tokens would tell as much of each bin's accuracy.

    Clusters know residuals in cells of confidence; with the middle of the cell added these are the right tokens, to half a
    cell (1/600). A cell is in the bin that holds its middle.
    """
    edges = clusters.grid.edges
    middle = (edges[:-1] + edges[1:]) / 2
    bin_of = np.searchsorted(table.low, middle, side="right") - 1
    size = table.effective.copy()
    for at in range(len(table)):
        inside = bin_of == at
        n = clusters.n[:, inside].sum(axis=1)
        some = n > 0
        units = int(some.sum())
        if not units:
            continue  # bins finer than cells
        flat = size[at] if is_by_row else min(float(units), size[at])
        right = (clusters.residual[:, inside] + clusters.n[:, inside] * middle[inside]).sum(axis=1)[some]
        n = n[some]
        each = (right - right.sum() / n.sum() * n) / n.sum() / np.sqrt(rest(n))
        variance = share[at] * (1 - share[at])
        squares = float(each @ each) * (float(stdtrit(degrees(n), 0.975)) / Z95) ** 2
        if units < 2 or variance <= _ROUNDING or squares <= 0:
            size[at] = flat
        else:
            size[at] = min(variance / squares, size[at])
    return size
