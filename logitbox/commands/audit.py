"""`logitbox audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from logitbox.commands.shared import AsJson, SkipDamaged, open_at
from logitbox.errors import InputError
from logitbox.terminal import print_json, progress_bar

if TYPE_CHECKING:
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
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> int:
    """Do logged numbers mean what their names say? Exit status 1 on a bug or an impossible value."""
    from logitbox.analysis.audit.audit import audit as examine
    from logitbox.commands.audit_shown import print_audit

    dump = None if path is None else open_at(path, skip_damaged=skip_damaged)
    source = _source(logged, dump, skip_damaged=skip_damaged)
    with progress_bar("tallying") as progress:
        found = examine(source, dump, key=key or None, noise=noise, progress=progress)
    about = {"logged": found.logged.source, "dump": None if path is None else str(path)}
    if as_json:
        print_json({**about, **found.to_json()})
    else:
        print_audit(found, path)
    return 0 if found.ok else 1


def _source(logged: Path | None, dump: Dump | None, *, skip_damaged: bool) -> Path | Dump:
    """What to read the log from: a file, or the scalars of a dump. Raises InputError."""
    if logged is None:
        if dump is None:
            raise InputError("there is nothing to audit; give --logged FILE, a DUMP, or both")
        return dump
    return open_at(logged, skip_damaged=skip_damaged) if (logged / "dump.json").is_file() else logged
