"""Record the fixtures `tests/realmodel/trainers`: what real trainers log, beside what every token did.

    .venv/bin/pip install --constraint constraints.txt --editable '.[trainers]'
    .venv/bin/python scripts/record_trainers.py [NAME ...]

Without names, all of `trainer_runs.RUNS`: a minute on two cores, after a few more to install the older transformers
into `.cache`. Every folder is deleted and written anew; on the same machine and versions the records come out the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from trainer_runs import RUNS, run

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "realmodel" / "trainers"
LIMIT_BYTES = 500_000
ACCELERATE = "1.1.1"  # of the time of the older transformers


def main() -> int:
    """Record each run in processes of its own; 1 if the fixtures are too large to commit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; all by default")
    parser.add_argument(
        "--into", type=Path, help=argparse.SUPPRESS
    )  # how the processes of a run are told theirs
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(RUNS)):
        parser.error(f"no run is called {unknown[0]!r}; there are {', '.join(RUNS)}")
    if options.into:
        torch.set_num_threads(1)
        run(options.names[0], options.into)
        _note_versions(options.into)
        return 0
    for name in options.names or RUNS:
        record(name)
    return _report_size()


def record(name: str) -> None:
    """Record one run, with the interpreter and the number of processes it needs, and put it in its place."""
    plan = RUNS[name]
    python = _old_python(plan.version) if plan.version else sys.executable
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={plan.world}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder)
        command = [python, *(launch if plan.world > 1 else []), __file__, name, "--into", folder]
        subprocess.run(command, check=True, env=environment)
        shutil.rmtree(into / "dump" / "locks")  # names the machine; of no use without a writer
        shutil.rmtree(OUT / name, ignore_errors=True)
        (OUT / name).mkdir(parents=True)
        for kept in ("dump", "trainer_state.json", "versions.json"):
            shutil.move(into / kept, OUT / name / kept)


def _old_python(wanted: str) -> str:
    """The interpreter of an environment with that version of transformers, made on first use."""
    environment = ROOT / ".cache" / f"transformers-{wanted}"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        same = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "numpy", "pyarrow")]
        old = [f"transformers=={wanted}", f"accelerate=={ACCELERATE}"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *old, *same], check=True)
    return str(python)


def _note_versions(folder: Path) -> None:
    names = ["torch", "transformers", "accelerate", *(["trl"] if "trl" in sys.modules else [])]
    text = json.dumps({name: version(name) for name in names}, indent=2)
    (folder / "versions.json").write_text(text + "\n")


def _report_size() -> int:
    total = 0
    for folder in sorted(path for path in OUT.iterdir() if path.is_dir()):
        # Audits leave their tallies beside the fixtures, which git ignores.
        files = [file for file in folder.rglob("*") if file.is_file() and "tallies" not in file.parts]
        size = sum(file.stat().st_size for file in files)
        print(f"{size:>9,}  {folder.name}")
        total += size
    print(f"{total:>9,}  bytes in all (limit {LIMIT_BYTES:,})")
    return int(total > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
