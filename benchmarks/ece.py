"""Calibration against other libraries: time, memory and value on the same arrays, in one run.

Run: python benchmarks/ece.py [--tokens 10000000] [--write docs/calibration.md] [--json out.json]
Peers that are not installed are left out and named; `pip install logitbox[peers] mcgrad probmetrics numba` brings all.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent))

from ece_peers import BINS, PEERS, Peer

GROUPS, CLUSTER = 8, 512
FEATURES = (
    "ECE",
    "equal mass",
    "MCE",
    "L2",
    "L2 debiased",
    "smooth ECE",
    "Kuiper",
    "CORP",
    "Brier",
    "NLL",
    "Full-ECE",
    "temperature",
    "other recalibration",
    "groups",
    "weights",
    "interval",
    "paired difference",
    "streaming",
    "diagram",
)
OURS = {
    **dict.fromkeys(FEATURES, "yes"),
    "Kuiper": "with p",
    "temperature": "by type",
    "other recalibration": "",
    "interval": "by cluster",
    "paired difference": "by cluster",
    "streaming": "mergeable",
}
OTHER_QUANTITY = {peer.package for peer in PEERS if peer.is_other_quantity}
BEGIN, END = "<!-- table: python benchmarks/ece.py --write docs/calibration.md -->", "<!-- end of table -->"


def tokens_like_a_language_model(n: int) -> dict[str, np.ndarray]:
    """Confidences crowded towards 1 (a sixth of them exactly 1 in float32), right a little less often than they say."""
    rng = np.random.default_rng(0)
    sure = rng.random(n, dtype=np.float32) < 1 / 6
    confidence = np.where(sure, 1.0, -np.expm1(-rng.exponential(2.5, n))).astype(np.float32)
    correct = rng.random(n, dtype=np.float32) < confidence**1.15 - 0.002
    return {
        "confidence": confidence,
        "correct": correct,
        "group": rng.integers(0, GROUPS, n).astype(np.int8),
    }


def truth(confidence: np.ndarray, correct: np.ndarray) -> float:
    """ECE by the definition: float64, exact edges, one bin after the other."""
    total, edges = 0.0, np.arange(BINS + 1) / BINS
    for low, high in pairwise(edges):
        inside = (confidence >= low) & ((confidence < high) | (high == 1.0))
        total += abs(float(correct[inside].sum()) - float(confidence[inside].sum(dtype=np.float64)))
    return total / len(confidence)


def timed(call: Callable[[], Any], repeats: int = 3, patience: float = 10.0) -> tuple[float, Any]:
    """(seconds of the quickest run, its result); one run only of what takes long."""
    best, value = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = call()
        best = min(best, time.perf_counter() - start)
        if best > patience / repeats:
            break
    return best, value


def attempt(call: Callable[[], Any], repeats: int = 3) -> tuple[float | None, Any]:
    """`timed`, or (None, the error's name)."""
    try:
        return timed(call, repeats)
    except Exception as error:  # noqa: BLE001 (whatever a peer raises is its result)
        return None, type(error).__name__


def bare_bincount(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The least that any ECE must do, of one group, with rounded edges."""
    bin_ = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    right = np.bincount(bin_, correct, BINS)
    return float(
        np.abs(right - np.bincount(bin_, confidence, BINS)).sum() / np.bincount(bin_, minlength=BINS).sum()
    )


def ours_of_groups(confidence: np.ndarray, correct: np.ndarray, group: np.ndarray) -> list[float]:
    """Every group's ECE in one pass."""
    from logitbox.analysis.calibration import Counter, Grid

    counter = Counter(Grid(BINS), GROUPS)
    counter.add(confidence, correct, group)
    found = (counter.atoms(g) for g in range(GROUPS))
    return [float(np.abs(atoms.residual).sum() / atoms.n.sum()) for atoms in found]


def ours_smooth(confidence: np.ndarray, correct: np.ndarray) -> float | None:
    from logitbox.analysis.calibration import from_arrays

    return from_arrays(confidence, correct).smooth_ece


def ours_replicates(confidence: np.ndarray, correct: np.ndarray) -> Any:
    """1000 replicates over clusters of 512 tokens, and the interval."""
    from logitbox.analysis.calibration import from_arrays

    return from_arrays(confidence, correct, cluster=np.arange(len(confidence)) // CLUSTER).interval("ece")


def speed_of_ece(n: int) -> dict[str, Any]:
    """Seconds and values of one ECE; of ours for 8 groups at once."""
    data = tokens_like_a_language_model(n)
    both = data["confidence"], data["correct"]
    found: dict[str, Any] = {"tokens": n, "truth": truth(*both), "rows": {}}
    found["rows"]["numpy bincount, one group"] = attempt(lambda: bare_bincount(*both), 5)
    found["rows"]["logitbox, 8 groups"] = attempt(lambda: ours_of_groups(**data), 5)
    for peer in installed():
        if peer.ece is not None and n <= peer.most:
            found["rows"][peer.package] = attempt(lambda peer=peer: peer.ece(*both))
        if peer.ece_of_groups is not None:
            name = f"{peer.package}, 8 groups{peer.of_groups_is}"
            found["rows"][name] = attempt(lambda peer=peer: peer.ece_of_groups(**data))
        if peer.ece_of_groups is not None and peer.ece is not None:
            name = f"{peer.package}, called for each of 8 groups"
            found["rows"][name] = attempt(lambda peer=peer: each_group(peer.ece, **data))
    return found


def each_group(call: Any, confidence: np.ndarray, correct: np.ndarray, group: np.ndarray) -> list[float]:
    """What a user writes where a library has no groups."""
    return [call(confidence[group == g], correct[group == g]) for g in range(GROUPS)]


def speed_of_smooth(n: int) -> dict[str, Any]:
    data = tokens_like_a_language_model(n)
    both = data["confidence"].astype(np.float64), data["correct"].astype(np.float64)
    rows = {"logitbox": attempt(lambda: ours_smooth(*both))}
    rows |= {p.package: attempt(lambda p=p: p.smooth(*both)) for p in installed() if p.smooth is not None}
    return {"tokens": n, "rows": rows}


def speed_of_bootstrap(n: int) -> dict[str, Any]:
    """Seconds a replicate: of ours all time divided by 1000, of peers what ten more take."""
    data = tokens_like_a_language_model(n)
    both = data["confidence"].astype(np.float64), data["correct"].astype(np.int64)
    seconds, _ = attempt(lambda: ours_replicates(*both))
    rows: dict[str, Any] = {"logitbox": None if seconds is None else seconds / 1000}
    for peer in installed():
        if peer.replicates is not None:
            few, _ = attempt(lambda peer=peer: peer.replicates(*both, 2), 1)
            more, _ = attempt(lambda peer=peer: peer.replicates(*both, 12), 1)
            # What does not depend on their number is left out, of peers only.
            name = f"{peer.package}{peer.replicates_are}"
            rows[name] = None if few is None or more is None else (more - few) / 10
    return {"tokens": n, "rows": rows}


def value_near_one(n: int) -> dict[str, Any]:
    """All confidences in [.94, 1), in float32, where float32 sums stop growing."""
    rng = np.random.default_rng(1)
    confidence = np.float32(0.94) + rng.random(n, dtype=np.float32) * np.float32(0.0599)
    correct = rng.random(n, dtype=np.float32) < 0.9
    rows = {"logitbox": ours_of_groups(confidence, correct, np.zeros(n, np.int8))[0]}
    for peer in installed():
        if peer.ece is not None and n <= peer.most:
            rows[peer.package] = attempt(lambda peer=peer: peer.ece(confidence, correct), 1)[1]
    return {"tokens": n, "truth": truth(confidence, correct), "rows": rows}


_CHILD = """
import sys
import numpy as np
from logitbox.analysis.calibration import Counter, Grid

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

rng, counter, size = np.random.default_rng(0), Counter(Grid(16_200, 30), 8), 1 << 18
counter.add(np.full(10, 0.5), np.ones(10, bool), np.zeros(10, np.int8))
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = peak()
for start in range(0, int(sys.argv[1]), size):
    confidence = rng.random(size, dtype=np.float32)
    counter.add(confidence, confidence > 0.5, rng.integers(0, 8, size, dtype=np.int8))
print(peak() - before)
"""


def memory(n: int) -> float:
    """MiB that a stream of n tokens takes beyond the imports, the chunks of the stream included."""
    done = subprocess.run([sys.executable, "-c", _CHILD, str(n)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def installed() -> list[Peer]:
    return [peer for peer in PEERS if peer.version is not None]


def measure(n: int, near_one: int) -> dict[str, Any]:
    names = {peer.package: peer.version for peer in PEERS}
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}",
        "peers": names,
        "ece": speed_of_ece(n),
        "smooth": speed_of_smooth(n),
        "bootstrap": [speed_of_bootstrap(size) for size in (100_000, n // 10)],
        "near_one": value_near_one(near_one),
        "memory": {str(size): memory(size) for size in (10**6, 10**7, 10**8)},
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def told_ece(found: dict[str, Any]) -> str:
    ours, truth_ = found["rows"]["logitbox, 8 groups"][0], found["truth"]
    rows = []
    for name, (seconds, value) in found["rows"].items():
        is_one = isinstance(value, float)
        shown = f"{value:.6f}" if is_one else ("8 values" if isinstance(value, list) else str(value))
        error = f"{value - truth_:+.1e}" if is_one and name not in OTHER_QUANTITY else ""
        error = "another quantity" if name in OTHER_QUANTITY else error
        ratio = "fails" if seconds is None else f"{seconds / ours:.2f}"
        rows.append([name, "" if seconds is None else f"{seconds:.3f}", ratio, shown, error])
    header = [
        f"ECE of {found['tokens']:,} tokens",
        "seconds",
        "× logitbox",
        "value",
        f"error ({truth_:.6f} is right)",
    ]
    return table(header, rows)


def told_ratios(title: str, rows: dict[str, float | None], values: dict[str, str] | None = None) -> str:
    ours = rows["logitbox"]
    lines = [
        [name, "fails" if s is None else f"{s:.2e}", "" if s is None or not ours else f"{s / ours:,.1f}"]
        + ([values[name]] if values else [])
        for name, s in rows.items()
    ]
    return table([title, "seconds", "× logitbox", *(["value"] if values else [])], lines)


def told(found: dict[str, Any]) -> str:
    """Everything as Markdown."""
    smooth, near = found["smooth"], found["near_one"]
    features = [["logitbox", *(OURS[name] for name in FEATURES)]]
    features += [[peer.package, *(peer.has.get(name, "") for name in FEATURES)] for peer in PEERS]
    missing = [name for name, installed_ in found["peers"].items() if installed_ is None]
    parts = [
        "What each has (read from source and documentation; empty: no).",
        table(["", *FEATURES], features),
        f"Measured in one run on the same arrays: {found['machine']}; "
        + ", ".join(f"{name} {v}" for name, v in found["peers"].items() if v)
        + (f". Not installed: {', '.join(missing)}." if missing else "."),
        told_ece(found["ece"]),
        told_ratios(
            f"Smooth ECE of {smooth['tokens']:,} tokens",
            {name: seconds for name, (seconds, _) in smooth["rows"].items()},
            {name: str(value) for name, (_, value) in smooth["rows"].items()},
        ),
        *(
            told_ratios(f"One bootstrap replicate of {part['tokens']:,} tokens", part["rows"])
            for part in found["bootstrap"]
        ),
        table(
            [f"ECE of {near['tokens']:,} tokens, all confidences in [.94, 1)", "value", "error"],
            [
                [name, str(value), f"{value - near['truth']:+.1e}" if isinstance(value, float) else ""]
                for name, value in near["rows"].items()
            ],
        ),
        table(
            ["Tokens streamed through 8 histograms of 16,230 bins", "extra memory, MiB"],
            [[f"{int(size):,}", f"{mib:.0f}"] for size, mib in found["memory"].items()],
        ),
    ]
    return "\n\n".join(parts)


def write(path: Path, text: str) -> None:
    """Put the tables between the marks."""
    whole = path.read_text()
    start, end = whole.index(BEGIN) + len(BEGIN), whole.index(END)
    path.write_text(f"{whole[:start]}\n\n{text}\n\n{whole[end:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--near-one", type=int, default=40_000_000)
    parser.add_argument("--write", type=Path, help="a Markdown file whose tables are replaced")
    parser.add_argument("--json", type=Path, help="where to put the figures")
    options = parser.parse_args()
    found = measure(options.tokens, options.near_one)
    print(told(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.write:
        write(options.write, told(found))


if __name__ == "__main__":
    main()
