"""Switches of the detailed metrics of seed 001, under its own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from logitbox.dumps.checks import whole_number
from logitbox.errors import InputError

BEST = (2, 5, 10)
"""Numbers of best tokens whose probability is accumulated, beside 1."""

REASONING, TOOL_CALL = "reasoning", "tool_call"
AGENT_TYPES = (REASONING, TOOL_CALL)
"""The token types that the seed tells apart."""


@dataclass(frozen=True)
class DetailedSpec:
    """What of seed 001 is reported.

    Args:
        enable_detailed_metrics: report `{train,val}_…` at all.
        enable_token_classification: also for the types reasoning and tool_call, where they are declared.
        entropy_k: best tokens that the top-k entropy tells apart; 1 makes it the seed's binary entropy.
        log_detailed_metrics_every_n_steps: training steps from one live report to the next; each covers all
            tokens since the last one. (The seed's default is 10; here `rec.metrics()` is called when one logs.)
        columns: the accumulated probabilities and the top-k entropy are columns of `tokens`, exact. Else they are
            made of `top_gap`, whose rounding to float16 moves a token's by some 1e-4 (see docs/metrics.md).
    """

    enable_detailed_metrics: bool = True
    enable_token_classification: bool = True
    entropy_k: int = 10
    log_detailed_metrics_every_n_steps: int = 1
    columns: bool = False

    @classmethod
    def build(cls, options: bool | Mapping[str, Any] | None, *, agent: bool) -> DetailedSpec:
        """Validate the Recorder's `detailed=`.

        Args:
            options: switches by name; True or False for all of it; None for the defaults.
            agent: one of the seed's token types is declared, so that its metrics are wanted exact.

        Raises:
            InputError: an unknown name or a value out of range.
        """
        if isinstance(options, bool):
            return cls(enable_detailed_metrics=options, columns=options)
        if not isinstance(options, Mapping | None):
            raise InputError(f"detailed is {options!r}; give True, False or a dict of options")
        known = [f.name for f in fields(cls) if f.name != "columns"]
        for name in options or ():
            if name not in known:
                raise InputError(f"detailed has no option {name!r}; known are {', '.join(known)}")
        spec = cls(**(options or {}))
        for name in ("enable_detailed_metrics", "enable_token_classification"):
            if not isinstance(getattr(spec, name), bool):
                raise InputError(f"detailed: {name} is {getattr(spec, name)!r}; give True or False")
        for name in ("entropy_k", "log_detailed_metrics_every_n_steps"):
            whole_number(f"detailed: {name}", getattr(spec, name), 1)
        return replace(spec, columns=spec.enable_detailed_metrics and (agent or options is not None))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DetailedSpec:
        """Read what was written, with the checks of `build`; options of later minor additions are ignored."""
        known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        has_columns = bool(known.pop("columns", False))
        return replace(cls.build(known, agent=False), columns=has_columns)
