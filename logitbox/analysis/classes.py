"""Seven classes of tokens by ordered rules: the first rule that holds gives the class, so every token has exactly one.

They say what a token did to accuracy (TFA) and to cross-entropy (TFCE). A *margin* is nll − top_nll, by how many
nats gold lies below the best token: the distance of their logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.checks import is_number
from logitbox.errors import InputError

Array = NDArray[Any]
Mask = NDArray[np.bool_]

NEEDS = ("nll", "top_nll", "n_gt", "n_eq", "n_eq_before")
"""Columns of `tokens` the rules read, beside how many ids `top_ids` holds."""

_ROUNDING = 1e-6
"""A margin is the difference of two float32 numbers; bf16 logits lie on a grid that a threshold can meet exactly."""


@dataclass(frozen=True)
class Thresholds:
    """Where the rules cut.

    Args:
        likely: a probability of the arg-max from here on is *sure*, in (0, 1].
        near: a wrong token whose gold lies at most this many nats below the best is a near miss, 0 or more; at ln 2
            gold is at least half as likely as the best.

    Raises:
        InputError: a value outside these.
    """

    likely: float = 0.5
    near: float = log(2)

    def __post_init__(self) -> None:
        if not (is_number(self.likely) and 0 < self.likely <= 1):
            raise InputError(f"likely is {self.likely!r}; give a probability above 0 and at most 1")
        if not (is_number(self.near) and self.near >= 0 and isfinite(self.near)):
            raise InputError(f"near is {self.near!r}; give nats, 0 or more")


DEFAULT = Thresholds()


@dataclass(frozen=True)
class Evidence:
    """What the rules look at, [n] each: columns of `tokens`, and `kept`, how many ids `top_ids` holds."""

    nll: Array
    top_nll: Array
    n_gt: Array
    n_eq: Array
    n_eq_before: Array
    kept: Array

    @property
    def rank(self) -> Array:
        """Of gold, 0 the best; among equal logits the lowest id comes first."""
        return self.n_gt + self.n_eq_before

    def is_likely(self, bound: float) -> Mask:
        """p(arg-max) ≥ bound, compared as it was recorded: in float32, where −ln ½ is no less than ln 2."""
        return np.asarray(self.top_nll <= np.float64(np.float32(-log(bound))))


@dataclass(frozen=True)
class TokenClass:
    """One class.

    Attributes:
        name: in the `cell` column of results.
        words: for people.
        rule: what holds, if none of the rules before it does.
        tfa: what a token of this class adds to the count of right tokens.
        tfce: what it costs, nats; k is the number of recorded best tokens. In both texts `{likely}` and `{near}`
            stand for the thresholds.
        holds: the rule.
    """

    name: str
    words: str
    rule: str
    tfa: str
    tfce: str
    holds: Callable[[Evidence, Thresholds], Mask]

    def at(self, thresholds: Thresholds) -> tuple[str, str]:
        """(rule, cost) with the thresholds in figures."""
        figures = {"likely": f"{thresholds.likely:g}", "near": f"{thresholds.near:.4g}"}
        return self.rule.format(**figures), self.tfce.format(**figures)


CLASSES: tuple[TokenClass, ...] = (
    TokenClass(
        "tied",
        "tied",
        "gold has the best logit, and so has another token",
        "1 if gold has the lowest id among them, else 0",
        "at least ln 2",
        lambda e, _: (e.n_gt == 0) & (e.n_eq > 0),
    ),
    TokenClass(
        "sure_right",
        "sure and right",
        "gold is the arg-max, p ≥ {likely}",
        "1",
        "at most −ln {likely}",
        lambda e, at: (e.rank == 0) & e.is_likely(at.likely),
    ),
    TokenClass(
        "barely_right",
        "barely right",
        "gold is the arg-max, p < {likely}",
        "1",
        "more than −ln {likely}",
        lambda e, _: e.rank == 0,
    ),
    TokenClass(
        "confidently_wrong",
        "confidently wrong",
        "another token has p ≥ {likely}",
        "0",
        "at least ln 2, and at least −ln(1 − p(arg-max))",
        lambda e, at: e.is_likely(at.likely),
    ),
    TokenClass(
        "near_miss",
        "near miss",
        "gold at most {near} nats below the best",
        "0",
        "at least ln 2, and at most {near} above −ln p(arg-max)",
        lambda e, at: e.nll - e.top_nll <= at.near + _ROUNDING,
    ),
    TokenClass(
        "off",
        "off",
        "gold among the recorded best",
        "0",
        "at least ln(rank + 1), rank counted from 0",
        lambda e, _: e.rank < e.kept,
    ),
    TokenClass(
        "lost",
        "lost",
        "gold outside the recorded best",
        "0",
        "at least ln(k + 1)",
        lambda e, _: np.ones(len(e.nll), dtype=bool),
    ),
)

NAMES: tuple[str, ...] = tuple(kind.name for kind in CLASSES)
WORDS: dict[str, str] = {kind.name: kind.words for kind in CLASSES}


def classify(evidence: Evidence, thresholds: Thresholds = DEFAULT) -> NDArray[np.int8]:
    """Place in `CLASSES` of each token's class, [n]; for finite rows."""
    found = np.full(len(evidence.nll), len(CLASSES) - 1, dtype=np.int8)
    for place in reversed(range(len(CLASSES) - 1)):
        found[CLASSES[place].holds(evidence, thresholds)] = place
    return found


RIGHT_TIED = "right_tied"
"""Column of a tally: tied tokens whose tie goes to gold."""

SUMS: tuple[str, ...] = (*(f"{of}_{name}" for name in NAMES for of in ("class", "nll")), RIGHT_TIED)
"""Columns of a tally that `class_sums` brings."""


def class_sums(evidence: Evidence, thresholds: Thresholds = DEFAULT) -> dict[str, Array]:
    """Per token what the tally adds up: `class_<name>` (indicator) and `nll_<name>`, and `right_tied`."""
    kind = classify(evidence, thresholds)
    sums: dict[str, Array] = {}
    for place, name in enumerate(NAMES):
        mask = kind == place
        sums |= {f"class_{name}": mask, f"nll_{name}": np.where(mask, evidence.nll, 0.0)}
    return sums | {RIGHT_TIED: sums["class_tied"] & (evidence.rank == 0)}
