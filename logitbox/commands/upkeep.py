"""Keeping a dump: checksums, and tallying ahead."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from logitbox.commands.shared import AsJson, DumpPath, SkipDamaged, open_at, say
from logitbox.dumps.dump import open_dump
from logitbox.errors import InputError
from logitbox.terminal import print_json, print_verdict, progress_bar

app = typer.Typer()


@app.command(epilog="Example: logitbox verify demo-out/dump")
def verify(path: DumpPath, as_json: AsJson = False) -> None:
    """Compare every shard with its checksum; exit status 1 if one is damaged."""
    outcome = open_dump(path, damaged="skip").verify()
    if as_json:
        print_json({"ok": outcome.ok, "verdict": str(outcome), **asdict(outcome)})
    else:
        for damage in outcome.damage:
            say(f"damaged  {damage.shard}: {damage.problem} ({damage.rows} rows)")
        for stray in outcome.strays:
            say(f"stray    {stray}: not in the journal, never read")
        for owner in outcome.unfinished:
            say(f"open     {owner}: killed, or still being recorded; what is journaled is read")
        if outcome.dropped_calls:
            say(
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
    dump = open_at(path, skip_damaged=skip_damaged)
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
