"""`logitbox calibration`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from logitbox.commands.shared import (
    AsJson,
    DumpPath,
    SkipDamaged,
    check_for_two,
    open_at,
    step_or_all,
    step_or_none,
)
from logitbox.errors import InputError
from logitbox.terminal import print_json, progress_bar, rows_of

if TYPE_CHECKING:
    from logitbox.analysis.calibration import CalibrationTable
    from logitbox.analysis.calibration.differences import CalibrationDifference
    from logitbox.analysis.passes import Progress
    from logitbox.dumps.dump import Dump

app = typer.Typer()


@app.command(epilog="Example: logitbox calibration demo-out/dump --by type --temperature")
def calibration(
    path: DumpPath,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="Column to split by; may be repeated. type, position (in the sample) and gold_frequency; step, epoch, "
            "dataset; source and other columns of samples. By default types are shown; split by anything else, they "
            "are shown with --by type too, here and in --json.",
        ),
    ] = None,
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
    step: Annotated[
        str | None,
        typer.Option(
            help="Only this step, or 'last': of each phase its own. By default 'all' are pooled; with --against 'last'."
        ),
    ] = None,
    against_step: Annotated[str | None, typer.Option(help="Its step; by default as --step.")] = None,
    as_json: AsJson = False,
    skip_damaged: SkipDamaged = False,
) -> None:
    """Is the model as often right as it says it is? By phase, type of token, step, source and more."""
    from logitbox.commands.calibrated import heats_of, measures_of, ranked_of, shown_rows
    from logitbox.commands.calibration_shown import print_calibration, print_difference

    check_for_two(against, {"--phase": phase, "--against-step": against_step})
    dump = open_at(path, skip_damaged=skip_damaged)
    if against is not None:
        if by or worst or temperature or measures or table:
            raise InputError(
                "--against compares all measures of two evaluations; leave out the options for one"
            )
        other = open_at(against, skip_damaged=skip_damaged)
        difference = _difference(dump, other, phase, step or "last", against_step, bins)
        if as_json:
            print_json({"dump": str(path), "against": str(against), **_document(difference)})
        else:
            print_difference(difference)
        return
    with progress_bar("tallying") as progress:
        result = _computed(dump, by, bins, step, progress)
    rows = shown_rows(result, by)
    ranked = None if worst is None else ranked_of(result, by)
    heats = heats_of(dump, result, rows) if temperature else None
    found = measures_of(result, rows) if measures else None
    shown = None if ranked is None or worst is None else (ranked, worst)
    if not as_json:
        print_calibration(result, rows, shown, heats, found, with_table=table)
        return
    types = {row["type"] for row in rows}
    document: dict[str, Any] = {"dump": str(path), "verdict": str(result), "by": by or [], "bins": bins}
    bins_of = [row for row in rows_of(result.table) if row["type"] in types]
    document |= {"summary": rows, "table": bins_of}
    document["worst"] = None if shown is None else rows_of(shown[0].head(shown[1]))
    document["temperature"] = heats
    document["measures"] = found
    print_json(document)


def _computed(
    dump: Dump, by: list[str] | None, bins: int, step: str | None, progress: Progress
) -> CalibrationTable:
    """Of all steps, or of one of each phase."""
    from logitbox.analysis.calibration import calibration as compute
    from logitbox.analysis.calibration.dumped import calibration_at

    wanted = None if step is None else step_or_none(step)
    if wanted is None:
        return compute(dump, by=by, bins=bins, progress=progress)
    return calibration_at(dump, _steps(dump, wanted), by or (), bins, progress)


def _steps(dump: Dump, wanted: int | str) -> dict[str, int]:
    """The step of each phase that has it."""
    import polars as pl

    places = dump.batches.filter(pl.col("n_supervised") > 0).select("phase", "step").unique().collect()
    if wanted == "last":
        last = places.drop_nulls().group_by("phase").agg(pl.col("step").max()).sort("phase")
        return dict(last.iter_rows())
    found = {phase: step for phase, step in places.sort("phase").iter_rows() if step == wanted}
    if not found:
        known = places["step"].drop_nulls().unique().sort().to_list()
        more = f", … {known[-1]}" if len(known) > 10 else ""
        told = ", ".join(map(str, known[:10])) + more
        raise InputError(f"--step is {wanted}; there are {told or 'none'}, and 'last' and 'all'")
    return found


def _difference(
    dump: Dump, other: Dump, phase: str | None, step: str, against_step: str | None, bins: int
) -> CalibrationDifference:
    from logitbox.analysis.calibration.differences import calibration_difference

    of_other = None if against_step is None else step_or_all(against_step, "--against-step")
    return calibration_difference(dump, other, phase, step_or_all(step), bins, against_step=of_other)


def _document(found: CalibrationDifference) -> dict[str, Any]:
    unaligned = None if found.unaligned is None else asdict(found.unaligned)
    document = {"verdict": str(found), "bins": found.a.bins, "tokens": found.a.n}
    return document | {"measures": rows_of(found.frame), "left_out": unaligned}
