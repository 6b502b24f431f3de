"""Logits that are cut into shards of the vocabulary, the same in the test and in each rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from logitbox.dumps.reduce import Targets
from logitbox.dumps.spec import RecordSpec, build_spec

PLAIN: dict[str, Any] = {
    "groups": {"bins": range(20, 70), "listed": (90, 3, 55, 54, 1), "late": range(85, 89)},
    "ordered": {"bins": {"sigma": 1.5}, "listed": {"temperature": 2.0, "truncate": 1}},
    "detailed": True,
}


@dataclass(frozen=True)
class Case:
    """A vocabulary and how it is cut.

    Args:
        sizes: columns of each shard; what goes beyond `vocab` is padding.
        order: shard of each rank, where it is not the rank's own.
        rounded: to this step, so that most logits are tied; 0 for none.
        masked: "some" logits −inf, whole "shards" of them, or none; "odd" for NaN and +inf too.
    """

    name: str
    sizes: tuple[int, ...]
    vocab: int = 97
    k: int = 12
    dtype: torch.dtype = torch.float32
    order: tuple[int, ...] = ()
    rounded: float = 0.0
    masked: str = ""
    offset: float = 0.0
    options: dict[str, Any] = field(default_factory=lambda: PLAIN)
    shape: tuple[int, ...] = (5, 9)
    chosen: bool = False

    @property
    def world(self) -> int:
        return len(self.sizes)

    @cached_property
    def spec(self) -> RecordSpec:
        defaults = {"groups": None, "ordered": None, "types": None, "scope": "supervised"}
        return build_spec(
            self.vocab, self.k, **(defaults | {"probes": True, "lse_beta": "always"} | self.options)
        )

    @cached_property
    def logits(self) -> Tensor:
        """Of the whole vocabulary, with the padding of all shards: garbage that would show."""
        made = torch.Generator().manual_seed(len(self.name))
        x = torch.randn(*self.shape, sum(self.sizes), generator=made) * 4 + self.offset
        if self.rounded:
            x = (x / self.rounded).round() * self.rounded
        if self.masked:
            x[torch.rand(x.shape, generator=made) < 0.3] = -torch.inf
        flat = x.view(-1, x.shape[-1])
        start = 0
        for shard, size in enumerate(self.sizes):
            if self.masked == "shards":
                flat[shard :: self.world + 2, start : start + size] = -torch.inf
            start += size
        if self.masked == "odd":
            flat[0, 40], flat[1, 3], flat[2, 95], flat[2, 5] = torch.nan, torch.inf, torch.inf, torch.inf
            flat[3], flat[4, 1:] = -torch.inf, -torch.inf
        x[..., self.vocab :] = torch.nan
        return x.to(self.dtype)

    @cached_property
    def targets(self) -> Targets:
        """Gold on every shard, unknown, and at the edges."""
        count = self.logits.shape[:-1].numel()
        gold = (torch.arange(count) * 7) % self.vocab
        gold[::11], gold[1], gold[2] = -1, self.vocab - 1, 0
        if not self.spec.probes:
            return Targets(gold)
        return Targets(gold, gold.roll(1), gold.roll(-1))

    @property
    def rows(self) -> Tensor | None:
        """Every other row, or all."""
        return torch.arange(0, self.logits.shape[:-1].numel(), 2) if self.chosen else None

    @property
    def chosen_targets(self) -> Targets:
        """The targets of `rows`."""
        t = self.targets
        if self.rows is None:
            return t
        return Targets(*(None if x is None else x[self.rows] for x in (t.gold, t.left, t.right)))

    def shard(self, rank: int) -> tuple[int, Tensor]:
        """(first id, columns) of a rank."""
        place = self.order[rank] if self.order else rank
        start = sum(self.sizes[:place])
        return start, self.logits[..., start : start + self.sizes[place]].clone()


CASES = [
    Case("even", (50, 50), vocab=100),
    Case("ragged", (24, 25, 24, 24)),
    Case("ragged chosen", (31, 22, 40, 4), chosen=True),
    Case("padded", (26, 26, 26, 26)),
    Case("padding alone", (33, 33, 33, 33), options=PLAIN | {"min_prob": 1e-3}),
    Case("not in order", (30, 20, 27, 20), order=(2, 0, 3, 1)),
    Case("half a shard", (60, 50), chosen=True),
    Case("ties", (26, 26, 26, 26), rounded=2.0),
    Case("all tied", (49, 48), rounded=1000.0),
    Case("bfloat16", (26, 26, 26, 26), dtype=torch.bfloat16, rounded=0.5),
    Case("float16", (49, 48), dtype=torch.float16),
    Case("float64", (49, 48), dtype=torch.float64),
    Case("masked", (26, 26, 26, 26), masked="some", rounded=1.0),
    Case("masked shards", (26, 26, 26, 26), masked="shards"),
    Case("odd values", (26, 26, 26, 26), masked="odd"),
    Case("far from zero", (26, 26, 26, 26), offset=120.0),
    Case("k is V", (26, 26, 26, 26), k=97),
    Case("flat rows", (49, 48), shape=(13,)),
    Case("many rows", (500, 529), vocab=1000, k=32, shape=(2, 60)),
    Case("no groups", (49, 48), options={"probes": False, "lse_beta": "never"}),
]
