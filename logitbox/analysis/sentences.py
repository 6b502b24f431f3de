"""One token in a sentence: where it stands, what the model preferred, and what that did to each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, expm1, isfinite
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.classes import CLASSES, DEFAULT, NEEDS, Evidence, Thresholds, TokenClass, classify
from logitbox.analysis.entropy import CONTEXT, with_trusted_ids
from logitbox.analysis.pairs.choice import Choice
from logitbox.analysis.visible import visible
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag
from logitbox.errors import InputError

_SHOWN = 32
"""Characters of the context shown in a sentence."""


@dataclass(frozen=True)
class Token:
    """One recorded token, `str()` of which is the sentence. Texts are plain, nothing in them invisible.

    Attributes:
        key, pos, phase, dataset, step: where it is.
        before, after: the sample's text on both sides; "" where its ids were not recorded.
        gold, gold_text: the label.
        rank: of gold, from 0; `n_finite` tokens could be predicted. `n_eq` others have gold's very logit.
        nll: nats; `p` = e^−nll.
        rival, rival_text: the arg-max, or the runner-up where that is gold; None where it was not recorded.
        rival_p: its probability.
        margin: gold's logit minus the rival's, nats.
        cell, words: the token's class, by name and in words; "" where it is NaN or infinite.
        tfa: what it adds to the count of right tokens; nll is what it adds to TFCE.
        mean_nll: TFCE of the tokens it is one of, if known.
    """

    key: str
    pos: int
    phase: str
    dataset: str
    step: int
    before: str
    after: str
    gold: int
    gold_text: str
    rank: int
    n_finite: int
    n_eq: int
    nll: float
    rival: int | None
    rival_text: str
    rival_p: float | None
    margin: float | None
    cell: str
    words: str
    tfa: int
    mean_nll: float | None = None

    @property
    def p(self) -> float:
        """Probability of gold."""
        return exp(-self.nll)

    def __str__(self) -> str:
        context = (
            f" «{'…' if len(self.before) > _SHOWN else ''}{self.before[-_SHOWN:]}»" if self.before else ""
        )
        start = f'{visible(self.key)} pos {self.pos}{context}: gold "{self.gold_text}"'
        if not self.cell:
            return f"{start} has NaN or infinite values: both metrics leave it out."
        mean = "" if self.mean_nll is None else f" (mean {_nats(self.mean_nll)})"
        return f"{start} {_standing(self)}; {self.words}: TFA counts {self.tfa}, TFCE {_nats(self.nll)} nats{mean}."


def _standing(token: Token) -> str:
    """Gold's place and its distance to the rival."""
    place = f"{ordinal(token.rank + 1)} of {token.n_finite:,} (p {_p(token.nll)})"
    if token.cell == "tied":
        with_whom = (
            f'"{token.rival_text}"'
            if token.n_eq == 1 and token.rival is not None
            else f"{token.n_eq:,} others"
        )
        goes = "to it" if token.tfa else "to another"
        return f"shares the best logit with {with_whom} (p {_p(token.nll)}) and the tie goes {goes}, the lowest id"
    if token.margin is None or token.rival_p is None:
        return f"is {place}"
    side = "above" if token.margin > 0 else "below"
    rival = f'"{token.rival_text}" (p {token.rival_p:.2g})'
    return f"is {place}, {abs(token.margin):.2f} nats {side} {rival}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 1,021st."""
    end = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{end}"


def _nats(value: float) -> str:
    return f"{value:.2g}" if value < 0.01 else f"{value:.2f}"


def _p(nll: float) -> str:
    """e^−nll; near 1 by its distance to it."""
    p = exp(-nll)
    return f"1 − {-expm1(-nll):.1g}" if 0.999 < p < 1 else f"{p:.2g}"


def describe(
    choice: Choice,
    key: str | int,
    pos: int,
    thresholds: Thresholds = DEFAULT,
    mean_nll: float | None = None,
) -> Token:
    """The token of sample `key` at position `pos`.

    Args:
        choice: among which tokens; of several recordings of it the last counts.
        key: the sample's key, as in the `samples` table.
        pos: position in its sample.
        thresholds: of the token classes.
        mean_nll: to be told for comparison, nats.

    Raises:
        InputError: no such sample, position, or samples of that key in several data sets.
    """
    dump = choice.dump
    dump.check(dump.shards("tokens"))  # single rows are shown: altered bytes must not pass for numbers
    sample = _sample(choice, str(key))
    rows = _rows(choice, sample).filter(pl.col("pos") == pos).collect()
    if rows.is_empty():
        there = _rows(choice, sample).select("pos").collect()["pos"].unique().sort()
        near = sorted(there.to_list(), key=lambda other: abs(other - pos))[:5]
        raise InputError(
            f"sample {key!r} has no supervised token at pos {pos}, {choice.told}; the nearest are "
            f"{', '.join(map(str, sorted(near))) or 'none'}"
        )
    return _token(rows.row(-1, named=True), sample, dump, thresholds, mean_nll)


def _sample(choice: Choice, key: str) -> Mapping[str, Any]:
    """Row of `samples`."""
    datasets = choice.places["dataset"].unique().to_list()
    samples = choice.dump.samples.filter(pl.col("dataset").is_in(datasets))
    found = samples.filter(pl.col("key") == key).collect()
    if found.is_empty():
        known = samples.select("key").drop_nulls().head(5).collect()["key"].to_list()
        raise InputError(f"no sample has key {key!r}; keys are {', '.join(map(repr, known)) or 'none'}, …")
    if found["dataset"].n_unique() > 1:
        names = ", ".join(repr(name) for name in found["dataset"].unique().sort())
        raise InputError(f"sample {key!r} is in the data sets {names}; say which with dataset=")
    return with_trusted_ids(found, choice.dump).row(-1, named=True)


def _rows(choice: Choice, sample: Mapping[str, Any]) -> pl.LazyFrame:
    """The sample's chosen rows, the latest evaluation last."""
    flags = pl.col("flags")
    here = (pl.col("phase") == choice.phase) & (pl.col("dataset") == sample["dataset"])
    wanted = ((flags & int(Flag.SUPERVISED)) != 0) & ((flags & int(Flag.DUPLICATE)) == 0)
    rows = choice.dump.tokens.filter(here & (pl.col("sample") == sample["sample"]) & wanted)
    chosen = choice.places.lazy()
    return rows.join(chosen, on=["dataset", "pass", "step"], how="semi").sort(
        "step", "pass", maintain_order=True
    )


def _token(
    row: Mapping[str, Any],
    sample: Mapping[str, Any],
    dump: Dump,
    thresholds: Thresholds,
    mean_nll: float | None,
) -> Token:
    rank = int(row["n_gt"]) + int(row["n_eq_before"])
    rival, gap = _rival(row, rank)
    margin = None if gap is None else (gap if rank == 0 else row["top_nll"] - row["nll"])
    kind = _class_of(row, thresholds)
    before, after = _around(row, sample, dump)
    return Token(
        key=str(sample["key"]),
        **{
            name: row[name] for name in ("pos", "phase", "dataset", "step", "gold", "n_finite", "n_eq", "nll")
        },
        before=before,
        after=after,
        gold_text=visible(dump.text.piece(int(row["gold"]))),
        rank=rank,
        rival=rival,
        rival_text="" if rival is None else visible(dump.text.piece(rival)),
        rival_p=None if gap is None else exp(-row["top_nll"] - gap),
        margin=margin,
        cell=kind.name if kind else "",
        words=kind.words if kind else "",
        tfa=int(rank == 0),
        mean_nll=mean_nll,
    )


def _rival(row: Mapping[str, Any], rank: int) -> tuple[int | None, float | None]:
    """(id, distance below the best) of the arg-max, or of the runner-up where that is gold; None if not recorded."""
    ids: Sequence[int] = row["top_ids"] or ()
    gaps: Sequence[float] = row["top_gap"] or ()
    at = 1 if rank == 0 else 0
    return (int(ids[at]) if len(ids) > at else None), (float(gaps[at]) if len(gaps) > at else None)


def _class_of(row: Mapping[str, Any], thresholds: Thresholds) -> TokenClass | None:
    """None where the row is NaN or infinite."""
    if row["flags"] & int(Flag.NONFINITE) or not isfinite(row["nll"]):
        return None
    columns: dict[str, Any] = {name: np.array([row[name]]) for name in NEEDS}
    evidence = Evidence(**columns, kept=np.array([len(row["top_ids"] or ())]))
    return CLASSES[classify(evidence, thresholds)[0]]


def _around(row: Mapping[str, Any], sample: Mapping[str, Any], dump: Dump) -> tuple[str, str]:
    """The sample's text before and after the position, where its ids were recorded."""
    ids, pos = sample["input_ids"], int(row["pos"])
    if ids is None:
        return "", ""
    parts = (ids[max(pos - CONTEXT, 0) : pos], ids[pos + 1 : pos + 1 + CONTEXT])
    before, after = (visible(dump.text.decode(int(i) for i in part)) for part in parts)
    return before, after
