"""`explain`: why accuracy (TFA) and cross-entropy (TFCE) say different things.

Every supervised token is in exactly one cell of right/wrong × likely/unlikely, where *right* is arg-max = gold and
*likely* is p(arg-max) ≥ ½. TFA is the share of the two right cells; TFCE is the sum of the cells' parts Σ nll / N.
A token that is right and likely costs at most ln 2; right and unlikely counts 1 in TFA and more than ln 2 in TFCE; a
wrong token costs at least ln 2, and at least −ln(1 − p(arg-max)) where another token is likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import polars as pl

from logitbox.analysis.leftout import left_out
from logitbox.analysis.metrics import pooled
from logitbox.analysis.populations import ALL, CELLS
from logitbox.analysis.results import Result
from logitbox.analysis.splitting import by_columns, check_held, extra_keys
from logitbox.analysis.tally import Tally
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump

CELL_WORDS = {
    "right_likely": "right, p(top) ≥ ½",
    "right_unlikely": "right, p(top) < ½",
    "wrong_likely": "wrong, p(top) ≥ ½",
    "wrong_unlikely": "wrong, p(top) < ½",
}


@dataclass(frozen=True, eq=False)
class Explanation(Result):
    """The TFA/TFCE table.

    Attributes:
        frame: per phase, by-columns and type four rows: `cell`, `n`, `share` of tokens, `tfa_part`, `tfce_part`
            (both add up to the totals), `mean_nll` in the cell (null if empty), and the totals `tfa`, `tfce`.
    """


def explain(
    dump: Dump,
    *,
    by: str | Sequence[str] | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Where accuracy and cross-entropy come from, cell by cell.

    Args:
        dump: an opened dump.
        by: as in `metrics`.
        executor: where to tally shards.
        progress: told after every shard.
    """
    names = by_columns(by)
    return explain_of_tally(tally_dump(dump, extra_keys(names), executor, progress), names)


def explain_of_tally(tally: Tally, by: Sequence[str] = ()) -> Explanation:
    """`explain` from a tally at hand."""
    columns = check_held(tally.cells, by_columns(by))
    keys = ["phase", *(name for name in columns if name not in ("phase", "type")), "type"]
    shown = ~pl.col("type").str.contains(".", literal=True)  # for internal use
    cells = pooled(tally.cells.filter(shown), keys).filter(pl.col("n") > 0)
    frame = pl.concat([_cell_rows(cells, keys, name) for name in CELLS])
    order = pl.col("cell").replace_strict({name: i for i, name in enumerate(CELLS)}, return_dtype=pl.Int64)
    frame = frame.sort([*keys, order], nulls_last=True)
    return Explanation(frame, _verdict(tally))


def _cell_rows(cells: pl.DataFrame, keys: Sequence[str], name: str) -> pl.DataFrame:
    total, count, nll = pl.col("n"), pl.col(name), pl.col(f"nll_{name}")
    right = name.startswith("right")
    return cells.select(
        *keys,
        pl.lit(name).alias("cell"),
        count.cast(pl.Int64).alias("count"),
        (count / total).alias("share"),
        (count / total if right else pl.lit(0.0)).alias("tfa_part"),
        (nll / total).alias("tfce_part"),
        pl.when(count > 0).then(nll / count).alias("mean_nll"),
        (pl.col("correct") / total).alias("tfa"),
        (pl.col("nll") / total).alias("tfce"),
    ).rename({"count": "n"})


def _verdict(tally: Tally) -> str:
    parts: list[str] = []
    whole = pooled(tally.cells.filter(pl.col("type") == ALL), ["phase"]).sort("phase")
    for row in whole.iter_rows(named=True):
        n, tfce = row["n"], row["nll"]
        lost = f" ({told})" if (told := left_out(row)) else ""
        if not n:
            parts.append(f"{row['phase']}: no finite supervised tokens{lost}")
            continue
        carried = f"{row['nll_wrong_likely'] / tfce:.1%} of TFCE" if tfce > 0 else "none of TFCE"
        parts.append(
            f"{row['phase']}: TFA {row['correct'] / n:.4f}, TFCE {tfce / n:.4f} nats over {n:,} tokens{lost}; "
            f"confidently wrong tokens (p(top) ≥ ½) are {row['wrong_likely'] / n:.1%} of them and carry {carried}"
        )
    return "; ".join(parts) if parts else "no supervised tokens were recorded"
