"""Seed 000: token types and their shares, vocabulary groups and the mass inside them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add

from logitbox.analysis.audit.inequalities.entries import At, Inequality
from logitbox.analysis.audit.inequalities.interval import Interval, greatest, least

_AVERAGED = (
    "Look at how each is averaged: means over steps of a share and of an accuracy do not multiply to that of their product. "
    "Average sums and counts, and divide at the end."
)
_TYPES = (
    "Look at types that overlap or leave tokens out, and at shares that are averaged over different steps."
)
_MASS = "Look at the temperature, at which positions the mass is taken (shifted as the labels are), and for a sum instead of a mean."
_FLIP = "Look at whether both are of the same positions: the arg-max of the logits before the token."

_SPLIT = {
    "f_coord": "is_coord@{q}", "f_desc": "is_desc@{q}", "f_format": "is_format@{q}",
    "x_coord": "{v}@coord", "x_desc": "{v}@desc", "x_format": "{v}@format", "all": "{v}@",
}  # fmt: skip
_TYPE_NAMES = ("coord", "desc", "format")


def _is_share(names: Mapping[str, str]) -> bool:
    return names["v"].startswith("correct")


def _is_rest(names: Mapping[str, str]) -> bool:
    """{r} is what the registry calls the tokens outside the group {g}."""
    group, rest = names["g"], names["r"]
    return rest == f"non_{group}" or (group, rest) == ("coord", "text")


def _terms(at: At) -> list[tuple[Interval, Interval]]:
    """(share, value) of each part of the tokens."""
    if "f_coord" in at.known:
        return [(at[f"f_{name}"], at[f"x_{name}"]) for name in _TYPE_NAMES]
    return [(at["f"], at["x"]), (1 - at["f"], at["x_rest"])]


def _weighted(at: At) -> Interval:
    return reduce(add, (share * value for share, value in _terms(at)))


def _most(at: At) -> Interval:
    return reduce(add, (least(share, value) for share, value in _terms(at)))


def _fewest(at: At) -> Interval:
    none = 0.0 * at["all"]
    return reduce(add, (greatest(share + value - 1, none) for share, value in _terms(at)))


def _weighting(name: str, needs: dict[str, str], parts: str) -> tuple[Inequality, ...]:
    """The identity of parts, and what of it remains if shares and accuracies are averaged over steps first."""
    accuracy = "acc" if name == "types" else "acc of the group and its rest"
    about = f"All tokens' {accuracy} is that of {parts}, weighted with their shares."
    loose = "Whatever the steps they are averaged over: hits of a part are no more than its tokens, nor than"
    when = _is_share if name == "types" else lambda names: _is_share(names) and _is_rest(names)
    return (
        Inequality(f"{name}-weighted", needs, lambda at: at["all"], _weighted, "acc = Σ share·acc of the parts", about,
                   _AVERAGED, relation="=", when=when, convicts=False),
        Inequality(f"{name}-most", needs, _most, lambda at: at["all"], "Σ min(share, acc of the part) ≥ acc",
                   f"{about} {loose} its accuracy allows.", _AVERAGED, when=when),
        Inequality(f"{name}-fewest", needs, lambda at: at["all"], _fewest, "acc ≥ Σ max(0, share + acc of the part − 1)",
                   f"{about} {loose} its misses allow.", _AVERAGED, when=when),
    )  # fmt: skip


INEQUALITIES: tuple[Inequality, ...] = (
    Inequality(
        "shares-sum",
        {f"f_{name}": f"is_{name}@{{q}}" for name in _TYPE_NAMES},
        lambda at: reduce(add, (at[f"f_{name}"] for name in _TYPE_NAMES)),
        lambda at: 0.0 * at["f_coord"] + 1.0,
        "share of coord + desc + format = 1",
        "Every supervised token is of exactly one of the three types.",
        _TYPES,
        relation="=",
    ),
    *_weighting("types", _SPLIT, "coord, desc and format tokens"),
    *_weighting(
        "rest",
        {"f": "is_{g}@{q}", "x": "{v}@{g}", "x_rest": "{v}@{r}", "all": "{v}@"},
        "the group and the rest",
    ),
    Inequality(
        "gate-mass",
        {"gate": "{g}.gate@{p}", "mass": "{g}.gate_mass@{p}"},
        lambda at: at["gate"],
        lambda at: at["mass"].minus_log(),
        "mean −ln M ≥ −ln mean M",
        "The logarithm is concave: the mean of −ln is at least −ln of the mean.",
        _MASS,
    ),
    Inequality(
        "ce-mass",
        {"ce": "nll@{g}", "mass": "mass_{g}@{g}"},
        lambda at: at["ce"],
        lambda at: at["mass"].minus_log(),
        "CE of a group's tokens ≥ −ln mean M",
        "Gold is in the group, so it is no likelier than the whole group.",
        _MASS,
    ),
    Inequality(
        "ce-mass-rest",
        {"ce": "nll@{r}", "mass": "mass_{g}@{r}"},
        lambda at: at["ce"],
        lambda at: (1 - at["mass"]).minus_log(),
        "CE of the other tokens ≥ −ln(1 − mean M)",
        "Gold is outside the group, so it is no likelier than all that is outside.",
        _MASS,
        when=_is_rest,
    ),
    Inequality(
        "flip-out-accuracy",
        {"flip": "top_out_{g}@{g}", "acc": "correct@{g}"},
        lambda at: 1 - at["flip"],
        lambda at: at["acc"],
        "1 − flips ≥ acc",
        "A token whose arg-max left the group is wrong.",
        _FLIP,
    ),
    Inequality(
        "flip-in-accuracy",
        {"flip": "top_in_{g}@{p}", "acc": "correct@{p}"},
        lambda at: 1 - at["flip"],
        lambda at: at["acc"],
        "1 − flips ≥ acc",
        "A token whose arg-max is in the group though gold is not is wrong.",
        _FLIP,
    ),
    Inequality(
        "composite-loss",
        {"all": "nll+{g}.loss@{r}+{s}", "base": "nll@{r}", "group": "{g}.loss@{s}"},
        lambda at: at["all"],
        lambda at: at["base"] + at["group"],
        "composite loss = base loss + loss of the group",
        "Both losses are added, each a mean over its own tokens.",
        "Look at steps without tokens of the group, which one of them leaves out of its average, and at a weight before it.",
        relation="=",
    ),
)  # fmt: skip
