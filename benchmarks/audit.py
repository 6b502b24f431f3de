"""How long an audit takes after the tally: 20 keys, 500 lines each, against a dump of ten million tokens.

Run: python benchmarks/audit.py [--rows 10000000] [--lines 500]

Keys are of three kinds: what their names promise, means of micro-batches, and numbers that nothing explains, for which every
hypothesis and every pair of them is tried.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from tally import TOKENS_PER_STEP, make_dump

import logitbox as lb
from logitbox.analysis.audit.audit import audit_evidence
from logitbox.analysis.audit.tallying import evidence_of
from logitbox.analysis.logs.reading import read_logged

KEYS = {
    "loss": ("nll", ""),
    "token_acc": ("correct", ""),
    "token_acc_top5": ("correct_top5", ""),
    "full_entropy": ("entropy", ""),
    "confidence": ("confidence", ""),
    "exp_nll": ("nll", ""),
    "text_token_acc": ("correct", "text"),
    "coord_token_acc": ("correct", "coord"),
    "desc_token_acc": ("correct", "desc"),
    "format_token_acc": ("correct", "format"),
    "desc_token_acc_top5": ("correct_top5", "desc"),
    "format_token_acc_top5": ("correct_top5", "format"),
    "coord_token_acc_top5": ("correct_top5", "coord"),
    "desc_nll": ("nll", "desc"),
    "format_nll": ("nll", "format"),
    "text_nll": ("nll", "text"),
    "coord_nll": ("nll", "coord"),
    "coord_softce_w1/gate": ("coord.gate", "coord"),
    "coord_softce_w1/w1": ("coord.w1", "coord"),
    "coord_softce_w1/soft_ce": ("coord.soft_ce", "coord"),
    "coord_softce_w1/coord_vocab_mass": ("coord.gate_mass", "coord"),
}
"""Key to the column and population of the cells it is made of."""


def logged(cells: pl.DataFrame, lines: int, steps: int, seed: int = 0) -> list[dict[str, float]]:
    """Rows of a log: keys by turns as promised, as means of micro-batches, and off by a random walk."""
    rng = np.random.default_rng(seed)
    window = steps // lines
    lined = cells.with_columns(line=pl.col("step") // window).filter(pl.col("line") < lines)
    rows: list[dict[str, float]] = [{"step": (line + 1) * window} for line in range(lines)]
    for number, (key, (column, population)) in enumerate(KEYS.items()):
        here = (
            lined.filter(pl.col("population") == population)
            .group_by("line")
            .agg(pooled=pl.col(column).sum() / pl.col("n").sum(), means=(pl.col(column) / pl.col("n")).mean())
        )
        walk = 0.01 * rng.normal(size=lines).cumsum()
        for line, pooled, means in here.select("line", "pooled", "means").rows():
            value = (pooled, means, pooled + walk[line])[number % 3]
            rows[line][key] = float(np.exp(value)) if key == "exp_nll" else value
    return rows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--lines", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        make_dump(path, options.rows)
        dump = lb.open(path)
        times: dict[str, float] = {}
        for name in ("tally, cold", "tally, cached"):
            start = time.perf_counter()
            evidence = evidence_of(dump)
            times[name] = time.perf_counter() - start
        log = read_logged(logged(evidence.cells, options.lines, options.rows // TOKENS_PER_STEP))
        start = time.perf_counter()
        result = audit_evidence(log, evidence, dump)
        times[f"audit of {len(result.keys)} keys × {options.lines} lines"] = time.perf_counter() - start
    print(
        f"{options.rows:,} tokens, {evidence.cells.height:,} cells, {evidence.cells.estimated_size() / 2**20:.0f} MiB"
    )
    for name, seconds in times.items():
        print(f"{name:<40} {seconds:8.1f} s")
    print(result.verdict)


if __name__ == "__main__":
    main()
