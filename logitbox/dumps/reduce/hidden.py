"""Logits that never exist as a whole: made again from hidden states, a few rows at a time.

Fused losses (Liger, cut cross-entropy, TRL's chunked loss) give no logits. Here those of the recorded rows are
projected again, chunk by chunk, into one buffer that is used anew for each chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from logitbox.dumps.checks import is_number
from logitbox.dumps.reduce import GroupIndex, Targets, plain_arithmetic, reduce_logits
from logitbox.dumps.reduce.source import LogitRows, check_width, cut, float_tensor
from logitbox.errors import InputError

BUFFER_BYTES_CPU = 32 << 20
BUFFER_BYTES_DEVICE = 128 << 20
"""A few hundred rows at 152k columns in 16 bits: enough to keep a matrix product busy."""


@dataclass(frozen=True)
class HiddenRows(LogitRows):
    """Rows of logits as softcap(scale · (hidden · weightᵀ + bias)).

    Args:
        hidden: float, [B, T, H] or [N, H]: what goes into `lm_head`.
        weight: float, [V, H]; `lm_head.weight`.
        bias: [V], if `lm_head` has one.
        scale: factor of the logits, if the model has one.
        softcap: c of c·tanh(x / c), if the model has one.
        dtype: of the logits, as the model would make them.
    """

    what: ClassVar[str] = "hidden states"
    width: ClassVar[str] = "H"

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: float | Tensor | None
    softcap: float | None
    dtype: torch.dtype

    @classmethod
    def read(cls, hidden: object, weight: object, bias: object, scale: object, softcap: object) -> HiddenRows:
        """Check the arguments of `Recorder.record_hidden`. Raises InputError naming the bad one."""
        states, matrix = float_tensor("hidden states", hidden), float_tensor("lm_head_weight", weight)
        _check_weight(states, matrix)
        if bias is not None:
            bias = float_tensor("bias", bias)
            if bias.shape != matrix.shape[:1]:
                raise InputError(
                    f"bias has shape {list(bias.shape)}; give [{matrix.shape[0]}], one a row of lm_head_weight"
                )
        dtype = matrix.dtype
        kind = states.device.type
        can_cast = torch.amp.is_autocast_available(kind) and dtype != torch.float64  # which it leaves alone
        if can_cast and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        return cls(states, matrix, bias, _factor(scale), _cap(softcap), dtype)

    @property
    def tensor(self) -> Tensor:
        """The hidden states."""
        return self.hidden

    def check(self, vocab_size: int) -> None:
        """Raise InputError unless the weight has a row for each id."""
        rows = self.weight.shape[0]
        check_width(f"lm_head_weight has {rows} rows", rows, vocab_size)

    def reduce(
        self, rows: Tensor | None, targets: Targets, groups: GroupIndex, *, lse_beta: bool
    ) -> dict[str, Tensor]:
        """See `reduce_logits`; only the chosen rows are projected."""
        with plain_arithmetic(self.device):
            parts = [
                reduce_logits(logits, None, cut(targets, part), groups, lse_beta=lse_beta)
                for part, logits in self.chunks(rows)
            ]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def chunks(self, rows: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """(which of the chosen rows, their logits [rows, V]), chunk by chunk. A chunk's logits hold until the next."""
        states = self.hidden.detach().reshape(-1, self.hidden.shape[-1])
        weight = self.weight.detach().to(self.dtype).t()
        bias = None if self.bias is None else self.bias.detach().to(self.dtype)
        count, width = len(states) if rows is None else len(rows), weight.shape[1]
        budget = BUFFER_BYTES_CPU if self.device.type == "cpu" else BUFFER_BYTES_DEVICE
        step = min(max(1, budget // (width * weight.element_size())), max(count, 1))
        buffer = torch.empty(step, width, dtype=self.dtype, device=self.device)
        for start in range(0, max(count, 1), step):
            part = slice(start, min(start + step, count))
            chosen = states[part] if rows is None else states.index_select(0, rows[part])
            chosen, logits = chosen.to(self.dtype), buffer[: len(chosen)]
            if bias is None:
                torch.mm(chosen, weight, out=logits)
            else:
                torch.addmm(bias, chosen, weight, out=logits)
            yield part, self._shaped(logits)

    def _shaped(self, logits: Tensor) -> Tensor:
        """Scale and softcap, in place and in the order of the models that have them, each step rounded as theirs."""
        if self.scale is not None:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits


def _check_weight(states: Tensor, matrix: Tensor) -> None:
    for name, value in (("hidden states", states), ("lm_head_weight", matrix)):
        if hasattr(value, "full_tensor"):
            raise InputError(
                f"{name} are a DTensor; give all of it on each rank that records: .full_tensor()"
            )
    if matrix.numel() == 0:
        raise InputError(
            f"lm_head_weight is empty, shape {list(matrix.shape)}; where parameters are partitioned (ZeRO-3), "
            "gather it first: with deepspeed.zero.GatheredParameters(lm_head.weight)"
        )
    if matrix.ndim != 2 or states.shape[-1:] != matrix.shape[1:]:
        raise InputError(
            f"lm_head_weight has shape {list(matrix.shape)} and hidden states {list(states.shape)}; "
            "give [V, H], as lm_head.weight is, with [B, T, H] or [N, H]"
        )
    if matrix.device != states.device:
        raise InputError(
            f"lm_head_weight is on {matrix.device}, hidden states on {states.device}; bring them to one device"
        )


def _factor(scale: object) -> float | Tensor | None:
    if isinstance(scale, Tensor):
        if scale.numel() != 1:
            raise InputError(f"logit_scale has {scale.numel()} values; give one")
        return scale.detach().reshape(())
    if scale is None or (is_number(scale) and isfinite(scale)):
        return scale
    raise InputError(f"logit_scale is {scale!r}; give the number that the model multiplies its logits by")


def _cap(softcap: object) -> float | None:
    if softcap is None or (is_number(softcap) and 0 < softcap < float("inf")):
        return softcap
    raise InputError(f"softcap is {softcap!r}; give a number above 0, or None where the model has none")
