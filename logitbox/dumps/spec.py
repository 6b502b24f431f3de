"""What a session records, as plain frozen data: vocabulary groups, ordered groups, token types, k.

A spec is validated once, written to `session.json`, and read back by the analyses, so that the two
sides cannot disagree about what a column means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from operator import index
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.checks import check_name, is_number
from logitbox.dumps.detailed import AGENT_TYPES, BEST, DetailedSpec
from logitbox.errors import InputError

BETAS: tuple[float, ...] = (0.25, 0.5, 0.75, 1.5, 2.0)
"""Inverse temperatures of the `lse_beta` column; β = 1 is the `lse` column."""

DECISION = "decision"
"""Token type of the slots where one of the answers is due; declared along with the answers."""

MAX_TYPES = 32
MAX_VOCABULARY = 2**31 - 1  # ids are stored as int32

LseBeta = Literal["eval", "always", "never"]
Scope = Literal["supervised", "all"]


def _whole_numbers(group: str, ids: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(index(i) for i in ids)
    except TypeError as error:
        raise InputError(
            f"group {group!r} holds something that is no token id ({error}); give integers"
        ) from error


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

    def bins(self, token_ids: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(place of each id in the group, is it in the group), shapes as given; the place is 0 where it is not."""
        inside = self.contains(token_ids)
        if isinstance(self.ids, range):
            return np.where(inside, token_ids - self.ids.start, 0).astype(np.int64), inside
        ids = np.asarray(self.ids)
        order = np.argsort(ids)
        place = np.minimum(np.searchsorted(ids[order], token_ids), len(ids) - 1)
        return np.where(inside, order[place], 0).astype(np.int64), inside

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
            if not (is_number(value) and 0 < value < math.inf):
                raise InputError(f"ordered group {group!r}: {name} is {value!r}; it must be a number above 0")
        if spec.truncate is not None and not (isinstance(spec.truncate, int) and spec.truncate >= 0):
            raise InputError(
                f"ordered group {group!r}: truncate is {spec.truncate!r}; use 0 or more bins, or None"
            )
        for name in ("soft_ce_weight", "w1_weight", "gate_weight"):
            if not (is_number(getattr(spec, name)) and math.isfinite(getattr(spec, name))):
                raise InputError(f"ordered group {group!r}: {name} is {getattr(spec, name)!r}; give a number")
        return spec

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OrderedSpec:
        """Read what was written, with the checks of `build`; options of later minor additions are ignored."""
        return cls.build("of session.json", {f.name: data[f.name] for f in fields(cls) if f.name in data})

    @property
    def weights(self) -> dict[str, float]:
        """The parts of the loss and their weights. A part without weight is none: it may be infinite."""
        weights = {"soft_ce": self.soft_ce_weight, "w1": self.w1_weight, "gate": self.gate_weight}
        return {part: weight for part, weight in weights.items() if weight != 0}

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
    detailed: DetailedSpec = field(default_factory=DetailedSpec)
    answers: tuple[str, ...] = ()
    """Groups between which a decision is made (seed 003)."""
    min_prob: float | None = None
    """Ids of a lower probability are left out of the lists of the best, which then differ in length."""

    def group(self, name: str) -> Group:
        """The group called `name`."""
        return next(group for group in self.groups if group.name == name)

    def records_lse_beta(self, phase: str) -> bool:
        """Whether rows of this phase carry `lse_beta`."""
        return self.lse_beta == "always" or (self.lse_beta == "eval" and phase != "train")

    def reaches(self, count: int) -> bool:
        """Whether that many of the best tokens are recorded, or all there are."""
        return self.k >= min(count, self.vocab_size)

    @property
    def best_columns(self) -> dict[str, int]:
        """Columns over several of the best tokens that sessions with exact detailed metrics have, and how many."""
        counts = {f"top{count}_prob": count for count in BEST} | {"topk_entropy": self.detailed.entropy_k}
        return {n: count for n, count in counts.items() if self.detailed.columns and self.reaches(count)}

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
            "detailed": asdict(self.detailed),
            "answers": list(self.answers),
            "min_prob": self.min_prob,
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
        answers = tuple(map(str, data.get("answers", ())))
        _check_answers(answers, groups)
        min_prob = data.get("min_prob")
        _check_min_prob(min_prob)
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
            detailed=DetailedSpec.from_json(data.get("detailed", {})),
            answers=answers,
            min_prob=min_prob,
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


def _check_min_prob(min_prob: object) -> None:
    if min_prob is not None and not (is_number(min_prob) and 0 < min_prob < 1):
        raise InputError(
            f"min_prob is {min_prob!r}; give a probability above 0 and below 1, such as 1e-5, or None to keep all k"
        )


def _check_ordered(ordered: Mapping[str, object], groups: Sequence[Group]) -> None:
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise InputError(f"groups {names} repeat a name; give each once")
    for name in ordered:
        if name not in names:
            raise InputError(f"ordered names {name!r}, which is no group; groups are {names}")


def _check_answers(answers: Sequence[str], groups: Sequence[Group]) -> None:
    ids_of = {group.name: group.ids for group in groups}
    if answers and DECISION in ids_of:
        raise InputError(
            f"a group is called {DECISION!r}, which is the type of the answers' slots; rename it"
        )
    for name in answers:
        if name not in ids_of:
            raise InputError(f"answers name {name!r}, which is no group; groups are {list(ids_of)}")
    if len(answers) == 1 or len(set(answers)) != len(answers):
        raise InputError(f"answers are {list(answers)}; a decision needs two or more, each once")
    owner: dict[int, str] = {}
    for name in answers:
        for token in ids_of[name]:
            if owner.setdefault(token, name) != name:
                raise InputError(
                    f"token id {token} is in two answers, {owner[token]!r} and {name!r}; give it to one"
                )


ACCEPT_REJECT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"accept": ("Accept", "accept"), "reject": ("Reject", "reject")}
)
"""The words of a decision to accept or reject (seed 003). Groups of these two names are taken for its answers."""

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
    detailed: bool | Mapping[str, Any] | None = None,
    answers: Mapping[str, Sequence[int]] | Sequence[str] | None = None,
    min_prob: float | None = None,
) -> RecordSpec:
    """Validate the Recorder's arguments into a spec.

    `k=None` means 32, clamped to the vocabulary; an explicit k above it is an InputError. Answers bring their groups
    and the token type `decision`.
    """
    _check_sizes(vocab_size, k)
    mode = (
        {True: "always", False: "never"}.get(lse_beta, lse_beta) if isinstance(lse_beta, bool) else lse_beta
    )
    _check_modes(mode, scope)
    _check_min_prob(min_prob)
    by_name, chosen = _with_answers(groups or {}, answers)
    built = tuple(Group.build(name, ids, vocab_size) for name, ids in by_name.items())
    _check_ordered(ordered or {}, built)
    _check_answers(chosen, built)
    named = TokenTypes.build(types)
    if chosen and DECISION not in named.names:
        named = TokenTypes.build((*named.names, DECISION))
    kept = min(DEFAULT_K, vocab_size) if k is None else k
    wanted = DetailedSpec.build(detailed, agent=bool(set(AGENT_TYPES) & set(named.names)))
    if isinstance(detailed, Mapping) and "entropy_k" in detailed and kept < min(wanted.entropy_k, vocab_size):
        raise InputError(
            f"detailed: entropy_k is {wanted.entropy_k}, but k is {kept}; pass k={wanted.entropy_k}"
        )
    return RecordSpec(
        vocab_size=vocab_size,
        k=kept,
        groups=built,
        ordered={name: OrderedSpec.build(name, options) for name, options in (ordered or {}).items()},
        types=named,
        probes=probes,
        lse_beta=cast("LseBeta", mode),
        scope=scope,
        detailed=wanted,
        answers=chosen,
        min_prob=None if min_prob is None else float(min_prob),
    )


def _with_answers(
    groups: Mapping[str, Sequence[int]], answers: Mapping[str, Sequence[int]] | Sequence[str] | None
) -> tuple[dict[str, Sequence[int]], tuple[str, ...]]:
    """(all groups, names of those that are answers)."""
    if answers is None:
        return dict(groups), tuple(ACCEPT_REJECT) if set(ACCEPT_REJECT) <= set(groups) else ()
    if not isinstance(answers, Mapping):
        return dict(groups), tuple(answers)
    for name in answers:
        if name in groups:
            raise InputError(f"{name!r} is given as a group and as an answer; give it once")
    return {**groups, **answers}, tuple(answers)
