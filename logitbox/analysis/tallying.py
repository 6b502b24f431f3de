"""Running the tally over a dump: which shards, on which executor, and the cache of finished ones."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import fields, replace
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from uuid import uuid4

import polars as pl

from logitbox.analysis.classes import DEFAULT, Thresholds
from logitbox.analysis.given import check_dump
from logitbox.analysis.reading import KEYS, ShardTask
from logitbox.analysis.splitting import from_samples
from logitbox.analysis.tally import HISTOGRAM_SUMS, Tally, merge_all, tally_shard
from logitbox.dumps.dump import Dump
from logitbox.dumps.inventory import Shard
from logitbox.errors import InputError

Progress = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""

_AHEAD = 32
"""Shards handed to an executor before the first of them is merged."""

_DIGEST = 32
"""Bytes of a SHA-256."""

_CODE = (
    (
        "logitbox.analysis",
        (
            "reading.py",
            "sums.py",
            "tally.py",
            "tallying.py",
            "populations.py",
            "meanings.py",
            "classes.py",
            "histogram.py",
        ),
    ),
    ("logitbox.dumps", ("spec.py", "detailed.py", "flags.py")),
    (
        "logitbox.dumps.definitions",
        ("rows.py", "entries.py", "tokens.py", "groups.py", "agent.py", "decisions.py", "registry.py"),
    ),
)


def tally_dump(
    dump: Dump,
    by: Sequence[str] = (),
    executor: Executor | None = None,
    progress: Progress | None = None,
    *,
    per_step: bool = False,
    thresholds: Thresholds = DEFAULT,
) -> Tally:
    """The tally of a whole dump; finished shards come from the cache `DUMP/tallies`.

    Args:
        dump: an opened dump.
        by: further key columns beside phase, dataset, pass, step, epoch: whole-number columns of `tokens` (rank,
            micro, sample, pos, gold, …) or columns of `samples` (source, group, any of the user's).
        executor: any `concurrent.futures.Executor`; by default shards are tallied one after the other.
        progress: told after every shard.
        per_step: keep the confidence histograms of every step (`Tally.coarse`); in a long run of short steps they
            are most of the tally, and only calibration by step needs them. Without it `coarse` is empty.
        thresholds: where `explain` cuts its token classes.

    Raises:
        InputError: no such column, one that cannot be split by, or a dump without token rows.
        DamagedDumpError: a shard was altered.
    """
    shards = check_dump(dump).shards("tokens")
    if not shards:
        raise InputError(
            f"{dump.path} holds no token rows yet; record something, or flush() a run in progress"
        )
    tasks = _tasks(dump, shards, tuple(name for name in dict.fromkeys(by) if name not in KEYS), thresholds)
    made = _one_by_one(dump, tasks) if executor is None else _mapped(dump, tasks, executor)
    if not per_step:
        made = (replace(tally, coarse=tally.coarse.clear()) for tally in made)
    return merge_all(_told(made, len(tasks), progress))


def _told(tallies: Iterable[Tally], total: int, progress: Progress | None) -> Iterator[Tally]:
    for done, tally in enumerate(tallies, start=1):
        yield tally
        if progress is not None:
            progress(done, total)


def _one_by_one(dump: Dump, tasks: Sequence[ShardTask]) -> Iterator[Tally]:
    return (_cached(dump.path.absolute(), task) for task in tasks)


def _mapped(dump: Dump, tasks: Sequence[ShardTask], executor: Executor) -> Iterator[Tally]:
    """Results in recording order, a bounded number of them ahead of the one that is wanted."""
    waiting: deque[Future[Tally]] = deque()
    todo = iter(tasks)
    try:
        while True:
            for task in islice(todo, _AHEAD - len(waiting)):
                waiting.append(executor.submit(_cached, dump.path.absolute(), task))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # after an error the rest is of no use
            future.cancel()


def _tasks(
    dump: Dump, shards: Sequence[Shard], by: tuple[str, ...], thresholds: Thresholds = DEFAULT
) -> list[ShardTask]:
    looked_up = from_samples(dump, by)
    lookup = dump.samples.select("sample", "dataset", *looked_up).collect() if looked_up else None
    return [
        ShardTask(
            path=shard.path.absolute(),
            name=shard.name,
            sha256=shard.entry.sha256,
            spec=shard.session.spec,
            hidden_from=dump.hidden_from(shard.session),
            by=by,
            lookup=lookup,
            thresholds=thresholds,
        )
        for shard in shards
    ]


@lru_cache(maxsize=1)
def code_version() -> str:
    """A fingerprint of the code that defines a tally, so that the cache never outlives it."""
    digest = hashlib.sha256()
    for package, names in _CODE:
        for name in names:
            digest.update((files(package) / name).read_bytes())
    return digest.hexdigest()[:16]


def _cached(folder: Path, task: ShardTask) -> Tally:
    path = folder / "tallies" / f"{_cache_key(task)}.tally"
    tally = _load(path)
    if tally is None:
        tally = tally_shard(task)
        _store(tally, path)
    return tally


def _cache_key(task: ShardTask) -> str:
    digest = hashlib.sha256(
        f"{task.sha256} {code_version()} {task.hidden_from} {task.by} {task.spec}".encode()
    )
    if task.thresholds != DEFAULT:
        digest.update(repr(task.thresholds).encode())
    if task.lookup is not None:
        digest.update(task.lookup.hash_rows(seed=0).to_numpy().tobytes())
    return digest.hexdigest()[:32]


def _load(path: Path) -> Tally | None:
    """A stored tally; None where there is none, or it is not one."""
    try:
        return _parsed(path.read_bytes())
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return None


def _parsed(data: bytes) -> Tally | None:
    """The tally in these bytes; None where they are not as they were written, or hold something else."""
    digest, body = data[:_DIGEST], memoryview(data)[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        return None
    frames: list[pl.DataFrame] = []
    while body:
        size = int.from_bytes(body[:8], "little")
        frames.append(pl.read_ipc(io.BytesIO(body[8 : 8 + size])))
        body = body[8 + size :]
    if len(frames) != len(fields(Tally)) or any("type" not in frame.columns for frame in frames):
        return None
    tally = Tally(*frames)
    binned = {"bin", *HISTOGRAM_SUMS}
    good = binned <= set(tally.fine.columns) and binned <= set(tally.coarse.columns)
    return tally if good and "clusters" in tally.cells.columns else None


def _store(tally: Tally, path: Path) -> None:
    """Write atomically. Where the dump cannot be written to there is no cache, and no error."""
    parts: list[bytes] = []
    for frame in (tally.cells, tally.fine, tally.coarse):
        stream = io.BytesIO()
        frame.write_ipc(stream, compression="zstd")
        parts += [len(stream.getvalue()).to_bytes(8, "little"), stream.getvalue()]
    body = b"".join(parts)
    temporary = path.with_suffix(f".{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        try:
            temporary.write_bytes(hashlib.sha256(body).digest() + body)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return
