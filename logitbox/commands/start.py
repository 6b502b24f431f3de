"""The first commands: the demo, and what a dump holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from logitbox.commands.shared import AsJson, DumpPath, SkipDamaged, open_at
from logitbox.terminal import print_json, print_table, print_verdict

app = typer.Typer()


@app.command(epilog="Example: logitbox demo --out demo-out")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for dump/ and report.html.")] = Path("demo-out"),
    steps: Annotated[
        int | None, typer.Option("--steps", help="Training steps; fewer is quicker and worse.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a small model that reads digits, record it, and build the report (under three minutes)."""
    # OpenMP threads that spin while waiting make training ten times slower where another process shares the cores;
    # the policy is read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from logitbox.demo.main import run_demo

    outcome = run_demo(out, steps, quiet=as_json)
    if as_json:
        print_json(outcome)
    else:
        typer.echo(outcome["report"])


@app.command(epilog="Example: logitbox info demo-out/dump")
def info(path: DumpPath, as_json: AsJson = False, skip_damaged: SkipDamaged = False) -> None:
    """What a dump holds: sessions, phases, steps, what is left out, and the bytes that each column takes."""
    from logitbox.analysis.overview import overview

    found = overview(open_at(path, skip_damaged=skip_damaged))
    if as_json:
        print_json(found.to_json())
        return
    print_verdict(str(found))
    print_table(found.frame)
    print_table(found.facts)
    print_table(found.columns)
