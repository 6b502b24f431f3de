"""Writes docs/calibration-coverage.md: how often 95 % intervals of calibration measures hold the truth.

    .venv/bin/python scripts/calibration_coverage.py [runs]

Simulates clustered tokens of which everything is known. The logit of confidence is normal, with an effect of the sample;
a token is right with probability g(confidence) ± an effect of the sample that is 0 in the mean. So the calibrated model
(g the identity) is calibrated exactly, while tokens of a sample are right and wrong together.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from logitbox.analysis.calibration import smooth
from logitbox.analysis.calibration.atoms import Atoms, exact_atoms
from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.resampling import weights
from logitbox.analysis.calibration.result import Calibration
from logitbox.analysis.calibration.units import clusters_of
from logitbox.analysis.histogram import Grid

PAGE = Path(__file__).resolve().parents[1] / "docs" / "calibration-coverage.md"

Float = NDArray[np.float64]

BINS = 15
LOCATION, BETWEEN, WITHIN = 3.0, 1.0, 2.3
"""Of the logit of confidence: mean, and standard deviations of samples and of tokens in a sample."""
TOGETHER = 0.9
"""Effect of a sample on being right: g ± TOGETHER · g (1 − g)."""
REST = 2.0
"""Entropy, in nats, of what is left beside the arg-max."""

MODELS = {"calibrated": 1.0, "slightly over-confident": 0.93, "over-confident": 0.7}
"""Factor of the logit: accuracy = expit(factor · logit of confidence)."""
SETTINGS = {
    "1,000 independent tokens": (0, False),
    "50 samples": (50, False),
    "200 samples": (200, False),
    "1,000 samples": (1000, False),
    "2 samples": (2, False),
    "5 samples": (5, False),
    "2 unequal samples": (2, True),
    "5 unequal samples": (5, True),
    "30 unequal samples": (30, True),
    "100 unequal samples": (100, True),
}
"""(Samples, whether they are of lognormal size, σ = 1.5) of 1 to 200 tokens; 0 for tokens that are one each."""

MEANS = ("accuracy", "overconfidence", "nll", "entropy_gap", "brier")
BOOTSTRAP = "ece, percentile bootstrap"
ERRORS = ("ece", "ece_equal_mass", "l2", "smooth_ece", "kuiper")


@dataclass(frozen=True)
class Tokens:
    """[tokens] each."""

    confidence: Float
    right: NDArray[np.bool_]
    nll: Float
    entropy: Float
    cluster: NDArray[np.int64]


def accuracy_at(z: Float, factor: float) -> Float:
    """g: accuracy where the logit of confidence is z."""
    return expit(factor * z)


def draw(samples: int, factor: float, rng: np.random.Generator, *, is_unequal: bool = False) -> Tokens:
    """Tokens of so many samples, or 1,000 of one each."""
    sizes = rng.integers(1, 201, samples) if samples else np.ones(1000, dtype=np.int64)
    if is_unequal:
        sizes = np.maximum(1, 20 * rng.lognormal(0, 1.5, samples)).astype(np.int64)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    z = (
        LOCATION
        + BETWEEN * rng.standard_normal(len(sizes))[cluster]
        + WITHIN * rng.standard_normal(len(cluster))
    )
    g = accuracy_at(z, factor)
    effect = rng.choice([-1.0, 1.0], len(sizes))[cluster]
    right = rng.random(len(z)) < g + TOGETHER * effect * g * (1 - g)
    rest = REST * rng.exponential(size=len(z))  # −ln of gold's share of what is left
    nll = np.logaddexp(0.0, np.where(right, -z, z)) + np.where(right, 0.0, rest)
    return Tokens(expit(z), right, nll, entropy_at(z), cluster)


def entropy_at(z: Float) -> Float:
    """Entropy of a prediction with arg-max at logit z, nats."""
    c = expit(z)
    return c * np.logaddexp(0.0, -z) + (1 - c) * (np.logaddexp(0.0, z) + REST)


def calibration_of(tokens: Tokens) -> Calibration:
    """The result whose intervals are tried."""
    p, right = tokens.confidence, tokens.right
    hit = right.astype(np.float64)
    each = {"brier": (p - hit) ** 2, "nll": tokens.nll, "entropy": tokens.entropy}
    counter = Counter(Grid(BINS))
    counter.add(p, right)
    return Calibration(
        Evidence(
            count=len(p),
            left_out=0,
            n=float(len(p)),
            bins=BINS,
            table=counter.atoms(),
            sums={name: float(values.sum()) for name, values in each.items()},
            make_atoms=partial(exact_atoms, p, right, None),
            make_clusters=lambda: clusters_of(lambda: iter([(p, hit, None, each)]), tokens.cluster, len(p)),
        )
    )


def truths(factor: float, nodes: int = 1_000_000) -> dict[str, float]:
    """Every measure of the population, from as many quantiles of the logit: no sampling, and errors near 1e-6."""
    z = LOCATION + np.hypot(BETWEEN, WITHIN) * ndtri((np.arange(nodes) + 0.5) / nodes)
    c, g = expit(z), accuracy_at(z, factor)
    nll = g * np.logaddexp(0.0, -z) + (1 - g) * (np.logaddexp(0.0, z) + REST)
    residual = (g - c) / nodes
    width = np.minimum((c * BINS).astype(np.int64), BINS - 1)
    mass = np.arange(nodes) * BINS // nodes
    in_width = np.bincount(width, residual, BINS)
    reach = np.append(0.0, np.cumsum(residual))
    one = np.ones(nodes)
    atoms = Atoms(c, c, one, one, g, c, g * c)
    whole = Evidence(nodes, 0, float(nodes), BINS, atoms.grouped(width), {}, lambda: atoms)
    return {
        "accuracy": float(g.mean()),
        "overconfidence": float((c - g).mean()),
        "nll": float(nll.mean()),
        "entropy_gap": float((nll - entropy_at(z)).mean()),
        "brier": float((g * (1 - c) ** 2 + (1 - g) * c**2).mean()),
        "ece": float(abs(in_width).sum()),
        "ece_equal_mass": float(abs(np.bincount(mass, residual, BINS)).sum()),
        "l2": float(np.sqrt((in_width**2 / (np.bincount(width, minlength=BINS) / nodes)).sum())),
        "smooth_ece": float(smooth.smooth_ece(whole)) if abs(residual).any() else 0.0,
        "kuiper": float(reach.max() - reach.min()),
    }


def percentile(evidence: Evidence) -> tuple[float, float]:
    """The plain percentile bootstrap of ECE over samples, for comparison."""
    clusters = evidence.clusters
    if clusters is None:
        raise ValueError("no clusters")
    of_cell = np.minimum(np.arange(clusters.grid.n_bins) * BINS // clusters.grid.n_equal, BINS - 1)
    start = np.flatnonzero(np.diff(of_cell, prepend=-1))
    drawn = weights(clusters.universe)[:, clusters.unit]
    residual = drawn @ np.add.reduceat(clusters.residual, start, axis=1)
    low, high = np.quantile(abs(residual).sum(axis=1) / (drawn @ clusters.n.sum(axis=1)), [0.025, 0.975])
    return float(low), float(high)


def independent(tokens: Tokens) -> tuple[float, float]:
    """The interval of accuracy that takes tokens as independent, for comparison."""
    share = float(tokens.right.mean())
    half = 1.96 * np.sqrt(share * (1 - share) / len(tokens.right))
    return share - half, share + half


class Count:
    """Of one setting: how often each interval held the truth, its width, and the values."""

    def __init__(self, truth: Mapping[str, float]) -> None:
        self.truth = truth
        self.held: dict[str, list[bool]] = defaultdict(list)
        self.width: dict[str, list[float]] = defaultdict(list)
        self.values: dict[str, list[float]] = defaultdict(list)
        self.small: list[bool] = []

    def add(self, tokens: Tokens) -> None:
        """Another run."""
        found = calibration_of(tokens)
        for name in (*MEANS, *ERRORS):
            self._see(name, name, found.interval(name))
        self.small.append((found.kuiper_p or 0.0) <= 0.05)
        self._see("percentile", "ece", percentile(found.evidence))
        self._see("independent", "accuracy", independent(tokens))
        for name in ("ece", "ece_noise"):
            self.values[name].append(found.value(name) or 0.0)

    def _see(self, name: str, measure: str, interval: tuple[float, float] | None) -> None:
        low, high = interval or (np.nan, np.nan)
        # Where the truth is 0, the lower end may miss it by a rounding.
        self.held[name].append(bool(low - 1e-12 <= self.truth[measure] <= high))
        self.width[name].append(high - low)

    def coverage(self, name: str) -> str:
        """In percent."""
        return f"{100 * np.mean(self.held[name]):.1f}"

    def mean_width(self, name: str) -> str:
        """Of the intervals."""
        return f"{np.mean(self.width[name]):.4f}"

    def mean(self, name: str) -> str:
        """Of values."""
        return f"{np.mean(self.values[name]):.4f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """As Markdown; numbers to the right."""
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(counts: Mapping[tuple[str, str], Count], runs: int) -> str:
    """The whole page."""

    def rows(columns: list[str], cell: str) -> list[list[str]]:
        return [[*key, *(getattr(count, cell)(name) for name in columns)] for key, count in counts.items()]

    noise = 196 * np.sqrt(0.05 * 0.95 / runs)
    first = ["tokens", "model"]
    held, wide = [*MEANS, "independent"], [*ERRORS, "percentile"]
    values = [
        [
            *key,
            f"{count.truth['ece']:.4f}",
            count.mean("ece"),
            count.mean("ece_noise"),
            f"{100 * np.mean(count.small):.1f}",
        ]
        for key, count in counts.items()
    ]
    return TEXT.format(
        runs=runs,
        noise=noise,
        means=table([*first, *MEANS, "accuracy, tokens taken as independent"], rows(held, "coverage")),
        errors=table([*first, *ERRORS, BOOTSTRAP], rows(wide, "coverage")),
        widths=table(
            [*first, *wide[:-1], BOOTSTRAP, "accuracy", "nll"], rows([*wide, "accuracy", "nll"], "mean_width")
        ),
        values=table(
            [*first, "ECE of the population", "mean ECE", "mean ece_noise", "kuiper_p ≤ 0.05, %"], values
        ),
    )


TEXT = """# How often 95 % intervals of calibration measures hold the truth

Written by `scripts/calibration_coverage.py`, which simulates tokens of which everything is known, {runs} runs for each row.
A share of 95 % is then known to ± {noise:.1f} points.

The logit of confidence is normal with mean 3 (confidence 0.95) and standard deviations 1.0 between samples and 2.3 within.
Samples have 1 to 200 tokens, all as likely; unequal ones 20 times a lognormal number with σ = 1.5, so that 100 of them are
worth about 15 of one size. A token is right with probability g ± 0.9·g(1 − g), where g is what the model's
calibration says and the sign is the sample's: tokens of a sample are right and wrong together. The logit of g is 1, 0.93
or 0.7 times that of the confidence. Truths are of the population: 15 bins of it, not of a sample.

## Means: coverage, %

Clustered by sample, jackknife variance, Student's t; about 95 is right.
The last column takes tokens as independent, as most tools do.

{means}

## Errors of calibration: coverage, %

At least 95 is right: these intervals are conservative, most so between the calibrated model and one that is far from it. The last
column is the usual percentile bootstrap of ECE over samples. Sampling noise makes an ECE larger than the truth and
resampling adds noise again, so that it lies above the truth unless that is far from 0.

{errors}

## Mean widths

{widths}

## What sampling alone makes of ECE

`ece_noise` should be the mean ECE of a calibrated model, whose `kuiper_p` should be 0.05 or less in 5 % of runs at most. That is a
test by signs of samples, which with 5 samples can hardly tell anything at that level.

{values}
"""


def simulated(model: str, setting: str, runs: int) -> Count:
    """One row; always the same."""
    factor, (samples, is_unequal) = MODELS[model], SETTINGS[setting]
    rng = np.random.default_rng([samples, int(1000 * factor), is_unequal])
    count = Count(truths(factor))
    for _ in range(runs):
        count.add(draw(samples, factor, rng, is_unequal=is_unequal))
    return count


def main() -> None:
    """Simulate all settings, one to a process, and write the page."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 850
    started = time.perf_counter()
    keys = [(setting, model) for model in MODELS for setting in SETTINGS]
    counts: dict[tuple[str, str], Count] = {}
    with ProcessPoolExecutor() as pool:
        rows = pool.map(
            simulated, *zip(*((model, setting) for setting, model in keys), strict=True), repeat(runs)
        )
        for key, count in zip(keys, rows, strict=True):
            counts[key] = count
            print(f"{time.perf_counter() - started:6.0f} s  {', '.join(key)}", file=sys.stderr)
    text = page(counts, runs)
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
