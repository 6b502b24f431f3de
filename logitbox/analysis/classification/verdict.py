"""What a `Classification` says in one line."""

from __future__ import annotations

import polars as pl

from logitbox.analysis.classification.evidence import Evidence
from logitbox.analysis.classification.macro_f1 import macro_f1
from logitbox.analysis.given import repeated_steps
from logitbox.analysis.leftout import left_out

_NAMED = 5


def verdict(frame: pl.DataFrame, evidence: Evidence) -> str:
    """The last evaluation in words, and what was left out."""
    settings = evidence.settings
    if settings.phase is None:
        parts = [f"no evaluation phase was recorded; train: {len(evidence.train):,} points"]
    elif not len(evidence.pairs):
        parts = [f"{settings.phase}: no finite samples with a label"]
    else:
        parts = [_last(frame, evidence), *_absent(evidence)]
    return "; ".join([*parts, *_notes(evidence)])


def _last(frame: pl.DataFrame, evidence: Evidence) -> str:
    last = evidence.evaluations.row(-1, named=True)
    here = frame.filter(pl.col("step") == last["step"], ~pl.col("key").str.starts_with("train/"))
    rows = {row["key"]: row for row in here.iter_rows(named=True)}
    when = f"step {last['step']:,}" + ("" if last["epoch"] is None else f" (epoch {last['epoch']:g})")
    told = [f"{name} {_number(rows[key])}" for key, name in _TOLD if rows[key]["value"] is not None]
    samples = rows["val/accuracy"]["n"]
    values = f"{', '.join(told)} over {samples:,} samples" if told else "no finite samples with a label"
    count = len(evidence.evaluations)
    return (
        f"{evidence.settings.phase}, {evidence.settings.classes:,} classes, at {when}: {values}; "
        f"{count:,} evaluation{'' if count == 1 else 's'}"
    )


_TOLD = (("val/accuracy", "accuracy"), ("val/macro_f1", "macro F1"), ("val/loss", "loss"))


def _number(row: dict[str, float | None]) -> str:
    ends = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return f"{row['value']:.3f}{ends}"


def _absent(evidence: Evidence) -> list[str]:
    step = evidence.evaluations["step"][-1]
    pairs = evidence.pairs.filter(pl.col("step") == step)
    if not len(pairs):
        return []
    seen = set(pairs["gold"])
    missing = [index for index in range(evidence.settings.classes) if index not in seen]
    if not missing:
        return []
    counted = len(macro_f1(pairs).absent)
    some = ", ".join(evidence.settings.name(index) for index in missing[:_NAMED])
    more = ", …" if len(missing) > _NAMED else ""
    told = f"no sample is of {len(missing):,} class{'' if len(missing) == 1 else 'es'} ({some}{more})"
    were = "was predicted and counts" if counted == 1 else "were predicted and count"
    return [told + (f", {counted:,} of which {were} 0 in macro F1" if counted else "")]


def _notes(evidence: Evidence) -> list[str]:
    lost = {"n_nonfinite": evidence.left_out["nonfinite"], "n_duplicate": evidence.left_out["duplicate"]}
    notes = [told] if (told := left_out(lost)) else []
    if count := evidence.left_out["no_epoch"]:
        notes.append(f"{count:,} training samples without an epoch left out")
    if evidence.settings.by == "epoch" and evidence.train_by == "step" and len(evidence.train):
        notes.append("no epochs were recorded with training, so it is split by step")
    if evidence.is_crowded:
        notes.append("several epochs were recorded at one step and are pooled; pass step= to record")
    notes += _groups(evidence)
    others = [p for p in evidence.settings.phases if p not in ("train", evidence.settings.phase)]
    if others:
        notes.append(f"phase {', '.join(others)} not looked at; choose with phase=")
    if evidence.dump.skipped:
        notes.append(f"{len(evidence.dump.skipped):,} damaged shards left out")
    if repeated := repeated_steps(evidence.dump):
        notes.append(f"{repeated:,} steps were recorded by more than one session and count more than once")
    return notes


def _groups(evidence: Evidence) -> list[str]:
    if evidence.settings.phase is None:
        return []
    if not len(evidence.groups):
        return ["no groups were given: intervals take samples as independent"]
    last = evidence.groups.filter(pl.col("step") == evidence.groups["step"].max())
    alone = last.filter(pl.col("n") == 1)["group"].n_unique()
    return [f"{alone:,} groups of one sample are no part of speaker consistency"] if alone else []
