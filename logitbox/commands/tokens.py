"""Commands that give rows: tokens, and decisions as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from logitbox.commands.shared import (
    AsJson,
    DumpPath,
    SkipDamaged,
    open_at,
    show_tokens,
    step_or_all,
    step_or_none,
)
from logitbox.errors import InputError
from logitbox.terminal import print_json, print_note, progress_bar, rows_of

app = typer.Typer()


@app.command(epilog="Example: logitbox entropy demo-out/dump -n 5")
def entropy(
    path: DumpPath,
    n: Annotated[int, typer.Option("-n", max=100_000, help="How many tokens.")] = 10,
    phase: Annotated[str | None, typer.Option("--phase", help="Only this phase.")] = None,
    step: Annotated[str, typer.Option("--step", help="A step, 'last' or 'all'.")] = "last",
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """The tokens the model is least sure about, with their text."""
    from logitbox.analysis.entropy import high_entropy

    result = high_entropy(open_at(path, skip_damaged=skip_damaged), n, phase=phase, step=step_or_none(step))
    if as_json:
        print_json({"dump": str(path), "verdict": str(result), "tokens": rows_of(result.frame)})
        return
    show_tokens(result, "entropy")


@app.command(epilog="Example: logitbox export runs/a --decisions --out decisions.jsonl")
def export(
    path: DumpPath,
    decisions: Annotated[
        bool, typer.Option("--decisions", help="One JSON line per decision between answers.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; stdout by default.")] = None,
    phase: Annotated[
        str | None, typer.Option("--phase", help="Only this phase; by default the last evaluation.")
    ] = None,
    step: Annotated[str, typer.Option("--step", help="A step, 'last' or 'all'.")] = "last",
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this data set.")] = None,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """Rows for other programs, as JSON lines: the probability of every answer at each decision."""
    from logitbox.analysis.decisions import decisions as compute
    from logitbox.jsonl import check_target, print_lines, write_lines

    if not decisions:
        raise InputError(
            "nothing was chosen to export; give --decisions, one line per decision between answers"
        )
    if out is not None:
        check_target(out)
    wanted = step_or_all(step)
    with progress_bar("checking") as progress:
        dump = open_at(path, skip_damaged=skip_damaged)
        result = compute(dump, phase=phase, step=wanted, dataset=dataset, progress=progress)
    if out is not None:
        write_lines(out, result.records())
    if as_json:
        print_json({"dump": str(path), "verdict": str(result), "decisions": list(result.records())})
        return
    if out is None:
        print_lines(result.records())
    print_note(f"{result.frame.height:,} lines{'' if out is None else f' in {out}'}; {result}")
