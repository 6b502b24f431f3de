"""`classification`: the metrics of seed 002 of a classifier's dump."""

from __future__ import annotations

from concurrent.futures import Executor

from logitbox.analysis.classification.counting import count
from logitbox.analysis.classification.curves import curves
from logitbox.analysis.classification.evidence import Evidence
from logitbox.analysis.classification.preparing import Calls, Samples
from logitbox.analysis.classification.result import Classification
from logitbox.analysis.classification.settings import (
    Batch,
    By,
    Names,
    Pairs,
    Settings,
    choose_phase,
    edges,
    namer,
    one_of,
    pairs,
    share,
)
from logitbox.analysis.classification.verdict import verdict
from logitbox.analysis.given import check_dump
from logitbox.analysis.passes import Progress
from logitbox.dumps.checks import whole_number
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError


def classification(
    dump: Dump,
    phase: str | None = None,
    by: By = "epoch",
    *,
    names: Names = None,
    expected: Pairs = (),
    buckets: tuple[float, ...] = (0, 5, 10, 15),
    window: int = 3,
    ddof: int = 0,
    batch: Batch = "micro",
    confusion_rate: float = 0.10,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Classification:
    """A classifier's metrics under seed 002's keys, with intervals over groups (else samples).

    Args:
        dump: an opened dump in which a sample is one prediction: `rec.record(logits[N, C], labels[N])`.
        phase: the evaluation phase, whose keys begin with `val/`; by default "val" or another usual name, else the
            only one that is not "train".
        by: how training is pooled: by "epoch", where epochs were recorded, or "step". Evaluations are never pooled: each
            step of the phase is a point.
        names: class names, by id; by default the vocabulary's.
        expected: pairs of classes, by name or id, whose confusion is no surprise.
        buckets: lower ends of the buckets of `length`.
        window: evaluations that `learning/improvement_rate` is over.
        ddof: subtracted from the number of batches in standard deviations.
        batch: whose mean losses `train/loss_std` is over: "micro", one call of `record`, or "step", all of an optimizer step.
        confusion_rate: pairs of classes above it are listed.
        executor: where shards are summed up (any `concurrent.futures.Executor`).
        progress: told after every shard.

    Raises:
        InputError: a bad argument, or a dump without token rows.
        DamagedDumpError: a shard was altered.
    """
    if not check_dump(dump).shards("tokens"):
        raise InputError(
            f"{dump.path} holds no token rows yet; record something, or flush() a run in progress"
        )
    calls = Calls.of(dump, one_of("by", by, By))
    classes = max(session.spec.vocab_size for session in dump.sessions)
    name = namer(names, dump)
    settings = Settings(
        phase=choose_phase(phase, calls.phases),
        phases=calls.phases,
        by=by,
        buckets=edges(buckets),
        window=whole_number("window", window, 2),
        ddof=whole_number("ddof", ddof, 0),
        batch=one_of("batch", batch, Batch),
        confusion_rate=share("confusion_rate", confusion_rate),
        expected=pairs(expected, name, classes),
        name=name,
        unit=next((s.length_unit for s in reversed(dump.sessions) if s.length_unit), ""),
        classes=classes,
    )
    samples = Samples.of(dump, settings.buckets)
    counts = count(dump, samples.lookup, samples.options(calls), executor, progress)
    evidence = Evidence.of(dump, settings, calls, samples, counts)
    frame = curves(evidence)
    return Classification(frame, verdict(frame, evidence), evidence)
