"""`report`: a dump as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from logitbox.analysis.audit.audit import Audit, audit
from logitbox.analysis.pairs.comparison import Comparison, compare
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError, LogitboxError
from logitbox.reports import texts
from logitbox.reports.sections import (
    calibration,
    comparison,
    curves,
    decisions,
    explain,
    flips,
    head,
    logged,
    recording,
    reductions,
    tokens,
)
from logitbox.reports.sections.pieces import groups_of, is_monitor
from logitbox.reports.streams import Material, gather

MAX_TOKENS = 200


def report(
    dump: Dump,
    path: str | PathLike[str],
    against: Dump | Comparison | None = None,
    *,
    title: str | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
    n_tokens: int = 20,
) -> Path:
    """Write a report: one HTML file without scripts, that loads nothing from anywhere.

    The same dump gives the same bytes. The file appears whole or not at all.

    Args:
        dump: an opened dump; with `damaged="skip"` the report says what was left out.
        path: the file to write.
        against: another evaluation of the same tokens, or what `explain(dump, against=…)` made of one: the report
            begins with what sets them apart.
        title: by default the name of the dump's folder.
        executor: where to sum up shards (see `tally_dump`).
        progress: told after every shard, of two passes over them, three where the trainer's log is in the dump.
        n_tokens: how many tokens of highest entropy to list, up to 200.

    Returns:
        The file's path.

    Raises:
        InputError: `path` cannot be written to, the dump has no token rows, or too few of its tokens are in `against`.
        DamagedDumpError: a shard was altered.
    """
    target = _target(path)
    if not 1 <= n_tokens <= MAX_TOKENS:
        raise InputError(f"n_tokens is {n_tokens}; allowed are 1 to {MAX_TOKENS}")
    compared = _compared(dump, against)
    is_logged = dump.scalars.head(1).collect().height > 0
    passes = [None] * 3 if progress is None else _parts(progress, 3 if is_logged else 2)
    material = gather(dump, tally_dump(dump, (), executor, passes[0]), executor, passes[1])
    audited = _audited(dump, executor, passes[2]) if is_logged else None
    _write(target, render(material, title, n_tokens, compared, audited))
    return target


def _parts(progress: Progress, passes: int) -> list[Progress]:
    """Several passes over all shards, told as one of so many times more."""

    def part(number: int) -> Progress:
        return lambda done, total: progress(number * total + done, passes * total)

    return [part(number) for number in range(passes)]


def _audited(dump: Dump, executor: Executor | None, progress: Progress | None) -> Audit | str:
    """The audit of what the dump's own trainer logged, or why there is none: a report never fails for its log."""
    try:
        return audit(dump, dump, executor=executor, progress=progress)
    except LogitboxError as error:
        return str(error)


def _compared(dump: Dump, against: Dump | Comparison | None) -> Comparison | None:
    if not isinstance(against, Comparison):
        return None if against is None else compare(dump, against)
    first = against.pair.a.choice.dump
    if first.path.resolve() != dump.path.resolve():
        raise InputError(f"the comparison is of {first.path}, the report of {dump.path}; compare this one")
    return against


def render(
    material: Material,
    title: str | None = None,
    n_tokens: int = 20,
    compared: Comparison | None = None,
    audited: Audit | str | None = None,
) -> str:
    """The page as text; `audited` is what the audit found in the trainer's log, or why there is none."""
    environment = Environment(
        loader=PackageLoader("logitbox.reports"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = _content(material, title, n_tokens, audited)
    content["compared"] = None if compared is None else comparison.build(compared)
    return environment.get_template("page.html").render(content)


def _shown(value: object) -> object:
    """Names come from users: nothing in them may break the page or hide in it. What is markup is made already."""
    return texts.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _content(
    material: Material, title: str | None, n_tokens: int, audited: Audit | str | None
) -> dict[str, Any]:
    matches = logged.find_matches(material)
    return {
        "head": head.build(material, title, audited),
        "streams": material.streams,
        "groups": groups_of([m for m in material.metrics if not is_monitor(m)], material.streams),
        "curves": curves.build(material, matches),
        "explained": explain.build(material),
        "calibrated": calibration.build(material),
        "decided": decisions.build(material),
        "flips": flips.build(material),
        "tokens": tokens.build(material, n_tokens),
        "reduced": reductions.build(material),
        "logged": logged.build(material, matches, audited),
        "recording": recording.build(material),
        "version": _version(),
    }


def _version() -> str:
    try:
        return version("logitbox")
    except PackageNotFoundError:
        return "(not installed)"


def _target(path: str | PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise InputError(
            f"{target} is a folder; give the name of the file to write, such as {target / 'report.html'}"
        )
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} does not exist; create the folder, or write the report elsewhere")
    return target


def _write(target: Path, page: str) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"{target} cannot be written ({error.strerror}); write the report elsewhere"
        ) from error
