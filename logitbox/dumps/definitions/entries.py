"""The three kinds of entries that definitions are made of, and how keys get their prefixes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from logitbox.dumps.definitions.rows import Array, Rows

Reduction = Literal["token_mean", "exp_token_mean", "count", "sum_of_means"]

Family = Literal["logitbox", "000", "001", "003"]
"""Whose key it is: a seed's, or our own."""

FAMILIES: tuple[Family, ...] = ("logitbox", "000", "001", "003")

ALL = ""
"""Name of the population of all supervised tokens."""


@dataclass(frozen=True)
class Quantity:
    """A number (or truth value) that every token has.

    Args:
        name: its column in tallies.
        formula: in symbols, with its unit.
        needs: columns of `tokens` it reads.
        value: rows to an array [rows]; 0 where it is not defined, never NaN for a finite row. None where trimmed
            lists (never live) do not tell it of every row.
    """

    name: str
    formula: str
    needs: tuple[str, ...]
    value: Callable[[Rows], Array]


@dataclass(frozen=True)
class Population:
    """A set of supervised tokens.

    Args:
        name: as in the `type` column of results; "" is all of them. A dot marks one for internal use.
        about: which tokens, in words.
        needs: columns of `tokens` it reads.
        mask: rows to booleans [rows], for rows that are supervised already.
    """

    name: str
    about: str
    needs: tuple[str, ...]
    mask: Callable[[Rows], Array]

    @property
    def is_internal(self) -> bool:
        """Whether it only serves some metrics, and is not listed."""
        return "." in self.name


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        key: name without prefix; no two families share one.
        quantity: what is averaged (a quantity's name), or "n"/"n_nonfinite"/"n_duplicate" for counts.
        population: over which supervised tokens.
        reduction: `token_mean` Σx/n; `exp_token_mean` its exponential, capped at `high`; `count` the sum itself;
            `sum_of_means` the metrics named in `parts` added up, one without tokens counting 0.
        about: what it says, in words, with its unit.
        group: heading under which reports list it.
        family: decides the prefix.
        low, high: the metric's range, to which intervals are clipped.
        only_with: a quantity; tokens of sessions that did not record it are no part of the metric.
        in_loss: whether the seed's trainer trains on it.
        parts: keys, for `sum_of_means`.
    """

    key: str
    quantity: str
    population: str
    reduction: Reduction
    about: str
    group: str
    family: Family = "logitbox"
    low: float = 0.0
    high: float = float("inf")
    only_with: str = ""
    in_loss: str = "no"
    parts: tuple[str, ...] = ()


def prefix_of(family: Family, phase: str, phases: Collection[str] = ()) -> str:
    """What stands before a family's keys in a phase.

    Seed 000 and 003, and our own keys: nothing for train, else `<phase>_`. Seed 001: `train_`, `val_` for the
    phase "eval" (unless there is a phase "val" too), else `<phase>_`.

    Args:
        family: whose keys.
        phase: of the tokens.
        phases: all phases at hand.
    """
    if family == "001" and phase == "eval" and "val" not in phases:
        return "val_"
    return "" if phase == "train" and family != "001" else f"{phase}_"


_USUAL = frozenset({"train", "eval", "val", "test"})


def phase_of(prefix: str, phases: Collection[str] = ()) -> str | None:
    """The phase that a prefix of keys names; None where it names none.

    `""` and `train_` name train, `<phase>_`, `<phase>/` and what begins so that phase, of several the one with the
    longest name; `val` is eval unless there is a phase of that name.

    Args:
        prefix: of keys.
        phases: all phases at hand; the usual ones are known without.
    """
    if not prefix:
        return "train"
    known = [name for name in _USUAL.union(phases) if name and prefix.startswith((f"{name}_", f"{name}/"))]
    named = max(known, key=len, default=None)
    return "eval" if named == "val" and "val" not in phases else named


def full_keys(metrics: Iterable[Metric], phase: str, phases: Collection[str]) -> dict[str, str]:
    """Key without prefix to the key with it, for the metrics of a phase."""
    return {metric.key: prefix_of(metric.family, phase, phases) + metric.key for metric in metrics}
