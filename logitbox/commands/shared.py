"""What commands share: their common arguments, opening a dump, steps, and two evaluations to compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer

from logitbox.dumps.dump import Dump, open_dump
from logitbox.errors import InputError
from logitbox.terminal import print_json, print_table, print_verdict, print_warning, printable, rows_of

if TYPE_CHECKING:
    from logitbox.analysis.entropy import TokenList
    from logitbox.analysis.pairs.comparison import Comparison

DumpPath = Annotated[Path, typer.Argument(metavar="DUMP", help="Folder that a Recorder wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
By = Annotated[
    list[str] | None, typer.Option("--by", help="Column to split by; may be repeated: --by phase --by step.")
]
SkipDamaged = Annotated[
    bool, typer.Option("--skip-damaged", help="Leave damaged shards out instead of refusing the dump.")
]


def say(text: str) -> None:
    """A line on stdout; names in a stranger's dump may hold escape codes."""
    typer.echo(printable(text))


def open_at(path: Path, *, skip_damaged: bool) -> Dump:
    """Open a dump; damaged shards that are left out are told on stderr."""
    dump = open_dump(path, damaged="skip" if skip_damaged else "error")
    if dump.skipped:
        rows = sum(damage.rows for damage in dump.skipped)
        print_warning(
            f"left out {len(dump.skipped)} damaged shards ({rows} rows); `logitbox verify {path}` lists them"
        )
    return dump


def show(path: Path, result: Any, by: list[str] | None, name: str, *, as_json: bool) -> None:
    """A result of one table: as JSON under `name`, or as a table and its verdict."""
    if as_json:
        print_json({"dump": str(path), "verdict": str(result), "by": by or [], name: rows_of(result.frame)})
        return
    print_table(result.frame)
    print_verdict(str(result))


def show_tokens(result: TokenList, column: str) -> None:
    """Listed tokens as a table, with the column they are ordered by."""
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


def step_or_all(text: str, option: str = "--step") -> Any:
    """A step number, "last" or "all", for those that pool all steps on "all". Raises InputError."""
    return "all" if text == "all" else step_or_none(text, option)


def step_or_none(text: str, option: str = "--step") -> Any:
    """A step number, "last", or None for "all". Raises InputError."""
    if text == "all":
        return None
    if text == "last":
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}; give a whole number, 'last' or 'all'") from None


def check_for_two(against: Path | None, given: dict[str, str | int | None]) -> None:
    """Options that nothing would heed are refused."""
    idle = [name for name, value in given.items() if value not in (None, 0, "last")]
    if against is None and idle:
        raise InputError(
            f"{' and '.join(idle)} {'is' if len(idle) == 1 else 'are'} of use with --against only"
        )


def compared(dump: Dump, other: Dump, phase: str | None, step: str, against_step: str | None) -> Comparison:
    """Two evaluations of the same tokens side by side; steps as typed."""
    from logitbox.analysis.pairs.comparison import compare

    return compare(
        dump,
        other,
        phase=phase,
        step=step_or_all(step),
        against_step=None if against_step is None else step_or_all(against_step, "--against-step"),
    )
