"""Where the model goes wrong: flips between classes of tokens, and accuracy against loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from logitbox.commands.shared import (
    AsJson,
    By,
    DumpPath,
    SkipDamaged,
    check_for_two,
    compared,
    open_at,
    show,
    show_tokens,
)
from logitbox.errors import InputError
from logitbox.terminal import print_json, progress_bar, rows_of

if TYPE_CHECKING:
    from logitbox.analysis.pairs.comparison import Comparison

app = typer.Typer()


@app.command(epilog="Example: logitbox flips demo-out/dump")
def flips(path: DumpPath, by: By = None, as_json: AsJson = False, skip_damaged: SkipDamaged = False) -> None:
    """How often the arg-max falls in another class of tokens than gold, and how much mass leaks."""
    from logitbox.analysis.flips import flips as compute

    dump = open_at(path, skip_damaged=skip_damaged)
    with progress_bar("tallying") as progress:
        result = compute(dump, by=by, progress=progress)
    show(path, result, by, "flips", as_json=as_json)


@app.command(epilog="Example: logitbox explain demo-out/dump --by step")
def explain(
    path: DumpPath,
    against: Annotated[
        Path | None,
        typer.Option(metavar="DUMP", help="Another evaluation of the same tokens to compare with."),
    ] = None,
    by: By = None,
    phase: Annotated[str | None, typer.Option(help="With --against: only this phase.")] = None,
    step: Annotated[str, typer.Option(help="With --against: a step, 'last' or 'all'.")] = "last",
    against_step: Annotated[str | None, typer.Option(help="Its step; by default as --step.")] = None,
    tokens: Annotated[
        int, typer.Option(min=0, max=100_000, help="List so many tokens that matter most.")
    ] = 0,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """Why accuracy (TFA) and cross-entropy (TFCE) say different things, in one dump or between two."""
    from logitbox.analysis.entropy import costliest
    from logitbox.analysis.explain import explain as compute
    from logitbox.comparing import print_explanation

    check_for_two(against, {"--phase": phase, "--step": step, "--against-step": against_step})
    if against is not None and by:
        raise InputError("--by is for one dump; a comparison has types and subsets anyhow")
    dump = open_at(path, skip_damaged=skip_damaged)
    if against is not None:
        other = open_at(against, skip_damaged=skip_damaged)
        result = compared(dump, other, phase, step, against_step)
        _show_comparison(result, tokens, as_json=as_json)
        return
    with progress_bar("tallying") as progress:
        result = compute(dump, by=by, progress=progress)
    listed = costliest(dump, tokens) if tokens else None
    if as_json:
        found = {"dump": str(path), "verdict": str(result), "by": by or [], "cells": rows_of(result.frame)}
        print_json(found | ({} if listed is None else {"tokens": rows_of(listed.frame)}))
        return
    print_explanation(result)
    if listed is not None:
        show_tokens(listed, "nll")


def _show_comparison(result: Comparison, tokens: int, *, as_json: bool) -> None:
    from logitbox.analysis.pairs.document import document
    from logitbox.comparing import print_comparison

    if as_json:
        print_json(document(result, tokens))
    else:
        print_comparison(result, tokens)
