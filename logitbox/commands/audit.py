"""`logitbox audit`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from logitbox.commands.shared import AsJson, SkipDamaged, open_at
from logitbox.errors import InputError
from logitbox.terminal import print_json, progress_bar

if TYPE_CHECKING:
    from logitbox.analysis.audit.audit import Audit
    from logitbox.analysis.passes import Progress
    from logitbox.dumps.dump import Dump

app = typer.Typer()


@app.command(epilog="Example: logitbox audit demo-out/dump --key token_acc")
def audit(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="DUMP",
            help="Folder that a Recorder wrote; without --logged its own scalars are audited.",
        ),
    ] = None,
    logged: Annotated[
        Path | None,
        typer.Option(
            "--logged",
            metavar="FILE",
            help="What the trainer logged: trainer_state.json, JSON lines, CSV, console text, notebook, TensorBoard.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Only this logged key; may be repeated.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            "--noise", min=0.0, help="Noise of the arithmetic, added to the rounding of every value."
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Exit status 1 also where a key is unexplained, or nothing could be checked."
        ),
    ] = False,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> int:
    """Do logged numbers mean what their names say?

    Exit status 1 on a bug or an impossible value, 2 if it cannot be read, else 0: also if nothing was compared.
    """
    from logitbox.analysis.audit.audit import audit as examine
    from logitbox.commands.audit_shown import print_audit

    dump = None if path is None else open_at(path, skip_damaged=skip_damaged)
    source = _source(logged, dump, skip_damaged=skip_damaged)
    with _progress(dump or source) as progress:
        found = examine(source, dump, key=key or None, noise=noise, progress=progress)
    tallied = path if path is not None or isinstance(source, Path) else logged
    if as_json:
        about = {"logged": found.logged.source, "dump": None if tallied is None else str(tallied)}
        print_json({**about, **found.to_json()})
    else:
        print_audit(found, tallied)
    return 0 if found.ok and not (strict and _is_left_open(found, dump or source)) else 1


def _progress(tallied: object) -> AbstractContextManager[Progress | None]:
    """A bar where a dump is tallied; a log alone takes no time."""
    return nullcontext() if isinstance(tallied, Path) else progress_bar("tallying")


def _is_left_open(found: Audit, tallied: object) -> bool:
    """Whether a key is unexplained, or nothing was compared at all; of a log alone, whether no inequality was checked."""
    if any(one.verdict == "unexplained" for one in found.keys):
        return True
    return not (found.held if isinstance(tallied, Path) else any(one.n_lines for one in found.keys))


def _source(logged: Path | None, dump: Dump | None, *, skip_damaged: bool) -> Path | Dump:
    """What to read the log from: a file, or the scalars of a dump. Raises InputError."""
    if logged is None:
        if dump is None:
            raise InputError("there is nothing to audit; give --logged FILE, a DUMP, or both")
        return _with_scalars(dump)
    if (logged / "dump.json").is_file():
        return _with_scalars(open_at(logged, skip_damaged=skip_damaged))
    return logged


def _with_scalars(dump: Dump) -> Dump:
    """The dump, if its trainer's log is in it. Raises InputError."""
    if dump.scalars.head(1).collect().is_empty():
        raise InputError(f"{dump.path} has no `rec.scalars`; name the log with --logged FILE")
    return dump
