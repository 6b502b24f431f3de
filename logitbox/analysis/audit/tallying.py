"""One pass over a dump gives an audit its evidence: sums of every value over every population, for each micro-batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from math import gcd
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.audit.cells import Cells, EvidenceTask, cells_of_shard
from logitbox.analysis.audit.evidence import MICRO, Evidence, Setup
from logitbox.analysis.audit.hypotheses.populations import OWN, PROBED, WHOLE
from logitbox.analysis.passes import Pass, Progress, run, tasks_of
from logitbox.analysis.tally import merge_frames
from logitbox.dumps.definitions.groups import rest_of
from logitbox.dumps.dump import Dump

T = TypeVar("T")

_KEY = (*MICRO, "population")


def merge(parts: Sequence[Cells]) -> Cells:
    """The cells of all shards; micro-batches lie in one each."""
    return Cells(pl.concat([part.cells for part in parts], how="diagonal_relaxed"))


EVIDENCE = Pass(
    of_shard=cells_of_shard,
    merge=merge,
    kind=Cells,
    columns=(frozenset((*_KEY, "n", "samples", "n_nonfinite")),),
    suffix="audit",
    code=(
        ("logitbox.analysis.audit", ("cells.py", "evidence.py", "tallying.py")),
        (
            "logitbox.analysis.audit.hypotheses",
            ("clamped.py", "partial_entropy.py", "populations.py", "values.py"),
        ),
    ),
)
"""Every sum that a hypothesis can be made of."""


def evidence_of(dump: Dump, executor: Executor | None = None, progress: Progress | None = None) -> Evidence:
    """What of a dump an audit needs; finished shards come from the cache `DUMP/tallies`.

    Args:
        dump: an opened dump.
        executor: any `concurrent.futures.Executor`; by default shards are summed up one after the other. Processes must not
            be forked: `ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))`.
        progress: told after every shard.

    Raises:
        InputError: a dump without token rows, or processes that are forked.
        DamagedDumpError: a shard was altered.
    """
    tasks = tasks_of(dump, ("micro", "rank"), partial(EvidenceTask, sizes=_sizes_of(dump)))
    setup = _setup_of(dump)
    return Evidence(
        _whole(run(EVIDENCE, dump, tasks, executor, progress).cells, setup), _batches_of(dump), setup
    )


def _sizes_of(dump: Dump) -> NDArray[np.int32] | None:
    """Bytes of every token's text, −1 where unknown; those of special tokens are no text."""
    count = max((session.spec.vocab_size for session in dump.sessions), default=0)
    size = pl.when("special").then(0).otherwise(pl.col("bytes").bin.size()).fill_null(-1)
    known = dump.vocab.filter(pl.col("id").is_between(0, count - 1)).select("id", size=size).collect()
    if known.is_empty():
        return None
    sizes = np.full(count, -1, dtype=np.int32)
    sizes[known["id"].to_numpy()] = known["size"].to_numpy()
    return sizes


def _whole(cells: pl.DataFrame, setup: Setup) -> pl.DataFrame:
    """Populations that changed nothing in some shards, but something in others, filled in; rows of nothing left out."""
    names = cells["population"].unique(maintain_order=True).to_list()
    parts = [cells]
    for suffix in OWN:
        for name in names:
            if not name.endswith(suffix):
                continue
            there = cells.filter(pl.col("population") == name)
            base = cells.filter(pl.col("population") == name.removesuffix(suffix))
            same = base.join(there, on=list(MICRO), how="anti", maintain_order="left")
            parts.append(same.with_columns(population=pl.lit(name), n_nonfinite=pl.lit(None, pl.Int64)))
    unsure = [*(() if setup.scope == "all" else WHOLE), *(() if setup.probes else PROBED)]
    holds_any = (pl.col("n") != 0).fill_null(value=True) | (pl.col("n_nonfinite") > 0).fill_null(value=False)
    whole = pl.concat(parts).filter(holds_any, ~pl.col("population").is_in(unsure))
    if whole.select(_KEY).is_duplicated().any():  # two calls of `record` were given the same names
        return merge_frames([whole], [name for name in whole.columns if name not in _KEY])
    return whole


def _batches_of(dump: Dump) -> pl.DataFrame:
    """`Evidence.batches`, in recording order. Where nothing was shifted is known only of what a shift could not have."""
    positions = pl.col("rows").cast(pl.Int64) * pl.col("padded_length")
    shifted = positions - pl.col("rows")
    unshifted = (pl.col("padded_length") == 1) | (pl.col("n_supervised") > shifted)
    return (
        dump.batches.select(
            *MICRO,
            "epoch",
            pl.col("rows").cast(pl.Int64),
            positions.alias("positions"),
            pl.when(unshifted).then(positions).otherwise(shifted).alias("predicted"),
            "n_supervised",
        )
        .group_by(MICRO, maintain_order=True)
        .agg(pl.col("epoch").first().cast(pl.Float64), pl.exclude(*MICRO, "epoch").sum())
        .collect()
    )


def _setup_of(dump: Dump) -> Setup:
    """Facts that hold for all sessions; probes and prompts count as recorded only where all of them have them."""
    sessions = dump.sessions
    specs = [session.spec for session in sessions]
    accumulations = {session.accumulation for session in sessions}
    return Setup(
        world=max(session.world for session in sessions),
        accumulation=accumulations.pop() if len(accumulations) == 1 else None,
        vocab_size=max(spec.vocab_size for spec in specs),
        k=min(spec.k for spec in specs),
        scope="all" if all(spec.scope == "all" for spec in specs) else "supervised",
        probes=all(spec.probes for spec in specs),
        every=gcd(*(session.every for session in sessions)),
        types=_each(name for spec in specs for name in spec.types.names),
        groups=_each(group.name for spec in specs for group in spec.groups),
        ordered={name: rest_of(spec, name) for spec in specs for name in spec.ordered},
    )


def _each(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
