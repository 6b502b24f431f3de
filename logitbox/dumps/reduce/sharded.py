"""Logits whose vocabulary is cut into shards, one a process: statistics travel, the logits stay where they are.

First the labels' logits are summed over the shards (each has them or 0), so that every shard can count exactly what is
above them. Then each reduces its own columns and sends the statistics (see `Partial`) to the group's first process,
which merges and writes. Of an ordered group its columns travel too. All of it is enqueued; but for the first call,
in which the shards agree on who holds what, nothing waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from logitbox.dumps.checks import as_integer
from logitbox.dumps.reduce import GroupIndex, Targets, plain_arithmetic
from logitbox.dumps.reduce.merge import Gathered, merge
from logitbox.dumps.reduce.partial import Partial, ShardView, at, empty_partial, summarise
from logitbox.dumps.reduce.source import LogitRows, PlainRows, as_rows, float_tensor
from logitbox.dumps.spec import RecordSpec
from logitbox.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class VocabShard:
    """Which part of the vocabulary this process's logits are.

    Args:
        start: id of the first column. Columns at and beyond the Recorder's vocabulary size are padding.
        group: the processes that hold the other parts, such as Megatron's tensor-parallel group; by default all.
            The first of them writes.
    """

    start: int
    group: ProcessGroup | None = None


@dataclass(frozen=True)
class Agreed:
    """What all shards know of each other.

    Args:
        group: their processes.
        ranks: places in the group of the shards that are not all padding, in the order of the vocabulary.
        views: of each place in the group.
        own: this process's place in the group.
    """

    group: Any
    ranks: tuple[int, ...]
    views: tuple[ShardView, ...]
    own: int

    @property
    def k(self) -> int:
        """Most of the best that a shard has."""
        return max(view.k for view in self.views)


@dataclass(frozen=True)
class ShardedRows(LogitRows):
    """The columns of one shard, float [B, T, width] or [N, width], padding among them.

    `is_writer` False: a replica of the whole group writes what this one holds too.
    """

    logits: Tensor
    shards: Agreed
    is_writer: bool = True

    @property
    def tensor(self) -> Tensor:
        """This process's logits."""
        return self.logits

    @property
    def writes(self) -> bool:
        """Whether this is the first of its group."""
        return self.is_writer and self.shards.own == 0

    @property
    def is_shared(self) -> bool:
        """The others wait for this part."""
        return True

    def check(self, vocab_size: int) -> None:
        """Nothing: `Shards` made sure that the shards make up the vocabulary."""

    def reduce(
        self, rows: Tensor | None, targets: Targets, groups: GroupIndex, *, lse_beta: bool
    ) -> dict[str, Tensor]:
        """See `reduce_logits`; every process of the group must call it, and the first gets the columns."""
        view = self.shards.views[self.shards.own]
        logits = self.logits.detach()[..., : view.width]
        logits = logits if logits.ndim == 3 else logits.unsqueeze(1)
        if rows is None:
            rows = torch.arange(logits.shape[:2].numel(), device=logits.device)
        with plain_arithmetic(logits.device):
            labels = self._labels(logits, rows, targets, view)
            if view.width:
                own = summarise(logits, rows, targets, labels[:, :1], view, lse_beta=lse_beta)
            else:
                own = empty_partial(len(rows), logits, view, lse_beta=lse_beta)
            parts = self._gathered(own)
            slices = {name: self._slice(logits, rows, name, view) for name in view.spec.ordered}
            if not parts:
                return {}
            return merge(Gathered(parts, targets, labels, slices), groups, lse_beta=lse_beta)

    def _labels(self, logits: Tensor, rows: Tensor, targets: Targets, view: ShardView) -> Tensor:
        """Logits of gold, left and right, wherever their shard is, [rows, 1 to 3], on all processes."""
        wanted = [ids for ids in (targets.gold, targets.left, targets.right) if ids is not None]
        ids = torch.stack(wanted, dim=1).clamp(0, view.spec.vocab_size - 1)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        found = torch.zeros(ids.shape, dtype=dtype, device=logits.device)
        if view.width:
            here = at(logits, rows, (ids - view.start).clamp(0, view.width - 1))
            found = torch.where(view.contains(ids), here.to(dtype), found)
        torch.distributed.all_reduce(found, group=self.shards.group)
        return found

    def _gathered(self, own: Partial) -> list[Partial]:
        """The statistics of all shards but those of padding, in order; nothing but for the first process."""
        agreed, packed = self.shards, own.pack(self.shards.k)
        everyone = [torch.empty_like(packed) for _ in agreed.views] if agreed.own == 0 else None
        torch.distributed.gather(packed, everyone, dst=self._first(), group=agreed.group)
        if everyone is None:
            return []
        return [Partial.unpack(everyone[rank], own, agreed.k, agreed.views[rank].k) for rank in agreed.ranks]

    def _slice(self, logits: Tensor, rows: Tensor, name: str, view: ShardView) -> Tensor:
        """An ordered group's logits in bin order, [rows, bins], complete on the first process."""
        group = view.spec.group(name)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        values = torch.zeros(len(rows), len(group.ids), dtype=dtype, device=logits.device)
        places, columns = view.bins(group, logits.device)
        length = logits.shape[1]
        inside = logits[:, :, columns] if view.width else logits[:, :, :0]
        values[:, places] = inside[rows // length, rows % length].to(dtype)
        torch.distributed.reduce(values, dst=self._first(), group=self.shards.group)
        return values

    def _first(self) -> int:
        return torch.distributed.get_global_rank(self.shards.group, 0)


@dataclass
class Shards:
    """Tells whole logits from shards, and remembers what the processes of each group agreed on."""

    spec: RecordSpec
    _agreed: dict[tuple[Any, int, int], Agreed] = field(default_factory=dict[tuple[Any, int, int], Agreed])

    def rows(self, logits: object, shard: VocabShard | None) -> LogitRows:
        """Rows of what was given to `Recorder.record`; a DTensor says itself how it is cut.

        Raises:
            InputError: a shard that is none, shards that do not make up the vocabulary, another placement.
        """
        if shard is None:
            return self._placed(logits) if hasattr(logits, "device_mesh") else as_rows(logits)
        if not isinstance(shard, VocabShard) or as_integer(shard.start) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"vocab_parallel is {shard!r}; give VocabShard(start, group), start being the id of the first column"
            )
        tensor = float_tensor("logits", logits)
        return ShardedRows(tensor, self._agree(shard.start, tensor, shard.group))

    def _placed(self, logits: Any) -> LogitRows:
        """Rows of a DTensor."""
        last = logits.ndim - 1
        cut: list[int] = []
        is_writer = True
        for place, placement in enumerate(logits.placements):
            coordinate, size = logits.device_mesh.get_local_rank(place), logits.device_mesh.size(place)
            if size == 1 or placement.is_shard(0):
                continue
            if placement.is_shard(last) or placement.is_shard(-1):
                cut.append(place)
            elif placement.is_replicate():
                is_writer &= coordinate == 0
            else:
                raise InputError(
                    f"logits are a DTensor placed {tuple(logits.placements)}; Replicate(), Shard(0) and one Shard(-1) "
                    "can be recorded: redistribute() it"
                )
        if not cut:
            return PlainRows(logits.to_local(), is_writer)
        if len(cut) > 1:
            raise InputError(
                f"logits are a DTensor placed {tuple(logits.placements)}; one Shard(-1) can be recorded"
            )
        coordinate, size = logits.device_mesh.get_local_rank(cut[0]), logits.device_mesh.size(cut[0])
        width = -(-logits.shape[-1] // size)  # as torch.chunk cuts
        start = min(coordinate * width, logits.shape[-1])
        agreed = self._agree(start, logits.to_local(), logits.device_mesh.get_group(cut[0]))
        return ShardedRows(logits.to_local(), agreed, is_writer)

    def _agree(self, start: int, logits: Tensor, group: Any) -> Agreed:
        """Exchange where the shards lie, the first time that this one is seen."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise InputError(
                "vocab_parallel is given, but torch.distributed is not initialised; call init_process_group first"
            )
        group = torch.distributed.group.WORLD if group is None else group
        key = (group, start, logits.shape[-1])
        if key not in self._agreed:
            own = (start, logits.shape[-1], self.spec.vocab_size, self.spec.k, str(logits.dtype))
            told: list[Any] = [None] * torch.distributed.get_world_size(group)
            torch.distributed.all_gather_object(told, own, group=group)
            place = torch.distributed.get_rank(group)
            self._agreed[key] = Agreed(group, *_views(told, self.spec), place)
        return self._agreed[key]


def _views(
    told: Sequence[tuple[int, int, int, int, str]], spec: RecordSpec
) -> tuple[tuple[int, ...], tuple[ShardView, ...]]:
    """(`Agreed.ranks`, `Agreed.views`). All processes see the same, so that all of them raise or none."""
    if len({one[2:] for one in told}) > 1:
        raise InputError(
            f"the shards' (vocabulary size, k, dtype) are {sorted({one[2:] for one in told})}; "
            "make the Recorder with the same arguments on every process of the group"
        )
    ends = [(start, min(start + width, spec.vocab_size)) for start, width, *_ in told]
    ranks = sorted((rank for rank, (start, end) in enumerate(ends) if end > start), key=lambda r: ends[r])
    starts, stops = [ends[rank][0] for rank in ranks], [ends[rank][1] for rank in ranks]
    if [*starts, spec.vocab_size] != [0, *stops]:
        shown = ", ".join(f"{start} to {start + width - 1}" for start, width, *_ in sorted(told))
        raise InputError(
            f"the shards hold the ids {shown}, which do not make up a vocabulary of {spec.vocab_size} without gaps "
            "and overlaps; check VocabShard.start of each process"
        )
    return tuple(ranks), tuple(ShardView(spec, start, max(0, end - start)) for start, end in ends)
