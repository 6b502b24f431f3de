"""The command line. Exit status 0: done; 1: a check found something wrong; 2: bad usage or unreadable input."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import polars as pl
import typer
from typer.exceptions import Abort, TyperException

from logitbox.dumps.dump import Dump, open_dump
from logitbox.errors import InputError, LogitboxError
from logitbox.terminal import (
    print_error,
    print_json,
    print_metrics,
    print_note,
    print_table,
    print_verdict,
    print_warning,
    printable,
    progress_bar,
    rows_of,
)

if TYPE_CHECKING:
    from logitbox.analysis.entropy import TokenList
    from logitbox.analysis.metrics import Metrics, Reductions
    from logitbox.analysis.pairs.comparison import Comparison

app = typer.Typer(
    help="The flight recorder for a model's logits: what your metrics really say.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    epilog="Start with: logitbox demo --out demo-out",
)

DumpPath = Annotated[Path, typer.Argument(metavar="DUMP", help="Folder that a Recorder wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
By = Annotated[
    list[str] | None, typer.Option("--by", help="Column to split by; may be repeated: --by phase --by step.")
]
SkipDamaged = Annotated[
    bool, typer.Option("--skip-damaged", help="Leave damaged shards out instead of refusing the dump.")
]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `logitbox` command."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status; no traceback reaches a user for bad input."""
    try:
        status: object = typer.main.get_command(app).main(
            args=arguments, prog_name="logitbox", standalone_mode=False
        )
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as left:
        # Typer exits with status 1 when the reader of our output leaves, as `head` does; that is no error.
        if isinstance(left, SystemExit) and not isinstance(left.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, Abort):
        print_error("interrupted")
        return 130
    except (TyperException, LogitboxError, OSError, pl.exceptions.PolarsError) as error:
        return _fail(arguments, _told(error, arguments))
    return status if isinstance(status, int) else 0


def _told(error: Exception, arguments: list[str]) -> str:
    """What went wrong, in one line with the next step."""
    if isinstance(error, TyperException):
        typed = shlex.join(["logitbox", *arguments])
        return f"{error.format_message()} (you typed: {typed}). See `logitbox --help`."
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; give a place that can be read and written"
    if isinstance(error, pl.exceptions.PolarsError):
        first = str(error).splitlines()[0]
        return f"a shard cannot be read ({first}); `logitbox verify DUMP` names damaged ones"
    return str(error)


def _say(text: str) -> None:
    """A line on stdout; names in a stranger's dump may hold escape codes."""
    typer.echo(printable(text))


def _fail(arguments: list[str], message: str) -> int:
    if "--json" in arguments:
        print_json({"error": message})
    else:
        print_error(message)
    return 2


def _open(path: Path, *, skip_damaged: bool) -> Dump:
    dump = open_dump(path, damaged="skip" if skip_damaged else "error")
    if dump.skipped:
        rows = sum(damage.rows for damage in dump.skipped)
        print_warning(
            f"left out {len(dump.skipped)} damaged shards ({rows} rows); `logitbox verify {path}` lists them"
        )
    return dump


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
    """What a dump holds: sessions, phases, steps, columns, and what is left out."""
    from logitbox.analysis.overview import overview

    found = overview(_open(path, skip_damaged=skip_damaged))
    if as_json:
        print_json(found.to_json())
        return
    print_verdict(str(found))
    print_table(found.frame)
    print_table(found.facts)


@app.command(epilog="Example: logitbox metrics demo-out/dump --by step --key eval_token_acc")
def metrics(
    path: DumpPath,
    by: By = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="Only these keys; may be repeated.")] = None,
    reduction: Annotated[
        str,
        typer.Option("--reduction", help="Mean over tokens (token_mean), over steps (step_mean), or both."),
    ] = "token_mean",
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """Every metric with its 95 % interval, token-weighted unless asked for otherwise."""
    from logitbox.analysis.metrics import metrics as compute

    dump = _open(path, skip_damaged=skip_damaged)
    with progress_bar("tallying") as progress:
        result = compute(dump, by=by, reduction=cast("Reductions", reduction), progress=progress)
    frame = _only_keys(result.frame, key)
    if as_json:
        print_json({"dump": str(path), "verdict": str(result), "by": by or [], "metrics": rows_of(frame)})
        return
    print_metrics(frame, _headings(dump, result))
    print_verdict(str(result))


def _headings(dump: Dump, result: Metrics) -> dict[str, str]:
    """Every key and the phase and heading it belongs to."""
    from logitbox.analysis.metrics import registered
    from logitbox.dumps.definitions.entries import full_keys

    known = registered(dump)
    found: dict[str, str] = {}
    for phase in result.phases:
        keys = full_keys(known, phase, result.phases)
        found |= {keys[metric.key]: f"{phase} · {metric.group}" for metric in known}
    return found


def _only_keys(frame: pl.DataFrame, keys: list[str] | None) -> pl.DataFrame:
    known = frame["key"].unique(maintain_order=True).to_list()
    for key in keys or []:
        if key not in known:
            raise InputError(f"no metric is called {key!r}; this dump has {', '.join(known)}")
    return frame.filter(pl.col("key").is_in(keys)) if keys else frame


@app.command(epilog="Example: logitbox calibration demo-out/dump --by step --bins 10")
def calibration(
    path: DumpPath,
    by: By = None,
    bins: Annotated[int, typer.Option("--bins", help="Number of equal-width bins.")] = 15,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """Reliability table and expected calibration error of the arg-max's probability."""
    from logitbox.analysis.calibration import calibration as compute

    dump = _open(path, skip_damaged=skip_damaged)
    with progress_bar("tallying") as progress:
        result = compute(dump, by=by, bins=bins, progress=progress)
    if as_json:
        document = {"dump": str(path), "verdict": str(result), "by": by or [], "bins": bins}
        print_json(document | {"summary": rows_of(result.frame), "table": rows_of(result.table)})
        return
    print_table(result.frame, "Summary")
    print_table(result.table.filter(pl.col("type") == ""), "Reliability, all tokens")
    print_verdict(str(result))


@app.command(epilog="Example: logitbox flips demo-out/dump")
def flips(path: DumpPath, by: By = None, as_json: AsJson = False, skip_damaged: SkipDamaged = False) -> None:
    """How often the arg-max falls in another class of tokens than gold, and how much mass leaks."""
    from logitbox.analysis.flips import flips as compute

    dump = _open(path, skip_damaged=skip_damaged)
    with progress_bar("tallying") as progress:
        result = compute(dump, by=by, progress=progress)
    _show(path, result, by, "flips", as_json=as_json)


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

    _check_for_two(against, {"--phase": phase, "--step": step, "--against-step": against_step})
    if against is not None and by:
        raise InputError("--by is for one dump; a comparison has types and subsets anyhow")
    dump = _open(path, skip_damaged=skip_damaged)
    if against is not None:
        other = _open(against, skip_damaged=skip_damaged)
        result = _compared(dump, other, phase, step, against_step)
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
        _show_tokens(listed, "nll")


def _check_for_two(against: Path | None, given: dict[str, str | int | None]) -> None:
    """Options that nothing would heed are refused."""
    idle = [name for name, value in given.items() if value not in (None, 0, "last")]
    if against is None and idle:
        raise InputError(
            f"{' and '.join(idle)} {'is' if len(idle) == 1 else 'are'} of use with --against only"
        )


def _compared(dump: Dump, other: Dump, phase: str | None, step: str, against_step: str | None) -> Comparison:
    from logitbox.analysis.pairs.comparison import compare

    return compare(
        dump,
        other,
        phase=phase,
        step=_step_or_all(step),
        against_step=None if against_step is None else _step_or_all(against_step, "--against-step"),
    )


def _show_comparison(result: Comparison, tokens: int, *, as_json: bool) -> None:
    from logitbox.analysis.pairs.document import document
    from logitbox.comparing import print_comparison

    if as_json:
        print_json(document(result, tokens))
    else:
        print_comparison(result, tokens)


def _show(path: Path, result: Any, by: list[str] | None, name: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"dump": str(path), "verdict": str(result), "by": by or [], name: rows_of(result.frame)})
        return
    print_table(result.frame)
    print_verdict(str(result))


def _show_tokens(result: TokenList, column: str) -> None:
    columns = [
        "phase",
        "step",
        "key",
        "pos",
        column,
        "rank",
        "p_gold",
        "gold_text",
        "alternatives",
        "context",
    ]
    print_table(result.frame.select(columns).with_columns(pl.col("context").str.tail(60)))
    print_verdict(str(result))


def _step_or_all(text: str, option: str = "--step") -> Any:
    return "all" if text == "all" else _step(text, option)


def _step(text: str, option: str = "--step") -> Any:
    if text == "all":
        return None
    if text == "last":
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}; give a whole number, 'last' or 'all'") from None


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

    result = high_entropy(_open(path, skip_damaged=skip_damaged), n, phase=phase, step=_step(step))
    if as_json:
        print_json({"dump": str(path), "verdict": str(result), "tokens": rows_of(result.frame)})
        return
    _show_tokens(result, "entropy")


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
    wanted = _step_or_all(step)
    with progress_bar("checking") as progress:
        dump = _open(path, skip_damaged=skip_damaged)
        result = compute(dump, phase=phase, step=wanted, dataset=dataset, progress=progress)
    if out is not None:
        write_lines(out, result.records())
    if as_json:
        print_json({"dump": str(path), "verdict": str(result), "decisions": list(result.records())})
        return
    if out is None:
        print_lines(result.records())
    print_note(f"{result.frame.height:,} lines{'' if out is None else f' in {out}'}; {result}")


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

    _check_for_two(against, {"--phase": phase, "--step": step, "--against-step": against_step})
    dump = _open(path, skip_damaged=skip_damaged)
    other = None
    if against is not None:
        opened = _open(against, skip_damaged=skip_damaged)
        other = _compared(dump, opened, phase, step, against_step)
    target = path.parent / "report.html" if out is None else out
    with progress_bar("tallying") as progress:
        written = build(dump, target, against=other, title=title, progress=progress)
    size = written.stat().st_size
    if as_json:
        print_json({"dump": str(path), "report": str(written), "bytes": size})
    else:
        _say(f"{written} ({size / 1000:,.0f} kB)")


@app.command(epilog="Example: logitbox verify demo-out/dump")
def verify(path: DumpPath, as_json: AsJson = False) -> None:
    """Compare every shard with its checksum; exit status 1 if one is damaged."""
    outcome = open_dump(path, damaged="skip").verify()
    if as_json:
        print_json({"ok": outcome.ok, "verdict": str(outcome), **asdict(outcome)})
    else:
        for damage in outcome.damage:
            _say(f"damaged  {damage.shard}: {damage.problem} ({damage.rows} rows)")
        for stray in outcome.strays:
            _say(f"stray    {stray}: not in the journal, never read")
        for owner in outcome.unfinished:
            _say(f"open     {owner}: killed, or still being recorded; what is journaled is read")
        if outcome.dropped_calls:
            _say(
                f"dropped  {outcome.dropped_calls} micro-batches ({outcome.dropped_rows} rows), writer behind"
            )
        print_verdict(str(outcome))
    raise typer.Exit(0 if outcome.ok else 1)


@app.command(epilog="Example: logitbox tally demo-out/dump --workers 2")
def tally(
    path: DumpPath,
    workers: Annotated[int, typer.Option("--workers", help="Processes to tally with.")] = 1,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """Tally all shards now, so that later commands are instant."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from logitbox.analysis.tallying import tally_dump

    if workers < 1:
        raise InputError(f"--workers is {workers}; it must be 1 or more")
    dump = _open(path, skip_damaged=skip_damaged)
    with progress_bar("tallying") as progress:
        if workers == 1:
            tally_dump(dump, progress=progress)
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                tally_dump(dump, executor=pool, progress=progress)
    shards = dump.shards("tokens")
    document = {"dump": str(path), "shards": len(shards), "rows": sum(shard.entry.rows for shard in shards)}
    if as_json:
        print_json(document)
    else:
        print_verdict(f"{document['shards']} shards, {document['rows']:,} rows tallied")


if __name__ == "__main__":
    main()
