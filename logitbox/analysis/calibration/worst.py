"""Which subgroups are worst calibrated? Ranked, with a correction for having looked at many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.calibration import binned, intervals
from logitbox.analysis.calibration.atoms import Float
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.resampling import ROUNDING, reached

_NUMBERS = (
    "accuracy",
    "confidence",
    "overconfidence",
    "ece",
    "ece_low",
    "ece_high",
    "ece_noise",
    "p",
    "p_adjusted",
)


def rank_worst(evidences: Iterable[tuple[Mapping[str, Any], Evidence]], n: int | None = 10) -> pl.DataFrame:
    """Subgroups by how badly they are calibrated: by the lower end of ECE's interval, then by p, then by ECE.

    `p` is the probability that a calibrated subgroup of as many tokens, clustered alike, shows so large an ECE: the share
    of replicates r, with signs of clusters' residuals turned at random, whose ECE D_r reaches it, (1 + #)/(R + 1). With
    few clusters it is never below 2/2^clusters. `p_adjusted` is the probability that any one among all calibrated ones
    does, by the step-down max-T method of Westfall & Young (1993, Resampling-Based Multiple Testing, §2.8) with
    T = (ECE − mean D)/sd D. Subgroups of the same samples are turned alike, so that the correction knows how far they
    overlap, and costs less than Bonferroni's.

    Args:
        evidences: of every subgroup, what it is called by and what is known of it. Without tokens it is left out. Of a
            generator's only one is held at a time.
        n: how many rows; None for all. The correction counts all subgroups, shown or not.

    Returns:
        The names' columns, `n`, `clusters`, `accuracy`, `confidence`, `overconfidence`, `ece` with its 95 % interval `ece_low`, `ece_high`,
        `ece_noise` (what sampling alone makes of 0), `p`, `p_adjusted` and `note`. Subgroups with fewer than two clusters come
        last: they have no interval and no p, and `note` says so.
    """
    rows: list[dict[str, Any]] = []
    noises: list[Float] = []
    seen: list[float] = []
    tested: list[int] = []
    names: dict[str, Any] = {}
    for keys, evidence in evidences:
        names |= dict.fromkeys(keys, pl.String)
        if evidence.n:
            turned = intervals.ece_flips(evidence)
            if turned is not None:
                tested.append(len(rows))
                seen.append(turned[0])
                noises.append(turned[1])
            rows.append(_row(keys, evidence))
    if tested:
        sizes, values = np.stack(noises), np.array(seen)
        for i, p, adjusted in zip(tested, reached(values, sizes), adjusted_p(values, sizes), strict=True):
            rows[i] |= {"p": float(p), "p_adjusted": float(adjusted)}
    frame = pl.DataFrame(rows, infer_schema_length=None) if rows else _empty(names)
    frame = frame.with_columns(pl.col(_NUMBERS).cast(pl.Float64))
    ranked = frame.sort(
        "ece_low", "p", "ece", descending=[True, False, True], nulls_last=True, maintain_order=True
    )
    return ranked if n is None else ranked.head(n)


def _row(keys: Mapping[str, Any], evidence: Evidence) -> dict[str, Any]:
    low, high = intervals.of_ece(evidence) or (None, None)
    noise = intervals.ece_noise(evidence)
    return {
        **keys,
        "n": evidence.count,
        "clusters": None if evidence.clusters is None else evidence.clusters.total,
        "accuracy": binned.accuracy(evidence),
        "confidence": binned.confidence(evidence),
        "overconfidence": binned.overconfidence(evidence),
        "ece": binned.ece(evidence),
        "ece_low": low,
        "ece_high": high,
        "ece_noise": noise,
        "p": None,
        "p_adjusted": None,
        "note": "fewer than 2 samples: no interval, no p" if noise is None else "",
    }


def _empty(names: Mapping[str, Any]) -> pl.DataFrame:
    schema = {**names, "n": pl.Int64, "clusters": pl.Int64}
    return pl.DataFrame(schema=schema | dict.fromkeys(_NUMBERS, pl.Float64) | {"note": pl.String})


def adjusted_p(values: Float, noises: Float) -> Float:
    """Step-down max-T p-values of `values` [groups] against what noise makes, [groups, replicates].

    The j-th largest T is compared with the largest T of noise among those that are not larger than it, and p-values do
    not fall on the way down.
    """
    centre, spread = noises.mean(axis=1), noises.std(axis=1)
    spread[spread <= ROUNDING * abs(centre)] = 0.0
    off = values - centre
    off[abs(off) <= ROUNDING * abs(centre)] = 0.0
    # Where replicates are all alike, T is without bounds if the value is another, and 0 if it is not.
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num(off / spread, nan=0.0, posinf=np.inf, neginf=-np.inf)
        drawn = np.where(spread[:, None] > 0, (noises - centre[:, None]) / spread[:, None], 0.0)
    order = np.argsort(-t, kind="stable")
    largest = np.maximum.accumulate(drawn[order][::-1], axis=0)[::-1]
    adjusted = np.empty(len(t))
    adjusted[order] = np.maximum.accumulate(reached(t[order], largest))
    return adjusted
