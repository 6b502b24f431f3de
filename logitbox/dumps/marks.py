"""What the recorder itself says of a position, on the device: flags by id and value, and the decision slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from logitbox.dumps.classifier import Typed
from logitbox.dumps.flags import Flag
from logitbox.dumps.positions import Batch, Layout
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

    def types(self, plan: Layout, batch: Batch, typed: Typed, sample: Tensor | None) -> dict[str, Tensor]:
        """`types` with the decision slots, unless somebody was to tell them, and `flags` with untyped: [B·T].

        Args:
            plan: of the micro-batch.
            batch: the micro-batch.
            typed: what is known of its types.
            sample: sample id of each token, [B, T] or [N], where the caller told.
        """
        found: dict[str, Tensor] = {}
        if self.groups.spec.answers and DECISION not in typed.known | typed.unknown:
            found["types"] = plan.columns["types"] | self._slots(plan, batch, sample)
        if typed.unknown:
            found["flags"] = plan.columns["flags"] | int(Flag.UNTYPED)
        return found

    def _slots(self, plan: Layout, batch: Batch, sample: Tensor | None) -> Tensor:
        """`types` bits [B·T] of the last supervised answer token of every sample, or else document, of a line."""
        spec, gold = self.groups.spec, plan.gold
        answer = torch.zeros_like(gold, dtype=torch.bool)
        for name in spec.answers:
            answer |= self.groups.bins(gold, spec.group(name))[1]
        answer &= (plan.columns["flags"] & int(Flag.SUPERVISED)) != 0
        doc = plan.columns["doc"].view(batch.labels.shape)
        if sample is not None:
            doc = _numbered(_of_target(to_device(sample, gold.device), batch))
        answer = answer.view(doc.shape)
        place = torch.arange(doc.shape[1], device=gold.device).expand(doc.shape)
        last = torch.full_like(doc, -1).scatter_reduce(1, doc, torch.where(answer, place, -1), "amax")
        slot = answer & (last.gather(1, doc) == place)
        return slot.flatten() * (1 << spec.types.names.index(DECISION))

    def _is_special(self, device: torch.device) -> Tensor:
        """Of every id. A table, since `torch.isin` sorts long lists, for which a device must be waited for."""
        if device not in self._special:
            table = torch.zeros(self.groups.spec.vocab_size, dtype=torch.bool)
            table[sorted(self.vocabulary.special)] = True
            self._special[device] = to_device(table, device)
        return self._special[device]


def _of_target(sample: Tensor, batch: Batch) -> Tensor:
    """Sample of each row's target, one line per row of the batch; rows [N, V] are one line."""
    if batch.flat:
        return sample.unsqueeze(0)
    return torch.cat([sample[:, 1:], sample[:, -1:]], dim=1) if batch.shift else sample


def _numbered(ids: Tensor) -> Tensor:
    """Numbers below T for the ids of each line [B, T], equal ones for equal ids."""
    ordered, order = ids.sort(dim=1, stable=True)
    is_new = torch.zeros_like(ids)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(ids).scatter_(1, order, is_new.cumsum(dim=1))
