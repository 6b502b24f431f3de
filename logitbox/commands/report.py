"""`logitbox report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from logitbox.commands.shared import (
    AsJson,
    DumpPath,
    SkipDamaged,
    check_for_two,
    compared,
    open_at,
    say,
)
from logitbox.terminal import print_json, progress_bar

app = typer.Typer()


@app.command(epilog="Example: logitbox report demo-out/dump --out report.html")
def report(
    path: DumpPath,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; DUMP/../report.html by default.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page.")] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="DUMP", help="Another evaluation of the same tokens: adds a section."),
    ] = None,
    phase: Annotated[str | None, typer.Option(help="With --against: compare this phase.")] = None,
    step: Annotated[str, typer.Option(help="With --against: a step, 'last' or 'all'.")] = "last",
    against_step: Annotated[str | None, typer.Option(help="Its step; by default as --step.")] = None,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """One self-contained HTML page: verdict, metrics, reliability, flips, entropy, curves."""
    from logitbox.reports.report import report as build

    check_for_two(against, {"--phase": phase, "--step": step, "--against-step": against_step})
    dump = open_at(path, skip_damaged=skip_damaged)
    other = None
    if against is not None:
        opened = open_at(against, skip_damaged=skip_damaged)
        other = compared(dump, opened, phase, step, against_step)
    target = path.parent / "report.html" if out is None else out
    with progress_bar("tallying") as progress:
        written = build(dump, target, against=other, title=title, progress=progress)
    size = written.stat().st_size
    if as_json:
        print_json({"dump": str(path), "report": str(written), "bytes": size})
    else:
        say(f"{written} ({size / 1000:,.0f} kB)")
