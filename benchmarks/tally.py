"""How fast the tally is: tokens a second, cold and cached, peak memory, and against plain group-bys.

Run: python benchmarks/tally.py [--rows 2000000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from logitbox.dumps.journal import JournalWriter
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.schema import table_schema
from logitbox.dumps.shards import write_shard
from logitbox.dumps.spec import RecordSpec

V, K, GROUP = 50_000, 16, range(49_000, 50_000)
SHARD_ROWS, TOKENS_PER_STEP, TOKENS_PER_SAMPLE = 65_536, 4_096, 100


def make_dump(path: Path, rows: int) -> None:
    """A dump of plausible columns: confidences near 1, a quarter of the tokens in an ordered group."""
    recorder = Recorder(
        path, V, K, {"coord": GROUP}, {"coord": {}}, ["coord", "desc", "format"], lse_beta=False
    )
    recorder.close()
    owner = recorder.session.owner
    journal = JournalWriter(path / "sessions" / owner)
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        table = plausible(rng, start, min(SHARD_ROWS, rows - start), recorder.spec)
        journal.shard(write_shard(table, path / "tokens" / owner, "tokens", number))
    journal.close()


def plausible(rng: np.random.Generator, start: int, n: int, spec: RecordSpec) -> pa.Table:
    """`n` token rows from row `start` of the run on."""
    schema = table_schema("tokens", spec)
    row = np.arange(start, start + n)
    in_coord, right = rng.random(n) < 0.25, rng.random(n) < 0.8
    gold = np.where(in_coord, rng.integers(49_000, V, n), rng.integers(0, 49_000, n))
    top = rng.integers(0, V, (n, K)).astype(np.int32)
    top[:, 0] = np.where(right, gold, top[:, 0])
    top_nll = np.exp(rng.normal(-2.5, 2.0, n))
    kind = np.where(in_coord, 1, np.where(rng.random(n) < 0.5, 2, 4))
    values = {
        "phase": pa.array(["train"] * n),
        "dataset": pa.array([""] * n),
        "pass": np.zeros(n),
        "step": row // TOKENS_PER_STEP,
        "epoch": (row // 500_000).astype(np.float32),
        "micro": row // 1024 % 4,
        "rank": np.zeros(n),
        "sample": row // TOKENS_PER_SAMPLE,
        "pos": row % TOKENS_PER_SAMPLE,
        "gold": gold,
        "flags": np.ones(n),
        "types": kind,
        "nll": np.where(right, top_nll, top_nll + rng.exponential(2, n)),
        "top_nll": top_nll,
        "entropy": top_nll * 1.5,
        "n_gt": np.where(right, 0, rng.integers(1, 40, n)),
        "n_eq_before": np.zeros(n),
    }
    lists = {"top_ids": top, "top_gap": np.sort(rng.exponential(3, (n, K)), axis=1).astype(np.float16)}
    offsets = np.arange(0, n * K + 1, K, dtype=np.int32)
    arrays = {}
    for field in schema:
        if field.name in lists:
            arrays[field.name] = pa.ListArray.from_arrays(offsets, pa.array(lists[field.name].reshape(-1)))
            continue
        value = values.get(field.name, rng.exponential(1, n))
        inside = None if not field.name.startswith("coord_") else ~in_coord
        whole = value if isinstance(value, pa.Array) else pa.array(np.asarray(value), mask=inside)
        arrays[field.name] = whole.cast(field.type, safe=False)
    return pa.table(arrays, schema=schema)


def in_child(code: str, path: Path) -> tuple[float, float]:
    """(seconds, peak MiB) of a piece of code in a fresh process, its imports not counted in the seconds."""
    script = f"""
import sys, time
from pathlib import Path
import numpy as np, polars as pl
import logitbox as lb
from logitbox.analysis.tallying import tally_dump
path = Path({str(path)!r})
dump = lb.open(path)
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(seconds, int(peak.split()[1]) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


BOUND = "polars streaming: mean nll, accuracy"
"""Two means over the same files: nothing that reads them can be much quicker."""

PIECES = {
    "imports and open only": "pass",
    "tally, cold": "tally_dump(dump)",
    "tally, cached": "tally_dump(dump)",
    "calibration by type, cold": "lb.calibration(dump)",
    "calibration by type, cached": "lb.calibration(dump)",
    BOUND: (
        "dump.tokens.group_by('phase', 'step').agg(pl.col('nll').mean(), "
        "(pl.col('n_gt') + pl.col('n_eq_before') == 0).mean()).collect(engine='streaming')"
    ),
    "numpy one-shot: mean nll, accuracy": (
        "f = dump.tokens.select('step', 'nll', 'n_gt', 'n_eq_before').collect(); step = f['step'].to_numpy();"
        "n = np.bincount(step); np.bincount(step, weights=f['nll'].to_numpy()) / n;"
        "np.bincount(step, weights=(f['n_gt'] + f['n_eq_before']).to_numpy() == 0) / n"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3, help="best of so many runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        start = time.perf_counter()
        make_dump(path, options.rows)
        size = sum(file.stat().st_size for file in path.glob("tokens/*/*"))
        print(f"{options.rows:,} rows, {size / 2**20:.0f} MiB, made in {time.perf_counter() - start:.1f} s")
        results = {name: best_of(options.repeats, name, code, path) for name, code in PIECES.items()}
    bound = results[BOUND][0]
    print(f"{'':40}   seconds    M tokens/s    peak MiB    times the bound")
    for name, (seconds, peak) in results.items():
        rate = options.rows / seconds / 1e6
        print(f"{name:40}  {seconds:8.3f}  {rate:12.2f}  {peak:10.0f}  {seconds / bound:17.1f}")


def best_of(repeats: int, name: str, code: str, path: Path) -> tuple[float, float]:
    """The quickest of some runs, as (seconds, peak MiB)."""
    runs: list[tuple[float, float]] = []
    for _ in range(repeats):
        if "cold" in name:
            shutil.rmtree(path / "tallies", ignore_errors=True)
        runs.append(in_child(code, path))
    return min(runs)


if __name__ == "__main__":
    main()
