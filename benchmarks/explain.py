"""How long two dumps of the same tokens take to compare, against one streaming group-by over both files.

Run: python benchmarks/explain.py [--rows 10000000] [--repeats 2]
"""

from __future__ import annotations

import argparse
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
from logitbox.dumps.spec import BETAS, RecordSpec

V, K, TYPES = 50_000, 32, ("coord", "desc", "format")
SHARD_ROWS, TOKENS_PER_SAMPLE = 65_536, 100


def make_dump(path: Path, rows: int, sharpness: float) -> None:
    """An evaluation of `rows` tokens; the same tokens whatever the sharpness of the model."""
    with Recorder(path, V, K, types=TYPES) as recorder:
        recorder.samples({"sample": list(range(-(-rows // TOKENS_PER_SAMPLE)))})
    owner = recorder.session.owner
    journal = JournalWriter(path / "sessions" / owner)
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        table = plausible(
            np.random.default_rng(number), start, min(SHARD_ROWS, rows - start), sharpness, recorder.spec
        )
        journal.shard(write_shard(table, path / "tokens" / owner, "tokens", number))
    journal.close()


def plausible(rng: np.random.Generator, start: int, n: int, sharpness: float, spec: RecordSpec) -> pa.Table:
    """Token rows whose columns fit together: logits are 0 at best, then falling, and a tail of equal ones."""
    row = np.arange(start, start + n)
    gap = np.sort(rng.exponential(3.0, (n, K)), axis=1)
    gap[:, 0] = 0.0
    gap *= sharpness
    tail_gap = gap[:, -1] + sharpness
    outside = V - K

    def ln_sum(beta: float) -> np.ndarray:
        return np.log(np.exp(-beta * gap).sum(axis=1) + outside * np.exp(-beta * (tail_gap + 8)))

    top_nll = ln_sum(1.0)
    rank = np.minimum(rng.geometric(0.6, n) - 1, K - 1)
    ids = rng.integers(0, V, (n, K)).astype(np.int32)
    gold_gap = gap[np.arange(n), rank]
    values = {
        "phase": pa.array(["eval"] * n),
        "dataset": pa.array([""] * n),
        "sample": row // TOKENS_PER_SAMPLE,
        "pos": row % TOKENS_PER_SAMPLE,
        "gold": row * 7919 % V,
        "flags": np.ones(n),
        "types": 1 << (row % 3),
        "nll": top_nll + gold_gap,
        "top_nll": top_nll,
        "lse": top_nll,
        "entropy": top_nll * 1.5,
        "tail_mass": outside * np.exp(-(tail_gap + 8) - top_nll),
        "n_gt": rank,
        "n_finite": np.full(n, V),
    }
    lists = {
        "top_ids": (ids, np.int32),
        "top_gap": (gap, np.float16),
        "lse_beta": (np.stack([ln_sum(beta) for beta in BETAS], axis=1), np.float32),
    }
    arrays = {}
    schema = table_schema("tokens", spec)
    for field in schema:
        if field.name in lists:
            whole, dtype = lists[field.name]
            offsets = np.arange(0, whole.size + 1, whole.shape[1], dtype=np.int32)
            arrays[field.name] = pa.ListArray.from_arrays(offsets, pa.array(whole.astype(dtype).reshape(-1)))
            continue
        value = values.get(field.name, np.zeros(n))
        array = value if isinstance(value, pa.Array) else pa.array(np.asarray(value))
        arrays[field.name] = array.cast(field.type, safe=False)
    return pa.table(arrays, schema=schema)


BOUND = "polars streaming group-by over both files"

PIECES = {
    "imports and open only": "pass",
    BOUND: (
        "for dump in (a, b): dump.tokens.group_by('types').agg(pl.col('nll').mean(), "
        "(pl.col('n_gt') + pl.col('n_eq_before') == 0).mean()).collect(engine='streaming')"
    ),
    "the same, all columns read": (
        "for dump in (a, b): dump.tokens.group_by('types').agg(pl.col('nll').mean(), "
        "pl.col('top_ids').list.first().max(), pl.col('top_gap').list.last().max(), "
        "pl.col('lse_beta').list.sum().max(), pl.exclude('types', 'nll', 'top_ids', 'top_gap', 'lse_beta', 'phase', "
        "'dataset').max().name.suffix('_max')).collect(engine='streaming')"
    ),
    "align, intervals, test, cells": "compare(a, b)",
    "… and reversal set, curve": "r = compare(a, b); r.reversal; r.curve",
    "… and concentration": "r = compare(a, b); r.reversal; r.curve; r.concentration",
    "… and temperature": "r = compare(a, b); r.reversal; r.curve; r.concentration; r.temperature",
    "… and certificates: all of it": "r = compare(a, b); r.reversal; r.curve; r.concentration; r.temperature; r.certificates",
}


def in_child(code: str, folder: Path) -> tuple[float, float]:
    """(seconds, peak MiB) of a piece of code in a fresh process, its imports not counted in the seconds."""
    script = f"""
import time
from pathlib import Path
import polars as pl
import logitbox as lb
from logitbox.analysis.pairs.comparison import compare
a, b = (lb.open(Path({str(folder)!r}) / name) for name in 'ab')
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(seconds, int(peak.split()[1]) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=2, help="best of so many runs")
    parser.add_argument("--keep", type=Path, help="a folder to make the dumps in, or to find them in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for name, sharpness in (("a", 1.3), ("b", 1.0)):
            if not (folder / name).exists():
                start = time.perf_counter()
                make_dump(folder / name, options.rows, sharpness)
                size = sum(file.stat().st_size for file in (folder / name).glob("tokens/*/*"))
                print(
                    f"{options.rows:,} rows, {size / 2**20:.0f} MiB, made in {time.perf_counter() - start:.1f} s"
                )
        results: dict[str, tuple[float, float]] = {}
        for name, code in PIECES.items():
            results[name] = min(in_child(code, folder) for _ in range(options.repeats))
    bound = results[BOUND][0]
    print(f"{'':44}   seconds    M pairs/s    peak MiB    times the group-by")
    for name, (seconds, peak) in results.items():
        rate = options.rows / seconds / 1e6
        print(f"{name:44}  {seconds:8.2f}  {rate:11.2f}  {peak:10.0f}  {seconds / bound:20.1f}")


if __name__ == "__main__":
    main()
