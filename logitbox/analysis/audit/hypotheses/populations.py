"""Which rows of a shard a hypothesis is about: the registered populations, and what bugs make of them.

Names: a registered population's own ("" is all supervised tokens), or "{population}{suffix}". Rows that a sampler repeated
are in no population but ".duplicates", those that are not finite in none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.definitions.agent import is_on, plain, split_by
from logitbox.dumps.definitions.registry import populations_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.definitions.tokens import TYPED, belongs, duplicate, finite, has_group
from logitbox.dumps.flags import Flag
from logitbox.dumps.spec import RecordSpec

Mask = NDArray[np.bool_]
Int = NDArray[np.int64]

_SPECIAL = Flag.SPECIAL | Flag.BOS | Flag.EOS
_TOKEN = Flag.SUPERVISED | Flag.PROMPT | Flag.PAD
"""Every token has one of these; only the row past the last token of a line has none."""

DUPLICATES = ".duplicates"

WITHOUT: dict[str, Flag] = {
    ".no_eos": Flag.EOS,
    ".no_special": _SPECIAL,
    ".no_boundary": Flag.BOUNDARY,
    ".no_image": Flag.IMAGE,
}
"""Suffix to the flags of tokens that are left out."""

OWN = (DUPLICATES, *WITHOUT)
"""Suffixes that every population has: often they change nothing."""

WHOLE: dict[str, Callable[[Rows], Mask]] = {
    ".not_pad": lambda rows: rows.flagged(_TOKEN) & ~rows.flagged(Flag.PAD),
    ".everything": lambda rows: rows.flagged(_TOKEN),
    ".with_boundary": lambda rows: rows.flagged(Flag.SUPERVISED | Flag.BOUNDARY),
    ".with_image": lambda rows: rows.flagged(Flag.SUPERVISED | Flag.IMAGE),
}
"""Suffixes of "" with unsupervised tokens, which only `scope="all"` records."""

PROBED = (".unshifted", ".next", ".first_label")
"""Suffixes of "" with rows whose logits were scored against a neighbouring label: only with `probes=True`."""

PREVIOUS, FOLLOWING = ".previous", ".following"


@dataclass(frozen=True, eq=False)
class Line:
    """Where rows stand in their micro-batch, as recorded.

    Attributes:
        cell: micro-batch of each row, int64 [rows].
        pos: place of each row in its sample, int64 [rows].
        before, after: the row before (after) is that of the token before (after), bool [rows].
    """

    cell: Int
    pos: Int
    before: Mask
    after: Mask

    @classmethod
    def of(cls, cell: Int, sample: Int, pos: Int) -> Line:
        """Compare neighbouring rows."""
        joined = (np.diff(cell) == 0) & (np.diff(sample) == 0) & (np.diff(pos) == 1)
        return cls(cell, pos, np.r_[False, joined][: len(cell)], np.r_[joined, False][: len(cell)])

    def packed(self, boundary: Mask) -> Line:
        """The same where a document's first token follows the row before it."""
        follows = boundary & np.r_[False, np.diff(self.cell) == 0][: len(boundary)]
        leads = np.r_[follows[1:], False][: len(boundary)]
        return replace(self, before=self.before | follows, after=self.after | leads)


@dataclass(frozen=True, eq=False)
class Members:
    """Rows of every population.

    Attributes:
        masks: population to its rows, bool [rows].
        unknown: population to rows that may belong to it, where the recording does not tell.
        base: population that has a suffix of `OWN` to the one without.
        lost: rows of "" that are not finite.
    """

    masks: dict[str, Mask]
    unknown: dict[str, Mask]
    base: dict[str, str]
    lost: Mask


def members(rows: Rows, line: Line) -> Members:
    """The populations of a shard's rows, supervised or not. Those of `OWN` that change nothing are left out."""
    is_finite, repeated = finite(rows), _repeated(rows, line)
    supervised = rows.flagged(Flag.SUPERVISED) & is_finite
    masks: dict[str, Mask] = {}
    base: dict[str, str] = {}
    for population in populations_of(rows.spec):
        mask = population.mask(rows) & supervised
        masks[population.name] = mask & ~repeated
        if population.name == TYPED:
            continue
        own = {DUPLICATES: mask}
        own |= {name: masks[population.name] & ~rows.flagged(flags) for name, flags in WITHOUT.items()}
        for suffix, changed in own.items():
            if not np.array_equal(changed, masks[population.name]):
                masks[population.name + suffix] = changed
                base[population.name + suffix] = population.name
    whole = {suffix: mask & is_finite & ~repeated for suffix, mask in _whole(rows, line)}
    beside, unknown = _beside(rows, line, supervised & ~repeated)
    lost = rows.flagged(Flag.SUPERVISED) & ~is_finite & ~repeated
    return Members(masks | whole | beside, unknown, base, lost)


def _repeated(rows: Rows, line: Line) -> Mask:
    """Rows that a sampler repeated; the row past the last token has no flag of its own."""
    repeated: Mask = duplicate(rows)
    past = ~rows.flagged(_TOKEN) & line.before
    return repeated | (past & np.r_[False, repeated][: len(repeated)])


def _whole(rows: Rows, line: Line) -> Iterator[tuple[str, Mask]]:
    if rows.spec.scope == "all":
        for suffix, mask in WHOLE.items():
            yield suffix, mask(rows)
    if rows.spec.probes:
        unshifted = ~np.isnan(rows["nll_unshifted"])
        yield ".unshifted", unshifted
        yield ".next", ~np.isnan(rows["nll_next"])
        # The first token of a further document in the line has logits, and so a row at pos 0.
        yield ".first_label", unshifted & (line.pos == 1) & ~line.before


def _typed(spec: RecordSpec) -> dict[str, str]:
    """Populations that are told by the type of their tokens, to that type."""
    split = split_by(spec) if is_on(spec) else []
    return {name: name for name in spec.types.names} | {plain(name): name for name in split}


def _beside(rows: Rows, line: Line, counted: Mask) -> tuple[dict[str, Mask], dict[str, Mask]]:
    """(masks, unknown rows) of populations that take the type of the token before or after for a token's own.

    With all positions recorded, or probes, a supervised token's neighbours have rows, but for the first token of a line, whose
    type nothing tells. Where no row comes after it, a token is the last of its line, and no type follows.
    """
    complete = rows.spec.scope == "all" or rows.spec.probes
    boundary = rows.flagged(Flag.BOUNDARY)
    near = line.packed(boundary) if complete else line
    # A new sample that is no new document: of another line, or packed by its sample ids alone.
    unclear = np.r_[(np.diff(line.cell) == 0) & (line.pos[1:] == 0) & ~boundary[1:], False][: len(counted)]
    masks: dict[str, Mask] = {}
    unknown: dict[str, Mask] = {}
    for population, name in _typed(rows.spec).items():
        candidates = counted if population == name else counted & ~rows.flagged(_SPECIAL | Flag.PAD)
        is_of, is_known = _types(rows, name)
        for suffix, there, by, otherwise in (
            (PREVIOUS, near.before, 1, np.zeros_like(counted)),
            (FOLLOWING, near.after, -1, ~unclear & complete),
        ):
            masks[population + suffix] = candidates & there & np.roll(is_of, by)
            told = np.where(there, np.roll(is_known, by), otherwise)
            unknown[population + suffix] = candidates & ~told
    return masks, unknown


def _types(rows: Rows, name: str) -> tuple[Mask, Mask]:
    """(rows of this type, rows where that is known)."""
    is_of: Mask = belongs(rows, name)
    if has_group(rows.spec, name):
        return is_of, (rows["gold"] >= 0) | ~rows.flagged(_TOKEN)
    return is_of, is_of | ~rows.flagged(Flag.UNTYPED)
