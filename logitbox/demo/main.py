"""`run_demo`: the whole path of the package on real input, from a training run to its report."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from logitbox.demo.config import DemoConfig
from logitbox.demo.train import train
from logitbox.dumps.dump import open_dump
from logitbox.errors import InputError
from logitbox.reports.report import report
from logitbox.terminal import progress_bar


def run_demo(out: Path, steps: int | None = None, *, quiet: bool = False) -> dict[str, Any]:
    """Train the digit reader, record it into ``out / "dump"``, and write ``out / "report.html"``.

    Args:
        out: folder for both; must not hold a dump yet.
        steps: optimizer steps; None for the demo's own number.
        quiet: say nothing on stdout.

    Returns:
        The run's figures (see ``DemoRun``) and the paths ``dump`` and ``report``.

    Raises:
        InputError: ``out / "dump"`` exists, or ``steps`` is below 1.
    """
    if steps is not None and steps < 1:
        raise InputError(f"--steps is {steps}; it must be 1 or more")
    config = DemoConfig() if steps is None else replace(DemoConfig(), steps=steps, warmup=min(40, steps))
    console = Console(file=sys.stderr if quiet else sys.stdout, highlight=False, soft_wrap=True)
    if not quiet:
        console.print(
            "Training a small transformer to name and locate handwritten digits, and recording its logits."
        )
    with progress_bar("training") as bar:

        def told(step: int, total: int, message: str) -> None:
            bar(step, total)
            if message.startswith("eval") and not quiet:
                console.print(message)

        run = train(out, config, told)
    dump = open_dump(run.dump)
    with progress_bar("tallying") as bar:
        page = report(dump, out / "report.html", title="Digits demo", progress=bar)
    if not quiet:
        console.print(
            f"Trained in {run.seconds:.0f} s: the trainer's own loss on unseen digits (text and coordinate parts, each "
            f"weighted) fell from {run.first_eval_loss:.3f} to {run.final_eval_loss:.3f}; {run.name_accuracy:.1%} of "
            f"digit names are right, box edges off by {run.coord_error:.0f} of 1000 bins."
        )
        console.print(f"Look further with: logitbox metrics {run.dump} --by step")
    return asdict(run) | {"dump": str(run.dump), "report": str(page)}
