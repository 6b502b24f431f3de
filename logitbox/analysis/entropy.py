"""`high_entropy`: the tokens a model is least sure about, with their text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from logitbox.analysis.given import check_dump
from logitbox.analysis.leftout import left_out
from logitbox.analysis.results import Result
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag
from logitbox.dumps.schema import IDENTITY
from logitbox.errors import InputError

CONTEXT = 24
"""Tokens of text shown before the position."""
_SHOWN = 5
"""Alternatives shown for each token."""
_SHOWN_SCHEMA = {
    "gold_text": pl.String,
    "top_text": pl.String,
    "alternatives": pl.String,
    "context": pl.String,
    "best": pl.List(pl.Struct({"id": pl.Int32, "text": pl.String, "p": pl.Float64})),
}


@dataclass(frozen=True, eq=False)
class TokenList(Result):
    """Tokens, best ranked first.

    Attributes:
        frame: where the token is (`phase dataset step key source pos`), `gold`, `entropy`, `nll`, `rank` of gold
            (0 the best), `p_gold`, `p_top`; as text `gold_text`, `top_text`, `alternatives` and the `context`
            before it; `best`, the model's preferred tokens as structs of `id`, `text` and `p`.
    """


def high_entropy(
    dump: Dump, n: int = 10, *, phase: str | None = None, step: int | Literal["last"] | None = "last"
) -> TokenList:
    """The `n` supervised tokens of highest entropy, highest first.

    Args:
        dump: an opened dump.
        n: how many.
        phase: only this phase; by default the evaluation phases if there are any, else all.
        step: only this step (all its passes); "last" (each phase's and dataset's last recorded pass), or None
            for all steps.

    Raises:
        InputError: no such phase or step, or a dump without token rows.
    """
    return _highest("entropy", dump, n, phase, step)


def costliest(
    dump: Dump, n: int = 10, *, phase: str | None = None, step: int | Literal["last"] | None = "last"
) -> TokenList:
    """The `n` supervised tokens of highest nll, highest first; arguments and errors are those of `high_entropy`."""
    return _highest("nll", dump, n, phase, step)


def _highest(
    column: str, dump: Dump, n: int, phase: str | None, step: int | Literal["last"] | None
) -> TokenList:
    if n < 1:
        raise InputError(f"n is {n}; ask for at least 1 token")
    if isinstance(step, str) and step != "last":
        raise InputError(f"step is {step!r}; give a number, 'last', or None for all steps")
    check_dump(dump).check(
        dump.shards("tokens")
    )  # single rows are shown: altered bytes must not pass for numbers
    if not dump.shards("tokens"):
        raise InputError(
            f"{dump.path} holds no token rows yet; record something, or flush() a run in progress"
        )
    rows, told = _selected(dump, phase, step)
    repeated = (pl.col("flags") & int(Flag.DUPLICATE)) != 0
    nonfinite = ~repeated & ((pl.col("flags") & int(Flag.NONFINITE)) != 0)
    counts = rows.select(n_nonfinite=nonfinite.sum(), n_duplicate=repeated.sum()).collect().row(0, named=True)
    order = [column, *IDENTITY]
    ranked = (
        rows.filter(~nonfinite, ~repeated).sort(order, descending=[True, *([False] * len(IDENTITY))]).head(n)
    )
    best = ranked.collect(engine="streaming")
    lost = f" ({some})" if (some := left_out(counts)) else ""
    verdict = f"{best.height} tokens of highest {column}, {told}{lost}{_range(best[column])}"
    return TokenList(with_text(best, dump), verdict)


def _range(descending: pl.Series) -> str:
    if descending.is_empty():
        return ": none"
    return f": {descending[0]:.3f} down to {descending[-1]:.3f} nats"


def _selected(dump: Dump, phase: str | None, step: int | Literal["last"] | None) -> tuple[pl.LazyFrame, str]:
    """Supervised rows of the wanted phase and step, and how to call them."""
    rows = dump.tokens.filter((pl.col("flags") & int(Flag.SUPERVISED)) != 0)
    places = rows.select("phase", "dataset", "step", "pass").unique().collect()
    phases = sorted(places["phase"].unique())
    if phase is not None and phase not in phases:
        raise InputError(f"phase is {phase!r}; the dump has {', '.join(phases) or 'no supervised tokens'}")
    wanted = [phase] if phase is not None else [name for name in phases if name != "train"] or phases
    places = places.filter(pl.col("phase").is_in(wanted))
    rows = rows.filter(pl.col("phase").is_in(wanted))
    told = f"phase {', '.join(wanted)}" if wanted else "no supervised tokens"
    if step == "last":
        last = places.sort("step", "pass").group_by("phase", "dataset", maintain_order=True).last()
        rows = rows.join(last.lazy(), on=["phase", "dataset", "step", "pass"], how="semi")
        return rows, f"{told}, last step"
    if step is not None:
        steps = sorted(places["step"].unique())
        if step not in steps:
            near = sorted(steps, key=lambda other: abs(other - step))[:5]
            raise InputError(
                f"step is {step}; of phase {', '.join(wanted)} the nearest recorded steps are "
                f"{', '.join(map(str, sorted(near)))}"
            )
        return rows.filter(pl.col("step") == step), f"{told}, step {step}"
    return rows, f"{told}, all steps"


def with_text(rows: pl.DataFrame, dump: Dump) -> pl.DataFrame:
    """Rows of `tokens` with what a reader wants to see of them."""
    keys = rows.select("sample", "dataset").unique().lazy()
    samples = dump.samples.join(keys, on=["sample", "dataset"], how="semi").select(
        "sample", "dataset", "key", "source", "input_ids"
    )
    joined = rows.join(
        with_trusted_ids(samples.collect(), dump),
        on=["sample", "dataset"],
        how="left",
        maintain_order="left",
    )
    shown = [_shown(row, dump) for row in joined.iter_rows(named=True)]
    columns = ["phase", "dataset", "step", "key", "source", "pos", "gold", "entropy", "nll"]
    return joined.select(
        *columns,
        (pl.col("n_gt") + pl.col("n_eq_before")).alias("rank"),
        (-pl.col("nll")).exp().alias("p_gold"),
        (-pl.col("top_nll")).exp().alias("p_top"),
    ).hstack(pl.DataFrame(shown, schema=_SHOWN_SCHEMA))


def with_trusted_ids(samples: pl.DataFrame, dump: Dump) -> pl.DataFrame:
    """`input_ids` only where every recorded label of the sample stands in them at its position.

    Where several packed documents bear one sample id, positions start anew and text at them would be another's.
    """
    if samples["input_ids"].null_count() == samples.height:
        return samples
    with_ids = samples.filter(pl.col("input_ids").is_not_null()).lazy()
    labels = dump.tokens.filter((pl.col("flags") & int(Flag.SUPERVISED)) != 0).select(
        "sample", "dataset", "pos", "gold"
    )
    there = pl.col("input_ids").list.get(pl.col("pos"), null_on_oob=True).eq_missing(pl.col("gold"))
    agrees = (
        labels.join(with_ids.select("sample", "dataset", "input_ids"), on=["sample", "dataset"])
        .group_by("sample", "dataset")
        .agg((there & (pl.col("pos") >= 0)).all().alias("agrees"))
        .collect(engine="streaming")
    )
    marked = samples.join(agrees, on=["sample", "dataset"], how="left", maintain_order="left")
    return marked.with_columns(pl.when(pl.col("agrees")).then(pl.col("input_ids")).alias("input_ids")).drop(
        "agrees"
    )


def _shown(row: dict[str, object], dump: Dump) -> dict[str, object]:
    text, ids, gaps = dump.text, row["top_ids"], row["top_gap"]
    top_ids = ids if isinstance(ids, Sequence) else ()
    top_gap = gaps if isinstance(gaps, Sequence) else ()
    top_nll = float(str(row["top_nll"]))
    probabilities = [math.exp(-top_nll - float(gap)) for gap in top_gap[:_SHOWN]]
    best = [
        {"id": int(token), "text": text.piece(int(token)), "p": p}
        for token, p in zip(top_ids[:_SHOWN], probabilities, strict=True)
    ]
    return {
        "gold_text": text.piece(int(str(row["gold"]))),
        "top_text": text.piece(int(top_ids[0])) if top_ids else "",
        "alternatives": " · ".join(f"{one['text']} {one['p']:.3f}" for one in best),
        "context": _context(row, dump),
        "best": best,
    }


def _context(row: dict[str, object], dump: Dump) -> str:
    """Text before the position, where the sample's tokens were recorded and agree with its labels."""
    ids, pos = row["input_ids"], int(str(row["pos"]))
    if not isinstance(ids, Sequence):
        return ""
    return dump.text.decode(int(i) for i in ids[max(0, pos - CONTEXT) : pos])
