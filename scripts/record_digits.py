"""Records the example dump `digits`: the demo's own run, with fewer and shorter records so that it fits in 1 MB.

    .venv/bin/python scripts/record_digits.py

Training is that of `logitbox demo` to the letter; only what is kept of it differs: k = 8, four evaluations of 48
scenes, and every 160th training step.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import logitbox
from logitbox.demo.config import DemoConfig
from logitbox.demo.train import train

LIMIT = 1_000_000
"""Bytes an example may take."""


def main() -> None:
    """Train, record, and put the dump in its place."""
    target = Path(str(logitbox.__file__)).parent / "data" / "digits"
    config = DemoConfig(record_every=160, k=8, evals=4, eval_scenes=48)
    with tempfile.TemporaryDirectory() as folder:
        run = train(Path(folder), config, _tell)
        shutil.rmtree(run.dump / "locks")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(run.dump, target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target.name}: {size:,} bytes; eval loss {run.first_eval_loss:.3f} to {run.final_eval_loss:.3f}")
    if size >= LIMIT:
        raise SystemExit(f"{size} bytes are too many; the limit is {LIMIT}")


def _tell(step: int, steps: int, message: str) -> None:
    if message.startswith("eval"):
        print(f"{step}/{steps} {message}")


if __name__ == "__main__":
    main()
