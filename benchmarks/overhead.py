"""What recording adds to training: a Llama-type model, real forward, backward and optimizer, every step recorded.

    .venv/bin/python benchmarks/overhead.py [--model 20m] [--blocks 7] [--steps 4] [--threads 2]

Blocks of steps with and without recording take turns on the same model, in an order that alternates, so that a busy machine
slows both alike. A block with recording ends when all it recorded is in finished shards: on a CPU the writer's work is
work of the same cores. The overhead is the median over pairs of blocks, by the clock and, steadier where other programs
compete, by processor time of all threads (on a CPU; that of a GPU is not in it). On CUDA the
default is 0.4 billion parameters under bfloat16 autocast, else 20 million in float32 (`135m` is as large as SmolLM2); the
vocabulary is 49,152 but for `tiny`, which is for a try.

Then the same with `on_full="drop"` and a disk on which the shard of one step takes as long as ten steps: the loop must
not wait. Times are of `record` alone, the longest as well; what was dropped is told by the journal.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measured import save, table
from torch import Tensor

from logitbox.dumps import writer as writer_module
from logitbox.dumps.inventory import take_inventory
from logitbox.dumps.recorder import Recorder

V = 49_152
SLOWER = 10
"""Steps that the shard of one step takes on the slow disk."""
TARGETS = {"cuda": 0.01, "cpu": 0.05}


@dataclass(frozen=True)
class Size:
    """Of the model and its micro-batch."""

    hidden: int
    layers: int
    rows: int
    length: int
    vocabulary: int = V


SIZES = {
    "tiny": Size(64, 1, 1, 16, 1000),
    "20m": Size(256, 8, 4, 128),
    "135m": Size(576, 30, 4, 128),
    "400m": Size(1024, 24, 8, 1024),
}
KINDS: dict[str, dict[str, Any]] = {
    "train columns": {},
    "with lse_beta": {"lse_beta": True},
    "min_prob=1e-5": {"min_prob": 1e-5},
}


@dataclass
class Loop:
    """Trains on random tokens; `step` returns after forward, backward and update."""

    size: Size
    device: str

    def __post_init__(self) -> None:
        """Make the model and its optimizer."""
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=self.size.vocabulary,
            hidden_size=self.size.hidden,
            intermediate_size=self.size.hidden * 11 // 4,
            num_hidden_layers=self.size.layers,
            num_attention_heads=self.size.hidden // 64,
            max_position_embeddings=self.size.length,
            tie_word_embeddings=True,
            use_cache=False,
        )
        self.model = LlamaForCausalLM(config).to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.tokens = torch.randint(
            self.size.vocabulary, (self.size.rows, self.size.length), device=self.device
        )
        self.count = 0

    def step(self, recorder: Recorder | None) -> float:
        """One step; returns the seconds that `record` took (the host's)."""
        cast = torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else nullcontext()
        with cast:
            logits: Tensor = self.model(input_ids=self.tokens).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), self.tokens[:, 1:].flatten()
            )
        spent = 0.0
        if recorder is not None:
            start = time.perf_counter()
            recorder.record(logits.detach(), self.tokens, step=self.count)
            spent = time.perf_counter() - start
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.count += 1
        return spent

    def block(self, steps: int, recorder: Recorder | None) -> tuple[float, float]:
        """Seconds a step until all is done and written: (by the clock, of the processor)."""
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step(recorder)
        self._wait()
        if recorder is not None:
            recorder.flush()
        return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def compared(loop: Loop, blocks: int, steps: int, **options: Any) -> dict[str, float]:
    """Seconds a step with and without recording, and the overhead, over pairs of blocks."""
    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Recorder(Path(folder) / "run", loop.size.vocabulary, **options) as recorder,
    ):
        loop.block(1, recorder)  # warm up
        loop.block(1, None)
        for number in range(blocks):
            order = (recorder, None) if number % 2 else (None, recorder)
            seconds = {one is None: loop.block(steps, one) for one in order}
            pairs.append((seconds[False], seconds[True]))
    found: dict[str, float] = {}
    for place, kind in enumerate(("clock", "processor")):
        ratios = sorted(with_it[place] / without[place] - 1 for with_it, without in pairs)
        found |= {
            f"ms_recording_{kind}": statistics.median(a[place] for a, _ in pairs) * 1e3,
            f"ms_plain_{kind}": statistics.median(b[place] for _, b in pairs) * 1e3,
            f"overhead_{kind}": statistics.median(ratios),
            f"overhead_{kind}_low": ratios[len(ratios) // 4],
            f"overhead_{kind}_high": ratios[-1 - len(ratios) // 4],
        }
    return found


@contextmanager
def slow_disk(seconds: float) -> Iterator[None]:
    """Each shard of `tokens` takes so much longer."""
    write = writer_module.write_shard

    def slowly(*args: Any) -> Any:
        entry = write(*args)
        if entry.table == "tokens":
            time.sleep(seconds)
        return entry

    writer_module.write_shard = slowly
    try:
        yield
    finally:
        writer_module.write_shard = write


def on_a_slow_disk(loop: Loop, steps: int, seconds: float) -> dict[str, float]:
    """Times of `record` where the writer cannot keep up, and what was dropped."""
    with tempfile.TemporaryDirectory() as folder, slow_disk(seconds):
        path = Path(folder) / "run"
        rows = loop.size.rows * (loop.size.length - 1)
        with Recorder(path, loop.size.vocabulary, on_full="drop", queue_size=2, shard_rows=rows) as recorder:
            start = time.perf_counter()
            spent = [loop.step(recorder) for _ in range(steps)]
            loop_seconds = time.perf_counter() - start
        waited = time.perf_counter() - start - loop_seconds
        found = take_inventory(path)
    with tempfile.TemporaryDirectory() as folder:
        quick: list[float] = []
        with Recorder(Path(folder) / "run", loop.size.vocabulary) as recorder:
            for _ in range(min(steps, 5)):
                quick.append(loop.step(recorder))
                recorder.flush()
    return {
        "seconds_a_shard": seconds,
        "steps": steps,
        "ms_step": loop_seconds / steps * 1e3,
        "ms_record_longest": max(spent[1:]) * 1e3,
        "ms_record_median": statistics.median(spent[1:]) * 1e3,
        "ms_record_on_a_quick_disk": statistics.median(quick) * 1e3,
        "seconds_behind_at_the_end": waited,
        "dropped_batches": found.dropped_calls,
        "dropped_rows_at_most": found.dropped_rows,
        "recorded_rows": sum(shard.entry.rows for shard in found.shards if shard.entry.table == "tokens"),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--model", choices=tuple(SIZES))
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS))
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="in a block")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--skip-slow-disk", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = options.model or ("400m" if device == "cuda" else "20m")
    size = SIZES[model]
    loop = Loop(size, device)
    tokens = size.rows * (size.length - 1)
    print(
        f"{loop.parameters / 1e6:.0f} M parameters, V={size.vocabulary:,}, {tokens:,} recorded tokens a step, {device}"
    )
    found = {name: compared(loop, options.blocks, options.steps, **KINDS[name]) for name in options.kinds}
    table(
        ("", "ms/step plain", "recording", "overhead %", "quartiles", "", "target %"),
        [
            (
                f"{name}, {kind}",
                *(one[f"{key}_{kind}"] for key in ("ms_plain", "ms_recording")),
                *(one[f"overhead_{kind}{end}"] * 100 for end in ("", "_low", "_high")),
                TARGETS[device] * 100,
            )
            for name, one in found.items()
            for kind in ("clock", "processor")
        ],
    )
    behind = None
    if not options.skip_slow_disk:
        slow = SLOWER * found[options.kinds[0]]["ms_plain_clock"] / 1e3
        behind = on_a_slow_disk(loop, options.blocks * options.steps, slow)
        print("\non a slow disk, on_full='drop'")
        table(("", "value"), list(behind.items()))
    document = {
        "parameters": loop.parameters,
        "vocabulary": size.vocabulary,
        "tokens_a_step": tokens,
        "blocks": options.blocks,
        "steps_a_block": options.steps,
        "targets": TARGETS,
        "overhead": found,
        "slow_disk": behind,
    }
    save(f"overhead-{model}", device, document, options.out)


if __name__ == "__main__":
    main()
