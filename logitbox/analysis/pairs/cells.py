"""Where the differences in accuracy and cross-entropy come from: both right, only A, only B, both wrong, by type."""

from __future__ import annotations

import numpy as np
import polars as pl

from logitbox.analysis.pairs.align import Mask, Pair
from logitbox.analysis.populations import ALL

CELLS = ("both_right", "only_a", "only_b", "both_wrong")


def cells_of(pair: Pair) -> pl.DataFrame:
    """One row per type and cell: `type`, `cell`, `n`, `share`, `tfa_part`, `tfce_part`.

    Parts are of ΔTFA and ΔTFCE (A minus B) of all tokens, so that those of type "" add up to the totals.
    Types may overlap; each type's own rows add up to its part.
    """
    right_a, right_b = pair.right
    nll_a, nll_b = pair.nll
    masks = cell_masks(right_a, right_b)
    n = len(pair)
    rows: list[tuple[str, str, int, float | None, float, float]] = []
    for name, inside in {ALL: np.ones(n, dtype=bool), **pair.of_type()}.items():
        of_type = int(inside.sum())
        for cell, mask in masks.items():
            here = mask & inside
            count = int(here.sum())
            tfa = {"only_a": count, "only_b": -count}.get(cell, 0) / n
            rows.append(
                (
                    name,
                    cell,
                    count,
                    count / of_type if of_type else None,
                    tfa,
                    float((nll_a[here] - nll_b[here]).sum()) / n,
                )
            )
    schema = {
        "type": pl.String,
        "cell": pl.String,
        "n": pl.Int64,
        "share": pl.Float64,
        "tfa_part": pl.Float64,
        "tfce_part": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def cell_masks(right_a: Mask, right_b: Mask) -> dict[str, Mask]:
    """Cell to the tokens in it; every token is in exactly one."""
    return {
        "both_right": right_a & right_b,
        "only_a": right_a & ~right_b,
        "only_b": ~right_a & right_b,
        "both_wrong": ~right_a & ~right_b,
    }
