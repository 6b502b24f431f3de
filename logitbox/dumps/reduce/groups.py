"""What every reduction takes beside logits: the labels of its rows, and the groups' ids on their device."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from logitbox.dumps.reduce.tiles import GroupTables, group_tables
from logitbox.dumps.spec import BETAS, Group, RecordSpec
from logitbox.dumps.transfer import to_device


@dataclass(frozen=True)
class Targets:
    """The labels of the rows to reduce, int64, shape [rows], on the logits' device; −1 where there is none."""

    gold: Tensor
    left: Tensor | None = None
    right: Tensor | None = None


@dataclass
class GroupIndex:
    """Device copies of the groups' ids, made once per device."""

    spec: RecordSpec
    _ids: dict[tuple[str, torch.device], Tensor] = field(
        default_factory=dict[tuple[str, torch.device], Tensor]
    )
    _bins: dict[tuple[str, torch.device], Tensor] = field(
        default_factory=dict[tuple[str, torch.device], Tensor]
    )
    _betas: dict[tuple[torch.dtype, torch.device], Tensor] = field(
        default_factory=dict[tuple[torch.dtype, torch.device], Tensor]
    )

    _tables: dict[tuple[torch.device, int], GroupTables] = field(
        default_factory=dict[tuple[torch.device, int], GroupTables]
    )

    def columns(self, values: Tensor, group: Group) -> Tensor:
        """The group's columns of `values` [rows, V], in group order (a view for a range of ids)."""
        if isinstance(group.ids, range):
            return values[:, group.ids.start : group.ids.stop]
        return values.index_select(1, self.ids(group, values.device))

    def bins(self, gold: Tensor, group: Group) -> tuple[Tensor, Tensor]:
        """(bin of each gold id, is gold in the group), shapes [rows]; the bin is 0 where it is not."""
        if isinstance(group.ids, range):
            inside = (gold >= group.ids.start) & (gold < group.ids.stop)
            return torch.where(inside, gold - group.ids.start, 0), inside
        found = self._bin_of_id(group, gold.device)[gold.clamp(0, self.spec.vocab_size - 1)]
        inside = (found >= 0) & (gold >= 0) & (gold < self.spec.vocab_size)
        return torch.where(inside, found, 0), inside

    def betas(self, like: Tensor) -> Tensor:
        """`BETAS` in the dtype and on the device of a tensor."""
        key = (like.dtype, like.device)
        if key not in self._betas:
            self._betas[key] = to_device(torch.tensor(BETAS, dtype=like.dtype), like.device)
        return self._betas[key]

    def tables(self, device: torch.device, block: int) -> GroupTables:
        """Which blocks of that many columns hold which groups, for the fused kernel."""
        key = (device, block)
        if key not in self._tables:
            self._tables[key] = group_tables(self.spec, block).to(device)
        return self._tables[key]

    def ids(self, group: Group, device: torch.device) -> Tensor:
        """The group's ids in group order, int64."""
        key = (group.name, device)
        if key not in self._ids:
            self._ids[key] = to_device(torch.tensor(list(group.ids)), device)
        return self._ids[key]

    def _bin_of_id(self, group: Group, device: torch.device) -> Tensor:
        """For each id of the vocabulary its bin in the group, or −1."""
        key = (group.name, device)
        if key not in self._bins:
            bins = torch.full((self.spec.vocab_size,), -1)
            bins[torch.tensor(list(group.ids))] = torch.arange(len(group.ids))
            self._bins[key] = to_device(bins, device)
        return self._bins[key]


@contextmanager
def plain_arithmetic(device: torch.device) -> Generator[None]:
    """No graph and no autocast, which changes dtypes and refuses to concatenate float16 and float64."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
