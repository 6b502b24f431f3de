"""`logitbox metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import polars as pl
import typer

from logitbox.commands.shared import AsJson, By, DumpPath, SkipDamaged, open_at
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError
from logitbox.terminal import print_json, print_metrics, print_verdict, progress_bar, rows_of

if TYPE_CHECKING:
    from logitbox.analysis.metrics import Metrics, Reductions

app = typer.Typer()


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

    dump = open_at(path, skip_damaged=skip_damaged)
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
