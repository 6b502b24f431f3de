"""What the loss functions are given, checked and brought into shape. Nothing here waits for a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from logitbox.dumps.spec import Group, OrderedSpec
from logitbox.dumps.transfer import to_device
from logitbox.errors import InputError


@dataclass(frozen=True)
class GroupColumns:
    """Where the ids of a group are among the columns of logits; `group.ids` is a range where it can be."""

    group: Group

    @classmethod
    def build(cls, group: Group | range | Sequence[int], vocab_size: int) -> GroupColumns:
        """Check the group against the vocabulary; ids that run on from the first become a range."""
        name, ids = (group.name, group.ids) if isinstance(group, Group) else ("ordered", group)
        built = Group.build(name, ids, vocab_size)
        run = range(built.ids[0], built.ids[0] + len(built.ids))
        return cls(Group(built.name, run) if built.ids == tuple(run) else built)

    def of(self, values: Tensor) -> Tensor:
        """The group's columns of `values` [N, V], in the order of the bins (a view for a range of ids)."""
        ids = self.group.ids
        if isinstance(ids, range):
            return values[:, ids.start : ids.stop]
        return values.index_select(1, to_device(torch.tensor(ids), values.device))

    def bins(self, gold: Tensor) -> tuple[Tensor, Tensor]:
        """(bin of each gold id, is it in the group), shapes [N]; the bin is 0 where it is not."""
        ids = self.group.ids
        if isinstance(ids, range):
            inside = (gold >= ids.start) & (gold < ids.stop)
            return torch.where(inside, gold - ids.start, 0), inside
        ascending, order = (to_device(x, gold.device) for x in torch.tensor(ids).sort())
        place = torch.searchsorted(ascending, gold).clamp(max=len(ids) - 1)
        inside = ascending[place] == gold
        return torch.where(inside, order[place], 0), inside

    def check_gold(self, gold: Tensor, inside: Tensor) -> None:
        """Raise InputError if a gold id on the CPU is outside the group."""
        outside = gold[~inside] if gold.device.type == inside.device.type == "cpu" else gold[:0]
        if outside.numel():
            raise InputError(
                f"gold id {int(outside[0])} is not in group {self.group.name!r} ({len(self.group.ids)} ids, "
                f"{min(self.group.ids)} to {max(self.group.ids)}); pass only the rows whose gold is, "
                "or use composite_loss, which picks them"
            )


def ordered_spec(group: Group | Sequence[int], options: OrderedSpec | Mapping[str, Any]) -> OrderedSpec:
    """The options, checked. Raises InputError for unknown names or values out of range."""
    given = asdict(options) if isinstance(options, OrderedSpec) else options
    if not isinstance(given, Mapping):
        raise InputError(
            f"options are a {type(given).__name__}; give an OrderedSpec, or a dict of its fields"
        )
    return OrderedSpec.build(group.name if isinstance(group, Group) else "ordered", given)


def check_shapes(logits: Tensor, labels: Tensor, name: str, *, flat: bool = False) -> None:
    """Raise InputError unless logits are float [N, V] (or [B, T, V], if not `flat`) and labels integer [N] ([B, T])."""
    for kind, value in (("logits", logits), (name, labels)):
        if not isinstance(value, Tensor):
            raise InputError(f"{kind} are a {type(value).__name__}; give a torch tensor")
    if not logits.is_floating_point():
        raise InputError(f"logits are {logits.dtype}; give a floating-point tensor")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"{name} are {labels.dtype}; give integer token ids")
    dimensions = (2,) if flat else (2, 3)
    if logits.ndim not in dimensions or logits.shape[:-1] != labels.shape:
        also = "" if flat else f", or logits [B, T, V] with {name} [B, T]"
        raise InputError(
            f"logits have shape {list(logits.shape)} and {name} {list(labels.shape)}; "
            f"give logits [N, V] with {name} [N]{also}"
        )


def check_labels(labels: Tensor, vocab_size: int, ignore_index: int) -> None:
    """Raise InputError for a label on the CPU that is neither in the vocabulary nor `ignore_index`."""
    if labels.device.type != "cpu":
        return
    bad = labels[((labels < 0) | (labels >= vocab_size)) & (labels != ignore_index)]
    if bad.numel():
        raise InputError(
            f"label {int(bad[0])} is outside the vocabulary; allowed are 0 to {vocab_size - 1}, "
            f"and {ignore_index} for ignored positions (ignore_index=)"
        )


def targets_of(logits: Tensor, labels: Tensor, *, shift: bool, ignore_index: int) -> tuple[Tensor, Tensor]:
    """(logits [N, V], the target of each row, int64 [N], on the logits' device).

    With `shift`, labels move rather than logits, whose copy would be large: the last row of each sequence has
    no target.
    """
    targets = to_device(labels.long(), logits.device)
    if logits.ndim == 2:
        return logits, targets
    if shift:
        none = torch.full_like(targets[:, :1], ignore_index)
        targets = torch.cat([targets[:, 1:], none], dim=1)
    return logits.flatten(0, 1), targets.flatten()
