"""A small classifier's run as plain rows, the dump made of it, and what is to come out, computed row by row."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from logitbox.dumps.recorder import Recorder

C = 6
SAMPLES = 45
GROUPS = [f"g{i // 4}" if i < 44 else None for i in range(SAMPLES)]
SOURCES = ["web" if i % 3 else "book" for i in range(SAMPLES)]
LENGTHS = [float(i) / 2 if i != 7 else None for i in range(SAMPLES)]
"""Sample 44 is in no group, sample 7 has no length."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


class Run:
    """Rows that were recorded; every row is a dict."""

    def __init__(self, path: Path, seed: int = 0, **options: object) -> None:
        self.rows: list[dict] = []
        self.rng = np.random.default_rng(seed)
        options.setdefault("length_unit", "s")
        options.setdefault("vocab", C)
        self.rec = Recorder(path, shard_rows=50, **options)

    def samples(self, **also: list) -> None:
        self.rec.samples(
            {
                "sample": list(range(SAMPLES)),
                "group": GROUPS,
                "source": SOURCES,
                "length": LENGTHS,
                **also,
            }
        )

    def batch(
        self,
        phase: str,
        step: int,
        epoch: float | None,
        ids: list[int],
        skill: float = 1.0,
        **options: object,
    ) -> None:
        logits = self.rng.normal(size=(len(ids), C)).astype(np.float32)
        gold = np.array([(i // 4) % C for i in ids])
        logits[np.arange(len(ids)), gold] += skill
        ignored = options.pop("ignored", ())
        labels = np.where(np.isin(np.arange(len(ids)), ignored), -100, gold)
        self.rec.record(
            torch.tensor(logits),
            torch.tensor(labels),
            step,
            phase,
            epoch=epoch,
            sample=torch.tensor(ids),
            **options,
        )
        flags = options.get("flags") or {}
        repeated = flags.get("duplicate", torch.zeros(len(ids), dtype=torch.bool))
        log_p = log_softmax(logits)
        for row, sample in enumerate(ids):
            if labels[row] == -100 or repeated[row]:
                continue
            self.rows.append(
                {
                    "phase": phase,
                    "dataset": options.get("dataset", ""),
                    "step": step,
                    "epoch": epoch,
                    "batch": (phase, options.get("dataset", ""), step, self.calls),
                    "sample": sample,
                    "gold": int(gold[row]),
                    "log_p": log_p[row],
                    "predicted": int(logits[row].argmax()),
                    "nll": -log_p[row][gold[row]],
                    "entropy": float(-(np.exp(log_p[row]) * log_p[row]).sum()),
                    "group": GROUPS[sample],
                    "source": SOURCES[sample],
                    "length": LENGTHS[sample],
                }
            )
        self.calls += 1

    calls = 0

    def of(self, phase: str, **where: object) -> list[dict]:
        return [
            row for row in self.rows if row["phase"] == phase and all(row[k] == v for k, v in where.items())
        ]


def fill(run: Run, epochs: int = 4) -> None:
    """Per epoch 4 training steps of two micro-batches, then a validation of 5 batches."""
    step = 0
    for epoch in range(1, epochs + 1):
        for _ in range(4):
            for _ in range(2):
                ids = run.rng.integers(0, SAMPLES, 7).tolist()
                run.batch("train", step, epoch, ids, epoch / 2, ignored=(0,) if step == 2 else ())
            run.rec.scalars(step, {"grad_norm": torch.tensor(0.1 * (step + 1)), "loss": 1.0})
            step += 1
        for start in range(0, SAMPLES, 9):
            run.batch("val", step, epoch, list(range(start, start + 9)), epoch / 2)


def clustered(rows: list[dict], x: list[float]) -> tuple[float, float]:
    """Mean and standard error, by group, else by sample."""
    sums: dict = defaultdict(lambda: [0.0, 0.0])
    for row, value in zip(rows, x, strict=True):
        unit = row["group"] or row["sample"]
        sums[unit][0] += value
        sums[unit][1] += 1
    s = np.array(list(sums.values()))
    mean = s[:, 0].sum() / s[:, 1].sum()
    residual = s[:, 0] - mean * s[:, 1]
    g = len(s)
    return mean, float(np.sqrt(g / (g - 1) * (residual**2).sum()) / s[:, 1].sum())
