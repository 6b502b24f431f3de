"""Running the tally over a dump."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

from logitbox.analysis.classes import DEFAULT, Thresholds
from logitbox.analysis.passes import Pass, Progress, run, tasks_of
from logitbox.analysis.reading import KEYS, ShardTask
from logitbox.analysis.tally import Tally, merge, tally_shard
from logitbox.dumps.dump import Dump

__all__ = ["TALLY", "Progress", "tally_dump"]

TALLY = Pass(
    of_shard=tally_shard,
    merge=merge,
    kind=Tally,
    columns=(frozenset(("type", "spec", "n", "clusters")),),
    suffix="tally",
    code=(("logitbox.analysis", ("tally.py", "tallying.py", "meanings.py", "classes.py")),),
)
"""Every sum that a metric can be made of."""


def tally_dump(
    dump: Dump,
    by: Sequence[str] = (),
    executor: Executor | None = None,
    progress: Progress | None = None,
    *,
    thresholds: Thresholds = DEFAULT,
) -> Tally:
    """The tally of a whole dump; finished shards come from the cache `DUMP/tallies`.

    Args:
        dump: an opened dump.
        by: further key columns beside phase, dataset, pass, step, epoch: whole-number columns of `tokens` (rank,
            micro, sample, pos, gold, …) or columns of `samples` (source, group, any of the user's).
        executor: any `concurrent.futures.Executor`; by default shards are tallied one after the other. Processes must not
            be forked: `ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))`.
        progress: told after every shard.
        thresholds: where `explain` cuts its token classes.

    Raises:
        InputError: no such column, one that cannot be split by, a dump without token rows, or processes that are forked.
        DamagedDumpError: a shard was altered.
    """
    further = [name for name in dict.fromkeys(by) if name not in KEYS]
    tasks = tasks_of(dump, further, partial(ShardTask, thresholds=thresholds))
    return run(TALLY, dump, tasks, executor, progress)
