"""The temperature that fits best, or what can be said of it, of all tokens and of every type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from logitbox.analysis.calibration.picked import Where, pick
from logitbox.analysis.node_means import NO_TOKENS, NoFit
from logitbox.analysis.tail import NODES
from logitbox.analysis.temperature import Fit, Range, fits
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

COOLEST, HOTTEST = 1 / NODES[-1], 1 / NODES[0]
"""Between these temperatures a dump is asked."""

_MOST_OFF = 5e-5
"""What float32 may put mean nll off by, in nats, that need not be told; that of logits some hundred from 0."""
_FAR = "logits lie so far from 0 that float32 may put mean nll off by {:.1e} nats"


@dataclass(frozen=True)
class Heat:
    """What is known of the temperature of least mean nll.

    Attributes:
        temperature: None where only bounds are known.
        low, high: the best temperature lies between them; 0.5 stands for that or less, 4 for that or more.
        nll_before: mean nll at T = 1, nats.
        nll: mean nll at `temperature`; None where only bounds are known.
        nll_low, nll_high: the least mean nll over [0.5, 4] lies between them.
        at_edge: the best temperature lies at or beyond the end of what is known.
        reason: why there are only bounds, or nothing, or why they are wide; else "".
        tokens: fitted on.
    """

    temperature: float | None
    low: float
    high: float
    nll_before: float
    nll: float | None
    nll_low: float
    nll_high: float
    at_edge: bool = False
    reason: str = ""
    tokens: int = 0

    def __str__(self) -> str:
        before = f"mean nll from {self.nll_before:.4f} to"
        least = f"{self.nll_low:.4f} to {self.nll_high:.4f} nats"
        between = _between(self.low, self.high)
        if self.temperature is None or self.nll is None:
            return f"the best T is {between} and takes {before} somewhere in {least}: {self.reason}"
        if self.at_edge:
            beyond = "or less" if self.temperature < 1 else "or more"
            return f"T = {self.temperature:.3g} {beyond} takes {before} {self.nll:.4f} nats"
        why = f": {self.reason}" if self.reason else ""
        return f"T = {self.temperature:.3g} ({between}) takes {before} {self.nll:.4f} nats ({least}{why})"


def heats(
    dump: Dump, phase: str, types: Sequence[str] | None = None, where: Where | None = None
) -> dict[str, Heat]:
    """The best temperature of all tokens ("") and of every type of a phase, in three passes over the rows.

    The rows are those that `calibration` counts.

    Args:
        dump: an opened dump.
        phase: of the tokens.
        types: only these; by default all that the dump has. Those without tokens are left out of the result.
        where: what else must hold of the tokens; see `picked.Where`.

    Raises:
        InputError: no such phase, type or column.
        DamagedDumpError: a shard was altered.
    """
    picked = pick(dump, phase, types, where)
    found = zip(picked.types, fits(picked.read, len(picked.types)), strict=True)
    k = max(session.spec.k for session in dump.sessions)
    return {name: _heat(one, k) for name, one in found if not isinstance(one, NoFit)}


def heat_of(
    dump: Dump,
    phase: str,
    type: str = "",  # noqa: A002 (as the column is called)
    where: Where | None = None,
) -> Heat:
    """The best temperature of some tokens; as `heats`, for one type.

    Raises:
        InputError: there are no such tokens.
    """
    found = heats(dump, phase, [type], where)
    if type not in found:
        which = f"type {type!r} in phase {phase}" if type else f"phase {phase}"
        raise InputError(f"{which}: {NO_TOKENS}; choose other tokens")
    return found[type]


def _heat(found: Fit | Range, k: int) -> Heat:
    if isinstance(found, Fit):
        return Heat(
            temperature=found.temperature,
            low=found.coolest,
            high=found.hottest,
            nll_before=found.nll_before,
            nll=found.nll,
            nll_low=found.low,
            nll_high=found.high,
            at_edge=found.at_edge,
            reason=_FAR.format(found.off) if found.off > _MOST_OFF else "",
            tokens=found.tokens,
        )
    return Heat(
        temperature=None,
        low=found.coolest,
        high=found.hottest,
        nll_before=found.nll_before,
        nll=None,
        nll_low=found.low,
        nll_high=found.high,
        at_edge=_is_end(found.coolest) or _is_end(found.hottest),
        reason=_reason(found, k),
        tokens=found.tokens,
    )


def _reason(found: Range, k: int) -> str:
    some = "" if found.missing == found.tokens else f" for {found.missing:,} of {found.tokens:,} tokens"
    told = f"lse_beta was not recorded{some}; bounds from the top {k}"
    if _is_end(found.coolest) and _is_end(found.hottest):
        return f"{told} say nothing about the temperature"
    if _is_end(found.hottest) and found.coolest < 1.01:
        return f"{told} say only that it is not below {found.coolest:.2g}"
    if _is_end(found.coolest) and found.hottest > 0.99:
        return f"{told} say only that it is not above {found.hottest:.2g}"
    return told


def _is_end(temperature: float) -> bool:
    return bool(np.isclose(temperature, (COOLEST, HOTTEST), rtol=1e-9).any())


def _between(low: float, high: float) -> str:
    """In words; of ends that may lie further out nothing is said."""
    if _is_end(low) and _is_end(high):
        return "not known"
    if _is_end(low):
        return f"{high:.3g} or less"
    return f"{low:.3g} or more" if _is_end(high) else f"between {low:.3g} and {high:.3g}"
