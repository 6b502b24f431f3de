"""What the trainer logged, beside what the logits say about the same quantity at the same step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from logitbox.reports import texts
from logitbox.reports.curves import Curve
from logitbox.reports.streams import Material, Stream

ALIASES: Mapping[str, str] = {
    "loss": "nll",
    "ce": "nll",
    "ce_loss": "nll",
    "cross_entropy": "nll",
    "ppl": "exp_nll",
    "perplexity": "exp_nll",
    "entropy": "full_entropy",
    "acc": "token_acc",
    "accuracy": "token_acc",
    "token_accuracy": "token_acc",
    "mean_token_accuracy": "token_acc",
}
"""Names that trainers give to quantities of the registry; exact keys of it come first."""
_MAX_ROWS, _MAX_NAMES = 40, 30


@dataclass(frozen=True)
class Match:
    """One logged key and the metric it looks like."""

    logged: str
    metric: str
    stream: Stream
    frame: pl.DataFrame
    """`step`, `value`."""

    def curve(self) -> Curve:
        """The logged values as a line."""
        step, value = (self.frame[name].to_numpy().astype(np.float64) for name in ("step", "value"))
        nothing = np.full(len(step), np.nan)
        return Curve(f"logged {self.logged}", self.stream.label, step, value, nothing, nothing)


@dataclass(frozen=True)
class Compared:
    """A row of the table."""

    logged: str
    metric: str
    step: str
    logged_text: str
    dump_text: str
    difference: str


@dataclass(frozen=True)
class Logged:
    """See `logged.html`."""

    rows: tuple[Compared, ...]
    n_more: int
    unmatched: tuple[str, ...]
    n_scalars: int


def find_matches(material: Material) -> list[Match]:
    """Logged keys that bear the name of a metric, or another common name of it."""
    frame = material.dump.scalars.select("step", "phase", "key", "value").collect()
    known = {metric.key for metric in material.metrics}
    matches: list[Match] = []
    for (phase, key), rows in frame.group_by(["phase", "key"], maintain_order=True):
        stream, metric = _found(str(key), str(phase), material.streams)
        if stream is not None and metric in known:
            last = rows.select("step", "value").unique("step", keep="last", maintain_order=True).sort("step")
            matches.append(Match(str(key), metric, stream, last))
    return matches


def _found(key: str, phase: str, streams: Sequence[Stream]) -> tuple[Stream | None, str]:
    """(stream a logged key is about, the metric it looks like)."""
    for stream in streams:
        if stream.phase == phase and stream.bare(key) != key:
            return stream, stream.bare(key)
    stream, name = _resolve(key, phase, streams)
    return stream, ALIASES.get(name, name)


def _resolve(key: str, phase: str, streams: Sequence[Stream]) -> tuple[Stream | None, str]:
    """(stream a logged key is about, the key without phase and dataset)."""
    for known in dict.fromkeys(stream.phase for stream in streams):
        for joint in ("_", "/", "."):
            if key.startswith(known + joint):
                return _in_phase(key.removeprefix(known + joint), known, streams)
    return _in_phase(key, phase, streams)


def _in_phase(name: str, phase: str, streams: Sequence[Stream]) -> tuple[Stream | None, str]:
    here = [stream for stream in streams if stream.phase == phase]
    for stream in here:
        for joint in ("_", "/"):
            if stream.dataset and name.startswith(stream.dataset + joint):
                return stream, name.removeprefix(stream.dataset + joint)
    return (here[0], name) if len(here) == 1 else (None, name)


def build(material: Material, matches: Sequence[Match]) -> Logged:
    """The comparison at each key's last common step."""
    scalars = material.dump.scalars.select("key").collect()
    matched = {match.logged for match in matches}
    unmatched = [str(key) for key in scalars["key"].unique(maintain_order=True) if key not in matched]
    rows = [row for match in matches if (row := _compare(match, material)) is not None]
    return Logged(
        tuple(rows[:_MAX_ROWS]), max(0, len(rows) - _MAX_ROWS), tuple(unmatched[:_MAX_NAMES]), scalars.height
    )


def _compare(match: Match, material: Material) -> Compared | None:
    key = match.stream.keys[match.metric]
    ours = material.steps_of(match.stream).frame.filter(
        (pl.col("key") == key) & pl.col("value").is_not_null()
    )
    both = match.frame.join(ours.select("step", ours="value"), on="step", how="inner").sort("step")
    if both.is_empty():
        return None
    step, logged, value = both.row(-1)
    dataset = f" ({match.stream.dataset})" if match.stream.dataset else ""
    told = (texts.number(logged), texts.number(value), texts.signed(logged - value))
    return Compared(match.logged, key + dataset, f"{step:,}", *told)
