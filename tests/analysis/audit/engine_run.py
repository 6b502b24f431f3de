"""A run whose every token is known, as sums in memory, and what a trainer logs of it by plain loops."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from logitbox.analysis.audit.audit import audit_evidence
from logitbox.analysis.audit.evidence import MICRO, SAMPLE_MEANS, Evidence, Setup
from logitbox.analysis.audit.result import KeyVerdict
from logitbox.analysis.logs.frame import SCHEMA, Logged

VALUES = ("nll", "correct", "uniform_nll")


@dataclass(frozen=True)
class Token:
    """One supervised token and where it was."""

    step: int
    rank: int
    micro: int
    sample: int
    nll: float
    correct: float
    uniform_nll: float


def make_tokens(
    steps: Iterable[int],
    *,
    ranks: int = 2,
    micros: int = 2,
    samples: int = 2,
    seed: int = 0,
    longest: int = 9,
) -> list[Token]:
    """Samples of 1 to `longest` tokens, or all of `-longest` tokens; long ones are easier."""
    rng = np.random.default_rng(seed)
    made: list[Token] = []
    for step in steps:
        for rank in range(ranks):
            for micro in range(micros):
                for sample in range(samples):
                    count = int(rng.integers(1, longest + 1)) if longest > 0 else -longest
                    for nll in rng.gamma(2.0, 1.0 + 1.0 / count, count):
                        place = (step, rank, micro, sample)
                        made.append(Token(*place, float(nll), float(nll < 1.0), float(nll + rng.gamma(2.0))))
    return made


def evidence_of(tokens: list[Token], phase: str = "train", world: int | None = None) -> Evidence:
    """Their sums, by plain loops."""
    batches: dict[tuple[int, int, int], list[Token]] = {}
    for token in tokens:
        batches.setdefault((token.step, token.rank, token.micro), []).append(token)
    cells: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    for (step, rank, micro), held in batches.items():
        samples = {number: [t for t in held if t.sample == number] for number in {t.sample for t in held}}
        longest = max(len(sample) for sample in samples.values())
        where = dict(zip(MICRO, (phase, "", 0, step, rank, micro), strict=True))
        cell = where | {"population": "", "n": len(held), "samples": len(samples), "n_nonfinite": 0}
        for name in VALUES:
            cell[name] = math.fsum(getattr(t, name) for t in held)
            cell[name + SAMPLE_MEANS] = math.fsum(
                math.fsum(getattr(t, name) for t in sample) / len(sample) for sample in samples.values()
            )
        cells.append(cell)
        sizes = {"epoch": 0.0, "rows": len(samples), "positions": len(samples) * (longest + 3)}
        rows.append(where | sizes | {"predicted": len(samples) * (longest + 2), "n_supervised": len(held)})
    ranks = world or len({token.rank for token in tokens})
    micros = len({token.micro for token in tokens})
    return Evidence(
        pl.DataFrame(cells), pl.DataFrame(rows), Setup(world=ranks, accumulation=micros, vocab_size=16)
    )


def mean_of(tokens: list[Token], first: int, last: int, value: str = "nll") -> float:
    """Token mean of the steps first to last."""
    held = [getattr(token, value) for token in tokens if first <= token.step <= last]
    return math.fsum(held) / len(held)


def lines_of(
    tokens: list[Token], steps: list[int], start: int = 0, value: str = "nll"
) -> list[tuple[int, float]]:
    """(step, token mean since the line before)."""
    return [
        (last, mean_of(tokens, before + 1, last, value))
        for before, last in zip([start, *steps[:-1]], steps, strict=True)
    ]


def log_of(
    lines: Iterable[tuple[int | None, float]],
    key: str = "loss",
    *,
    digits: int = 6,
    phase: str = "train",
    meta: dict[str, float] | None = None,
    beside: Iterable[int] = (),
) -> Logged:
    """A log with one key, printed with so many significant digits, and a gradient norm at the steps of `beside`."""
    rows: list[tuple[object, ...]] = []
    for number, (step, value) in enumerate(lines):
        shown, half = value, 0.0
        if math.isfinite(value) and value:
            shown = float(f"{value:.{digits}g}")
            half = 0.5 * 10.0 ** (math.floor(math.log10(abs(shown))) - digits + 1)
        rows.append((0, number, step, None, phase, key, shown, half))
    rows += [(0, len(rows) + step, step, None, "train", "grad_norm", 1.5, 0.05) for step in beside]
    return Logged(pl.DataFrame(rows, schema=SCHEMA, orient="row"), meta=meta or {})


def verdict_of(log: Logged, evidence: Evidence, key: str = "loss") -> KeyVerdict:
    """The audit's verdict on one key."""
    return audit_evidence(log, evidence).key(key)


def without(evidence: Evidence, missing: pl.Expr, *, only_tokens: bool = False) -> Evidence:
    """Evidence of a dump that lacks some micro-batches, or only their tokens."""
    batches = evidence.batches if only_tokens else evidence.batches.filter(~missing)
    return Evidence(evidence.cells.filter(~missing), batches, evidence.setup)
