"""Frameworks that average two keys with different weights, where an inequality may break by a little."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Differing:
    """Keys of a framework that are not averaged alike.

    Args:
        framework: as `Logged.framework` calls it.
        about: how it averages.
        least: the smallest ratio of the left to the right that is put down to that; 0 for any.
        value: if given, only inequalities with this value among others.
    """

    framework: str
    about: str
    least: float = 0.9
    value: str = ""


DIFFERING: tuple[Differing, ...] = (
    Differing(
        "trl",
        "TRL averaged the entropy over all tokens that are not padding (trl#5617), the loss over the supervised ones",
        0.0,
        "entropy",
    ),
    Differing("trl", "TRL pools the loss over tokens and averages the accuracy over micro-batches"),
    Differing(
        "ms-swift",
        "ms-swift pools token_acc over the tokens between two lines and averages all else over steps",
    ),
    Differing("transformers", "transformers averages the loss over steps, and over batches in evaluations"),
    Differing(
        "llama-factory",
        "LLaMA-Factory averages the loss over steps or batches, and the accuracy over samples",
    ),
)


def why_differing(framework: str, values: Collection[str], ratio: float) -> str:
    """Why a ratio of the two sides may come from weights; "" if it does not.

    Args:
        framework: who wrote the log.
        values: of the keys of the inequality.
        ratio: left side over right side.
    """
    if len(values) < 2:
        return ""
    for entry in DIFFERING:
        if entry.framework == framework and entry.value in ("", *values) and ratio >= entry.least:
            return entry.about
    return ""
