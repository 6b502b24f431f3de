"""Fills the section "Power" of docs/audit.md: how many lines and digits it takes to name a convention, and false convictions.

    .venv/bin/python scripts/audit_power.py [--runs N] [--clean N] [--write docs/audit.md]

Simulates runs whose every token is known: softmax over a small vocabulary of random logits, samples of random length, several
micro-batches a step and ranks. What a trainer with some convention would have logged is computed token by token, printed, and
audited against sums of the same tokens.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from logitbox.analysis.audit.audit import Audit, audit_evidence
from logitbox.analysis.audit.evidence import MICRO, SAMPLE_MEANS, Evidence, Setup
from logitbox.analysis.logs.frame import SCHEMA, Logged

BEGIN, END = "<!-- power: begin -->", "<!-- power: end -->"

STEPS, VOCABULARY = 60, 16
VALUES = ("nll", "correct", "entropy", "uniform_nll")
LINES = (1, 2, 5, 20)
DIGITS = (3, 4, 6)
"""Significant digits that are printed."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a run; samples have between 1 and `longest` tokens, or all of them `longest` where they are not ragged."""

    micro: int = 4
    ranks: int = 4
    samples: int = 2
    longest: int = 16
    is_ragged: bool = True


def simulate(rng: np.random.Generator, shape: Shape, steps: int = STEPS) -> pl.DataFrame:
    """One row per token: step, micro, rank, sample, and the VALUES in float64."""
    parts = (steps, shape.micro, shape.ranks, shape.samples)
    places = np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, parts), indexing="ij")])
    length = rng.integers(1, shape.longest + 1, places.shape[1])
    if not shape.is_ragged:
        length[:] = shape.longest
    owner = np.repeat(np.arange(places.shape[1]), length)
    # Long samples are easier, and training helps: so averages of averages differ from the token mean.
    ease = (
        3 * length[owner] / shape.longest
        + 2 * places[0][owner] / steps
        + rng.normal(size=places.shape[1])[owner]
    )
    logits = rng.normal(size=(len(owner), VOCABULARY))
    logits[:, 0] += ease
    lse = np.log(np.exp(logits).sum(axis=1))
    p = np.exp(logits - lse[:, None])
    return pl.DataFrame(
        dict(zip(("step", "micro", "rank", "sample"), (1 + places[0], *places[1:]), strict=True))
    )[owner].with_columns(
        nll=lse - logits[:, 0],
        correct=(logits.argmax(axis=1) == 0).astype(np.float64),
        entropy=lse - (p * logits).sum(axis=1),
        uniform_nll=lse - logits.mean(axis=1),
    )


def evidence_of(tokens: pl.DataFrame, shape: Shape) -> Evidence:
    """The sums that a dump of these tokens would give."""
    keys = ["step", "micro", "rank"]
    of_samples = tokens.group_by(*keys, "sample", maintain_order=True).agg(pl.col(VALUES).mean())
    means = of_samples.group_by(keys).agg(
        pl.len().alias("samples"), pl.col(VALUES).sum().name.suffix(SAMPLE_MEANS)
    )
    cells = (
        tokens.group_by(keys)
        .agg(pl.len().alias("n"), pl.col(VALUES).sum())
        .join(means, on=keys)
        .with_columns(_fixed(), population=pl.lit(""))
    )
    lengths = tokens.group_by(*keys, "sample").agg(pl.len().alias("length"))
    batches = lengths.group_by(keys).agg(
        rows=pl.len(),
        positions=pl.len() * (pl.col("length").max() + 1),
        predicted=pl.len() * pl.col("length").max(),
    )
    setup = Setup(world=shape.ranks, accumulation=shape.micro, vocab_size=VOCABULARY, k=VOCABULARY)
    return Evidence(
        cells,
        batches.with_columns(_fixed(), n_supervised=pl.lit(1)).select(*MICRO, pl.all().exclude(MICRO)),
        setup,
    )


def _fixed() -> list[pl.Expr]:
    return [pl.lit("train").alias("phase"), pl.lit("").alias("dataset"), pl.lit(0).alias("pass")]


Logger = Callable[[pl.DataFrame, str], float]
"""(tokens of one line, value) to what is logged."""


def _nested(*levels: Sequence[str]) -> Logger:
    """Mean of means: over tokens in groups of the first columns, then over those groups, level by level."""

    def log(tokens: pl.DataFrame, value: str) -> float:
        frame = tokens
        for by in levels:
            frame = frame.group_by(by, maintain_order=True).agg(pl.col(value).mean())
        return float(frame[value].mean())  # pyright: ignore[reportArgumentType]

    return log


CONVENTIONS: Mapping[str, tuple[str, Logger]] = {
    "step-mean": ("nll", _nested(["step"])),
    "rank-mean": ("nll", _nested(["step", "rank"])),
    "micro-mean": ("nll", _nested(["step", "micro", "rank"])),
    "micro-pooled": ("correct", _nested(["step", "micro"])),
    "sample-mean": ("nll", _nested(["step", "micro", "rank", "sample"])),
    "rank-0": ("correct", lambda tokens, value: _nested()(tokens.filter(pl.col("rank") == 0), value)),
    "last-step": (
        "nll",
        lambda tokens, value: _nested()(tokens.filter(pl.col("step") == pl.col("step").max()), value),
    ),
    "label-smoothing": (
        "nll",
        lambda tokens, value: 0.9 * _nested()(tokens, value) + 0.1 * _nested()(tokens, "uniform_nll"),
    ),
}
"""Hypothesis to the key's value and what a trainer with that convention logs."""

KEYS = {"nll": "loss", "correct": "token_acc", "entropy": "entropy"}


def logged(
    tokens: pl.DataFrame, loggers: Mapping[str, tuple[str, Logger]], lines: int, window: int, digits: int
) -> Logged:
    """A log of `lines` lines over `window` steps each, printed with so many significant digits."""
    rows: list[tuple[object, ...]] = []
    for line in range(lines):
        first, last = 1 + line * window, (line + 1) * window
        here = tokens.filter(pl.col("step").is_between(first, last))
        for key, (value, logger) in loggers.items():
            text = f"{logger(here, value):.{digits}g}"
            exact = float(text)
            unit = 10.0 ** (math.floor(math.log10(abs(exact))) - digits + 1) if exact else 10.0**-digits
            rows.append((0, line, last, None, "train", key, exact, unit / 2))
    return Logged(pl.DataFrame(rows, schema=SCHEMA, orient="row"), source="simulated")


def power(rng: np.random.Generator, runs: int) -> dict[str, dict[tuple[int, int], Counter[str]]]:
    """Convention to (lines, digits) to how often it was named, not told, or mistaken."""
    found: dict[str, dict[tuple[int, int], Counter[str]]] = {name: {} for name in CONVENTIONS}
    for _ in range(runs):
        shape = Shape()
        tokens = simulate(rng, shape)
        evidence = evidence_of(tokens, shape)
        for name, (value, logger) in CONVENTIONS.items():
            for lines in LINES:
                for digits in DIGITS:
                    log = logged(tokens, {KEYS[value]: (value, logger)}, lines, STEPS // max(LINES), digits)
                    told = _outcome(audit_evidence(log, evidence), KEYS[value], name)
                    found[name].setdefault((lines, digits), Counter())[told] += 1
    return found


def _outcome(result: Audit, key: str, name: str) -> str:
    verdict = result.key(key)
    if verdict.hypothesis == name:
        return "named"
    if verdict.verdict in ("cannot tell", "agrees"):
        return "not told"
    return "unexplained" if verdict.verdict == "unexplained" else "mistaken"


def clean(rng: np.random.Generator, runs: int) -> Counter[str]:
    """Verdicts on keys of runs that log their token means, in float32, with 4 digits; and inequalities broken."""
    counted: Counter[str] = Counter()
    for _ in range(runs):
        shape = Shape(
            micro=int(rng.integers(1, 5)),
            ranks=int(rng.integers(1, 4)),
            samples=int(rng.integers(1, 4)),
            longest=int(rng.integers(2, 24)),
            is_ragged=bool(rng.random() < 0.8),
        )
        window, lines = int(rng.integers(1, 6)), int(rng.integers(1, 7))
        tokens = simulate(rng, shape, window * lines)
        loggers = {key: (value, _token_mean32) for value, key in KEYS.items()}
        loggers["perplexity"] = ("nll", lambda here, value: math.exp(_token_mean32(here, value)))
        result = audit_evidence(logged(tokens, loggers, lines, window, 4), evidence_of(tokens, shape))
        counted.update(one.verdict for one in result.keys)
        counted["violations"] += len(result.violations)
    return counted


def _token_mean32(tokens: pl.DataFrame, value: str) -> float:
    """As trainers do it: float32, micro-batch by micro-batch."""
    sums = [
        part[value].to_numpy().astype(np.float32).sum()
        for part in tokens.partition_by("step", "micro", "rank")
    ]
    return float(np.sum(np.array(sums, dtype=np.float32)) / np.float32(tokens.height))


def table(found: Mapping[str, Mapping[tuple[int, int], Counter[str]]], runs: int) -> str:
    """Markdown."""
    settings = [(lines, digits) for digits in DIGITS for lines in LINES]
    head = [f"{lines} line{'s' * (lines > 1)}, {digits} digits" for lines, digits in settings]
    rows = ["| convention | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for name, cells in found.items():
        shares = [f"{cells[setting]['named'] / runs:.0%}{_mistakes(cells[setting])}" for setting in settings]
        rows.append(f"| {name} | " + " | ".join(shares) + " |")
    return "\n".join(rows)


def _mistakes(cell: Counter[str]) -> str:
    return f" ({cell['mistaken']} mistaken)" if cell["mistaken"] else ""


def page(runs: int, clean_runs: int) -> str:
    """The section."""
    rng = np.random.default_rng(0)
    shares, verdicts = table(power(rng, runs), runs), clean(rng, clean_runs)
    convictions = verdicts["bug"] + verdicts["impossible"] + verdicts["violations"]
    others = ", ".join(
        f"{verdicts[name]:,} {name}" for name in verdicts if name != "violations" and verdicts[name]
    )
    bound = 1 - 0.05 ** (1 / clean_runs)
    return (
        f"Share of {runs} simulated runs (4 micro-batches × 4 ranks × 2 ragged samples a step, 3 steps a line) in which the convention "
        f"was named, by number of logged lines and significant digits; in the others several fit, or chance could not be "
        f"ruled out.\n\n{shares}\n\n"
        f"Clean runs (token means, float32, 4 digits, random shapes): {clean_runs:,} runs with {len(KEYS) + 1} keys each; "
        f"convictions: {convictions}; verdicts: {others}. With {convictions} in {clean_runs:,} the rate of runs with a false conviction "
        f"is below {bound:.2%} with 95 % confidence.\n"
        if not convictions
        else f"{shares}\n\n{convictions} false convictions in {clean_runs:,} clean runs: {others}\n"
    )


def main() -> None:
    """Print the section, or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--clean", type=int, default=3000)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    told = page(given.runs, given.clean)
    if given.write is None:
        print(told)
        return
    text = given.write.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    given.write.write_text(f"{before}{BEGIN}\n{told}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
