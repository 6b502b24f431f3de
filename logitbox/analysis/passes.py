"""One pass over a dump's shards, as data: which shards, on which executor, and the cache of finished ones.

What is made of a shard must add up, so that a dump's sums are those of its shards, merged in recording order.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

import polars as pl

from logitbox.analysis.given import check_dump
from logitbox.analysis.reading import KEYS, ShardTask
from logitbox.analysis.splitting import from_samples
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError

S = TypeVar("S")
T = TypeVar("T", bound=ShardTask)

Progress = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""

Code = tuple[tuple[str, tuple[str, ...]], ...]
"""Packages, and files of theirs."""

_AHEAD = 32
"""Shards handed to an executor before the first of them is merged."""

_AT_ONCE = 16
"""Results merged at a time: few enough to bound memory, enough to do it seldom."""

_LEAST = 1 << 19
"""Rows that are worth a merge."""

_DIGEST = 32
"""Bytes of a SHA-256."""

DEFINITIONS: Code = (
    ("logitbox.analysis", ("reading.py", "sums.py", "passes.py", "populations.py", "histogram.py")),
    ("logitbox.dumps", ("spec.py", "detailed.py", "flags.py")),
    (
        "logitbox.dumps.definitions",
        ("rows.py", "entries.py", "tokens.py", "groups.py", "agent.py", "decisions.py", "registry.py"),
    ),
)
"""Code that every pass depends on."""


@dataclass(frozen=True)
class Pass(Generic[S]):
    """What is made of each shard, how it adds up, and how it is kept.

    Attributes:
        of_shard: makes a shard's sums from its task; a function of a module, so that other processes find it.
        merge: adds up sums, given in recording order.
        kind: of the sums, a frozen dataclass of data frames.
        columns: of each frame, in order, columns that it has at least.
        suffix: of files in the cache.
        code: what defines the sums, beside `DEFINITIONS`, so that the cache never outlives it.
        size: how large sums are, for those whose size has a limit however many shards they are of: `merge_by_size`
            then takes the place of `merge_all`.
    """

    of_shard: Callable[[Any], S]
    merge: Callable[[Sequence[S]], S]
    kind: type[S]
    columns: tuple[frozenset[str], ...]
    suffix: str
    code: Code
    size: Callable[[S], int] | None = None


def tasks_of(dump: Dump, by: Sequence[str], make: Callable[..., T], also: Sequence[str] = ()) -> list[T]:
    """A task for every shard, in recording order.

    Args:
        dump: an opened dump.
        by: key columns, of `tokens` or of `samples`.
        make: `ShardTask` or a class made of it; called with its fields.
        also: further columns of `samples` that are no keys.

    Raises:
        InputError: a column that cannot be split by, or a dump without token rows.
    """
    shards = check_dump(dump).shards("tokens")
    if not shards:
        raise InputError(
            f"{dump.path} holds no token rows yet; record something, or flush() a run in progress"
        )
    extra = [name for name in by if name not in KEYS]
    looked_up = [*dict.fromkeys([*from_samples(dump, extra), *also])]
    lookup = dump.samples.select("sample", "dataset", *looked_up).collect() if looked_up else None
    return [
        make(
            path=shard.path.absolute(),
            name=shard.name,
            sha256=shard.entry.sha256,
            spec=shard.session.spec,
            hidden_from=dump.hidden_from(shard.session),
            by=tuple(by),
            lookup=lookup,
        )
        for shard in shards
    ]


def run(
    what: Pass[S],
    dump: Dump,
    tasks: Sequence[ShardTask],
    executor: Executor | None = None,
    progress: Progress | None = None,
    only: Callable[[S], S] | None = None,
) -> S:
    """The sums of a whole dump; finished shards come from the cache `DUMP/tallies`.

    Args:
        what: the pass.
        dump: an opened dump.
        tasks: of `tasks_of`.
        executor: any `concurrent.futures.Executor`; by default shards are done one after the other. Processes must not be
            forked: give a `ProcessPoolExecutor` the context "spawn" or "forkserver".
        progress: told after every shard.
        only: takes of each shard's sums what is wanted; the cache keeps all.

    Raises:
        InputError: processes that are forked.
        DamagedDumpError: a shard was altered.
    """
    _check_executor(executor)
    folder = dump.path.absolute()
    made = (
        (_cached(what, folder, task) for task in tasks)
        if executor is None
        else _mapped(what, folder, tasks, executor)
    )
    told = _told(made, len(tasks), progress)
    parts = told if only is None else map(only, told)
    return merge_all(what.merge, parts) if what.size is None else merge_by_size(what.merge, parts, what.size)


def _check_executor(executor: Executor | None) -> None:
    """Forked processes hang: the locks of polars' threads are copied as they are, and nobody there opens them again."""
    if not isinstance(executor, ProcessPoolExecutor):
        return
    context = getattr(executor, "_mp_context", None)  # where every Python so far keeps it
    if context is not None and context.get_start_method() == "fork":
        raise InputError(
            "executor is a ProcessPoolExecutor that forks, and forked processes hang where polars' threads ran before; make "
            'it ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))'
        )


def merge_all(merge: Callable[[Sequence[S]], S], parts: Iterable[S]) -> S:
    """`merge` of any number of parts, of which only a few are held at a time.

    Which are added first depends on their number and order alone, so the result does not depend on who made them.
    """
    levels: list[list[S]] = []
    for part in parts:
        carried, level = part, 0
        while True:
            if level == len(levels):
                levels.append([])
            levels[level].append(carried)
            if len(levels[level]) < _AT_ONCE:
                break
            carried, levels[level] = merge(levels[level]), []
            level += 1
    return merge([part for level in reversed(levels) for part in level])


def merge_by_size(
    merge: Callable[[Sequence[S]], S], parts: Iterable[S], size: Callable[[S], int], least: int = _LEAST
) -> S:
    """`merge` of any number of parts: those that wait are added to the sum once they are as large as it is.

    No more than twice the sum is held, and each part is added few times, as long as the sum grows, or seldom, once it
    does not. Like `merge_all`, in an order that depends on the parts alone.

    Args:
        merge: adds up.
        parts: in recording order.
        size: of a part.
        least: size that waits for no less.
    """
    whole: list[S] = []
    waiting: list[S] = []
    together = 0
    for part in parts:
        waiting.append(part)
        together += size(part)
        if together >= max([least, *map(size, whole)]):
            whole, waiting, together = [merge([*whole, *waiting])], [], 0
    return merge([*whole, *waiting])


def _told(made: Iterable[S], total: int, progress: Progress | None) -> Iterator[S]:
    for done, part in enumerate(made, start=1):
        yield part
        if progress is not None:
            progress(done, total)


def _mapped(what: Pass[S], folder: Path, tasks: Sequence[ShardTask], executor: Executor) -> Iterator[S]:
    """Results in recording order, a bounded number of them ahead of the one that is wanted."""
    waiting: deque[Future[S]] = deque()
    todo = iter(tasks)
    try:
        while True:
            for task in islice(todo, _AHEAD - len(waiting)):
                waiting.append(executor.submit(_cached, what, folder, task))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # after an error the rest is of no use
            future.cancel()


@lru_cache(maxsize=8)
def code_version(code: Code) -> str:
    """A fingerprint of the code that defines a pass."""
    digest = hashlib.sha256()
    for package, names in (*DEFINITIONS, *code):
        for name in names:
            digest.update((files(package) / name).read_bytes())
    return digest.hexdigest()[:16]


def _cached(what: Pass[S], folder: Path, task: ShardTask) -> S:
    path = folder / "tallies" / f"{_cache_key(what, task)}.{what.suffix}"
    found = _load(what, path)
    if found is None:
        found = what.of_shard(task)
        _store(found, path)
    return found


def _cache_key(what: Pass[Any], task: ShardTask) -> str:
    digest = hashlib.sha256(
        f"{task.sha256} {code_version(what.code)} {task.hidden_from} {task.by} {task.spec}".encode()
    )
    digest.update(task.options.encode())
    if task.lookup is not None:
        digest.update(task.lookup.hash_rows(seed=0).to_numpy().tobytes())
    return digest.hexdigest()[:32]


def _load(what: Pass[S], path: Path) -> S | None:
    """Stored sums; None where there are none, or the file holds something else."""
    try:
        return _parsed(what, path.read_bytes())
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return None


def _parsed(what: Pass[S], data: bytes) -> S | None:
    """The sums in these bytes; None where they are not as they were written, or hold something else."""
    digest, body = data[:_DIGEST], memoryview(data)[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        return None
    frames: list[pl.DataFrame] = []
    while body:
        size = int.from_bytes(body[:8], "little")
        frames.append(pl.read_ipc(io.BytesIO(body[8 : 8 + size])))
        body = body[8 + size :]
    if len(frames) != len(what.columns):
        return None
    known = zip(what.columns, frames, strict=True)
    return what.kind(*frames) if all(names <= set(frame.columns) for names, frame in known) else None


def _store(found: Any, path: Path) -> None:
    """Write atomically. Where the dump cannot be written to there is no cache, and no error."""
    parts: list[bytes] = []
    for field in fields(found):
        stream = io.BytesIO()
        getattr(found, field.name).write_ipc(stream, compression="zstd")
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
