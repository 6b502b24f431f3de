"""What a token takes on disk, beside what others would write of the same logits; and how fast it is written.

    .venv/bin/python benchmarks/size.py [--batches 24] [--tokens-written 400000] [--tiny]

The logits are SmolLM2's over licences and source text, rounded to bfloat16 as a trainer has them; `--tiny` takes a few
random ones, to try the script out. All contestants see the same tokens, k = 32, no groups:

* ours: the shards of `tokens`, as `logitbox info` counts them; train has no `lse_beta`, eval has it;
* Megatron-style: log-probabilities in float16, ids as uint16 and a 17th bit, `torch.save` in zstd 3 in tar, a file a batch;
* DistillKit-style: Parquet with Snappy; ids packed to ⌈log₂ V⌉ bits, 16 log-probabilities in float16, 16 in 8 bits (lossy);
* JSONL.gz: gold, nll, entropy, rank, ids and log-probabilities to 4 decimals, a line a token;
* raw: the logits in bfloat16, not compressed.

The peers' formats are rebuilt here from their description; their programs are not run. Speed is that of the writer's
thread alone: micro-batches whose numbers have arrived, to finished shards; processor time of one core, the best of several.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import tarfile
import tempfile
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from inputs import Batch, synthetic_batches, text_batches
from measured import save, table

import logitbox as lb
from logitbox.analysis.sizes import column_sizes
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.rows import TokenJob
from logitbox.dumps.writer import Writer, WriterOptions

K = 32
OURS: dict[str, dict[str, Any]] = {
    "train": {"lse_beta": False},
    "eval": {"lse_beta": True},
    "train, min_prob=1e-5": {"lse_beta": False, "min_prob": 1e-5},
    "train, min_prob=1e-4": {"lse_beta": False, "min_prob": 1e-4},
    "train, min_prob=1e-3": {"lse_beta": False, "min_prob": 1e-3},
}
TARGETS = {"train": 105.0, "eval": 115.0, "train, min_prob=1e-5": 80.0}
WRITER_TARGET = 400_000
"""Tokens a second on one core."""


class Peers:
    """What others would have on disk, in bytes."""

    def __init__(self, width: int) -> None:
        self.bits = math.ceil(math.log2(width))
        self.sizes = dict.fromkeys(("Megatron-style", "DistillKit-style", "JSONL.gz", "raw bfloat16"), 0)
        self._packed: list[list[list[int]]] = []
        self._lines: list[str] = []

    def add(self, batch: Batch) -> None:
        """One file or row group more of each."""
        keep = batch.labels[:, 1:] != -100
        x, gold = batch.logits[:, :-1][keep], batch.labels[:, 1:][keep]
        self.sizes["raw bfloat16"] += x.numel() * 2
        log_p = x.float().log_softmax(dim=-1)
        best = log_p.topk(K, dim=-1)
        self.sizes["Megatron-style"] += _megatron(best.values, best.indices)
        self._packed += [_packed(best.values.numpy(), best.indices.numpy(), self.bits)]
        of_gold = log_p.gather(1, gold[:, None])
        entropy = -(log_p.exp() * log_p).sum(1)
        rank = (log_p > of_gold).sum(1)
        columns = (gold, -of_gold[:, 0], entropy, rank, best.indices, best.values)
        names = ("gold", "nll", "entropy", "rank", "top_ids", "top_logprobs")
        for row in zip(*(column.tolist() for column in columns), strict=True):
            self._lines.append(json.dumps(dict(zip(names, map(_rounded, row), strict=True))))

    def finish(self) -> dict[str, int]:
        """The sizes, once all is added."""
        self.sizes["JSONL.gz"] = len(gzip.compress("\n".join(self._lines).encode(), 6))
        stream = io.BytesIO()
        pq.write_table(pa.table({"logprobs": pa.array(self._packed, pa.list_(pa.list_(pa.uint8())))}), stream)
        self.sizes["DistillKit-style"] = stream.tell()
        return self.sizes


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def _megatron(values: torch.Tensor, ids: torch.Tensor) -> int:
    stream, tar = io.BytesIO(), io.BytesIO()
    parts = {"logprobs": values.half(), "low": (ids & 0xFFFF).to(torch.uint16), "high": ids > 0xFFFF}
    torch.save(parts, stream)
    data = pa.Codec("zstd", compression_level=3).compress(stream.getvalue(), asbytes=True)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("0.pt.zst")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
        return archive.offset  # without the blocks that end an archive: it holds many


def _packed(values: np.ndarray, ids: np.ndarray, bits: int) -> list[list[int]]:
    """A list of bytes a token: ids of `bits` bits; 16 values exact, the others from 0 to 255 below them."""
    each = (ids[:, :, None] >> np.arange(bits)) & 1
    packed = np.packbits(each.reshape(len(ids), -1).astype(np.uint8), axis=1)
    exact = values[:, :16].astype(np.float16)
    below = exact[:, -1:].astype(np.float32) - values[:, 16:]
    scale = (below.max(axis=1, keepdims=True) / 255).astype(np.float16)
    coded = np.rint(below / np.maximum(scale, 1e-6)).clip(0, 255).astype(np.uint8)
    return np.concatenate([packed, exact.view(np.uint8), scale.view(np.uint8), coded], axis=1).tolist()


def sizes(batches: Iterable[Batch], width: int, folder: Path) -> tuple[int, Peers]:
    """Records all variants and peers; returns (tokens, the peers)."""
    count = 0
    recorders = {name: Recorder(folder / name, width, k=K, **options) for name, options in OURS.items()}
    peers = Peers(width)
    for step, batch in enumerate(batches):
        for name, recorder in recorders.items():
            recorder.record(batch.logits, batch.labels, step=step, phase=name.split(",")[0])
        peers.add(batch)
        count += batch.tokens
    for recorder in recorders.values():
        recorder.close()
    return count, peers


def mean_length(dump: Path) -> float:
    """Ids in a list of the best, on average."""
    lists = [pq.read_table(file, columns=["top_ids"])["top_ids"] for file in dump.glob("tokens/*/*.parquet")]
    return sum(len(ids) for one in lists for ids in one.to_pylist()) / sum(map(len, lists))


def writer_rate(batch: Batch, tokens: int, rounds: int, **options: Any) -> dict[str, float]:
    """Tokens a second of the writer's thread: by processor time and by the clock, best of some rounds."""
    found = {"cpu": 0.0, "wall": 0.0}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            with Recorder(Path(folder) / "run", batch.logits.shape[-1], k=K, **options) as recorder:
                jobs = list[TokenJob]()
                first = recorder._writer  # noqa: SLF001 (the writer's half is measured alone)
                first.put = lambda job, to=jobs, **_: to.append(job)
                recorder.record(batch.logits, batch.labels)
                owner = recorder.session.owner
            repeats = math.ceil(tokens / batch.tokens)
            writer = Writer(Path(folder) / "run", owner, WriterOptions(queue_size=repeats))
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(repeats):
                writer.put(jobs[-1])
            writer.close()
            done = repeats * batch.tokens
            found["cpu"] = max(found["cpu"], done / (time.process_time() - cpu))
            found["wall"] = max(found["wall"], done / (time.perf_counter() - wall))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batches", type=int, default=24, help="of some 950 tokens of text")
    parser.add_argument("--tokens-written", type=int, default=400_000, help="in a round of the writer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a few random logits, for a try")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    source = synthetic_batches(2, 64, 1000) if options.tiny else text_batches(options.batches)
    batches = (batch.to(torch.bfloat16) for batch in source)
    first = next(batches)
    width = first.logits.shape[-1]
    with tempfile.TemporaryDirectory() as folder:
        tokens, peers = sizes(chain([first], batches), width, Path(folder))
        columns = {
            name: dict(column_sizes(lb.open(Path(folder) / name)).select("column", "bytes_per_token").rows())
            for name in OURS
        }
        lengths = {name: mean_length(Path(folder) / name) for name in OURS}
    per_token = {name: sum(each.values()) for name, each in columns.items()}
    per_token |= {name: size / tokens for name, size in peers.finish().items()}
    print(f"{tokens:,} tokens, k={K}, bfloat16 logits of {'noise' if options.tiny else 'SmolLM2 over text'}")
    table(
        ("", "bytes/token", "target", "ids a list"),
        [(name, size, TARGETS.get(name), lengths.get(name)) for name, size in per_token.items()],
    )
    print()
    names = list(columns["eval"])
    table(("column", *OURS), [(name, *(columns[kind].get(name) for kind in OURS)) for name in names])
    count = 200 if options.tiny else options.tokens_written
    rates = {name: writer_rate(first, count, options.rounds, **kinds) for name, kinds in OURS.items()}
    print(f"\nwriter's thread, tokens/s (target: {WRITER_TARGET:,} on one core)")
    table(
        ("", "processor time", "clock"), [(name, rate["cpu"], rate["wall"]) for name, rate in rates.items()]
    )
    document = {
        "tokens": tokens,
        "k": K,
        "vocabulary": width,
        "bytes_per_token": per_token,
        "targets": TARGETS,
        "ids_a_list": lengths,
        "columns": columns,
        "writer_tokens_per_second": rates,
        "writer_target": WRITER_TARGET,
    }
    save("size", "cpu", document, options.out)


if __name__ == "__main__":
    main()
