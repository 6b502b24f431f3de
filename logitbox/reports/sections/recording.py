"""How the dump was recorded: what every number rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from logitbox.dumps.dump import Dump
from logitbox.dumps.manifest import Session
from logitbox.dumps.spec import Group, RecordSpec
from logitbox.reports import texts
from logitbox.reports.streams import Material

_MAX_SESSIONS, _MAX_NAMES = 12, 32


@dataclass(frozen=True)
class SessionFacts:
    """A session with its facts, in words."""

    name: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Recording:
    """See `recording.html`."""

    format: str
    sessions: tuple[SessionFacts, ...]
    n_more: int
    batches: str


def build(material: Material) -> Recording:
    """Sessions (their ranks together), and what the micro-batches were like."""
    dump = material.dump
    ranks: dict[str, list[Session]] = {}
    for session in dump.sessions:
        ranks.setdefault(session.session, []).append(session)
    shown = [_session(name, members) for name, members in list(ranks.items())[:_MAX_SESSIONS]]
    more = max(0, len(ranks) - _MAX_SESSIONS)
    return Recording(dump.manifest.format, tuple(shown), more, _batches(dump))


def _session(name: str, members: list[Session]) -> SessionFacts:
    first, spec = members[0], members[0].spec
    facts = [
        ("started", first.started or "unknown"),
        ("ranks", f"{len(members)} of {first.world} recorded"),
        (
            "vocabulary",
            f"{spec.vocab_size:,} tokens, {'with' if first.has_token_text else 'without'} their text",
        ),
        ("best tokens kept (k)", str(spec.k)),
        ("positions", "supervised only" if spec.scope == "supervised" else "all"),
        ("training steps", "every one" if first.every == 1 else f"multiples of {first.every}"),
        ("token types", _types(spec)),
        ("groups", _some(_group(group) for group in spec.groups) or "none"),
        *((f"ordered group {n}", _options(spec, n)) for n in list(spec.ordered)[:_MAX_NAMES]),
        ("shift probes", "yes" if spec.probes else "no"),
        (
            "logsumexp at other temperatures",
            {"eval": "all phases but train", "always": "yes", "never": "no"}[spec.lse_beta],
        ),
    ]
    if first.accumulation is not None:
        facts.append(("micro-batches per step", str(first.accumulation)))
    if first.resume_from is not None:
        facts.append(("resumed from step", f"{first.resume_from:,}"))
    facts.append(
        ("versions", ", ".join(f"{package} {version}" for package, version in first.versions.items()))
    )
    return SessionFacts(name, tuple(facts))


def _types(spec: RecordSpec) -> str:
    if not spec.types.names:
        return "none"
    kind = "every position has exactly one" if spec.types.partition else "may overlap"
    return f"{_some(spec.types.names)} ({kind})"


def _group(group: Group) -> str:
    if isinstance(group.ids, range):
        return f"{group.name} (ids {group.ids.start:,} to {group.ids.stop - 1:,})"
    return f"{group.name} ({texts.plural(len(group.ids), 'id')})"


def _options(spec: RecordSpec, name: str) -> str:
    options = spec.ordered[name]
    return ", ".join(f"{option} {getattr(options, option)}" for option in options.__dataclass_fields__)


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MAX_NAMES} more" if len(every) > _MAX_NAMES else ""
    return ", ".join(every[:_MAX_NAMES]) + more


def _batches(dump: Dump) -> str:
    counts = dump.batches.select(
        pl.len().alias("all"), (pl.col("n_supervised") == 0).sum().alias("empty")
    ).collect()
    n, empty = counts.row(0)
    told = texts.plural(n, "micro-batch", "micro-batches")
    return f"{told}, {texts.count(empty)} of them without any supervised token" if empty else told
