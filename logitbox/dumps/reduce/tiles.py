"""Tables that tell the fused kernel which blocks of the vocabulary hold which groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitbox.dumps.spec import Group, RecordSpec
from logitbox.dumps.transfer import to_device

SCARCE = 256
"""A group of scattered ids is gathered where at most one id in so many is its own: the pass would find one in most tiles."""


@dataclass(frozen=True)
class GroupTables:
    """What `kernel.scan_rows` takes of the groups.

    Args:
        spans: int32 [groups, 2], first id and the id after the last.
        members: uint8 [⌈groups / 8⌉, V], a bit per group; [1, 1] where every group is a range.
        holds: uint8 [blocks, 1 + groups], whether the block holds an id of any group, and of each; gathered groups left out.
        listed: bit g is set where group g is looked up in `members`.
        gathered: numbers of the groups whose ids are read one by one, beside the pass.
    """

    spans: Tensor
    members: Tensor
    holds: Tensor
    listed: int
    gathered: tuple[int, ...]

    def to(self, device: torch.device) -> GroupTables:
        """The tables on a device, which is not waited for."""
        moved = (to_device(table, device) for table in (self.spans, self.members, self.holds))
        return GroupTables(*moved, listed=self.listed, gathered=self.gathered)


def group_tables(spec: RecordSpec, block: int) -> GroupTables:
    """The tables on the CPU."""
    count, width = len(spec.groups), spec.vocab_size
    scattered = [g for g, group in enumerate(spec.groups) if not isinstance(group.ids, range)]
    gathered = tuple(g for g in scattered if len(spec.groups[g].ids) * SCARCE <= width)
    listed = sum(1 << g for g in scattered if g not in gathered)
    spans = torch.zeros(max(count, 1), 2, dtype=torch.int32)
    members = torch.zeros((-(-count // 8), width) if listed else (1, 1), dtype=torch.uint8)
    holds = torch.zeros(-(-width // block), 1 + count, dtype=torch.uint8)
    for g, group in enumerate(spec.groups):
        if g in gathered:
            continue
        ids = _ids(group)
        spans[g] = torch.tensor([int(ids.min()), int(ids.max()) + 1])
        holds[ids // block, 1 + g] = 1
        holds[ids // block, 0] = 1
        if listed >> g & 1:
            members[g // 8, ids] |= 1 << (g % 8)
    return GroupTables(spans, members, holds, listed, gathered)


def _ids(group: Group) -> Tensor:
    if isinstance(group.ids, range):
        return torch.arange(group.ids.start, group.ids.stop)
    return torch.tensor(group.ids)
