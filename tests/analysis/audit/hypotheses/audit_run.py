"""A run made of random numbers in which every registered convention gives another number.

Two ranks, three micro-batches a step, ragged rows with prompts and padding, packed documents, micro-batches without
labels, special tokens, images, two types, an ordered group, loss weights, tied logits, a sampler that repeats samples,
logits that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from logitbox.dumps.recorder import Recorder

V = 24
"""Logits; the ordered group is the last `BINS` of them."""

BINS = 8
PAD, EOS, IMAGE, SPECIAL = 0, 1, 2, 3
WORLD, MICROS, STEPS, EVERY = 2, 3, 12, 2
STEPS_OF_EPOCH = 5
K = 21
"""Best tokens that are recorded."""

PARTS = {"soft_ce": 1.0, "w1": 0.5, "gate": 0.25}
SIGMA = 1.5
BYTES = tuple(1 + i % 5 for i in range(V))
"""Bytes of each token's text."""

NO_LABEL = -100


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank: everything [B, T], logits [B, T, V]; labels as the model takes them."""

    phase: str
    step: int
    micro: int
    rank: int
    logits: NDArray[np.float32]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    mask: NDArray[np.int64]
    place: NDArray[np.int64]
    weight: NDArray[np.float32]
    reasoning: NDArray[np.bool_]
    duplicate: NDArray[np.bool_]


def make_run(seed: int = 7) -> list[Batch]:
    """All micro-batches: training in steps 1 to 12, three evaluations after every other step."""
    rng = np.random.default_rng(seed)
    run: list[Batch] = []
    for step in range(1, STEPS + 1):
        run += [_train(rng, step, micro, rank) for micro in range(MICROS) for rank in range(WORLD)]
        if step % EVERY == 0:
            run += [_eval(rng, step, micro, rank) for micro in range(MICROS) for rank in range(WORLD)]
            run += [_test(rng, step, micro, rank) for micro in range(MICROS) for rank in range(WORLD)]
            run += [_predict(rng, step, micro, rank) for micro in range(MICROS) for rank in range(WORLD)]
    return run


def record(run: list[Batch], path: Path) -> None:
    """Record a run as its ranks would. On tensors this small further threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _record_all(run, path)
    finally:
        torch.set_num_threads(threads)


def _record_all(run: list[Batch], path: Path) -> None:
    for rank in range(WORLD):
        with Recorder(
            path,
            [chr(97 + i) * BYTES[i] for i in range(V)],
            k=K,
            groups={"coord": range(V - BINS, V)},
            ordered={
                "coord": {
                    "sigma": SIGMA,
                    "truncate": BINS,
                    **{f"{name}_weight": w for name, w in PARTS.items()},
                }
            },
            types=["reasoning", "tool_call"],
            scope="all",
            probes=True,
            lse_beta="always",
            accumulation=MICROS,
            rank=rank,
            world=WORLD,
            session="0001-made",
        ) as rec:
            for batch in run:
                if batch.rank == rank:
                    _record(rec, batch)


def _record(rec: Recorder, batch: Batch) -> None:
    rec.record(
        torch.from_numpy(batch.logits),
        torch.from_numpy(batch.labels),
        step=batch.step,
        phase=batch.phase,
        micro=batch.micro,
        epoch=(batch.step - 1) / STEPS_OF_EPOCH,
        input_ids=torch.from_numpy(batch.ids),
        attention_mask=torch.from_numpy(batch.mask),
        position_ids=torch.from_numpy(batch.place) if batch.phase == "train" else None,
        weight=torch.from_numpy(batch.weight),
        types={
            "reasoning": torch.from_numpy(batch.reasoning),
            "tool_call": torch.from_numpy(~batch.reasoning),
        },
        flags={
            "eos": torch.from_numpy(batch.ids == EOS),
            "special": torch.from_numpy(batch.ids == SPECIAL),
            "image": torch.from_numpy(batch.ids == IMAGE),
            "duplicate": torch.from_numpy(batch.duplicate),
        },
    )


def _train(rng: np.random.Generator, step: int, micro: int, rank: int) -> Batch:
    """Two to four rows, the first of two documents; the first label is supervised where there is no prompt."""
    rows = int(rng.integers(2, 5))
    batch = _batch(
        rng, "train", step, micro, rank, lengths=rng.integers(5, 13, rows), prompts=rng.integers(0, 4, rows)
    )
    cut = 3
    batch.place[0, cut:] -= cut
    if (step + micro + rank) % 2:
        batch.labels[0, cut] = NO_LABEL
    else:
        batch.labels[0, cut] = batch.ids[0, cut]
    # A micro-batch of one rank without labels, and one of both.
    if (step, micro, rank) in ((4, 1, 0), (10, 2, 1)) or (step, micro) == (5, 1):
        batch.labels[:] = NO_LABEL
    return batch


def _eval(rng: np.random.Generator, step: int, micro: int, rank: int) -> Batch:
    """Fewer rows in the last batch, one of them repeated by the sampler; some rows are all right; images; large logits."""
    rows = 2 if micro == MICROS - 1 else 4
    batch = _batch(
        rng, "eval", step, micro, rank, lengths=rng.integers(6, 12, rows), prompts=np.full(rows, 3)
    )
    for row in range(0, rows, 2):
        for t in range(1, batch.ids.shape[1]):
            if t > 2 or rng.random() < 0.6:
                batch.logits[row, t - 1, batch.ids[row, t]] = 9.0
    for row in range(rows):
        place = int(rng.integers(4, 6))
        batch.ids[row, place] = IMAGE
        batch.labels[row, place] = IMAGE if row % 2 else NO_LABEL
    if micro == MICROS - 1 and rank == WORLD - 1:
        batch.duplicate[1] = True
    batch.logits[1] += 48.0
    return batch


def _test(rng: np.random.Generator, step: int, micro: int, rank: int) -> Batch:
    """Now and then the loss explodes: above 20 in some evaluations, above ln 10⁶ in others."""
    batch = _batch(rng, "test", step, micro, rank, lengths=rng.integers(5, 9, 2), prompts=np.full(2, 2))
    batch.logits[:] *= {4: 14.0, 6: 8.0, 10: 10.0}.get(step, 1.0)
    return batch


def _predict(rng: np.random.Generator, step: int, micro: int, rank: int) -> Batch:
    """Now and then a batch overflows at one position."""
    rows = int(rng.integers(2, 5))
    batch = _batch(
        rng, "predict", step, micro, rank, lengths=rng.integers(5, 9, rows), prompts=np.full(rows, 2)
    )
    if (step // EVERY + micro) % MICROS == rank:
        batch.logits[0, 2] = np.nan
    return batch


def _batch(
    rng: np.random.Generator,
    phase: str,
    step: int,
    micro: int,
    rank: int,
    lengths: NDArray[np.int64],
    prompts: NDArray[np.int64],
) -> Batch:
    rows, width = len(lengths), int(lengths.max()) + int(rng.integers(1, 4))
    shape = rows, width
    column = np.arange(width)[None, :]
    mask = (column < lengths[:, None]).astype(np.int64)
    ids = np.where(mask, rng.integers(SPECIAL, V, shape), PAD)
    ids[np.arange(rows), lengths - 1] = EOS
    labels = np.where((mask == 1) & (column >= prompts[:, None]), ids, NO_LABEL)
    logits = np.round(rng.normal(0.0, 2.2, (*shape, V)) * 2) / 2  # a coarse grid, on which many are tied
    learnt = rng.random(shape) < 0.5
    for row, t in zip(*np.nonzero(learnt[:, 1:]), strict=True):
        logits[row, t, ids[row, t + 1]] += 3.0
    return Batch(
        phase=phase,
        step=step,
        micro=micro,
        rank=rank,
        logits=logits.astype(np.float32),
        ids=ids,
        labels=labels,
        mask=mask,
        place=np.tile(np.arange(width), (rows, 1)),
        weight=rng.choice([0.5, 1.0, 2.0], shape).astype(np.float32),
        reasoning=rng.random(shape) < 0.5,
        duplicate=np.zeros(shape, dtype=np.bool_),
    )


def batches_of(run: list[Batch], phase: str, first: int, last: int) -> Iterator[Batch]:
    """Micro-batches of a phase from step `first` to `last`."""
    return (batch for batch in run if batch.phase == phase and first <= batch.step <= last)
