"""Record the example dump `logitbox/data/smollm2`: a real language model over real text.

    .venv/bin/python scripts/record_smollm2.py

The folder is deleted and written anew. On the same machine and library versions the `tokens` come out the
same; across machines they differ in the last bits, and with the Python version, whose licence and library
source are the text. Half a minute on two cores.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import torch
from smollm2 import NAME, Passage, TextBatch, groups, load_model, load_tokenizer, passages, text_batches

from logitbox.dumps.recorder import Recorder

OUT = Path(__file__).resolve().parent.parent / "logitbox" / "data" / "smollm2"
K = 10
LIMIT_BYTES = 1_000_000


def main() -> int:
    """Record the dump and print its size; 1 if it is too large to ship."""
    torch.set_num_threads(2)
    start = time.perf_counter()
    tokenizer = load_tokenizer()
    model = load_model()
    print(f"{NAME} loaded in {time.perf_counter() - start:.1f} s")
    texts = passages()
    shutil.rmtree(OUT, ignore_errors=True)
    with Recorder(
        OUT,
        vocab=tokenizer,
        k=K,
        groups=groups(tokenizer),
        vocab_size=model.config.vocab_size,
        length_unit="characters",
        session="0001-smollm2",
    ) as recorder:
        recorder.samples(_sample_table(texts))
        evaluate(model, recorder, list(text_batches(tokenizer, texts)))
    shutil.rmtree(OUT / "locks")  # names the machine; of no use without a writer
    return _report_size()


def evaluate(model: torch.nn.Module, recorder: Recorder, batches: list[TextBatch]) -> None:
    """An evaluation loop as trainers write it, with its logging: a mean of batch means, and a token mean."""
    losses: list[float] = []
    correct = total = 0
    for batch in batches:
        with torch.inference_mode():
            logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits
        target = batch.labels[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), target.flatten())
        recorder.record(
            logits,
            batch.labels,
            phase="eval",
            sample=[passage.key for passage in batch.passages],
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            loss=loss,
        )
        losses.append(loss.item())
        correct += int((logits[:, :-1].argmax(dim=-1) == target).sum())
        total += int((target != -100).sum())
    recorder.scalars(
        0, {"eval_loss": sum(losses) / len(losses), "eval_accuracy": correct / total}, phase="eval"
    )


def _sample_table(texts: list[Passage]) -> dict[str, list[object]]:
    return {
        "key": [passage.key for passage in texts],
        "source": [passage.source for passage in texts],
        "group": [passage.key.partition(":")[0] for passage in texts],
        "length": [float(len(passage.text)) for passage in texts],
    }


def _report_size() -> int:
    sizes = {file.relative_to(OUT): file.stat().st_size for file in sorted(OUT.rglob("*")) if file.is_file()}
    for file, size in sizes.items():
        print(f"{size:>9,}  {file}")
    total = sum(sizes.values())
    print(f"{total:>9,}  bytes in all (limit {LIMIT_BYTES:,})")
    return int(total > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
