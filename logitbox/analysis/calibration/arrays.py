"""`from_arrays` and `from_probabilities`: calibration of anything, without a dump."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from logitbox.analysis.calibration import checking
from logitbox.analysis.calibration.atoms import Float, exact_atoms
from logitbox.analysis.calibration.checking import Mask, Side
from logitbox.analysis.calibration.counting import Counter
from logitbox.analysis.calibration.distributions import classes_of, heat_of, likeliest
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.result import Calibration
from logitbox.analysis.calibration.units import Rows, clusters_of
from logitbox.analysis.histogram import Grid

_BLOCK = 1 << 18


def from_arrays(
    confidence: ArrayLike,
    correct: ArrayLike,
    weight: ArrayLike | None = None,
    cluster: ArrayLike | None = None,
    bins: int = 15,
) -> Calibration:
    """Calibration of predictions from how sure and how right they were.

    Args:
        confidence: [n], the probability given to the prediction, in [0, 1]. NaN is left out and counted.
        correct: [n], whether the prediction was right: bool, or 0 and 1.
        weight: [n], finite and 0 or more, in any unit; rows of weight 0 (or below 1e-150 of the largest) are left out. By
            default 1 each.
        cluster: [n], what rows belong together (a sample's tokens), of any type; intervals then resample clusters. All
            NaN are one label, all None another. By default every row is independent of the others.
        bins: number of equal-width and of equal-mass bins.

    Raises:
        InputError: lengths differ, or a value is out of range.
    """
    bins = checking.check_bins(bins)
    p, unknown = checking.confidences(confidence)
    right = checking.truths(correct, unknown)
    side = checking.side_of(unknown, weight, cluster, "confidence")
    if side.kept is not None:
        p, right = p[side.kept], right[side.kept]
    return Calibration(_evidence(p, right, side, bins, {}))


def from_probabilities(
    probs: ArrayLike,
    labels: ArrayLike,
    weight: ArrayLike | None = None,
    cluster: ArrayLike | None = None,
    bins: int = 15,
) -> Calibration:
    """Calibration of a classifier, or of any predicted distributions.

    Confidence is the largest probability, of the lowest class among equals; `brier` is of that one. Full-ECE,
    class-wise ECE, nll, entropy and temperature are exact, of the probabilities as they are given.

    Args:
        probs: [n, classes], rows sum to 1 within 0.001. Rows with a NaN are left out and counted.
        labels: [n], the true class of each.
        weight: [n], finite and 0 or more, in any unit; rows of weight 0 (or below 1e-150 of the largest) are left out. By
            default 1 each.
        cluster: [n], what rows belong together, of any type; by default every row is independent of the others.
        bins: number of equal-width and of equal-mass bins.

    Raises:
        InputError: shapes do not fit, a row is no distribution, or a label no class.
    """
    bins = checking.check_bins(bins)
    p, unknown = checking.distributions(probs)
    label = checking.classes(labels, unknown, p.shape[1])
    side = checking.side_of(unknown, weight, cluster, "probs")
    if side.kept is not None:
        p, label = p[side.kept], label[side.kept]
    top = likeliest(p, label)
    return Calibration(
        _evidence(top.confidence, top.right, side, bins, {"nll": top.nll, "entropy": top.entropy}),
        make_heat=partial(heat_of, p, label, side.weight),
        make_classes=partial(classes_of, p, label, side.weight, bins),
    )


def _evidence(p: NDArray[Any], right: Mask, side: Side, bins: int, others: Mapping[str, Float]) -> Evidence:
    w = side.weight
    counter = Counter(Grid(bins))
    counter.add(p, right, weight=w)
    rows = partial(_rows, p, right, w, others)
    sums: dict[str, float] = {}
    for _, _, weights, each in rows():
        for name, values in each.items():
            found = float(values.sum() if weights is None else values @ weights)
            sums[name] = sums.get(name, 0.0) + found
    return Evidence(
        count=len(p),
        left_out=side.left_out,
        n=float(len(p)) if w is None else float(w.sum()),
        bins=bins,
        table=counter.atoms(),
        sums=sums,
        make_atoms=partial(exact_atoms, p, right, w),
        make_clusters=partial(clusters_of, rows, side.cluster, len(p)),
    )


def _rows(p: NDArray[Any], right: Mask, weight: Float | None, others: Mapping[str, Float]) -> Iterator[Rows]:
    """Blocks of rows with what every row has, so that temporaries stay small however many rows there are."""
    for start in range(0, len(p), _BLOCK):
        part = slice(start, start + _BLOCK)
        value = p[part].astype(np.float64, copy=False)
        hit = right[part].astype(np.float64)
        with np.errstate(divide="ignore"):  # sure and wrong is infinitely bad
            log = -np.where(right[part], np.log(value), np.log1p(-value))
        each = {"brier": (value - hit) ** 2, "log": log}
        each |= {name: values[part] for name, values in others.items()}
        yield value, hit, None if weight is None else weight[part], each
