"""What users pass as arrays: checked once, with errors that name the row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from logitbox.analysis.calibration.atoms import Float
from logitbox.errors import InputError

Mask = NDArray[np.bool_]

MOST_BINS = 100_000
_SUM_TOLERANCE = 1e-3
"""Rows of probabilities in half precision may sum to so much beside 1."""
_LIGHTEST = 1e-150
"""Weights below this share of the largest are 0: their squares would vanish."""
_AT_ONCE = 1 << 18
"""Probabilities looked at together."""


def check_bins(bins: object) -> int:
    """The number of bins. Raises InputError unless it is one."""
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or not 1 <= bins <= MOST_BINS:
        raise InputError(f"bins is {bins!r}; give a whole number from 1 to {MOST_BINS:,}")
    return int(bins)


def numbers(values: ArrayLike, name: str, ndim: int = 1) -> NDArray[Any]:
    """Values as an array of float64, or of float32 where they are. Raises InputError for anything else."""
    try:
        array = _array(values)
        if array.dtype.kind not in "biufO":
            raise TypeError(f"its type is {array.dtype}")  # noqa: TRY301 (told as all others)
        if array.dtype != np.float32:
            array = array.astype(np.float64, copy=False)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{name} is not an array of numbers ({error}); give a list or array of them"
        ) from None
    if array.ndim != ndim:
        raise InputError(f"{name} has shape {array.shape}; give {ndim} dimension{'s' if ndim > 1 else ''}")
    return array


def _array(values: Any) -> NDArray[Any]:
    """As NumPy has it; what is masked or missing is NaN, and tensors of torch may be on any device and of any precision."""
    if isinstance(values, np.ma.MaskedArray):
        return cast("Any", values.astype(np.float64)).filled(np.nan)
    if hasattr(values, "detach") and hasattr(values, "cpu"):
        tensor = values.detach().cpu()
        try:
            return np.asarray(tensor)
        except TypeError:  # NumPy has no bfloat16
            return np.asarray(tensor.float())
    array = np.asarray(values)
    if array.dtype == object and hasattr(values, "isna"):  # of pandas, whose NA is no float
        array = np.where(np.asarray(values.isna()), np.nan, array)
    return array


@dataclass(frozen=True)
class Side:
    """What goes with every row.

    Attributes:
        weight: above 0, in a unit in which the largest is from 1 to 2; None is 1 each, or that all are equal.
        cluster: label of each row; None makes every row a cluster of its own.
        kept: which rows of the input these are; None is all.
        left_out: how many rows had no finite value.
    """

    weight: Float | None
    cluster: NDArray[Any] | None
    kept: Mask | None
    left_out: int


def side_of(unknown: Mask, weight: ArrayLike | None, cluster: ArrayLike | None, what: str) -> Side:
    """Checks weights and clusters, and drops rows that are `unknown` or weigh nothing.

    Args:
        unknown: [rows], which have no finite value.
        weight: as the user gave it.
        cluster: as the user gave it.
        what: what the rows are counted by, for messages.
    """
    rows, keep = len(unknown), ~unknown
    w = None
    if weight is not None:
        given = numbers(weight, "weight").astype(np.float64, copy=False)
        same_length(given, "weight", rows, what)
        _refuse(
            ~((given >= 0) & (given < np.inf)),
            given,
            "weight",
            "finite and 0 or more; use 0 to leave a row out",
        )
        keep &= given > 0
        keep[keep], w = _scaled(given[keep])
    labels = None if cluster is None else _labels(cluster, rows, what)
    left_out = int(unknown.sum())
    if keep.all():
        return Side(w, labels, None, left_out)
    return Side(w, None if labels is None else labels[keep], keep, left_out)


def _scaled(weight: Float) -> tuple[Mask, Float | None]:
    """(which weights, all above 0, count beside the largest; those, None if they are equal).

    No measure depends on their unit. This one is a power of two, which rounds nothing, and lets no square overflow or vanish.
    """
    if not len(weight):
        return np.ones(0, dtype=bool), None
    scaled = np.ldexp(weight, 1 - int(np.frexp(weight.max())[1]))
    some = scaled >= _LIGHTEST
    scaled = scaled[some]
    return some, None if (scaled == scaled[0]).all() else scaled


def _labels(cluster: Any, rows: int, what: str) -> NDArray[Any]:
    try:
        labels = _labels_of(cluster)
    except (TypeError, ValueError) as error:
        raise InputError(f"cluster is not a list of labels ({error}); give one per row") from None
    if labels.ndim != 1:
        raise InputError(f"cluster has shape {labels.shape}; give 1 dimension, one label per row")
    same_length(labels, "cluster", rows, what)
    return labels


def _labels_of(cluster: Any) -> NDArray[Any]:
    if isinstance(cluster, np.ma.MaskedArray):
        return cast("Any", cluster.astype(object)).filled(None)
    if hasattr(cluster, "detach") and hasattr(cluster, "cpu"):
        return _array(cluster)
    # One array of numbers and texts would be one of texts, and 1 be "1".
    mixed = isinstance(cluster, list | tuple) and len(set(map(type, cast("list[object]", cluster)))) > 1
    return np.asarray(cluster, dtype=object if mixed else None)


def same_length(values: NDArray[Any], name: str, rows: int, what: str) -> None:
    """Raises InputError unless there is one value per row."""
    if len(values) != rows:
        raise InputError(f"{name} has {len(values):,} values and {what} {rows:,}; give one per row")


def _refuse(bad: Mask, values: NDArray[Any], name: str, allowed: str) -> None:
    """Raises InputError with the first bad value."""
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{name} is {values[row]} in row {row:,}; it must be {allowed}")


def confidences(confidence: ArrayLike) -> tuple[NDArray[Any], Mask]:
    """(values in [0, 1] or NaN, which are NaN)."""
    p = numbers(confidence, "confidence")
    unknown = np.isnan(p)
    _refuse(
        ~((p >= 0) & (p <= 1) | unknown),
        p,
        "confidence",
        "in [0, 1]; pass probabilities, clipped if they were rounded",
    )
    return p, unknown


def truths(correct: ArrayLike, unknown: Mask) -> Mask:
    """Whether each row is right; rows that are `unknown` anyway may hold anything."""
    if type(correct) is np.ndarray and correct.dtype == bool and correct.ndim == 1:  # as it is
        array: NDArray[Any] = correct
    else:
        array = numbers(correct, "correct")
    same_length(array, "correct", len(unknown), "confidence")
    if array.dtype == bool:
        return array
    _refuse((array != 0) & (array != 1) & ~unknown, array, "correct", "0 or 1, or a truth value")
    return array == 1


def distributions(probs: ArrayLike) -> tuple[NDArray[Any], Mask]:
    """(probabilities [rows, classes], which rows have a NaN). Every other row sums to 1 within 0.001."""
    p = numbers(probs, "probs", ndim=2)
    if not p.shape[1]:
        raise InputError(f"probs has shape {p.shape}; give one column per class")
    total = np.empty(len(p))
    with np.errstate(invalid="ignore", over="ignore"):  # inf − inf; such rows are refused
        for part in blocks(p):
            sums = p[part].sum(axis=1, dtype=np.float64)
            total[part] = np.where(p[part].min(axis=1) < 0, -np.inf, sums)
    unknown = np.isnan(total)
    bad = ~(np.abs(total - 1) <= _SUM_TOLERANCE) & ~unknown
    if bad.any():
        row = int(np.argmax(bad))
        with np.errstate(invalid="ignore", over="ignore"):
            sum_ = p[row].sum(dtype=np.float64)
        raise InputError(
            f"probs of row {row:,} are from {p[row].min():g} to {p[row].max():g} and sum to {sum_:g}; "
            f"they must be 0 or more and sum to 1 within {_SUM_TOLERANCE:g} (logits want a softmax first, in float32)"
        )
    return p, unknown


def blocks(p: NDArray[Any]) -> list[slice]:
    """Blocks of rows, so that temporaries stay small however many rows there are."""
    step = max(1, _AT_ONCE // p.shape[1])
    return [slice(start, start + step) for start in range(0, len(p), step)]


def classes(labels: ArrayLike, unknown: Mask, n_classes: int) -> NDArray[np.int64]:
    """The label of each row, in [0, n_classes); 0 where the row is `unknown` anyway."""
    array = numbers(labels, "labels")
    same_length(array, "labels", len(unknown), "probs")
    array = np.where(unknown, 0.0, array)
    bad = ~((array >= 0) & (array < n_classes) & (array == np.floor(array)))
    _refuse(bad, array, "labels", f"a whole number from 0 to {n_classes - 1}; leave out rows without a label")
    return array.astype(np.int64)
