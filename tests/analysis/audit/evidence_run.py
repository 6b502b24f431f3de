"""A run of two ranks for an audit's evidence, and what went into every logit row that was recorded of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from logitbox.dumps.recorder import Recorder

V, T = 40, 10
COORD = range(20, 30)
TEXTS = [chr(97 + i % 26) * (1 + i % 5) for i in range(V)]
GIVEN = ("reasoning", "tool_call")
WITHOUT = {
    ".no_eos": {"eos"},
    ".no_special": {"eos", "bos", "special"},
    ".no_boundary": {"boundary"},
    ".no_image": {"image"},
}
OWN = (".duplicates", *WITHOUT)


@dataclass
class Target:
    """One logit row that was recorded, and what went into it; `place` is the input position of its target."""

    micro: tuple[Any, ...]
    line: int
    place: int
    labels: list[int]
    ids: list[int]
    flags: dict[str, list[bool]]
    types: dict[str, list[bool]]
    doc: list[int]
    broken: bool
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        return self.place < T

    def label(self, by: int = 0) -> int:
        return self.labels[self.place + by] if 0 <= self.place + by < T else -100

    @property
    def supervised(self) -> bool:
        return self.label() != -100

    def is_kept(self, scope: str, probes: bool) -> bool:
        edge = probes and (self.label(-1) != -100 or self.label(1) != -100)
        return edge or self.supervised or (scope == "all" and self.exists)

    def flagged(self, *names: str) -> bool:
        return self.exists and any(self.flags[name][self.place] for name in names)

    @property
    def repeated(self) -> bool:
        return self.flags["duplicate"][0]

    def is_type(self, name: str, by: int = 0) -> bool:
        at = self.place + by
        if not 0 <= at < T:
            return False
        return self.ids[at] in COORD if name == "coord" else self.types[name][at]

    def told(self, by: int, scope: str, probes: bool) -> bool:
        """Whether the type of the token `by` places away was recorded."""
        at = self.place + by
        if at == 0:
            return False
        if scope == "all" or probes:
            return True
        return at < T and self.labels[at] != -100 and self.doc[at] == self.doc[self.place]


def line_of(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Ids, labels, flags and types of one line: with a prompt and padding, or three packed documents."""
    ids = rng.integers(0, V, T).tolist()
    flags = {name: [False] * T for name in ("eos", "bos", "special", "image", "duplicate", "boundary", "pad")}
    labels, doc, position = list(ids), [0] * T, list(range(T))
    if kind == "packed":
        position = [0, 1, 2, 0, 1, 2, 3, 0, 1, 2]
        doc = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
        flags["boundary"] = [at in (3, 7) for at in range(T)]
        labels[7] = labels[8] = -100
    else:
        start, stop = int(rng.integers(0, 4)), int(rng.integers(6, T + 1))
        labels = [label if start <= at < stop else -100 for at, label in enumerate(labels)]
        flags["pad"] = [at >= stop for at in range(T)]
        flags["eos"][stop - 1] = kind == "eos"
        flags["image"][2], flags["image"][4] = True, True
        flags["duplicate"] = [kind == "duplicate"] * T
    real = [not pad for pad in flags["pad"]]
    types = {name: [bool(rng.random() < 0.5) and at for at in real] for name in GIVEN}
    flags["special"][5] = bool(rng.random() < 0.5)
    return {"ids": ids, "labels": labels, "flags": flags, "types": types, "doc": doc, "position": position}


def logits_of(
    rng: np.random.Generator, lines: list[dict[str, Any]], broken: set[tuple[int, int]]
) -> torch.Tensor:
    """[B, T, V], every other token easy; NaN in the broken rows."""
    logits = torch.from_numpy(rng.normal(0, 3, (len(lines), T, V))).bfloat16().float()  # coarse: ties
    for b, line in enumerate(lines):
        for t in range(T - 1):
            logits[b, t, line["ids"][t + 1]] += 8 * float(rng.random() < 0.5)
    for b, t in broken:
        logits[b, t, 0] = torch.nan
    return logits


def record(
    rec: Recorder, rng: np.random.Generator, kinds: list[str], samples: list[int] | None, **where: Any
) -> list[Target]:
    """Record one micro-batch of lines; what was recorded of it, in order."""
    lines = [line_of(rng, kind) for kind in kinds]
    if kinds[0] == "empty":
        lines[0]["labels"] = [-100] * T
    broken = {(0, 4)} if kinds[0] == "broken" else set()

    def tensor(*names: str) -> torch.Tensor:
        return torch.tensor(
            [line[names[0]] if len(names) == 1 else line[names[0]][names[1]] for line in lines]
        )

    rec.record(
        logits_of(rng, lines, broken),
        tensor("labels"),
        input_ids=tensor("ids"),
        sample=samples,
        attention_mask=~tensor("flags", "pad"),
        position_ids=tensor("position") if kinds[0] == "packed" else None,
        types={name: tensor("types", name) for name in GIVEN},
        flags={name: tensor("flags", name) for name in ("eos", "special", "image", "duplicate")},
        weight=torch.from_numpy(rng.random((len(lines), T)).astype(np.float32)),
        **where,
    )
    micro = (where["phase"], "", 0, where["step"], rec.session.rank, where["micro"])
    parts = [{name: line[name] for name in ("labels", "ids", "flags", "types", "doc")} for line in lines]
    each = (
        Target(micro, b, t + 1, **parts[b], broken=(b, t) in broken)
        for b in range(len(lines))
        for t in range(T)
    )
    return [one for one in each if one.is_kept(rec.spec.scope, rec.spec.probes)]


def fill(path: Path, scope: str, probes: bool) -> list[Target]:
    """Two ranks, several shards; some without duplicates, images or packed lines."""
    found = []
    for rank in (0, 1):
        rng = np.random.default_rng(rank)
        with Recorder(
            path,
            TEXTS,
            groups={"coord": COORD},
            types=["coord", *GIVEN],
            scope=scope,
            probes=probes,
            lse_beta="always",
            rank=rank,
            world=2,
            session="0001-abc",
            accumulation=3,
            shard_rows=30,
        ) as rec:
            where = {"phase": "train", "step": 1}
            found += record(rec, rng, ["plain", "eos", "plain"], [1, 2, 3], micro=0, **where)
            found += record(rec, rng, ["packed", "packed"], None, micro=1, **where)
            found += record(rec, rng, ["empty"], [4], micro=2, **where)
            found += record(rec, rng, ["broken", "plain"], [5, 6], micro=3, **where)
            where = {"phase": "eval", "step": 1}
            found += record(rec, rng, ["eos", "duplicate", "duplicate"], [7, 7, 8], micro=0, **where)
            found += record(rec, rng, ["duplicate"], [9], micro=1, **where)
    return found
