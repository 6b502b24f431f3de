"""`certify`: whether both metrics are right, shown on every token and not asserted.

Accuracy (TFA) and cross-entropy (TFCE) are each computed by two routes from different columns: TFA from the counted
rank of gold (`n_gt + n_eq_before`) and from the sorted ids (`top_ids[0]`); TFCE from `nll` and, where gold is among
the recorded best, from lse − gold's logit, which is `top_nll + top_gap` (lse itself cancels). Then every inequality
of `checks` is tried on every token, and those of `bounds` on the means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.bounds import BOUNDS, parts
from logitbox.analysis.checks import CHECKS, Check, checks_of
from logitbox.analysis.pairs.choice import Choice
from logitbox.analysis.results import Result
from logitbox.analysis.routes import NO_ROUTES, Routes, routes_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.flags import Flag

Array = NDArray[Any]

_PLACE = ("sample", "pos", "place")
SCHEMA = {
    "name": pl.String,
    "scope": pl.String,
    "statement": pl.String,
    "n": pl.Int64,
    "violations": pl.Int64,
    "margin": pl.Float64,
    "tolerance": pl.Float64,
    "key": pl.String,
    "pos": pl.Int64,
}


@dataclass(frozen=True, eq=False)
class Certificates(Result):
    """Every check with its outcome.

    Attributes:
        frame: `name`, `scope` ("token" or "mean"), `statement`, `n` tokens it applied to, `violations`; `margin` of
            the token that came closest (below 0 by no more than `tolerance` where it holds; null where none applied);
            `key` and `pos` of the first violating token.
        routes: both metrics by two routes each.
        n_tokens: finite tokens checked; `n_nonfinite` were left out.
        told: which tokens, in words.
    """

    routes: Routes
    n_tokens: int
    n_nonfinite: int
    told: str

    @property
    def holds(self) -> bool:
        """Whether nothing is violated."""
        return not self.frame["violations"].sum()

    @property
    def broken(self) -> pl.DataFrame:
        """The rows of what is violated."""
        return self.frame.filter(pl.col("violations") > 0)

    @property
    def summary(self) -> str:
        """What was shown, or what is broken; no full stop."""
        return _summary(self.frame, self.routes, self.n_tokens)


@dataclass
class _Outcome:
    """What was found of one check so far."""

    check: Check
    n: int = 0
    violations: int = 0
    margin: float = inf
    tolerance: float = 0.0
    slack: float = inf
    first: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, rows: Rows) -> None:
        """Check more tokens."""
        found = self.check.of(rows)
        at = np.flatnonzero(found.applies)
        if not len(at):
            return
        margin, tolerance = found.margin[at], found.tolerance[at]
        slack = np.nan_to_num(margin + tolerance, nan=-inf)
        bad, worst = np.flatnonzero(slack < 0), int(slack.argmin())
        self.n, self.violations = self.n + len(at), self.violations + len(bad)
        if slack[worst] < self.slack:
            self.slack, self.margin = float(slack[worst]), float(margin[worst])
            self.tolerance = float(tolerance[worst])
        if len(bad) and not self.first:
            self.first = {name: int(rows[name][at[bad[0]]]) for name in _PLACE}


def certify(choice: Choice) -> Certificates:
    """Check the chosen tokens.

    Raises:
        DamagedDumpError: a shard was altered.
    """
    known = [*CHECKS, *(check for session in choice.dump.sessions for check in checks_of(session.spec))]
    outcomes = {check.name: _Outcome(check) for check in known}
    sums: dict[str, float] = {}
    n_tokens, n_nonfinite, n_means, routes = 0, 0, 0, NO_ROUTES
    for rows, lost in _chosen(choice):
        n_tokens, n_nonfinite = n_tokens + len(rows["gold"]), n_nonfinite + lost
        for check in checks_of(rows.spec):
            if all(name in rows for name in check.needs):
                outcomes[check.name].add(rows)
        added = {name: float(values.sum()) for name, values in parts(rows).items()}
        n_means += len(rows["gold"]) if added else 0
        sums = {name: sums.get(name, 0.0) + value for name, value in added.items()} or sums
        routes += routes_of(rows)
    frame = pl.concat([_token_rows(tuple(outcomes.values()), choice), _mean_rows(sums, n_means)])
    word = "both metrics are right" if not frame["violations"].sum() else "broken"
    verdict = f"{choice.told}: {word}: {_summary(frame, routes, n_tokens)}"
    if not n_tokens:
        verdict = f"{choice.told}: no finite tokens to check"
    return Certificates(frame, verdict, routes, n_tokens, n_nonfinite, choice.told)


def _chosen(choice: Choice) -> Iterator[tuple[Rows, int]]:
    """Finite rows shard by shard, and how many were left out."""
    specs = [session.spec for session in choice.dump.sessions]
    needed = dict.fromkeys(name for spec in specs for check in checks_of(spec) for name in check.needs)
    for found in choice.scan(["sample", "pos", "gold", "flags", *needed]):
        spec = specs[int(found["session"][0])]
        good = (found["flags"] & int(Flag.NONFINITE)) == 0
        columns = {name: _wide(values[good]) for name, values in found.items()}
        if "top_ids" in columns:
            ids = columns["top_ids"]
            columns["top_1"] = ids[:, 0] if ids.shape[1] else np.full(len(ids), -1)
        if good.any():
            yield Rows(columns, spec), int((~good).sum())


def _wide(values: Array) -> Array:
    return values.astype(np.float64) if values.dtype == np.float32 else values


def _token_rows(outcomes: Sequence[_Outcome], choice: Choice) -> pl.DataFrame:
    rows = [
        (
            *(one.check.name, "token", one.check.statement, one.n, one.violations),
            *((one.margin, one.tolerance) if one.n else (None, None)),
            *((_key(choice, one.first), one.first["pos"]) if one.first else (None, None)),
        )
        for one in outcomes
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _mean_rows(sums: Mapping[str, float], n: int) -> pl.DataFrame:
    means = {name: value / n for name, value in sums.items()}
    margins = [bound.margin(means) if n else (None, None) for bound in BOUNDS]
    bad = [
        margin is not None and tolerance is not None and not margin >= -tolerance
        for margin, tolerance in margins
    ]
    rows = [
        (bound.name, "mean", bound.statement, n, int(broken), margin, tolerance, None, None)
        for bound, (margin, tolerance), broken in zip(BOUNDS, margins, bad, strict=True)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _key(choice: Choice, first: Mapping[str, int]) -> str:
    dataset = choice.places["dataset"][first["place"]]
    here = (pl.col("sample") == first["sample"]) & (pl.col("dataset") == dataset)
    keys = choice.dump.samples.filter(here).select("key").collect()["key"].drop_nulls()
    return str(keys[0]) if len(keys) else str(first["sample"])


def _summary(frame: pl.DataFrame, routes: Routes, n_tokens: int) -> str:
    broken = frame.filter(pl.col("violations") > 0)
    if broken.is_empty():
        tried = int((frame["n"] > 0).sum())
        return f"{routes}; {tried} checks hold on all {n_tokens:,} tokens"
    return "; ".join(_told(row) for row in broken.iter_rows(named=True))


def _told(row: Mapping[str, Any]) -> str:
    if row["scope"] == "mean":
        return f"{row['statement']} fails by {-row['margin']:.3g}"
    return (
        f"{row['statement']} fails on {row['violations']:,} of {row['n']:,} tokens "
        f"(first: {row['key']} pos {row['pos']})"
    )
