"""How the command line shows an explanation of one evaluation, or of two."""

from __future__ import annotations

import polars as pl

from logitbox.analysis.explain import Explanation
from logitbox.analysis.pairs.comparison import Comparison
from logitbox.analysis.populations import ALL
from logitbox.terminal import print_paragraph, print_table, print_verdict

_SUBSETS = 6


def print_explanation(result: Explanation) -> None:
    """Classes that have tokens, then what they come down to, and whether both metrics are right."""
    # These read the dump again, which may be damaged: an error must not come after half of the answer.
    more = (result.parting, *map(str, result.certificates.values()))
    print_table(result.frame.filter(pl.col("n") > 0))
    print_verdict(str(result))
    for line in more:
        if line:
            print_paragraph(line)


def print_comparison(result: Comparison, tokens: int = 0) -> None:
    """The verdict in words, then the numbers it rests on.

    Args:
        result: what `explain(a, against=b)` gave.
        tokens: how many tokens of the reversal set to list.
    """
    print_verdict(f"A {result.pair.a.choice.dump.path} ({result.pair.a.choice.told})")
    print_verdict(f"B {result.pair.b.choice.dump.path} ({result.pair.b.choice.told})")
    print_paragraph(result.told)
    metrics = result.metrics.with_columns(pl.col("metric").replace("TFCE", "TFCE, nats"))
    metrics = metrics.rename({"a": "A", "b": "B", "delta": "Δ"})
    print_table(metrics, "\nBoth metrics (differences are A − B)")
    print_table(_cells(result), "\nWhere the differences come from")
    print_table(_subsets(result), "\nWhere the loss gap sits, beyond the share of tokens")
    if tokens:
        shown = result.tokens(tokens).with_columns(pl.col("types").list.join(", "))
        print_table(shown, f"\nTokens that hold the loss gap, the first {shown.height:,}")


def _cells(result: Comparison) -> pl.DataFrame:
    """All tokens first; types only where there are any."""
    whole = result.frame.filter(pl.col("type") == ALL)
    typed = result.frame.filter((pl.col("type") != ALL) & (pl.col("n") > 0))
    return pl.concat([whole, typed])


def _subsets(result: Comparison) -> pl.DataFrame:
    return result.concentration.select(
        "kind", "name", "n", "share", "part_share", "difference", "rest", "p_adjusted"
    ).head(_SUBSETS)
