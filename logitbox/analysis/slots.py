"""The rows that `decisions` is about: supervised tokens of the sessions with answers, and what each slot decided."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Literal, SupportsIndex

import numpy as np
import polars as pl

from logitbox.analysis.given import check_dump
from logitbox.analysis.tallying import Progress
from logitbox.dumps.definitions.decisions import ACCURACY, CONFIDENCE
from logitbox.dumps.definitions.registry import quantities_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag
from logitbox.dumps.manifest import Session
from logitbox.dumps.spec import DECISION, RecordSpec
from logitbox.errors import InputError

PLACE = ("phase", "dataset", "pass", "step")
"""With the sample, one evaluation of it."""

Step = Literal["last", "all"] | int


def check_step(step: object) -> Step:
    """The step. Raises InputError for anything but "last", "all" and whole numbers."""
    if step in ("last", "all"):
        return "last" if step == "last" else "all"
    if isinstance(step, SupportsIndex) and not isinstance(step, bool):
        return index(step)
    raise InputError(f"step is {step!r}; give a number, 'last' or 'all'")


def answers_of(dump: Dump) -> tuple[str, ...]:
    """The answers of all sessions, in the order declared."""
    return tuple(dict.fromkeys(name for session in dump.sessions for name in session.spec.answers))


def supervised(dump: Dump, progress: Progress | None = None) -> pl.LazyFrame:
    """Supervised, visible rows in recording order, numbered by `at`, with what they say as decision slots.

    Sessions may differ in their answers; those without any are left out.

    Raises:
        InputError: no session has answers, or none of those has token rows.
        DamagedDumpError: a shard was altered.
    """
    deciding = [session for session in check_dump(dump).sessions if session.spec.answers]
    if not deciding:
        raise InputError(
            f"{dump.path} was recorded without answers; pass answers={{'accept': ids, 'reject': ids}} to the Recorder"
        )
    shards = [shard for shard in dump.shards("tokens") if shard.session in deciding]
    for done, shard in enumerate(shards, start=1):
        dump.check([shard])  # single rows are shown: altered bytes must not pass for numbers
        if progress is not None:
            progress(done, len(shards))
    frames: list[pl.LazyFrame] = []
    for session in deciding:
        paths = [shard.path for shard in shards if shard.session is session]
        if paths:
            rows = dump.visible(session)(pl.scan_parquet(paths, glob=False, hive_partitioning=False))
            frames.append(_judged(rows, session))
    if not frames:
        raise InputError(
            f"{dump.path} holds no token rows yet; record something, or flush() a run in progress"
        )
    return pl.concat(frames, how="diagonal_relaxed").with_row_index("at")


def _judged(rows: pl.LazyFrame, session: Session) -> pl.LazyFrame:
    spec = session.spec
    types, flags = spec.types.names, pl.col("flags")
    bit = 1 << types.index(DECISION) if DECISION in types else 0
    top = pl.col("top_ids").list.first()
    read = ("gold", *(f"logmass_{name}" for name in spec.answers))
    # One struct of all quantities, made only where a query asks for one of them.
    found = pl.struct(*read, top.fill_null(-1).alias("top_1")).map_batches(
        lambda columns: _decided(columns, spec),
        return_dtype=pl.Struct(_found_of(spec)),
        is_elementwise=True,
    )
    return (
        rows.filter((flags & int(Flag.SUPERVISED)) != 0)
        .select(
            *PLACE,
            pl.lit(session.session).alias("session"),
            *("sample", "pos"),
            ((pl.col("types") & bit) != 0).alias("is_slot"),
            ((flags & int(Flag.NONFINITE)) != 0).alias("is_nonfinite"),
            ((flags & int(Flag.DUPLICATE)) != 0).alias("is_duplicate"),
            top.alias("top_id"),
            found.alias("found"),
        )
        .with_columns(pl.col("found").struct.field(name) for name in _found_of(spec))
        .drop("found")
    )


_QUANTITIES = {
    "prob_mass": "decision_mass",
    "confidence": CONFIDENCE,
    "correct": ACCURACY,
    "elsewhere": "decision_elsewhere",
}
"""Columns here, and the quantities they are."""


def _found_of(spec: RecordSpec) -> dict[str, pl.DataType]:
    """Names and types of what `_decided` finds."""
    masses = {f"p_{name}": pl.Float64() for name in spec.answers}
    numbers = dict.fromkeys(("prob_mass", "confidence"), pl.Float64())
    truths = dict.fromkeys(("correct", "elsewhere"), pl.Boolean())
    return {"gt": pl.String(), "pred": pl.String(), **masses, **numbers, **truths}


def _decided(columns: pl.Series, spec: RecordSpec) -> pl.Series:
    """The answers' quantities as they are defined, and which answers gold and the likeliest one are."""
    given = columns.struct.unnest().with_columns(pl.col(pl.Float32).cast(pl.Float64))
    rows = Rows({name: given[name].to_numpy() for name in given.columns}, spec)
    masses = np.stack([rows[f"logmass_{name}"] for name in spec.answers])
    names = np.array([*spec.answers, None])
    pred = np.where(masses.max(0) > -np.inf, masses.argmax(0), -1)  # the first among equals
    gold = np.select([rows.inside(name) for name in spec.answers], list(range(len(spec.answers))), -1)
    entries = {entry.name: entry for entry in quantities_of(spec)}
    wanted = {f"p_{name}": f"mass_{name}" for name in spec.answers} | _QUANTITIES
    found = {"gt": names[gold].tolist(), "pred": names[pred].tolist()}
    found |= {name: entries[quantity].value(rows) for name, quantity in wanted.items()}
    return pl.DataFrame(found, schema=_found_of(spec)).to_struct(columns.name)


def places_of(rows: pl.LazyFrame) -> pl.DataFrame:
    """Per place and session: `slots` in it, and `at`, where its last row stands; in recording order."""
    counts = (pl.col("is_slot").sum().alias("slots"), pl.col("at").max())
    return rows.group_by(*PLACE, "session").agg(*counts).sort("at").collect(engine="streaming")


def chosen_phase(places: pl.DataFrame, phase: str | None) -> str:
    """By default the evaluation recorded last, one with slots before one without; else train.

    Raises:
        InputError: no such phase.
    """
    known: list[str] = sorted(places["phase"].unique())
    if phase is not None and phase not in known:
        raise InputError(f"phase is {phase!r}; the dump has {', '.join(known) or 'no supervised tokens'}")
    if phase is not None:
        return phase
    evaluations = places.filter(pl.col("phase") != "train")
    for part in (evaluations.filter(pl.col("slots") > 0), evaluations, places):
        if part.height:
            return str(part["phase"][-1])
    return "train"


def chosen(places: pl.DataFrame, phase: str, dataset: str | None, step: Step) -> pl.DataFrame:
    """The places of a phase, data set and step.

    Raises:
        InputError: no such data set or step.
    """
    here = places.filter(pl.col("phase") == phase)
    names: list[str] = sorted(here["dataset"].unique())
    if dataset is not None and dataset not in names:
        raise InputError(f"dataset is {dataset!r}; phase {phase} has {', '.join(map(repr, names)) or 'none'}")
    here = here if dataset is None else here.filter(pl.col("dataset") == dataset)
    if step == "all":
        return here
    if step == "last":
        last = here.sort("step", "pass", maintain_order=True).group_by("dataset", maintain_order=True).last()
        return here.join(last.select(*PLACE), on=PLACE, how="semi")
    steps: list[int] = sorted(here["step"].unique())
    if step not in steps:
        near = sorted(sorted(steps, key=lambda other: abs(other - step))[:5])
        told = ", ".join(map(str, near)) or "none"
        raise InputError(f"step is {step}; of phase {phase} the nearest recorded steps are {told}")
    return here.filter(pl.col("step") == step)


def at_places(rows: pl.LazyFrame, places: pl.DataFrame) -> pl.LazyFrame:
    """Rows at these places."""
    return rows.join(places.select(*PLACE).unique().lazy(), on=PLACE, how="semi")


def names_of_samples(dump: Dump, slots: pl.DataFrame) -> pl.DataFrame:
    """`key` and `source` of the samples of these rows, by `sample` and `dataset`."""
    keys = slots.select("sample", "dataset").unique().lazy()
    samples = dump.samples.join(keys, on=["sample", "dataset"], how="semi")
    return samples.select("sample", "dataset", "key", "source").collect()


def told_step(step: Step, places: pl.DataFrame) -> str:
    """Which steps, in words."""
    steps: Sequence[int] = sorted(places["step"].unique())
    if not steps:
        return "no step"
    if step == "all" and len(steps) > 1:
        return f"{len(steps):,} steps"
    return f"step {steps[0]:,}" if len(steps) == 1 else "each data set's last step"
