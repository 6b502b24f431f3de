"""The tokens of a reversal set, with their text."""

from __future__ import annotations

from typing import Any

import polars as pl

from logitbox.analysis.pairs.align import Pair
from logitbox.analysis.pairs.reversal import Removal


def removed_rows(removed: Removal, pair: Pair, most: int | None = None) -> pl.DataFrame:
    """The first `most` tokens of a set in the order of removal.

    Returns:
        `key`, `pos`, `gold` and its text, `nll_a`, `nll_b`, `right_a`, `right_b`, and the names of its `types`.
    """
    rows = removed.rows[:most]
    text = pair.a.choice.dump.text
    columns: dict[str, Any] = {
        "key": pair.keys.gather(pair.cluster[rows]),
        "pos": pair.pos[rows],
        "gold": pair.gold[rows],
        "gold_text": [text.piece(int(token)) for token in pair.gold[rows]],
    }
    for name, side in (("a", pair.a), ("b", pair.b)):
        columns |= {f"nll_{name}": side.raw_nll[rows].astype(float), f"right_{name}": side.right[rows]}
    names = pair.a.choice.dump.types.names
    bits = pair.types[rows].tolist()
    columns["types"] = pl.Series(
        [[name for i, name in enumerate(names) if (bit >> i) & 1] for bit in bits], dtype=pl.List(pl.String)
    )
    return pl.DataFrame(columns)
