"""`audit`: which convention reproduces what was logged, and is it the one its name promises?"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from os import PathLike
from typing import Any

import numpy as np
import polars as pl

from logitbox.analysis.audit.against import Against, Noise, usual_noise
from logitbox.analysis.audit.evidence import Evidence
from logitbox.analysis.audit.inequalities.checking import check
from logitbox.analysis.audit.inequalities.entries import Held
from logitbox.analysis.audit.inequalities.holding import held
from logitbox.analysis.audit.micros import streams_of
from logitbox.analysis.audit.names import Meaning, find_meanings
from logitbox.analysis.audit.result import KeyVerdict, Notice, Violation
from logitbox.analysis.audit.tallying import evidence_of
from logitbox.analysis.audit.telling import sentence
from logitbox.analysis.logs.frame import SCHEMA, Logged
from logitbox.analysis.logs.reading import read_logged
from logitbox.analysis.passes import Progress
from logitbox.analysis.results import Result
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

_COLUMNS = (
    ("key", pl.String),
    ("run", pl.Int64),
    ("verdict", pl.String),
    ("hypothesis", pl.String),
    ("ties_with", pl.List(pl.String)),
    ("max_error", pl.Float64),
    ("tolerance", pl.Float64),
    ("logged", pl.Float64),
    ("reference", pl.Float64),
    ("step", pl.Int64),
    ("n_lines", pl.Int64),
    ("n_skipped", pl.Int64),
    ("about", pl.String),
    ("fix", pl.String),
    ("tell_apart", pl.String),
    ("alignment", pl.String),
)


@dataclass(frozen=True, eq=False, repr=False)
class Audit(Result):
    """What an audit found; as a frame, one row for each key.

    Attributes:
        keys: a verdict on every audited key, by run, in the order they were logged.
        violations: inequalities that are broken.
        notices: what is odd, but convicts nobody.
        logged: what was read.
        left_out: keys that were not audited, and why.
        held: what the logged keys imply of each other and keep to.
    """

    keys: tuple[KeyVerdict, ...] = ()
    violations: tuple[Violation, ...] = ()
    notices: tuple[Notice, ...] = ()
    logged: Logged = field(default_factory=lambda: Logged(pl.DataFrame(schema=SCHEMA)))
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    held: tuple[Held, ...] = ()

    def __repr__(self) -> str:
        return f"<Audit of {self.logged.source or 'a log'}: {self}>"

    @property
    def ok(self) -> bool:
        """Whether nothing is convicted."""
        return not self.violations and not any(one.is_conviction for one in self.keys)

    def key(self, key: str, run: int | None = None) -> KeyVerdict:
        """The verdict on one key.

        Args:
            key: as logged.
            run: of a log with several; the first that has the key by default.

        Raises:
            InputError: no such key was audited.
        """
        for one in self.keys:
            if one.key == key and run in (None, one.run):
                return one
        known = ", ".join(dict.fromkeys(one.key for one in self.keys)) or "none"
        reason = f" ({self.left_out[key]})" if key in self.left_out else ""
        raise InputError(f"key {key!r} was not audited{reason}; audited are {known}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; keys of later runs are told apart as "loss (run 2)"."""
        return {
            "ok": self.ok,
            "source": self.logged.source,
            "format": self.logged.format,
            "framework": self.logged.framework,
            "runs": len(self.logged.runs),
            "notes": list(self.logged.notes),
            "keys": {one.label: _document(one) for one in self.keys},
            "violations": [asdict(one) for one in self.violations],
            "notices": [asdict(one) for one in self.notices],
            "held": [asdict(one) for one in self.held],
            "left_out": dict(self.left_out),
        }


def audit(
    logged: Any,
    dump: Dump | None = None,
    *,
    key: str | Sequence[str] | None = None,
    noise: float | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Which convention reproduces the logged numbers, and is it the one their names promise?

    Without a dump, only what the logged keys imply of each other is checked.

    Args:
        logged: a file that a trainer wrote (see `analysis.logs.reading`), its rows, a frame, or a dump, whose `scalars` are
            audited against it.
        dump: the recording of the same run.
        key: the key or keys to audit; all by default.
        noise: how far trainer and recording may be apart beside the rounding of the log, in the key's own unit; by default
            10⁻⁶ + 2·10⁻⁶ |value|, as float32 arithmetic on the same logits. Give more where the logits are of another forward
            pass (about 0.055/√tokens nats between chunk sizes in bf16).
        executor: where to tally shards (see `tally_dump`).
        progress: told after every shard.

    Raises:
        InputError: nothing was logged, no such key, or `noise` below 0.
        DamagedDumpError: a shard was altered.
    """
    if isinstance(logged, Dump) and dump is None:
        dump = logged
    if isinstance(dump, (str, PathLike)):
        raise InputError(f"dump is {str(dump)!r}; open it first: logitbox.open({str(dump)!r})")
    log = read_logged(logged)
    wanted = _wanted(log, key)
    evidence = None if dump is None else evidence_of(dump, executor, progress)
    return audit_evidence(log, evidence, dump, wanted=wanted, noise=_noise(noise))


def audit_evidence(
    log: Logged,
    evidence: Evidence | None,
    dump: Dump | None = None,
    *,
    wanted: AbstractSet[str] | None = None,
    noise: Noise = usual_noise,
) -> Audit:
    """`audit` from sums at hand.

    Args:
        log: what was logged.
        evidence: of the dump; None for a log alone.
        dump: whose registered keys are known by name; None for what names alone tell.
        wanted: the keys to audit, None for all.
        noise: value to what arithmetic may be off by.
    """
    specs = [] if dump is None else [session.spec for session in dump.sessions]
    streams = [] if evidence is None else streams_of(evidence)
    keys: list[KeyVerdict] = []
    violations: list[Violation] = []
    notices: list[Notice] = []
    left_out: dict[str, str] = {}
    kept: list[Held] = []
    vocab_size = specs[0].vocab_size if specs else None
    for run in log.runs:
        meanings, reasons = find_meanings(log, run, specs, streams)
        broken, odd = check(log, run, meanings, vocab_size)
        audited = {name: one for name, one in meanings.items() if wanted is None or name in wanted}
        found = _verdicts(log, run, audited, evidence, noise)
        odd = [*odd, *(_as_notice(one) for one in broken if _is_explained(one, found))]
        broken = [one for one in broken if not _is_explained(one, found)]
        keys += [_convicted(one, broken) for one in found]
        odd += _strange(found, run)
        violations += [one for one in broken if wanted is None or wanted & set(one.keys)]
        notices += [one for one in odd if wanted is None or not one.keys or wanted & set(one.keys)]
        kept += [
            one for one in held(log, run, meanings, vocab_size) if wanted is None or wanted & set(one.keys)
        ]
        left_out |= {name: why for name, why in reasons.items() if wanted is None or name in wanted}
    return Audit(
        frame=_frame(keys),
        verdict=sentence(keys, violations, len(log.runs), is_alone=evidence is None),
        keys=tuple(keys),
        violations=tuple(violations),
        notices=tuple(notices),
        logged=log,
        left_out=left_out,
        held=tuple(kept),
    )


def _strange(found: Sequence[KeyVerdict], run: int) -> list[Notice]:
    """Whether nothing that was compared is explained: a log and a dump of different runs."""
    compared = [one for one in found if one.n_lines]
    if len(compared) < 2 or any(one.verdict != "unexplained" for one in compared):
        return []
    about = "none of these keys is explained by the dump. Look first whether it is the recording of this run"
    return [Notice("another-run", run, None, tuple(one.key for one in compared), about)]


def _verdicts(
    log: Logged, run: int, meanings: dict[str, Meaning], evidence: Evidence | None, noise: Noise
) -> list[KeyVerdict]:
    if evidence is not None:
        return list(Against(log, run, evidence, noise).verdicts(meanings))
    alone = "no inequality it takes part in is broken; a dump of the run would tell how it was computed"
    return [KeyVerdict(name, run, "cannot tell", about=alone) for name in meanings]


def _is_explained(broken: Violation, found: Sequence[KeyVerdict]) -> bool:
    """Whether the dump shows each of the keys to be what it is logged as, at that very step."""
    several = [one for one in found if one.key in broken.keys]
    return len(several) == len(set(broken.keys)) and all(
        one.verdict in ("agrees", "other convention")
        and one.lines.height > 0
        and broken.step in one.lines["step"].to_list()
        for one in several
    )


def _as_notice(broken: Violation) -> Notice:
    about = (
        f"{broken.formula} does not hold ({broken.lhs:.6g} < {broken.rhs:.6g}), but the dump gives all of these numbers as "
        "they were logged; see how each is computed"
    )
    return Notice(broken.inequality, broken.run, broken.step, broken.keys, about, broken.count)


def _convicted(one: KeyVerdict, broken: Sequence[Violation]) -> KeyVerdict:
    """A key that takes part in something impossible, unless the dump shows that it is another's fault."""
    mine = [violation for violation in broken if one.key in violation.keys]
    is_right = None not in (one.max_error, one.tolerance) and (one.max_error or 0.0) <= (one.tolerance or 0.0)
    if not mine or is_right or one.verdict not in ("cannot tell", "unexplained"):
        return one
    first = mine[0]
    about = f"{first.formula} is broken: {first.lhs:.6g} < {first.rhs:.6g}. {first.about}"
    if one.n_lines:
        about = f"{about}; {one.about}"
    return replace(one, verdict="impossible", about=about, fix=first.repair, hypothesis=None)


def _wanted(log: Logged, key: str | Sequence[str] | None) -> frozenset[str] | None:
    """Keys to audit. Raises InputError for one that was not logged."""
    if key is None:
        return None
    names = frozenset([key] if isinstance(key, str) else key)
    known = log.frame["key"].unique(maintain_order=True).to_list()
    if unknown := sorted(names - set(known)):
        raise InputError(f"key is {unknown[0]!r}, which was not logged; logged are {', '.join(known)}")
    return names


def _noise(noise: float | None) -> Noise:
    """Raises InputError for what is no width."""
    if noise is None:
        return usual_noise
    if not (isfinite(noise) and noise >= 0):
        raise InputError(f"noise is {noise!r}; give 0 or more, in the key's own unit")
    return lambda values, _: np.full(len(values), float(noise))


def _frame(keys: Sequence[KeyVerdict]) -> pl.DataFrame:
    rows = [{name: _plain(getattr(one, name)) for name, _ in _COLUMNS} for one in keys]
    return pl.DataFrame(rows, schema=dict(_COLUMNS))


def _document(one: KeyVerdict) -> dict[str, Any]:
    return {name: _plain(getattr(one, name)) for name, _ in _COLUMNS if name != "key"} | {
        "closest": [asdict(fit) for fit in one.closest]
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
