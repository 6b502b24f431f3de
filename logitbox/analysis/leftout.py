"""Saying what the means leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from logitbox.analysis.populations import ALL

_OF_LOSS = ".nonfinite"


def left_out(counts: Mapping[str, Any]) -> str:
    """Of a row of cells: "3 non-finite and 2 repeated left out"; nothing where nothing was."""
    lost, repeated = counts["n_nonfinite"], counts["n_duplicate"]
    told = [f"{lost:,} non-finite"] if lost else []
    told += [f"{repeated:,} repeated by a sampler"] if repeated else []
    return f"{' and '.join(told)} left out" if told else ""


def left_out_of_loss(cells: pl.DataFrame) -> dict[str, int]:
    """Ordered group to the tokens, finite otherwise, whose loss in it is NaN or infinite; only where there are any."""
    whole = cells.filter(pl.col("type") == ALL)
    names = [name for name in whole.columns if name.endswith(_OF_LOSS)]
    counts = {name.removesuffix(_OF_LOSS): int(whole[name].sum()) for name in names}
    return {name: count for name, count in counts.items() if count}
