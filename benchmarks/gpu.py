"""The reduction on a GPU: time, bandwidth, memory and correctness, beside what torch and others take for as much or less.

    .venv/bin/python benchmarks/gpu.py [--tokens 8192] [--budget 480] [--device cpu --tiny]

One call, well under ten minutes; without a CUDA device it says so and ends. For each vocabulary and dtype:

* `ours` and `ours+beta`: the fused kernel, k = 32, two groups (1000 ids in a row, 200 scattered), without and with `lse_beta`;
  on a CPU the reference, which on CUDA is a contestant of its own;
* `naive`: float32 log_softmax, topk, gather, entropy, ranks and masses by masks, as one writes it down;
* `compiled`: the best torch composition we know (shifted sums, slices for groups) under torch.compile, and topk;
* `topk`: torch.topk alone; and peers' kernels that can be imported, which do less: the report says what.

Times are medians of CUDA events. `copy` is the bandwidth of a device copy, both ways, measured here; `reads` is the time over that
of reading the logits once at it. The floor counts what must be: the logits once and the k best tiles of 256 again; 12 issue
slots an element, 17 with `lse_beta`. Correctness is against float64 on rows of the same input, which is fresh in every run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_inputs import Case, Check, K, checked, compiled, naive, peers
from measured import save, table

from logitbox.dumps.reduce import GroupIndex, Targets
from logitbox.dumps.reduce.choose import reduce_logits

VOCABULARIES = (32_000, 49_152, 128_256, 151_936, 262_144)
SLOTS = {False: 12, True: 17}
"""Issue slots an element, without and with `lse_beta`."""
TARGETS = {"ours": 1.25, "ours+beta": 1.8}
"""Of `reads`, at V ≥ 128k in bfloat16."""


@dataclass
class Figure:
    """What one contestant took: milliseconds, and bytes beside its input and its result."""

    name: str
    ms: float | None = None
    extra_bytes: int | None = None
    result_bytes: int | None = None
    note: str = ""


class Clock:
    """Times calls on a device."""

    def __init__(self, device: str, rounds: int) -> None:
        self.device, self.rounds = device, rounds

    def measure(self, name: str, call: Callable[[], Any]) -> Figure:
        """Median time and peak memory of a call; what it raises is its note."""
        try:
            call()  # compile and warm up
            call()
            extra, result = self._memory(call)
            return Figure(name, statistics.median(self._times(call)), extra, result)
        except Exception as error:  # noqa: BLE001 (whatever a contestant raises is its result)
            return Figure(name, note=f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")

    def _times(self, call: Callable[[], Any]) -> list[float]:
        if self.device == "cpu":
            return [_seconds(call) * 1e3 for _ in range(self.rounds)]
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.rounds)]
        for start, end in pairs:
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    def _memory(self, call: Callable[[], Any]) -> tuple[int | None, int | None]:
        if self.device == "cpu":
            return None, None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        kept = torch.cuda.memory_allocated() - before
        del result
        return torch.cuda.max_memory_allocated() - before - kept, kept


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def copy_bandwidth(clock: Clock) -> float:
    """Bytes a second of a large device copy, read and written."""
    count = 1 << (30 if clock.device == "cuda" else 22)
    source = torch.empty(count, dtype=torch.bfloat16, device=clock.device).zero_()
    target = torch.empty_like(source)
    figure = clock.measure("copy", lambda: target.copy_(source))
    return 2 * source.nbytes / ((figure.ms or float("nan")) / 1e3)


def issue_rate() -> float | None:
    """Instructions of single lanes a second, all processors at their highest clock; None where it is not told."""
    try:
        query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "--id=0"]
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
        megahertz = float(told.stdout.split()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return torch.cuda.get_device_properties(0).multi_processor_count * 128 * megahertz * 1e6


@dataclass
class Run:
    """All figures of one vocabulary and dtype."""

    width: int
    dtype: str
    tokens: int
    logits_bytes: int
    read_ms: float
    floor_bytes: int
    floor_ms_bytes: float
    floor_ms_slots: dict[str, float | None]
    figures: list[Figure]
    checks: list[Check]

    def row(self, figure: Figure) -> tuple[object, ...]:
        """For the table."""
        ours = self.figures[0].ms
        if figure.ms is None or ours is None:
            return (f"  {figure.name}", *[None] * 6, figure.note)
        rate, share = self.logits_bytes / figure.ms / 1e6, self.read_ms / figure.ms
        extra = None if figure.extra_bytes is None else 100 * figure.extra_bytes / self.logits_bytes
        numbers = (figure.ms, rate, 100 * share, 1 / share, figure.ms / ours, extra)
        return (f"  {figure.name}", *numbers, figure.note)


def measure(case: Case, clock: Clock, bandwidth: float, issue: float | None, *, compile_too: bool) -> Run:
    """All contestants on one input."""
    x, gold = case.logits, case.gold
    way = (
        "fused" if x.is_cuda else "reference"
    )  # insisted on: "auto" would step back without a word in the table
    index, targets = GroupIndex(case.spec), Targets(gold)
    ours: dict[str, Callable[[], Any]] = {
        name: (lambda beta=beta: reduce_logits(x, None, targets, index, lse_beta=beta, way=way))
        for name, beta in (("ours", False), ("ours+beta", True))
    }
    checks = checked(case, ours["ours+beta"]())  # before anybody writes into the logits
    figures = [clock.measure(name, call) for name, call in ours.items()]
    if x.is_cuda:
        slow = clock.measure(
            "reference", lambda: reduce_logits(x, None, targets, index, lse_beta=False, way="reference")
        )
        figures.append(slow)
    figures.append(clock.measure("naive", lambda: naive(case)))
    if compile_too:
        torch.compiler.reset()
        figures.append(clock.measure("compiled", compiled(case)))
    else:
        figures.append(Figure("compiled", note="not tried: no CUDA, or no time left"))
    figures.append(clock.measure("topk", lambda: torch.topk(x, K, dim=1)))
    for name, call, does in peers(case):
        figure = clock.measure(name, call)
        figure.note = figure.note or does
        figures.append(figure)
    elements, size = x.numel(), x.element_size()
    floor = int(elements * size * (1 + min(1.0, K * 256 / x.shape[1])))
    slots = {
        name: None if issue is None else SLOTS[beta] * elements / issue * 1e3
        for name, beta in (("ours", False), ("ours+beta", True))
    }
    return Run(
        width=x.shape[1],
        dtype=str(x.dtype).removeprefix("torch."),
        tokens=x.shape[0],
        logits_bytes=x.nbytes,
        read_ms=x.nbytes / bandwidth * 1e3,
        floor_bytes=floor,
        floor_ms_bytes=floor / bandwidth * 1e3,
        floor_ms_slots=slots,
        figures=figures,
        checks=checks,
    )


def report(run: Run) -> None:
    """Print one table."""
    slots = run.floor_ms_slots["ours"]
    told = "" if slots is None else f", {slots:.3g} ms of issue slots"
    print(
        f"\nV={run.width:,}, {run.dtype}, {run.tokens:,} tokens: {run.logits_bytes / 1e9:.3g} GB of logits,"
    )
    print(
        f"read once in {run.read_ms:.3g} ms; floor {run.floor_bytes / 1e9:.3g} GB, {run.floor_ms_bytes:.3g} ms{told}"
    )
    head = ("", "ms", "GB/s", "% of copy", "reads", "÷ ours", "extra memory %", "")
    table(head, [run.row(figure) for figure in run.figures])
    worst = max(run.checks, key=lambda check: check.error / check.limit if check.limit else check.error)
    wrong = [check.name for check in run.checks if not check.holds]
    print(
        f"  against float64: worst {worst.name} {worst.error:.2g} of {worst.limit:.2g}, "
        + (f"WRONG: {', '.join(wrong)}" if wrong else "ids and counts equal")
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=480, help="seconds, after which nothing new is begun")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a try")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured. Run this script where there is one.")
        return 0
    began, seed = time.monotonic(), int.from_bytes(os.urandom(4), "little")
    clock = Clock(options.device, 2 if options.tiny else options.rounds)
    bandwidth = copy_bandwidth(clock)
    issue = issue_rate() if options.device == "cuda" else None
    print(f"copy: {bandwidth / 1e9:,.0f} GB/s read and written; seed {seed}")
    runs: list[Run] = []
    for dtype in (torch.bfloat16, torch.float32):
        for width in (700, 20_000) if options.tiny else VOCABULARIES:
            spent = time.monotonic() - began
            if spent > options.budget:
                print(f"V={width:,}, {dtype}: left out, {spent:.0f} s are over")
                continue
            case = Case.make(16 if options.tiny else options.tokens, width, dtype, options.device, seed)
            may_compile = options.device == "cuda" and spent < options.budget * 0.7
            runs.append(measure(case, clock, bandwidth, issue, compile_too=may_compile))
            report(runs[-1])
            del case
            if options.device == "cuda":
                torch.cuda.empty_cache()
    document = {
        "copy_bytes_per_second": bandwidth,
        "issue_slots_per_second": issue,
        "seed": seed,
        "k": K,
        "targets": TARGETS,
        "runs": [asdict(run) for run in runs],
        "seconds": time.monotonic() - began,
    }
    save("gpu", options.device, document, options.out)
    return 0 if all(check.holds for run in runs for check in run.checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
