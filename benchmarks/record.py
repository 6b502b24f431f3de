"""What recording costs: time, memory and disk, beside the obvious torch composition of the same numbers.

    .venv/bin/python benchmarks/record.py [--rounds 7] [--tokens 256] [--threads 2] [--skip-text]

Four contestants take turns on the same logits, round after round, so that a busy machine slows all alike:
`naive` computes what a record holds in the obvious torch calls, `usual` only what trainers log today (both in
inputs.py), `reduce` is logitbox's reduction alone, `recorder` all of it until the rows are in finished shards.
Ratios are medians over rounds of their time / our time: above 1 we are faster. Tokens/s are of the best round. Peak memory is what a call adds
to the process's resident set at most (Linux only). Where other programs compete for the cores, `--threads 1`
gives steadier figures.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from inputs import Batch, naive, synthetic_batches, text_batches, usual

from logitbox.dumps.recorder import Recorder
from logitbox.dumps.reduce import GroupIndex, Targets, reduce_logits
from logitbox.dumps.spec import build_spec

K = 32
CONTESTANTS = ("usual", "naive", "reduce", "recorder")
GROUPS = {"digit": list(range(32, 42)), "spread": list(range(100, 40_000, 400))}


@dataclass
class Contest:
    """Seconds per round and peak bytes of each contestant on one batch."""

    name: str
    tokens: int
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    peak: dict[str, int] = field(default_factory=dict[str, int])

    def rate(self, contestant: str) -> float:
        """Tokens a second in the best round."""
        return self.tokens / min(self.seconds[contestant])

    def ratio(self, peer: str, ours: str) -> float:
        """Median over rounds of the peer's time over ours."""
        pairs = zip(self.seconds[peer], self.seconds[ours], strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)


def status_bytes(key: str) -> int:
    """A size from /proc/self/status, such as VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1]) * 1024


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that `work` adds to the resident set at most."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed must not serve this one
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    before = status_bytes("VmRSS")
    work()
    return max(0, status_bytes("VmHWM") - before)


def contest(name: str, batch: Batch, rounds: int, *, lse_beta: bool) -> Contest:
    """Let the three contestants take turns on one batch."""
    width = batch.logits.shape[-1]
    spec = build_spec(width, K, GROUPS, None, None, probes=False, lse_beta=lse_beta, scope="supervised")
    index = GroupIndex(spec)
    gold = batch.labels.roll(-1, 1)
    gold[:, -1] = -100
    rows = (gold.flatten() != -100).nonzero().squeeze(1)
    flat, targets = batch.logits.reshape(-1, width), Targets(gold.flatten()[rows])
    with (
        tempfile.TemporaryDirectory() as folder,
        Recorder(Path(folder) / "run", width, k=K, groups=GROUPS, lse_beta=lse_beta) as recorder,
    ):

        def record() -> None:
            recorder.record(batch.logits, batch.labels)
            recorder.flush()

        work: dict[str, Callable[[], object]] = {
            "usual": lambda: usual(batch, K),
            "naive": lambda: naive(batch, K, GROUPS, lse_beta=lse_beta),
            "reduce": lambda: reduce_logits(flat, rows, targets, index, lse_beta=lse_beta),
            "recorder": record,
        }
        return _take_turns(Contest(name, batch.tokens), work, rounds)


def _take_turns(result: Contest, work: dict[str, Callable[[], object]], rounds: int) -> Contest:
    for name, call in work.items():
        call()  # warm up
        result.peak[name] = peak_of(call)
        result.seconds[name] = []
    for _ in range(rounds):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            result.seconds[name].append(time.perf_counter() - start)
    return result


def bytes_per_token(batches: Iterable[Batch], *, lse_beta: bool) -> tuple[float, int]:
    """(bytes on disk per token in `tokens`, number of tokens) of distinct batches in one shard."""
    remaining = iter(batches)
    first = next(remaining)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with Recorder(path, first.logits.shape[-1], k=K, groups=GROUPS, lse_beta=lse_beta) as recorder:
            tokens = 0
            for batch in chain([first], remaining):
                recorder.record(batch.logits, batch.labels)
                tokens += batch.tokens
        size = sum(file.stat().st_size for file in path.glob("tokens/*/*.parquet"))
    return size / tokens, tokens


def report(results: Iterable[Contest]) -> None:
    """Print one line a case."""
    pairs = [("naive", "reduce"), ("naive", "recorder"), ("usual", "recorder")]
    print(f"{'':<30}{'tokens/s':<40}{'times faster':<42}peak MiB")
    head = [f"{name:>10}" for name in CONTESTANTS]
    print(f"{'':<28}{''.join(head)}" + "".join(f"{f'{a}/{b}':>16}" for a, b in pairs) + "".join(head))
    for result in results:
        rates = "".join(f"{result.rate(name):>10,.0f}" for name in CONTESTANTS)
        ratios = "".join(f"{result.ratio(*pair):>16.2f}" for pair in pairs)
        peaks = "".join(f"{result.peak[name] / 2**20:>10,.0f}" for name in CONTESTANTS)
        print(f"{result.name:<28}{rates}{ratios}{peaks}")


def contests(batch: Batch, label: str, rounds: int) -> list[Contest]:
    """Train and eval columns, float32 and bfloat16."""
    return [
        contest(f"{label}, {kind}, {name}", batch.to(dtype), rounds, lse_beta=lse_beta)
        for kind, lse_beta in (("train", False), ("eval", True))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a synthetic batch")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--skip-text", action="store_true", help="synthetic logits only; no model is loaded")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = {"V=151,936": list(synthetic_batches(6, options.tokens))}
    if not options.skip_text:
        cases |= {"V=49,152 text": list(text_batches(6))}
    report(
        [result for label, batches in cases.items() for result in contests(batches[0], label, options.rounds)]
    )
    for label, batches in cases.items():
        for kind, lse_beta in (("train", False), ("eval", True)):
            size, tokens = bytes_per_token(batches, lse_beta=lse_beta)
            print(f"{label}, {kind}, k={K}: {size:.0f} bytes a token on disk ({tokens:,} tokens)")


if __name__ == "__main__":
    main()
