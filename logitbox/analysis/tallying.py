"""Running the tally over a dump: which shards, on which executor, and the cache of finished ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import polars as pl

from logitbox.analysis.tally import KEYS, ShardTask, Tally, merge, tally_shard
from logitbox.dumps.dump import Dump
from logitbox.dumps.inventory import Shard
from logitbox.errors import InputError

Progress = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""

_PARTS = ("cells", "fine", "coarse")
_CODE = (
    ("logitbox.analysis", ("tally.py", "populations.py", "histogram.py")),
    ("logitbox.dumps", ("measures.py", "spec.py", "flags.py")),
)


def tally_dump(
    dump: Dump, by: Sequence[str] = (), executor: Executor | None = None, progress: Progress | None = None
) -> Tally:
    """The tally of a whole dump; finished shards come from the cache `DUMP/tallies`.

    Args:
        dump: an opened dump.
        by: further key columns beside phase, dataset, pass, step, epoch: columns of `tokens` (rank, micro,
            gold, pos, …) or of `samples` (source, group, any of the user's).
        executor: any `concurrent.futures.Executor`; by default shards are tallied one after the other.
        progress: told after every shard.

    Raises:
        InputError: no such column.
        DamagedDumpError: a shard was altered.
    """
    tasks = [_task(dump, shard, tuple(dict.fromkeys(by))) for shard in dump.shards("tokens")]
    if not tasks:
        raise InputError(
            f"{dump.path} holds no token rows yet; record something, or flush() a run in progress"
        )
    results: list[Tally] = []
    todo = (
        (_cached(dump.path, task) for task in tasks) if executor is None else _mapped(dump, tasks, executor)
    )
    for done, tally in enumerate(todo, start=1):
        results.append(tally)
        if progress is not None:
            progress(done, len(tasks))
    return merge(results)


def _mapped(dump: Dump, tasks: Sequence[ShardTask], executor: Executor) -> list[Tally]:
    futures = [executor.submit(_cached, dump.path, task) for task in tasks]
    return [future.result() for future in futures]


def _task(dump: Dump, shard: Shard, by: tuple[str, ...]) -> ShardTask:
    extra = tuple(name for name in by if name not in KEYS)
    columns = dump.tokens.collect_schema().names()
    from_samples = [name for name in extra if name not in columns]
    return ShardTask(
        path=shard.path,
        name=shard.name,
        sha256=shard.entry.sha256,
        spec=shard.session.spec,
        hidden_from=dump.hidden_from(shard.session),
        by=extra,
        lookup=_lookup(dump, from_samples) if from_samples else None,
    )


def _lookup(dump: Dump, names: Sequence[str]) -> pl.DataFrame:
    known = dump.samples.collect_schema().names()
    for name in names:
        if name not in known:
            raise InputError(
                f"by names {name!r}, which is a column of neither tokens nor samples; "
                f"samples have {', '.join(known)}, tokens have {', '.join(dump.tokens.collect_schema().names())}"
            )
    return dump.samples.select("sample", "dataset", *names).collect()


@lru_cache(maxsize=1)
def code_version() -> str:
    """A fingerprint of the code that defines a tally, so that the cache never outlives it."""
    digest = hashlib.sha256()
    for package, names in _CODE:
        for name in names:
            digest.update((files(package) / name).read_bytes())
    return digest.hexdigest()[:16]


def _cached(folder: Path, task: ShardTask) -> Tally:
    place = folder / "tallies" / _cache_key(task)
    paths = [place.with_name(f"{place.name}.{part}.parquet") for part in _PARTS]
    if all(path.is_file() for path in paths):
        try:
            return Tally(*(pl.read_parquet(path) for path in paths))
        except (OSError, pl.exceptions.PolarsError):
            pass  # a damaged cache file is made anew
    tally = tally_shard(task)
    for path, frame in zip(paths, (tally.cells, tally.fine, tally.coarse), strict=True):
        if not _store(frame, path):
            break
    return tally


def _cache_key(task: ShardTask) -> str:
    digest = hashlib.sha256(
        f"{task.sha256} {code_version()} {task.hidden_from} {task.by} {task.spec}".encode()
    )
    if task.lookup is not None:
        digest.update(task.lookup.hash_rows(seed=0).to_numpy().tobytes())
    return digest.hexdigest()[:32]


def _store(frame: pl.DataFrame, path: Path) -> bool:
    """Write atomically; False where the dump cannot be written to (then there is no cache, no error)."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        frame.write_parquet(temporary, compression="zstd")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        return False
    return True
