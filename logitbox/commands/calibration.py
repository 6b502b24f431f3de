"""`logitbox calibration`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from logitbox.commands.shared import AsJson, By, DumpPath, SkipDamaged, check_for_two, open_at, step_or_all
from logitbox.errors import InputError
from logitbox.terminal import print_json, print_table, print_verdict, progress_bar, rows_of

if TYPE_CHECKING:
    from logitbox.analysis.calibration.differences import CalibrationDifference
    from logitbox.dumps.dump import Dump

app = typer.Typer()


@app.command(epilog="Example: logitbox calibration demo-out/dump --by type --temperature")
def calibration(
    path: DumpPath,
    by: By = None,
    bins: Annotated[int, typer.Option("--bins", help="Number of equal-width bins of confidence.")] = 15,
    worst: Annotated[
        int | None,
        typer.Option("--worst", min=1, help="Rank the subgroups that are off most, so many of them."),
    ] = None,
    temperature: Annotated[
        bool,
        typer.Option("--temperature", help="Fit the temperature that mends most; reads the tokens again."),
    ] = False,
    measures: Annotated[
        bool, typer.Option("--measures", help="Every measure there is, with its interval, for each row.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="The reliability table, bin by bin, also of several phases.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DUMP", help="Another evaluation of the same tokens: which is calibrated better?"
        ),
    ] = None,
    phase: Annotated[str | None, typer.Option(help="With --against: only this phase.")] = None,
    step: Annotated[str, typer.Option(help="With --against: a step, 'last' or 'all'.")] = "last",
    against_step: Annotated[str | None, typer.Option(help="Its step; by default as --step.")] = None,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """Is the model as often right as it says it is? By phase, type of token, step, source and more."""
    from logitbox.analysis.calibration import calibration as compute
    from logitbox.commands.calibrated import heats_of, measures_of, shown_rows
    from logitbox.commands.calibration_shown import print_calibration

    check_for_two(against, {"--phase": phase, "--step": step, "--against-step": against_step})
    dump = open_at(path, skip_damaged=skip_damaged)
    if against is not None:
        if by or worst or temperature or measures or table:
            raise InputError(
                "--against compares all measures of two evaluations; leave out the options for one"
            )
        other = open_at(against, skip_damaged=skip_damaged)
        _show_difference(
            _difference(dump, other, phase, step, against_step, bins), path, against, as_json=as_json
        )
        return
    with progress_bar("tallying") as progress:
        result = compute(dump, by=by, bins=bins, progress=progress)
    rows = shown_rows(result, by)
    ranked = None if worst is None else result.worst(worst, by)
    heats = heats_of(dump, result, rows) if temperature else None
    found = measures_of(result, rows) if measures else None
    if not as_json:
        print_calibration(result, rows, ranked, heats, found, with_table=table)
        return
    document: dict[str, Any] = {"dump": str(path), "verdict": str(result), "by": by or [], "bins": bins}
    document |= {"summary": rows_of(result.frame), "table": rows_of(result.table)}
    document["worst"] = None if ranked is None else rows_of(ranked)
    document["temperature"] = heats
    document["measures"] = found
    print_json(document)


def _difference(
    dump: Dump, other: Dump, phase: str | None, step: str, against_step: str | None, bins: int
) -> CalibrationDifference:
    from logitbox.analysis.calibration.differences import calibration_difference

    of_other = None if against_step is None else step_or_all(against_step, "--against-step")
    return calibration_difference(dump, other, phase, step_or_all(step), bins, against_step=of_other)


def _show_difference(found: CalibrationDifference, path: Path, against: Path, *, as_json: bool) -> None:
    if not as_json:
        print_table(found.frame, "A (DUMP) against B (--against), over the tokens of both")
        if found.unaligned is not None:
            print_verdict(f"{found.unaligned}")
        print_verdict(str(found))
        return
    unaligned = None if found.unaligned is None else asdict(found.unaligned)
    document = {"dump": str(path), "against": str(against), "verdict": str(found), "bins": found.a.bins}
    print_json(document | {"tokens": found.a.n, "measures": rows_of(found.frame), "left_out": unaligned})
