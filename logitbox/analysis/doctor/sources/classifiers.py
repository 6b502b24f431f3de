"""Series of a classifier's dump: `classification`, and what it tells beside its frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import polars as pl

from logitbox.analysis.classification import Classification, classification
from logitbox.analysis.doctor.series import SCHEMA, Facts, Series, series_frame
from logitbox.analysis.doctor.sources.logs import Row, series_rows
from logitbox.analysis.passes import Progress
from logitbox.dumps.dump import Dump

_MOST_CLASSES = 2000
"""A vocabulary beyond it with one position per sample is rather a language model's than a classifier's."""
_UNCERTAIN = 10
"""High-entropy samples that are looked at."""


def is_classifier(dump: Dump) -> bool:
    """Whether every sample is one prediction among all classes: k covers them, or no sample has a second position."""
    size = max((session.spec.vocab_size for session in dump.sessions), default=0)
    if not dump.shards("tokens") or not 0 < size <= _MOST_CLASSES:
        return False
    return dump.tokens.select(pl.col("pos").max()).collect(engine="streaming").item() == 0


def classifier_series(
    dump: Dump,
    phase: str | None,
    aliases: Mapping[str, str],
    pairs: Sequence[str] = (),
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Series:
    """Series of a classifier's dump, see `series_of`."""
    return series_of(classification(dump, phase, executor=executor, progress=progress), aliases, pairs)


def series_of(found: Classification, aliases: Mapping[str, str], pairs: Sequence[str] = ()) -> Series:
    """Series under the keys of the field guide for classifiers (docs/doctor.md).

    And of some families:

    `val/top_confusions/GOLD → PREDICTED` (rates; of expected pairs `val/expected_confusions/…`),
    `gap/per_dataset_accuracy/SOURCE` (train − val), and `val/uncertain_source_excess/SOURCE` (its share of the ten
    samples of highest entropy less its share of all).

    Pairs "A ↔ B" of classes of the dump are told also where they are never confused.
    """
    dump = found.evidence.dump
    frame = found.frame.select(*(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()))
    evaluations = dict(frame.filter(pl.col("key") == "val/accuracy").select("step", "epoch").iter_rows())
    rows = [
        *_confusions(found, evaluations, pairs),
        *_gaps(found, evaluations),
        *_uncertain(found, evaluations),
        *_nonfinite(found),
    ]
    frame = pl.concat([frame, series_frame(rows), series_frame(_scalars(dump, frame, aliases))])
    chosen = found.phase
    notes = [f"val/… is phase {chosen!r}"] if chosen and chosen != "val" else []
    if frame["epoch"].is_null().all():
        notes.append("no epochs were recorded")
    facts = Facts(
        source=str(dump.path),
        classes=found.classes,
        phase=chosen or "",
        has_logits=True,
        missing=_missing(found.frame),
        notes=tuple(notes),
    )
    return Series(frame, facts)


def _missing(frame: pl.DataFrame) -> dict[str, str]:
    """Of keys that have no value at all, the reason given last."""
    none = frame.group_by("key", maintain_order=True).agg(
        pl.col("value").is_null().all(), pl.col("reason").last()
    )
    return {
        row["key"]: row["reason"] or "no value" for row in none.filter(pl.col("value")).iter_rows(named=True)
    }


def _confusions(
    found: Classification, evaluations: Mapping[int, float | None], pairs: Sequence[str]
) -> Iterator[Row]:
    if found.phase is None:
        return
    seen: set[tuple[int, str]] = set()
    for row in found.confusions(step=None, rate=0.0).iter_rows(named=True):
        seen.add((row["step"], f"{row['gold']} → {row['predicted']}"))
        yield {
            "key": f"val/{'expected' if row['expected'] else 'top'}_confusions/{row['gold']} → {row['predicted']}",
            "step": row["step"],
            "epoch": evaluations.get(row["step"]),
            "value": row["rate"],
            "low": row["low"],
            "high": row["high"],
            "n": row["of"],
        }
    name = found.evidence.settings.name
    names = {name(index) for index in range(found.classes)}
    for ends in ([end.strip() for end in pair.split("↔")] for pair in pairs):
        if len(ends) == 2 and names.issuperset(ends):
            told = [" → ".join(ends), " → ".join(reversed(ends))]
            never = [(step, one) for step in evaluations for one in told if (step, one) not in seen]
            yield from (
                {"key": f"val/top_confusions/{one}", "step": step, "epoch": evaluations[step], "value": 0.0}
                for step, one in never
            )


def _gaps(found: Classification, evaluations: Mapping[int, float | None]) -> Iterator[Row]:
    if found.phase is None or not evaluations:
        return
    step = max(evaluations)
    for row in found.gaps.iter_rows(named=True):
        here = {
            "step": step,
            "epoch": evaluations[step],
            "value": row["gap"],
            "low": row["low"],
            "high": row["high"],
        }
        yield here | {"key": f"gap/per_dataset_accuracy/{row['source']}", "n": row["n_val"]}


def _uncertain(found: Classification, evaluations: Mapping[int, float | None]) -> Iterator[Row]:
    """Which sources the ten samples of highest entropy come from, against how many samples each has."""
    if found.phase is None or not evaluations:
        return
    step = max(evaluations)
    listed = found.uncertain(_UNCERTAIN, step)["source"].drop_nulls()
    at = (pl.col("step") == step) & pl.col("key").str.starts_with("val/per_dataset_accuracy/")
    sources = found.frame.filter(at).select("key", "n").drop_nulls()
    total = sum(sources["n"].to_list())
    if not len(listed) or not total:
        return
    for key, n in sources.iter_rows():
        source = key.removeprefix("val/per_dataset_accuracy/")
        share = (listed == source).sum() / len(listed)
        here: dict[str, Any] = {"step": step, "epoch": evaluations[step], "n": len(listed)}
        yield here | {"key": f"val/uncertain_source_excess/{source}", "value": share - n / total}


def _nonfinite(found: Classification) -> Iterator[Row]:
    """Rows of logits that are NaN or infinite, counted from the start; one row for each step that has any."""
    prefixes = {"train": "train", found.phase or "": "val"}
    for (phase,), steps in found.evidence.nonfinite.group_by("phase", maintain_order=True):
        key, bad = f"nonfinite/{prefixes[str(phase)]}/logits", steps.filter(pl.col("n") > 0)
        counted = zip(bad["step"].to_list(), bad["n"].cum_sum().to_list(), strict=True)
        for step, n in [*counted] or [(steps["step"][-1], 0)]:
            yield {"key": key, "step": step, "value": float(n), "low": float(n), "high": float(n), "n": n}


def _scalars(dump: Dump, frame: pl.DataFrame, aliases: Mapping[str, str]) -> list[Row]:
    """What the trainer logged, under the keys that rules use, where the logits do not tell it."""
    known = set(frame["key"].unique())
    logged = dump.scalars.select("step", "key", "value").collect()
    return [row for row in series_rows(logged.to_dicts(), aliases) if row["key"] not in known]
