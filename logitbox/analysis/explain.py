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

from logitbox.analysis.metrics import pooled
from logitbox.analysis.populations import ALL, CELLS
from logitbox.analysis.results import Result
from logitbox.analysis.tally import KEYS, Tally
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump

CELL_WORDS = {
    "right_likely": "right, p(top) ≥ ½",
    "right_unlikely": "right, p(top) < ½",
    "wrong_likely": "wrong, p(top) ≥ ½",
    "wrong_unlikely": "wrong, p(top) < ½",
}


@dataclass(frozen=True)
class Explanation(Result):
    """The TFA/TFCE table.

    Attributes:
        frame: per phase, by-columns and type four rows: `cell`, `n`, `share` of tokens, `tfa_part`, `tfce_part`
            (both add up to the totals), `mean_nll` in the cell (null if empty), and the totals `tfa`, `tfce`.
    """


def explain(
    dump: Dump,
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
    names = (by,) if isinstance(by, str) else tuple(by or ())
    extra = [name for name in names if name not in (*KEYS, "type")]
    return explain_of_tally(tally_dump(dump, extra, executor, progress), names)


def explain_of_tally(tally: Tally, by: Sequence[str] = ()) -> Explanation:
    """`explain` from a tally at hand."""
    keys = ["phase", *(name for name in by if name not in ("phase", "type")), "type"]
    cells = pooled(tally.cells, keys).filter(pl.col("n") > 0)
    frame = pl.concat([_cell_rows(cells, keys, name) for name in CELLS])
    order = pl.col("cell").replace_strict({name: i for i, name in enumerate(CELLS)}, return_dtype=pl.Int64)
    frame = frame.sort([*keys, order], nulls_last=True)
    return Explanation(frame, _verdict(frame))


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


def _verdict(frame: pl.DataFrame) -> str:
    parts: list[str] = []
    whole = frame.filter(pl.col("type") == ALL)
    for (phase,), rows in whole.group_by("phase", maintain_order=True):
        n = rows["n"].sum()
        tfce = float((rows["tfce_part"] * 1.0).sum()) if rows.height == len(CELLS) else None
        if tfce is None:
            continue
        tfa = float(rows["tfa_part"].sum())
        row = {r["cell"]: r for r in rows.iter_rows(named=True)}["wrong_likely"]
        part = f"{row['tfce_part'] / tfce:.0%} of TFCE" if tfce > 0 else "none of TFCE"
        parts.append(
            f"{phase}: TFA {tfa:.4f}, TFCE {tfce:.4f} nats over {n:,} tokens; "
            f"confidently wrong tokens are {row['share']:.1%} of them and carry {part}"
        )
    return "; ".join(parts) if parts else "see the table"
