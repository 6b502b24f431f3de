"""`logitbox doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from logitbox.commands.shared import AsJson, SkipDamaged, open_at
from logitbox.errors import InputError
from logitbox.terminal import print_json, progress_bar

app = typer.Typer()


@app.command(epilog="Example: logitbox doctor demo-out/dump --strict")
def doctor(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DUMP_OR_LOG",
            help="Folder that a Recorder wrote, or a log: JSON, JSON lines, CSV, console text, notebook, TensorBoard (file or folder).",
        ),
    ],
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="classification, language-model, or a TOML file of your own."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 if a check fails.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Details of checks that pass, and checks that lack data, too.")
    ] = False,
    phase: Annotated[str | None, typer.Option(help="The evaluation phase to judge.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes, where a log does not tell.")] = None,
    steps_per_epoch: Annotated[
        float | None, typer.Option("--steps-per-epoch", help="Where epochs are not recorded.")
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=NUMBER", help="A constant of the profile: --set clip=1.0."),
    ] = None,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> int:
    """Is this training run healthy? Checks by rules that are data: pass, warn, fail, and what to do."""
    from logitbox.analysis.doctor import doctor as examine
    from logitbox.analysis.logs.reading import is_log
    from logitbox.commands.diagnosed import document, print_diagnosis

    source = path if is_log(path) else open_at(path, skip_damaged=skip_damaged)
    with progress_bar("tallying") as progress:
        found = examine(
            source,
            profile,
            phase=phase,
            classes=classes,
            steps_per_epoch=steps_per_epoch,
            constants=_constants(constant or []),
            progress=progress,
        )
    if as_json:
        print_json(document(found))
    else:
        print_diagnosis(found, everything=everything)
    return 1 if strict and not found.ok else 0


def _constants(given: list[str]) -> dict[str, float]:
    """Constants as typed. Raises InputError."""
    found: dict[str, float] = {}
    for one in given:
        name, _, value = one.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"--set is {one!r}; give NAME=NUMBER, such as clip=1.0") from None
    return found
