"""A comparison as plain data, for `--json` and scripts. Every key is always there, null where unknown."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import polars as pl

from logitbox.analysis.certificates import Certificates
from logitbox.analysis.pairs.heat import Temperature
from logitbox.analysis.pairs.paired import Difference

if TYPE_CHECKING:  # they are what this is said of, and say it
    from logitbox.analysis.pairs.comparison import Comparison, Reversal


def document(result: Comparison, tokens: int = 0) -> dict[str, Any]:
    """All of a comparison.

    Args:
        result: what `explain(a, against=b)` gave.
        tokens: how many tokens of the reversal set to list.
    """
    sets = result.reversal
    return {
        "dump": str(result.pair.a.choice.dump.path),
        "against": str(result.pair.b.choice.dump.path),
        "chosen": {"a": result.pair.a.choice.told, "b": result.pair.b.choice.told},
        "verdict": result.answer,
        "observed": result.observed,
        "told": result.told,
        "n_tokens": len(result.pair),
        "n_samples": len(result.pair.keys),
        "unaligned": asdict(result.pair.unaligned),
        "tfa": asdict(result.tfa),
        "tfce": asdict(result.tfce),
        "delta_tfa": result.delta_tfa.value,
        "delta_tfce": result.delta_tfce.value,
        "intervals": {"delta_tfa": _interval(result.delta_tfa), "delta_tfce": _interval(result.delta_tfce)},
        "cells": result.frame.to_dicts(),
        "reversal": _reversal(sets),
        "reversal_of_b": _reversal(result.reversal_of_b),
        "temperature": _temperature(result.temperature),
        "concentration": _ranked(result.concentration),
        "certificates": {
            side: _certificates(one) for side, one in zip("ab", result.certificates, strict=True)
        },
        "tokens": result.tokens(tokens).to_dicts(),
    }


def _interval(delta: Difference) -> dict[str, float | None]:
    return {"low": delta.low, "high": delta.high, "p": delta.p}


def _reversal(sets: Reversal) -> dict[str, float | int]:
    return {
        "tokens": sets.tokens,
        "share": sets.share,
        "tfce_tokens": sets.tfce.tokens,
        "tfa_tokens": sets.tfa.tokens,
    }


def _temperature(found: Temperature) -> dict[str, Any]:
    parts = {"miscalibration": found.miscalibration, "refinement": found.refinement}
    return {
        **{side: None if fit is None else fit.temperature for side, fit in (("a", found.a), ("b", found.b))},
        **{name: None if part is None else part.value for name, part in parts.items()},
        "intervals": {name: None if part is None else _interval(part) for name, part in parts.items()},
        "share": found.share,
        "told": str(found),
        "reason": found.reason or None,
    }


_MOST_SUBSETS = 20


def _ranked(table: pl.DataFrame) -> list[dict[str, Any]]:
    return table.head(_MOST_SUBSETS).to_dicts()


def _certificates(found: Certificates) -> dict[str, Any]:
    return {
        "holds": found.holds,
        "told": found.summary,
        "n_tokens": found.n_tokens,
        "n_nonfinite": found.n_nonfinite,
        "checks": found.frame.to_dicts(),
    }
