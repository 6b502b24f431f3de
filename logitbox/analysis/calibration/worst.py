"""Which subgroups are worst calibrated? Ranked, with a correction for having looked at many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.calibration import binned, intervals
from logitbox.analysis.calibration.atoms import Float
from logitbox.analysis.calibration.evidence import Evidence

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
    """Subgroups by how badly they are calibrated: by the lower end of ECE's interval, then by ECE.

    `p` is the probability that a calibrated subgroup of as many tokens, clustered alike, shows so large an ECE: the share
    of replicates r whose D_r = Σ_b |noise_rb| reaches it, (1 + #)/(R + 1). `p_adjusted` is the probability that any one
    among all calibrated ones does, by the step-down max-T method of Westfall & Young (1993, Resampling-Based Multiple
    Testing, §2.8) with T = (ECE − mean D)/sd D. Subgroups of the same samples are drawn alike, so that the correction
    knows how far they overlap, and costs less than Bonferroni's.

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
    tested: list[int] = []
    names: dict[str, Any] = {}
    for keys, evidence in evidences:
        names |= dict.fromkeys(keys, pl.String)
        if evidence.n:
            noisy = intervals.ece_noises(evidence)
            if noisy is not None:
                tested.append(len(rows))
                noises.append(noisy)
            rows.append(_row(keys, evidence, noisy))
    if tested:
        sizes = np.stack(noises)
        values = np.array([rows[i]["ece"] for i in tested])
        for i, p, adjusted in zip(tested, _reached(values, sizes), adjusted_p(values, sizes), strict=True):
            rows[i] |= {"p": float(p), "p_adjusted": float(adjusted)}
    frame = pl.DataFrame(rows, infer_schema_length=None) if rows else _empty(names)
    frame = frame.with_columns(pl.col(_NUMBERS).cast(pl.Float64))
    ranked = frame.sort("ece_low", "ece", descending=True, nulls_last=True, maintain_order=True)
    return ranked if n is None else ranked.head(n)


def _row(keys: Mapping[str, Any], evidence: Evidence, noisy: Float | None) -> dict[str, Any]:
    low, high = intervals.of_ece(evidence) or (None, None)
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
        "ece_noise": None if noisy is None else float(noisy.mean()),
        "p": None,
        "p_adjusted": None,
        "note": "fewer than 2 samples: no interval, no p" if noisy is None else "",
    }


def _empty(names: Mapping[str, Any]) -> pl.DataFrame:
    schema = {**names, "n": pl.Int64, "clusters": pl.Int64}
    return pl.DataFrame(schema=schema | dict.fromkeys(_NUMBERS, pl.Float64) | {"note": pl.String})


def _reached(values: Float, noises: Float) -> Float:
    """Share of replicates that reach each value, the value itself among them. [groups] from [groups, replicates]."""
    return (1 + (noises >= values[:, None]).sum(axis=1)) / (1 + noises.shape[1])


def adjusted_p(values: Float, noises: Float) -> Float:
    """Step-down max-T p-values of `values` [groups] against what noise makes, [groups, replicates].

    The j-th largest T is compared with the largest T of noise among those that are not larger than it, and p-values do
    not fall on the way down.
    """
    centre, spread = noises.mean(axis=1), noises.std(axis=1)
    # Without any noise, T is without bounds if there is an error, and 0 if there is none.
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num((values - centre) / spread, nan=0.0, posinf=np.inf, neginf=-np.inf)
        drawn = np.nan_to_num((noises - centre[:, None]) / spread[:, None], nan=0.0)
    order = np.argsort(-t, kind="stable")
    largest = np.maximum.accumulate(drawn[order][::-1], axis=0)[::-1]
    adjusted = np.empty(len(t))
    adjusted[order] = np.maximum.accumulate(_reached(t[order], largest))
    return adjusted
