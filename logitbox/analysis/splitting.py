"""What `by=` may name, checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import polars as pl

from logitbox.analysis.classes import SUMS
from logitbox.analysis.populations import quantity_names
from logitbox.analysis.reading import KEYS
from logitbox.dumps.definitions.tokens import QUANTITIES
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

RESERVED = frozenset(
    [
        *("type", "spec", "n", "n_nonfinite", "n_duplicate", "clusters", "nn", "evaluations", "bin"),
        *("key", "value", "reduction", "low", "high", "reason"),
        *("cell", "share", "tfa", "tfce", "tfa_part", "tfce_part", "mean_nll"),
        *("accuracy", "ece", "mce", "gap"),
        *(quantity.name for quantity in QUANTITIES),
        *SUMS,
    ]
)
"""Names of columns in results and tallies, which a by-column cannot have."""


def by_columns(by: str | Sequence[str] | None) -> tuple[str, ...]:
    """`by=` as names, each once. Raises InputError if it is anything but a name or names."""
    names = (by,) if isinstance(by, str) else tuple(by or ())
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"by holds {name!r}, a {type(name).__name__}; give names of columns")
    return tuple(dict.fromkeys(names))


def extra_keys(names: Sequence[str]) -> list[str]:
    """Those that are no key of every tally."""
    return [name for name in names if name not in (*KEYS, "type")]


def check_held(cells: pl.DataFrame, names: Sequence[str]) -> tuple[str, ...]:
    """The names, if the tally is split by all of them. Raises InputError otherwise."""
    held = [name for name in cells.columns[: cells.columns.index("type") + 1] if name != "spec"]
    for name in names:
        if name not in held:
            raise InputError(
                f"by names {name!r}, but this tally is split by {', '.join(held)}; "
                f"make it with tally_dump(dump, by=[{name!r}])"
            )
    return tuple(names)


def from_samples(dump: Dump, extra: Sequence[str]) -> list[str]:
    """Which of the further keys are columns of `samples` rather than `tokens`.

    Raises:
        InputError: a name that is no column, is taken, or is not something to split by.
    """
    if not extra:
        return []
    tokens, samples = dump.tokens.collect_schema(), dump.samples.collect_schema()
    taken = RESERVED.union(*(quantity_names(session.spec) for session in dump.sessions))
    for name in extra:
        if name not in tokens and name not in samples:
            raise InputError(
                f"by names {name!r}, which is a column of neither tokens nor samples; "
                f"samples have {', '.join(samples.names())}, tokens have {', '.join(tokens.names())}"
            )
        _check(name, tokens[name] if name in tokens else samples[name], taken, of_tokens=name in tokens)
    return [name for name in extra if name not in tokens]


def _check(name: str, dtype: pl.DataType, taken: AbstractSet[str], *, of_tokens: bool) -> None:
    if of_tokens and (name == "types" or not (dtype.is_integer() or dtype == pl.String)):
        instead = "use 'type'" if name == "types" else "split by whole numbers or by columns of samples"
        raise InputError(f"by names {name!r}, a column of tokens that cannot be split by; {instead}")
    if name in taken or name.startswith("_") or name.endswith((":xx", ":xn")):
        instead = "use 'sample'" if name == "key" else "give that column of samples another name"
        raise InputError(f"by names {name!r}, which results use for a column of their own; {instead}")
    if dtype.is_nested() or dtype == pl.Binary:
        raise InputError(f"by names {name!r}, whose values are {dtype}; split by text, numbers or dates")
