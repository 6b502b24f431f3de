"""What a session records, as plain frozen data: vocabulary groups, ordered groups, token types, k.

A spec is validated once, written to `session.json`, and read back by the analyses, so that the two
sides cannot disagree about what a column means.
"""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from operator import index
from typing import Any, Literal, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from logitbox.errors import InputError

BETAS: tuple[float, ...] = (0.25, 0.5, 0.75, 1.5, 2.0)
"""Inverse temperatures of the `lse_beta` column; β = 1 is the `lse` column."""

MAX_TYPES = 32
MAX_VOCABULARY = 2**31 - 1  # ids are stored as int32
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

LseBeta = Literal["eval", "always", "never"]
Scope = Literal["supervised", "all"]


def check_name(name: str, what: str) -> str:
    """Return `name` if it can be part of a column name or metric key."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{what} name {name!r}: use letters, digits and _, starting with a letter")
    return name


def _whole_numbers(group: str, ids: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(index(i) for i in ids)
    except TypeError as error:
        raise InputError(
            f"group {group!r} holds something that is no token id ({error}); give integers"
        ) from error


def _is_number(value: object) -> TypeGuard[float]:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # an int of 400 digits has no float64


def whole_number(name: str, value: Any, at_least: int) -> int:
    """`value` as an int: NumPy integers and the like are taken, fractions and booleans are not."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < at_least:
        raise InputError(f"{name} is {value!r}; give a whole number, {at_least} or more")
    return number


def optional_whole(name: str, value: Any, at_least: int) -> int | None:
    """`whole_number`, or None for None."""
    return None if value is None else whole_number(name, value, at_least)


@dataclass(frozen=True)
class Group:
    """A named set of token ids inside which probability mass is measured.

    Args:
        name: part of the column name `logmass_<name>`.
        ids: the token ids in order; for an ordered group the order is that of the bins.
    """

    name: str
    ids: range | tuple[int, ...]

    @classmethod
    def build(cls, name: str, ids: Sequence[int], vocab_size: int) -> Group:
        """Validate a user's group. Raises InputError for empty, repeated or out-of-range ids."""
        check_name(name, "group")
        kept = ids if isinstance(ids, range) and ids.step == 1 else _whole_numbers(name, ids)
        is_range = isinstance(kept, range)
        if not kept:
            raise InputError(f"group {name!r} has no token ids; give at least one")
        low, high = (kept[0], kept[-1]) if is_range else (min(kept), max(kept))
        if low < 0 or high >= vocab_size:
            bad = low if low < 0 else high
            raise InputError(f"group {name!r} has token id {bad}; allowed are 0 to {vocab_size - 1}")
        if not is_range and len(set(kept)) != len(kept):
            raise InputError(f"group {name!r} has repeated token ids; give each once")
        return cls(name, kept)

    def contains(self, token_ids: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Element-wise membership, same shape as `token_ids`."""
        if isinstance(self.ids, range):
            return (token_ids >= self.ids.start) & (token_ids < self.ids.stop)
        return np.isin(token_ids, np.asarray(self.ids))

    def to_json(self) -> dict[str, Any]:
        """A range is written as its two ends, any other set as its list."""
        if isinstance(self.ids, range):
            return {"name": self.name, "start": self.ids.start, "stop": self.ids.stop}
        return {"name": self.name, "ids": list(self.ids)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], vocab_size: int) -> Group:
        """Inverse of `to_json`, with the checks of `build`."""
        ids = range(data["start"], data["stop"]) if "start" in data else tuple(data["ids"])
        return cls.build(str(data["name"]), ids, vocab_size)


@dataclass(frozen=True)
class OrderedSpec:
    """How an ordered group is scored (seed 000: coordinate bins).

    Target: a Gaussian at the gold bin with standard deviation `sigma` (bins), cut off beyond ±`truncate`
    bins (None: not cut) and renormalised. Prediction: softmax(group logits / `temperature`).
    soft CE = −Σ q ln p; W1 = Σ|CDF_p − CDF_q|, divided by the number of bins if `normalize_w1`;
    gate = −ln(mass of the group) at `gate_temperature` (None: `temperature`).
    """

    sigma: float = 2.0
    truncate: int | None = None
    temperature: float = 1.0
    gate_temperature: float | None = None
    normalize_w1: bool = False
    soft_ce_weight: float = 1.0
    w1_weight: float = 1.0
    gate_weight: float = 1.0

    @classmethod
    def build(cls, group: str, options: Mapping[str, Any]) -> OrderedSpec:
        """Validate a user's options. Raises InputError for unknown names or values out of range."""
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                raise InputError(
                    f"ordered group {group!r}: unknown option {name!r}; known are {', '.join(known)}"
                )
        spec = cls(**options)
        for name in ("sigma", "temperature", "gate_temperature"):
            value = getattr(spec, name)
            if value is None and name == "gate_temperature":
                continue
            if not (_is_number(value) and 0 < value < math.inf):
                raise InputError(f"ordered group {group!r}: {name} is {value!r}; it must be a number above 0")
        if spec.truncate is not None and not (isinstance(spec.truncate, int) and spec.truncate >= 0):
            raise InputError(
                f"ordered group {group!r}: truncate is {spec.truncate!r}; use 0 or more bins, or None"
            )
        for name in ("soft_ce_weight", "w1_weight", "gate_weight"):
            if not (_is_number(getattr(spec, name)) and math.isfinite(getattr(spec, name))):
                raise InputError(f"ordered group {group!r}: {name} is {getattr(spec, name)!r}; give a number")
        return spec

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OrderedSpec:
        """Read what was written, with the checks of `build`; options of later minor additions are ignored."""
        return cls.build("of session.json", {f.name: data[f.name] for f in fields(cls) if f.name in data})

    @property
    def gate_at(self) -> float:
        """The temperature the gate is taken at."""
        return self.temperature if self.gate_temperature is None else self.gate_temperature


@dataclass(frozen=True)
class TokenTypes:
    """Names of token types, bit i of the `types` column being `names[i]`.

    `partition=True` declares that every supervised position has exactly one of them.
    """

    names: tuple[str, ...] = ()
    partition: bool = False

    @classmethod
    def build(cls, names: TokenTypes | Sequence[str] | None) -> TokenTypes:
        """Validate type names given as a `TokenTypes` or a plain sequence."""
        if isinstance(names, str):
            raise InputError(f"types is {names!r}; give a list of names: [{names!r}]")
        types = names if isinstance(names, TokenTypes) else cls(tuple(names or ()))
        if len(types.names) > MAX_TYPES:
            raise InputError(f"{len(types.names)} token types; at most {MAX_TYPES} fit the column")
        for name in types.names:
            check_name(name, "token type")
        if len(set(types.names)) != len(types.names):
            raise InputError(f"token types {list(types.names)} repeat a name; give each once")
        return types


@dataclass(frozen=True)
class RecordSpec:
    """Everything that decides which columns a session has and what they mean."""

    vocab_size: int
    k: int
    groups: tuple[Group, ...] = ()
    ordered: Mapping[str, OrderedSpec] = field(default_factory=dict[str, OrderedSpec])
    types: TokenTypes = TokenTypes()
    probes: bool = False
    lse_beta: LseBeta = "eval"
    scope: Scope = "supervised"

    def group(self, name: str) -> Group:
        """The group called `name`."""
        return next(group for group in self.groups if group.name == name)

    def records_lse_beta(self, phase: str) -> bool:
        """Whether rows of this phase carry `lse_beta`."""
        return self.lse_beta == "always" or (self.lse_beta == "eval" and phase != "train")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, inverse of `from_json`."""
        return {
            "vocab_size": self.vocab_size,
            "k": self.k,
            "groups": [group.to_json() for group in self.groups],
            "ordered": {name: asdict(ordered) for name, ordered in self.ordered.items()},
            "types": {"names": list(self.types.names), "partition": self.types.partition},
            "probes": self.probes,
            "lse_beta": self.lse_beta,
            "betas": list(BETAS),
            "scope": self.scope,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RecordSpec:
        """Read what `to_json` wrote, within the limits of `build_spec`; keys of later minor additions are ignored."""
        vocab_size, k = index(data["vocab_size"]), index(data["k"])
        _check_sizes(vocab_size, k)
        groups = tuple(Group.from_json(group, vocab_size) for group in data["groups"])
        ordered = {str(name): OrderedSpec.from_json(options) for name, options in data["ordered"].items()}
        _check_ordered(ordered, groups)
        _check_modes(data["lse_beta"], data["scope"])
        return cls(
            vocab_size=vocab_size,
            k=k,
            groups=groups,
            ordered=ordered,
            types=TokenTypes.build(
                TokenTypes(tuple(data["types"]["names"]), bool(data["types"]["partition"]))
            ),
            probes=bool(data["probes"]),
            lse_beta=cast("LseBeta", data["lse_beta"]),
            scope=cast("Scope", data["scope"]),
        )


def _check_sizes(vocab_size: int, k: int | None) -> None:
    if not 1 <= vocab_size <= MAX_VOCABULARY:
        raise InputError(
            f"vocabulary size is {vocab_size}; it must be at least 1 and at most {MAX_VOCABULARY}"
        )
    if k is not None and not 1 <= k <= vocab_size:
        raise InputError(
            f"k is {k}; allowed are 1 to the vocabulary size {vocab_size} (leave k out to have it clamped)"
        )


def _check_modes(lse_beta: object, scope: object) -> None:
    if lse_beta not in ("eval", "always", "never"):
        raise InputError(f"lse_beta is {lse_beta!r}; allowed are 'eval', 'always' and 'never'")
    if scope not in ("supervised", "all"):
        raise InputError(f"scope is {scope!r}; allowed are 'supervised' and 'all'")


def _check_ordered(ordered: Mapping[str, object], groups: Sequence[Group]) -> None:
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise InputError(f"groups {names} repeat a name; give each once")
    for name in ordered:
        if name not in names:
            raise InputError(f"ordered names {name!r}, which is no group; groups are {names}")


DEFAULT_K = 32


def build_spec(
    vocab_size: int,
    k: int | None,
    groups: Mapping[str, Sequence[int]] | None,
    ordered: Mapping[str, Mapping[str, Any]] | None,
    types: TokenTypes | Sequence[str] | None,
    *,
    probes: bool,
    lse_beta: LseBeta | bool,
    scope: Scope,
) -> RecordSpec:
    """Validate the Recorder's arguments into a spec.

    `k=None` means 32, clamped to the vocabulary; an explicit k above it is an InputError.
    """
    _check_sizes(vocab_size, k)
    mode = (
        {True: "always", False: "never"}.get(lse_beta, lse_beta) if isinstance(lse_beta, bool) else lse_beta
    )
    _check_modes(mode, scope)
    built = tuple(Group.build(name, ids, vocab_size) for name, ids in (groups or {}).items())
    _check_ordered(ordered or {}, built)
    return RecordSpec(
        vocab_size=vocab_size,
        k=min(DEFAULT_K, vocab_size) if k is None else k,
        groups=built,
        ordered={name: OrderedSpec.build(name, options) for name, options in (ordered or {}).items()},
        types=TokenTypes.build(types),
        probes=probes,
        lse_beta=cast("LseBeta", mode),
        scope=scope,
    )
