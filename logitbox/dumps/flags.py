"""Bits of the `flags` column: what kind of position a row describes."""

from enum import IntFlag

IGNORED = -100
"""Label of a position that is not supervised (the convention of torch's cross-entropy)."""


class Flag(IntFlag):
    """One bit per property of a position; a position may have several."""

    SUPERVISED = 1 << 0
    PROMPT = 1 << 1
    """Not supervised and not padding: prompt, context, user turns."""
    PAD = 1 << 2
    SPECIAL = 1 << 3
    BOS = 1 << 4
    EOS = 1 << 5
    IMAGE = 1 << 6
    BOUNDARY = 1 << 7
    """First token of a document that follows another in the same packed row."""
    EDGE = 1 << 8
    """Own label ignored, but a neighbour's is supervised (recorded with `probes=True`)."""
    DUPLICATE = 1 << 9
    """A sample repeated by a distributed sampler to fill the last batch."""
    NONFINITE = 1 << 10
    """nll, lse or entropy is NaN or infinite; analyses leave the row out and count it."""
    UNTYPED = 1 << 11
    """A scheme that tells token types could not tell them here; a type that is not set may be missing."""


def flag_names(bits: int) -> list[str]:
    """Lower-case names of the set bits, lowest bit first."""
    return [str(flag.name).lower() for flag in Flag if bits & flag]
