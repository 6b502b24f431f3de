"""Is one model better calibrated than another? Paired differences over the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isfinite, sqrt

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from logitbox.analysis.calibration.atoms import Float, exact_atoms
from logitbox.analysis.calibration.checking import check_bins
from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.calibration.evidence import Clusters, Evidence
from logitbox.analysis.calibration.few import degrees, influences
from logitbox.analysis.calibration.intervals import DEVIATIONS, ends, sums_of
from logitbox.analysis.calibration.result import Calibration
from logitbox.analysis.calibration.units import clusters_of
from logitbox.analysis.histogram import Grid
from logitbox.analysis.pairs.align import MIN_ALIGNED, Aligned, Unaligned, align
from logitbox.analysis.pairs.choice import Step, choose
from logitbox.analysis.results import Result
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

MEANS = ("accuracy", "confidence", "overconfidence", "brier", "log_score", "nll", "entropy", "entropy_gap")
COMPARED = (
    *(
        "accuracy",
        "confidence",
        "overconfidence",
        "ece",
        "ece_equal_mass",
        "l2",
        "mce",
        "smooth_ece",
        "kuiper",
    ),
    *("brier", "log_score", "nll", "entropy", "entropy_gap"),
)
"""Measures, in the order they are shown."""

_SCHEMA = {"measure": pl.String} | dict.fromkeys(["a", "b", "difference", "low", "high", "p"], pl.Float64)
_COLUMNS = ("top_nll", "nll", "entropy")
_ROUNDING = 1e-12
"""Standard errors below this share of their terms are what float64 sums leave of an exact 0."""

Told = tuple[float | None, float | None, float | None]
"""low, high, p."""
_NOTHING: Told = (None, None, None)


@dataclass(frozen=True, eq=False)
class CalibrationDifference(Result):
    """A minus B over the same tokens.

    Attributes:
        frame: one row per measure: `measure`, `a`, `b`, `difference`, its 95 % interval `low`, `high`, and for means the
            two-sided `p` of no difference (Student's t). Null where a side does not know the measure or it is infinite, and
            with fewer than two clusters.
        a, b: both sides.
        unaligned: what two dumps do not share; None where results were given.
    """

    a: Calibration
    b: Calibration
    unaligned: Unaligned | None = None

    def interval(self, measure: str) -> tuple[float, float] | None:
        """95 % interval of a difference; None where there is none. Raises InputError for a measure not compared."""
        if measure not in COMPARED:
            raise InputError(f"{measure!r} is not compared; there are {', '.join(COMPARED)}")
        row = self.frame.row(by_predicate=pl.col("measure") == measure, named=True)
        return None if row["low"] is None else (row["low"], row["high"])


def difference(a: Calibration, b: Calibration, unaligned: Unaligned | None = None) -> CalibrationDifference:
    """How much two results over the same tokens differ, A minus B.

    Means: the difference of both ratios, linearised over clusters. Errors (ECE, L2, …): the most that noise adds to A
    less the least that it adds to B, and the other way round, replicate by replicate, with clusters drawn alike on both
    sides. Where gaps are sure, both ECEs are sums of signed residuals, and what they share cancels; elsewhere intervals
    are wider than need be, those of L2, MCE, smooth ECE and Kuiper always.

    Results do not say which tokens they are of: their number and those of every cluster have to agree. Clusters are paired
    by the order of their labels, and within them the order of rows does not matter. Rows without cluster= are paired by
    their own order.

    Args:
        a: over the same tokens in the same clusters as `b`, with as many bins.
        b: the other.
        unaligned: what was left out to make them so, to be told.

    Raises:
        InputError: other tokens, clusters or bins.
    """
    _check_paired(a.evidence, b.evidence, is_aligned=unaligned is not None)
    rows: list[tuple[str | float | None, ...]] = []
    for name in COMPARED:
        one, other = a.value(name), b.value(name)
        if one is None or other is None or not (isfinite(one) and isfinite(other)):
            rows.append((name, one, other, None, *_NOTHING))
            continue
        told = _of_mean if name in MEANS else _of_error
        rows.append((name, one, other, one - other, *told(name, one - other, a.evidence, b.evidence)))
    frame = pl.DataFrame(rows, _SCHEMA, orient="row")
    return CalibrationDifference(frame, _verdict(frame, a.n), a, b, unaligned)


def _check_paired(a: Evidence, b: Evidence, *, is_aligned: bool) -> None:
    if a.bins != b.bins:
        raise InputError(f"A has {a.bins} bins and B {b.bins}; compute both with the same bins=")
    if (a.count, a.n) != (b.count, b.n):
        raise InputError(
            f"A is of {a.count:,} tokens (weight {a.n:g}) and B of {b.count:,} ({b.n:g}); "
            "compare results over the same tokens"
        )
    one, other = a.clusters, b.clusters
    if one is None or other is None:
        if one is not other:
            raise InputError("the clusters of one result only are known; give both the same cluster=")
        return
    if one.universe != other.universe or not np.array_equal(one.unit, other.unit):
        raise InputError(
            f"A has {len(one):,} clusters of {one.universe:,} units and B {len(other):,} of {other.universe:,}, or others; "
            "give both the same cluster="
        )
    if not np.allclose(one.n.sum(axis=1), other.n.sum(axis=1), rtol=1e-9, atol=0):
        raise InputError(
            "a cluster has more tokens in A than in B, or another weight; compare results over the same tokens, with rows "
            "that are NaN on either side left out of both"
        )
    if one.total == a.count and (a.left_out or b.left_out) and not is_aligned:
        raise InputError(
            f"A left out {a.left_out:,} rows and B {b.left_out:,}, so that it is not known which of the others belong together; "
            "leave out of both, before, every row that is NaN in either"
        )


def _of_mean(name: str, delta: float, a: Evidence, b: Evidence) -> Told:
    if a.clusters is None or b.clusters is None or len(a.clusters) < 2:
        return _NOTHING
    parts = _deviations(name, a.clusters), _deviations(name, b.clusters)
    if parts[0] is None or parts[1] is None:
        return _NOTHING
    each = parts[0] - parts[1]
    error = sqrt(float(each @ each))
    if error <= _ROUNDING * float(abs(parts[0]).sum() + abs(parts[1]).sum() + abs(delta)):
        # All clusters differ alike, which is either never or always.
        return delta, delta, 1.0 if abs(delta) <= _ROUNDING else 0.0
    freedom = degrees(a.clusters.n.sum(axis=1))
    half = float(stdtrit(freedom, 0.975)) * error
    return delta - half, delta + half, 2 * float(stdtr(freedom, -abs(delta) / error))


def _deviations(name: str, clusters: Clusters) -> Float | None:
    """What each cluster adds to the error of a mean, [clusters]."""
    sums = sums_of(clusters, name)
    return None if sums is None else influences(sums, clusters.n.sum(axis=1))


def _of_error(name: str, delta: float, a: Evidence, b: Evidence) -> Told:
    of = DEVIATIONS[name][1]
    one, other = of(a), of(b)
    if one is None or other is None:
        return _NOTHING
    low, high = ends(delta, (one[0] - other[1], one[1] - other[0]))
    return max(low, -1.0), min(high, 1.0), None  # no error is below 0 or above 1


def calibration_difference(
    a: Dump,
    b: Dump,
    phase: str | None = None,
    step: Step = "last",
    bins: int = 15,
    *,
    against_step: Step | None = None,
    dataset: str | None = None,
    min_aligned: float = MIN_ALIGNED,
) -> CalibrationDifference:
    """Compare the calibration of two evaluations of the same tokens, aligned by sample key, position and gold id.

    Args:
        a: an opened dump.
        b: another one, or the same to compare two of its steps.
        phase: of both; by default the last evaluation.
        step: of A: a step, "last", or "all" for the latest evaluation of each token.
        bins: number of equal-width and of equal-mass bins.
        against_step: of B; by default as `step`.
        dataset: only this data set.
        min_aligned: least share of the smaller side's tokens that must be in both.

    Raises:
        InputError: nothing such was recorded, or too little aligns.
    """
    bins = check_bins(bins)
    first = choose(a, phase, step, dataset)
    second = choose(
        b, first.phase if phase is None else phase, step if against_step is None else against_step, dataset
    )
    pair = align(first, second, min_aligned)
    one, other = (
        Calibration(_evidence(side, pair.cluster, bins, pair.unaligned.nonfinite), side.choice.told)
        for side in (pair.a, pair.b)
    )
    return difference(one, other, pair.unaligned)


def _evidence(side: Aligned, cluster: NDArray[np.int64], bins: int, left_out: int) -> Evidence:
    """Of one side's aligned rows; reads it again."""
    known = _read(side)
    top, right = known.pop("top_nll"), side.right
    p = np.exp(-top)
    with np.errstate(divide="ignore"):
        log = np.where(right, top, -np.log(-np.expm1(-top)))
    hit = right.astype(np.float64)
    each = {"brier": (p - hit) ** 2, "log": log, **known}
    counter = Counter(Grid(bins))
    counter.add(p, right)
    return Evidence(
        count=len(p),
        left_out=left_out,
        n=float(len(p)),
        bins=bins,
        table=counter.atoms(),
        sums={name: float(values.sum()) for name, values in each.items()},
        make_atoms=partial(exact_atoms, p, right, None),
        make_clusters=lambda: clusters_of(lambda: iter([(p, hit, None, each)]), cluster, len(p)),
    )


def _read(side: Aligned) -> dict[str, Float]:
    """Columns of the aligned rows that all of them have, float64; `top_nll` among them."""
    path, parts = side.choice.dump.path, list(side.choice.scan(_COLUMNS))
    if sum(len(part["place"]) for part in parts) <= int(side.at.max(initial=-1)):
        raise InputError(f"{path} changed while it was read; compare again when it is complete")
    found: dict[str, Float] = {}
    for name in _COLUMNS:
        if all(name in part for part in parts):
            values = np.concatenate([part[name] for part in parts])[side.at].astype(np.float64)
            if np.isfinite(values).all():
                found[name] = values
    if "top_nll" not in found:
        raise InputError(
            f"{path} has tokens without top_nll, so that their confidence is not known; record them anew"
        )
    return found


def _verdict(frame: pl.DataFrame, tokens: int) -> str:
    row = frame.row(by_predicate=pl.col("measure") == "ece", named=True)
    if row["difference"] is None:
        return "no tokens to compare"
    told = f"ECE {row['a']:.4f} against {row['b']:.4f}, difference {row['difference']:+.4f}"
    if row["low"] is None:
        return f"A and B: {told}; no interval, it takes two clusters, over {tokens:,} tokens"
    told += f", 95 % {row['low']:+.4f} to {row['high']:+.4f}, over {tokens:,} tokens{_lean(frame)}"
    if row["low"] <= 0 <= row["high"]:
        return f"the calibration errors of A and B cannot be told apart: {told}"
    better, worse = ("A", "B") if row["difference"] < 0 else ("B", "A")
    return f"{better} is better calibrated than {worse}: {told}"


def _lean(frame: pl.DataFrame) -> str:
    """Which is surer beside how often it is right, where that is told from chance."""
    row = frame.row(by_predicate=pl.col("measure") == "overconfidence", named=True)
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return ""
    more = "more" if row["difference"] > 0 else "less"
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    points = f"{100 * abs(row['difference']):.1f} points (95 % {100 * low:.1f} to {100 * high:.1f})"
    return f"; A's confidence exceeds its accuracy by {points} {more} than B's"
