"""What the live metrics cost, beside the obvious torch code that logs the same numbers.

    .venv/bin/python benchmarks/metrics.py [--rounds 7] [--tokens 1024] [--threads 2] [--width 49152 151936]

Five contestants take turns on the same logits, round after round, so that a busy machine slows all alike:
`reduce` is logitbox's reduction alone, `live` that and the sums behind every metric, `recorder` all of
`Recorder.record` until the rows are in finished shards; `naive` computes the same metrics in the obvious torch calls,
each a pass of its own, and `usual` only loss and accuracy. Nothing waits for a device. Times are those of the best
round; ratios are medians over rounds. Where other programs compete for the cores, `--threads 1` is steadier.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from inputs import BINS, SIGMA, TYPES, WIDE, Case, naive_metrics, usual_metrics
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from logitbox.dumps.flags import Flag
from logitbox.dumps.live import LiveMetrics
from logitbox.dumps.passes import Where
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.reduce import GroupIndex, Targets, reduce_logits

K = 32
CONTESTANTS = ("usual", "naive", "reduce", "live", "recorder")
AT = Where("train", "", 0, 0, None, 0, 0)


@dataclass
class Contest:
    """Seconds per round of each contestant, and what was counted once."""

    width: int
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    operations: dict[str, int] = field(default_factory=dict[str, int])
    keys: int = 0

    def best(self, name: str) -> float:
        """Milliseconds of the best round."""
        return min(self.seconds[name]) * 1e3

    def ratio(self, one: str, other: str) -> float:
        """Median over rounds of one's time over the other's."""
        pairs = zip(self.seconds[one], self.seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)


class Counter(TorchDispatchMode):
    """Counts torch operations that do something: views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204 (torch's own hook)
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def contest(case: Case, rounds: int) -> Contest:
    """Let the contestants take turns on one batch."""
    width = case.logits.shape[-1]
    options = {
        "k": K,
        "groups": {"coord": case.coord},
        "ordered": {"coord": {"sigma": SIGMA}},
        "types": TYPES,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Recorder(Path(folder) / "run", width, lse_beta=False, **options) as recorder,
    ):
        live = LiveMetrics(GroupIndex(recorder.spec))
        work = contestants(case, recorder, live)
        result = _take_turns(Contest(width), work, rounds)
        work["sums"]()
        result.keys = len(live.read())
        for name in ("naive", "reduce", "sums"):
            with Counter() as counter:
                work[name]()
            result.operations[name] = counter.count
        return result


def contestants(case: Case, recorder: Recorder, live: LiveMetrics) -> dict[str, Callable[[], object]]:
    """What is timed, in this order; `read` reads what `live` and `sums` added."""
    gold, flat = case.labels[0, 1:].contiguous(), case.logits[0]
    rows = torch.arange(len(gold))
    marks = {
        "gold": gold,
        "flags": torch.full_like(gold, int(Flag.SUPERVISED)),
        "types": sum(case.types[name][0, 1:].long() << bit for bit, name in enumerate(TYPES)),
    }

    def reduced() -> dict[str, Tensor]:
        return reduce_logits(flat, rows, Targets(gold), live.groups, lse_beta=False) | marks

    def record() -> None:
        recorder.record(case.logits, case.labels, types=case.types)
        recorder.flush()

    columns = reduced()
    return {
        "usual": lambda: usual_metrics(case),
        "naive": lambda: naive_metrics(case),
        "reduce": reduced,
        "live": lambda: live.add(AT, reduced()),
        "recorder": record,
        "sums": lambda: live.add(AT, columns),
        "read": live.read,
    }


def _take_turns(result: Contest, work: dict[str, Callable[[], object]], rounds: int) -> Contest:
    result.seconds = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            if turn:  # the first warms up
                result.seconds[name].append(time.perf_counter() - start)
    return result


def report(result: Contest, tokens: int) -> None:
    """Print the table of one vocabulary."""
    print(f"V = {result.width:,}, {tokens:,} tokens a step, k = {K}, {BINS} ordered bins, {len(TYPES)} types")
    for name in CONTESTANTS:
        print(f"  {name:<10}{result.best(name):>10.1f} ms  {result.ratio(name, 'reduce'):>6.2f} × reduce")
    for peer, ours in (("naive", "live"), ("naive", "recorder"), ("usual", "live")):
        print(f"  {peer + ' / ' + ours:<22}{result.ratio(peer, ours):>6.2f}")
    share = result.best("sums") / result.best("reduce")
    counts = ", ".join(f"{name} {count}" for name, count in result.operations.items())
    print(f"  live metrics alone    {result.best('sums') * 1e3:,.0f} µs a step, {share:.1%} of the reduction")
    print(f"  metrics()             {result.best('read'):.2f} ms a read, {result.keys} keys")
    print(f"  torch operations      {counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=1024, help="supervised tokens of a step")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument(
        "--width", type=int, nargs="+", default=[49_152, WIDE], help="sizes of the vocabulary"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for width in options.width:
        report(contest(Case.make(options.tokens, width), options.rounds), options.tokens)


if __name__ == "__main__":
    main()
