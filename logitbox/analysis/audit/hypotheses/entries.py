"""What a hypothesis is made of: population × per-token value × reduction × transform, each an entry of a registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

Kind = Literal["convention", "bug"]
"""A *convention* is another honest way to count, a *bug* is a number that its name does not cover."""

Weight = Literal["equal", "rows", "unrepeated", "positions", "tokens"]
"""`unrepeated`: rows but those that a sampler repeated."""

Denominator = Literal[
    "tokens", "positions", "predicted", "samples", "rows", "tokens+first_labels", "bytes", "weight"
]
"""`tokens+first_labels`: tokens, and rows whose first label counts though nothing predicts it (`n` of ".first_label").
`bytes`, `weight`: Σ of the value of that name over the population."""

Factor = Literal["one", "accumulation", "1/accumulation", "accumulation_after_first", "world", "1/world"]
"""`accumulation_after_first`: every line but the first of the run is multiplied by the accumulation."""

Keep = Literal[
    "all", "rank_0", "first_ranks_at_end", "last_micro", "last_step", "last_micro_of_last_step", "finite"
]
"""`first_ranks_at_end`: all, but where the data end only those that `ends.cut_ranks` leaves. `finite`: those of which no
supervised token is infinite or NaN."""


@dataclass(frozen=True)
class Level:
    """One step of averaging: groups that agree in `by` (of step, micro, rank, pass) are averaged with `weight`."""

    by: tuple[str, ...]
    weight: Weight = "equal"


@dataclass(frozen=True)
class Reduction:
    """How the tokens of one logged line become one number.

    Within a group of the finest level Σx is divided by `per`; then groups are averaged level by level, the last of them
    into the line. Without levels the line is one group: Σx / Σn, the token mean.

    Args:
        name: in the registry.
        about: in words.
        levels: from the finest to the coarsest; each says what its groups are and how they are weighted where they are
            put together with their neighbours into the next level's (or the line's).
        per: what Σx of a group of the finest level is divided by; "samples" takes the mean of sample means.
        keep: which micro-batches count at all.
        empty_is_zero: groups without tokens count as 0 instead of not at all.
        factor: the line is multiplied by this, which the recording tells.
        window: "line" for the steps since the line before; "line+1" with the last step of the line before, too.
    """

    name: str
    about: str
    levels: tuple[Level, ...] = ()
    per: Denominator = "tokens"
    keep: Keep = "all"
    empty_is_zero: bool = False
    factor: Factor = "one"
    window: Literal["line", "line+1"] = "line"


@dataclass(frozen=True)
class Transform:
    """What is done to the averaged value.

    Args:
        name, about: in the registry, in words.
        low, high: value to the least and the greatest it may become; the same function where it is exact.
        inside: applied to the groups of the finest level, before they are averaged (mean of exp).
    """

    name: str
    about: str
    low: Callable[[Float], Float]
    high: Callable[[Float], Float]
    inside: bool = False


@dataclass(frozen=True)
class Parameter:
    """One unknown number θ: prediction = base + θ · slope, in the units before the transform.

    Args:
        name: such as "ε".
        slope: a value's name (its reduction is added θ times); "1" for a constant offset; "base" for a factor 1 + θ.
        minus_base: slope is (value − base), as for label smoothing.
        low, high: where θ may lie.
        least: smallest |θ| worth the name, so that θ = 0 (the definition itself) is not a hypothesis.
    """

    name: str
    slope: str
    minus_base: bool = False
    low: float = 0.0
    high: float = float("inf")
    least: float = 1e-6


@dataclass(frozen=True)
class Hypothesis:
    """One convention or bug: what it changes of the name's own definition.

    Args:
        id: its name for ever, such as "micro-mean".
        catalogue: ids in the evidence catalogue, such as "MB-MEAN".
        kind: convention or bug.
        about: what the code does, in words, to stand after "it is".
        misleads: how it differs from the name's own definition, and in which direction.
        fix: what to change, or how to read the number.
        evidence: links, and versions whose code was read.
        values: the per-token values it is a hypothesis about ("nll", "correct", …); empty for any.
        population, value, reduction, transform: what takes the place of the key's own; "" leaves it. `{population}` and
            `{value}` stand for the key's own, as in "{population}.shifted".
        terms: (value, population) each, in the place of the key's own, where the sum of several token means is logged.
            `{group}` and `{rest}` stand for an ordered group and the tokens outside it; one hypothesis for each such group.
        parameter: fitted, if any.
        transforms: the key's own transforms it applies to; empty for any.
        needs: what must have been recorded, in words of the Recorder's arguments: "scope='all'", "probes=True", ….
        applies: what the recording must have to tell it apart at all: "ranks", "micro-batches", "steps", "duplicates", ….
        case: the synthetic case (in the tests) that only it explains.
        combines: whether it may be found together with another that changes another part.
    """

    id: str
    catalogue: tuple[str, ...]
    kind: Kind
    about: str
    misleads: str
    fix: str
    evidence: tuple[str, ...]
    values: tuple[str, ...] = ()
    population: str = ""
    value: str = ""
    terms: tuple[tuple[str, str], ...] = ()
    reduction: str = ""
    transform: str = ""
    parameter: Parameter | None = None
    transforms: tuple[str, ...] = ()
    needs: str = ""
    applies: tuple[str, ...] = ()
    case: str = ""
    combines: bool = True


@dataclass(frozen=True)
class Value:
    """A per-token value beyond those of `logitbox.dumps.definitions`.

    Args:
        name: its column in `Evidence.cells`.
        formula: in symbols, with its unit.
        needs: columns of `tokens`.
        value: rows (`definitions.rows.Rows`) to an array [rows]; NaN where it is not known.
    """

    name: str
    formula: str
    needs: tuple[str, ...]
    value: Callable[[Any], Any]
