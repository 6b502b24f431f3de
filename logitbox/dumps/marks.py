"""What the recorder itself says of a position, on the device: flags by id and value, and the decision slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from logitbox.dumps.flags import Flag
from logitbox.dumps.positions import Layout
from logitbox.dumps.reduce import GroupIndex
from logitbox.dumps.spec import DECISION
from logitbox.dumps.transfer import to_device
from logitbox.dumps.vocabulary import Vocabulary


@dataclass
class Marks:
    """Flags and types that follow from ids and values alone."""

    vocabulary: Vocabulary
    groups: GroupIndex
    _special: dict[torch.device, Tensor] = field(default_factory=dict[torch.device, Tensor])

    def flags(self, columns: Mapping[str, Tensor]) -> Tensor:
        """The rows' flags, int64 [rows], with special, bos, eos (by gold id) and nonfinite (by value) added."""
        gold, flags = columns["gold"], columns["flags"]
        if self.vocabulary.special:
            is_special = self._is_special(gold.device)[gold.clamp(0, self.groups.spec.vocab_size - 1)]
            flags = flags | (is_special & (gold >= 0)) * int(Flag.SPECIAL)
        for token, flag in ((self.vocabulary.bos, Flag.BOS), (self.vocabulary.eos, Flag.EOS)):
            if token is not None:
                flags = flags | (gold == token) * int(flag)
        finite = columns["lse"].isfinite() & columns["entropy"].isfinite()
        finite = finite & (columns["nll"].isfinite() | (gold < 0))
        return flags | ~finite * int(Flag.NONFINITE)

    def decision(self, plan: Layout, shape: torch.Size) -> Tensor:
        """`types` bits [B·T] of the decision slots: the last supervised answer token of every document.

        Args:
            plan: of the micro-batch.
            shape: (B, T).
        """
        spec = self.groups.spec
        gold, doc = plan.gold.view(shape), plan.columns["doc"].view(shape)
        answer = torch.zeros_like(gold, dtype=torch.bool)
        for name in spec.answers:
            answer |= self.groups.bins(gold, spec.group(name))[1]
        answer &= (plan.columns["flags"].view(shape) & int(Flag.SUPERVISED)) != 0
        place = torch.arange(shape[1], device=gold.device).expand(shape)
        last = torch.full_like(gold, -1).scatter_reduce(1, doc, torch.where(answer, place, -1), "amax")
        slot = answer & (last.gather(1, doc) == place)
        return slot.flatten() * (1 << spec.types.names.index(DECISION))

    def _is_special(self, device: torch.device) -> Tensor:
        """Of every id. A table, since `torch.isin` sorts long lists, for which a device must be waited for."""
        if device not in self._special:
            table = torch.zeros(self.groups.spec.vocab_size, dtype=torch.bool)
            table[sorted(self.vocabulary.special)] = True
            self._special[device] = to_device(table, device)
        return self._special[device]
