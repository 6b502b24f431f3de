"""The verdict of a comparison in words to paste in a chat: what is so, the numbers it rests on, what would undo it.

Every sentence is made of numbers at hand; one whose number is not there is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from logitbox.analysis.pairs.paired import Difference
from logitbox.analysis.pairs.reversal import Removal
from logitbox.analysis.populations import ALL

if TYPE_CHECKING:  # they are what this is said of, and say it
    from logitbox.analysis.pairs.comparison import Comparison

_CELLS = {
    "both_right": "tokens both get right",
    "only_a": "tokens only A gets right",
    "only_b": "tokens only B gets right",
    "both_wrong": "tokens both get wrong",
}


def paragraph(result: Comparison) -> str:
    """All of it, a sentence after the other."""
    parts = [headline(result), numbers(result), where_from(result), reversal(result), temperature(result)]
    parts += [concentrated(result), certified(result), would_undo(result)]
    return " ".join(part for part in parts if part)


def headline(result: Comparison) -> str:
    """Whether the two metrics disagree about who is better, and whether that is more than noise."""
    better_tfa = _better(result.delta_tfa, higher_is_better=True)
    better_tfce = _better(result.delta_tfce, higher_is_better=False)
    told = f"{_who(better_tfa)} accuracy and {_who(better_tfce)} cross-entropy"
    if result.answer == "inverted":
        return f"Inverted: {told}, beyond noise, on the same tokens."
    if result.answer == "not inverted":
        return f"Not inverted: {told}, beyond noise: both metrics agree that {better_tfa or better_tfce} is better."
    unsure = [
        name
        for name, delta in (("accuracy", result.delta_tfa), ("cross-entropy", result.delta_tfce))
        if not delta.is_sure(result.level)
    ]
    seen = f"by the numbers alone {told}"
    return f"Not distinguishable: {seen}, but the difference in {' and in '.join(unsure)} could be noise."


def _better(delta: Difference, *, higher_is_better: bool) -> str:
    if delta.sign == 0:
        return ""
    return "A" if (delta.sign > 0) == higher_is_better else "B"


def _who(side: str) -> str:
    return f"{side} has the better" if side else "both have the same"


def numbers(result: Comparison) -> str:
    """Both metrics of both sides, with intervals and p-values."""
    return (
        f"TFA {result.tfa.a:.4f} against {result.tfa.b:.4f} ({_interval(result.delta_tfa, '')}), "
        f"TFCE {result.tfce.a:.4f} against {result.tfce.b:.4f} nats ({_interval(result.delta_tfce, '')}), "
        f"over {len(result.pair):,} tokens of {len(result.pair.keys):,} samples ({result.pair.unaligned})."
    )


def _interval(delta: Difference, unit: str) -> str:
    if delta.low is None or delta.high is None:
        return f"Δ {delta.value:+.4f}{unit}, one sample only"
    return f"Δ {delta.value:+.4f}{unit}, 95 % {delta.low:+.4f} to {delta.high:+.4f}, {_p(delta.p)}"


def _p(p: float) -> str:
    return f"p = {p:.4f}" if p >= 0.0001 else "p < 0.0001"


def where_from(result: Comparison) -> str:
    """The cell that moves the loss gap most, and what moves accuracy."""
    cells = result.frame.filter(pl.col("type") == ALL)
    if result.delta_tfce.sign == 0:
        return ""
    same_way = pl.col("tfce_part") * result.delta_tfce.sign
    row = cells.sort(same_way, descending=True).row(0, named=True)
    only = {cell: n for cell, n in cells.select("cell", "n").iter_rows() if cell.startswith("only")}
    return (
        f"A alone is right on {only['only_a']:,} tokens, B alone on {only['only_b']:,}; "
        f"the loss gap comes most from {_CELLS[row['cell']]} ({row['n']:,}): {row['tfce_part']:+.4f} of "
        f"{result.delta_tfce.value:+.4f} nats."
    )


def reversal(result: Comparison) -> str:
    """How few tokens carry the loss gap."""
    sets = result.reversal if result.delta_tfce.sign > 0 else result.reversal_of_b
    if not sets.tfce.tokens:
        return ""
    n, kinds = sets.tfce.tokens, _types(sets.tfce, result)
    told = f"{n:,} of {sets.n:,} tokens ({_percent(n / sets.n, 2)}{kinds}) hold all of the loss gap: without them it is gone"
    also = f"; for accuracy it takes {sets.tfa.tokens:,}" if sets.tfa.tokens else ""
    return f"{told}{also}."


def _types(removed: Removal, result: Comparison) -> str:
    """The type that most of them have: ", all in desc" or ", 80 % in desc"."""
    counts = {name: int(mask[removed.rows].sum()) for name, mask in result.pair.of_type().items()}
    if not counts or not max(counts.values()):
        return ""
    name = max(counts, key=lambda kind: counts[kind])
    share = counts[name] / removed.tokens
    return f", all in {name}" if share == 1 else f", {_percent(share)} in {name}"


def _percent(share: float, digits: int = 0) -> str:
    """A share above 0; neither nothing nor everything becomes so by rounding."""
    least = 10.0 ** (-2 - digits)
    if share < least / 2:
        return f"less than {least:.{digits}%}"
    return f"{share:.{digits}%}" if share >= 1 else f"{min(share, 1 - least):.{digits}%}"


def temperature(result: Comparison) -> str:
    """How much of the loss gap is a matter of temperature."""
    return "" if result.temperature is None else str(result.temperature)


def concentrated(result: Comparison) -> str:
    """The subset that holds most of the loss gap beyond its share, if both gap and excess are beyond noise."""
    if not result.delta_tfce.is_sure(result.level):
        return ""
    table: pl.DataFrame = result.concentration
    sure = table.filter((pl.col("p_adjusted") <= result.level) & (pl.col("part_share") > pl.col("share")))
    if sure.is_empty():
        return ""
    row = sure.row(0, named=True)
    return (
        f"The loss gap is concentrated in {row['kind']} {row['name']}: {_percent(row['share'])} of the tokens, "
        f"{_percent(row['part_share'])} of the gap ({_p(row['p_adjusted'])}, Holm)."
    )


def certified(result: Comparison) -> str:
    """That both metrics are right on both sides, or what is broken."""
    told: Sequence[str] = [f"{side}: {one}" for side, one in zip("AB", result.certificates, strict=True)]
    if all(one.holds for one in result.certificates):
        return "Both metrics are computed right on both sides: " + result.certificates[0].summary + "."
    return "A certificate is broken: " + "; ".join(told) + "."


def would_undo(result: Comparison) -> str:
    """What would make the headline false."""
    if result.answer == "not distinguishable":
        return "More samples could turn this into either answer."
    up, down = result.reversal, result.reversal_of_b
    tfce = (up if result.delta_tfce.sign > 0 else down).tfce.tokens
    tfa = (up if result.delta_tfa.sign > 0 else down).tfa.tokens
    either = [
        f"removing {count:,} tokens that favour it in {metric}"
        for metric, count in (("TFCE", tfce), ("TFA", tfa))
        if count
    ]
    less = " or ".join(either)
    return f"It would be false after {less}, or on samples unlike these." if less else ""
