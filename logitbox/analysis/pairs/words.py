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
    if better_tfa == better_tfce:
        told = f"{_who(better_tfa)} accuracy and the {'better' if better_tfa else 'same'} cross-entropy"
    if result.answer == "inverted":
        return f"Inverted: {told}, beyond noise, on the same tokens."
    if result.answer == "not inverted":
        return f"Not inverted: {told}, beyond noise: both metrics agree."
    unsure = [
        name
        for name, delta in (("accuracy", result.delta_tfa), ("cross-entropy", result.delta_tfce))
        if not delta.is_sure(result.level)
    ]
    noise = f"the difference in {unsure[0]}" if len(unsure) == 1 else "both differences"
    return f"Not distinguishable: by the numbers alone {told}, but {noise} could be noise."


def _better(delta: Difference, *, higher_is_better: bool) -> str:
    if delta.sign == 0:
        return ""
    return "A" if (delta.sign > 0) == higher_is_better else "B"


def _who(side: str) -> str:
    return f"{side} has the better" if side else "both have the same"


def numbers(result: Comparison) -> str:
    """Both metrics of both sides, with intervals and p-values."""
    left_out = f" ({told})" if (told := str(result.pair.unaligned)) != "nothing left out" else ""
    return (
        f"TFA {result.tfa.a:.4f} against {result.tfa.b:.4f} ({_interval(result.delta_tfa)}), "
        f"TFCE {result.tfce.a:.4f} against {result.tfce.b:.4f} nats ({_interval(result.delta_tfce)}), "
        f"over {_plural(len(result.pair), 'token')} of {_plural(len(result.pair.keys), 'sample')}{left_out}."
    )


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _interval(delta: Difference) -> str:
    if delta.low is None or delta.high is None:
        return f"Δ {delta.value:+.4f}, one sample only"
    return f"Δ {delta.value:+.4f}, 95 % {delta.low:+.4f} to {delta.high:+.4f}, {_p(delta.p)}"


def _p(p: float) -> str:
    """A p-value; 0.0001 is the least that 9,999 flips can give, so that it may be anything below."""
    return f"p = {p:.4f}" if p > 0.0001 else "p ≤ 0.0001"


def where_from(result: Comparison) -> str:
    """The cell that moves the loss gap most, and what moves accuracy."""
    cells = result.frame.filter(pl.col("type") == ALL)
    if result.delta_tfce.sign == 0:
        return ""
    same_way = pl.col("tfce_part") * result.delta_tfce.sign
    row = cells.sort(same_way, descending=True).row(0, named=True)
    only = {cell: n for cell, n in cells.select("cell", "n").iter_rows() if cell.startswith("only")}
    others = result.delta_tfce.value - row["tfce_part"]
    rest = "" if row["n"] == len(result.pair) else f", all others {others:+.4f}"
    return (
        f"A alone is right on {_plural(only['only_a'], 'token')}, B alone on {only['only_b']:,}; "
        f"{_CELLS[row['cell']]} ({row['n']:,}) add {row['tfce_part']:+.4f} nats to the loss gap{rest}."
    )


def reversal(result: Comparison) -> str:
    """How few tokens carry the loss gap."""
    sets = result.reversal if result.delta_tfce.sign > 0 else result.reversal_of_b
    if not sets.tfce.tokens:
        return ""
    worse, better = ("A", "B") if result.delta_tfce.sign > 0 else ("B", "A")
    n, kinds = sets.tfce.tokens, _types(sets.tfce, result)
    if n == sets.n:
        told = "It takes all tokens to undo the loss gap"
    else:
        told = (
            f"The loss gap is gone without the {_plural(n, 'token')} of {sets.n:,} ({_percent(n / sets.n, 2)}{kinds}) "
            f"that cost {worse} most against {better}"
        )
    also = f"; the accuracy gap takes {sets.tfa.tokens:,}" if sets.tfa.tokens else ""
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
        f"{'more than all' if row['part_share'] > 1 else _percent(row['part_share'])} of the gap "
        f"({_p(row['p_adjusted'])}, Holm)."
    )


def certified(result: Comparison) -> str:
    """That both metrics are right on both sides, or what is broken."""
    told: Sequence[str] = [f"{side}: {one}" for side, one in zip("AB", result.certificates, strict=True)]
    if all(one.holds for one in result.certificates):
        return f"Both metrics are computed right on both sides; of A: {result.certificates[0].summary}."
    return "A certificate is broken: " + "; ".join(told) + "."


def would_undo(result: Comparison) -> str:
    """What would make the headline false."""
    if result.answer == "not distinguishable":
        return "More samples could turn this into either answer."
    up, down = result.reversal, result.reversal_of_b
    tfce = (up if result.delta_tfce.sign > 0 else down).tfce.tokens
    tfa = (up if result.delta_tfa.sign > 0 else down).tfa.tokens
    rests = [
        f"{_plural(count, 'token')} for {metric}" for metric, count in (("TFCE", tfce), ("TFA", tfa)) if count
    ]
    either = "either set" if len(rests) > 1 else "them"
    return f"It rests on {' and '.join(rests)}: without {either} it is false." if rests else ""
