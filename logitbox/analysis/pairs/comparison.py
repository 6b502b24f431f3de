"""`explain(a, against=b)`: why two evaluations of the same tokens rank differently by accuracy and by cross-entropy."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl

from logitbox.analysis.certificates import Certificates, certify
from logitbox.analysis.pairs.align import MIN_ALIGNED, Float, Pair, align
from logitbox.analysis.pairs.cells import cells_of
from logitbox.analysis.pairs.choice import Step, choose
from logitbox.analysis.pairs.concentration import concentration
from logitbox.analysis.pairs.document import document
from logitbox.analysis.pairs.heat import Temperature, temperature_of
from logitbox.analysis.pairs.paired import Difference, by_cluster, differences
from logitbox.analysis.pairs.removed import removed_rows
from logitbox.analysis.pairs.reversal import Curve, Removal, curve, removal
from logitbox.analysis.pairs.words import paragraph
from logitbox.analysis.results import Result
from logitbox.dumps.dump import Dump

Verdict = Literal["inverted", "not inverted", "not distinguishable"]

LEVEL = 0.05


@dataclass(frozen=True)
class Both:
    """A number of either side."""

    a: float
    b: float


@dataclass(frozen=True)
class Reversal:
    """The fewest tokens whose removal makes ΔTFCE ≤ 0, and the fewest that make ΔTFA ≤ 0.

    Attributes:
        tfce, tfa: both sets; empty where the difference is not above 0.
        n: tokens compared.
    """

    tfce: Removal
    tfa: Removal
    n: int

    @property
    def tokens(self) -> int:
        """The smaller of both."""
        return min(self.tfce.tokens, self.tfa.tokens)

    @property
    def share(self) -> float:
        """Of all tokens."""
        return self.tokens / self.n


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """Two evaluations of the same tokens; differences are A minus B, B being `against`.

    Attributes:
        frame: rows of `cells_of`: type, cell, n, share, tfa_part, tfce_part.
        pair: the aligned tokens.
        tfa, tfce: accuracy, and mean nll in nats, over the aligned tokens.
        delta_tfa, delta_tfce: their differences with 95 % intervals and p-values.
        answer: whether accuracy and cross-entropy disagree about who is better, beyond noise.
    """

    pair: Pair
    tfa: Both
    tfce: Both
    delta_tfa: Difference
    delta_tfce: Difference
    answer: Verdict
    level: float = LEVEL

    @property
    def observed(self) -> Literal["inverted", "not inverted"]:
        """The same by the numbers alone, noise or not: the better accuracy goes with the higher loss."""
        return "inverted" if self.delta_tfa.sign * self.delta_tfce.sign > 0 else "not inverted"

    @property
    def metrics(self) -> pl.DataFrame:
        """`metric` (TFA, TFCE), `a`, `b`, `delta` with its 95 % interval `low`, `high`, and `p`."""
        rows = [
            (name, both.a, both.b, delta.value, delta.low, delta.high, delta.p)
            for name, both, delta in (
                ("TFA", self.tfa, self.delta_tfa),
                ("TFCE", self.tfce, self.delta_tfce),
            )
        ]
        schema = {"metric": pl.String} | dict.fromkeys(["a", "b", "delta", "low", "high", "p"], pl.Float64)
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _repr_html_(self) -> str:
        with pl.Config(tbl_rows=40, fmt_str_lengths=60, tbl_hide_dataframe_shape=True):
            tables = [frame._repr_html_() for frame in (self.metrics, self.frame)]  # pyright: ignore[reportPrivateUsage] (Jupyter's own protocol)
        return f"<p>{html.escape(self.told)}</p>{''.join(tables)}"

    @property
    def told(self) -> str:
        """The verdict in a paragraph, with the numbers it rests on and what would undo it."""
        return paragraph(self)

    def tokens(self, most: int | None = 20) -> pl.DataFrame:
        """Tokens that hold the loss gap, worst first, with their text (see `removed_rows`)."""
        sets = self.reversal if self.delta_tfce.sign > 0 else self.reversal_of_b
        return removed_rows(sets.tfce, self.pair, most)

    def to_document(self, tokens: int = 0) -> dict[str, Any]:
        """All of it as plain data (see `document`)."""
        return document(self, tokens)

    @cached_property
    def differences(self) -> tuple[Float, Float]:
        """Of each token: correctness (−1, 0, 1) and nll."""
        return _token_differences(self.pair)

    @cached_property
    def reversal(self) -> Reversal:
        """For ΔTFCE and ΔTFA above 0."""
        correct, nll = self.differences
        return Reversal(removal(nll), removal(correct), len(self.pair))

    @cached_property
    def reversal_of_b(self) -> Reversal:
        """The same with the sides swapped, for differences below 0."""
        correct, nll = self.differences
        return Reversal(removal(-nll), removal(-correct), len(self.pair))

    @cached_property
    def curve(self) -> Curve:
        """The loss gap against tokens removed, of whoever's loss is higher."""
        _, nll = self.differences
        return curve(nll if self.delta_tfce.sign >= 0 else -nll)

    @cached_property
    def temperature(self) -> Temperature:
        """How much of the loss gap is gone at each one's own best temperature; reads both sides again."""
        return temperature_of(self.pair)

    @cached_property
    def certificates(self) -> tuple[Certificates, Certificates]:
        """Whether both metrics are right, of A and of B; reads both sides again."""
        return certify(self.pair.a.choice), certify(self.pair.b.choice)

    @cached_property
    def concentration(self) -> pl.DataFrame:
        """Subsets that hold more of the loss gap than of the tokens (see `concentration`)."""
        return concentration(self.pair, self.differences[1])

    @cached_property
    def concentration_of_accuracy(self) -> pl.DataFrame:
        """The same for the accuracy gap."""
        return concentration(self.pair, self.differences[0])


def compare(
    a: Dump,
    b: Dump,
    *,
    phase: str | None = None,
    step: Step = "last",
    against_step: Step | None = None,
    dataset: str | None = None,
    min_aligned: float = MIN_ALIGNED,
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations.

    Args:
        a: an opened dump.
        b: another one, or the same to compare two of its steps.
        phase: of both; by default the last evaluation.
        step: of A: a step, "last", or "all" for the latest evaluation of each token.
        against_step: of B; by default as `step`.
        dataset: only this data set.
        min_aligned: least share of the smaller side's tokens that must be in both.
        seed: of the random sign flips.

    Raises:
        InputError: nothing such was recorded, or too little aligns.
    """
    first = choose(a, phase, step, dataset)
    second = choose(
        b, first.phase if phase is None else phase, step if against_step is None else against_step, dataset
    )
    return compare_pair(align(first, second, min_aligned), seed=seed)


def compare_pair(pair: Pair, *, seed: int = 0, level: float = LEVEL) -> Comparison:
    """`compare` of tokens that are aligned already."""
    correct, nll = _token_differences(pair)
    sums = np.stack([by_cluster(values, pair.cluster) for values in (correct, nll)])
    n = np.bincount(pair.cluster).astype(np.float64)
    delta_tfa, delta_tfce = differences(sums, n, seed)
    tfa = Both(*(float(right.mean()) for right in pair.right))
    tfce = Both(*(float(values.mean()) for values in pair.nll))
    answer = _answer(delta_tfa, delta_tfce, level)
    told = (
        f"{answer}: ΔTFA {delta_tfa.value:+.4f}, ΔTFCE {delta_tfce.value:+.4f} nats over {len(pair):,} tokens"
    )
    return Comparison(cells_of(pair), told, pair, tfa, tfce, delta_tfa, delta_tfce, answer, level)


def _token_differences(pair: Pair) -> tuple[Float, Float]:
    right_a, right_b = pair.right
    nll_a, nll_b = pair.nll
    return right_a.astype(np.float64) - right_b, nll_a - nll_b


def _answer(tfa: Difference, tfce: Difference, level: float) -> Verdict:
    """Inverted or not needs both differences to be told from 0 (an intersection–union test at `level`)."""
    if not (tfa.is_sure(level) and tfce.is_sure(level)):
        return "not distinguishable"
    return "inverted" if tfa.sign == tfce.sign else "not inverted"
