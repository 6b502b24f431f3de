"""Running sums on the device, for the trainer's own log. Nothing waits until the numbers are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from logitbox.dumps.flags import Flag
from logitbox.dumps.measures import LIVE_KEYS, TOKEN_MEASURES, phase_prefix


@dataclass
class LiveMetrics:
    """Token-weighted sums since the last read, per phase."""

    _sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def add(self, phase: str, columns: Mapping[str, Tensor]) -> None:
        """Add the supervised, finite rows of a micro-batch; stays on the device."""
        supervised = (columns["flags"] & int(Flag.SUPERVISED)) != 0
        use = supervised & columns["nll"].isfinite() & columns["entropy"].isfinite()
        dtype = torch.float32 if use.device.type == "mps" else torch.float64
        values = [torch.where(use, measure.value(columns).to(dtype), 0.0).sum() for measure in TOKEN_MEASURES]
        sums = torch.stack([use.sum().to(dtype), (supervised & ~use).sum().to(dtype), *values])
        self._sums[phase] = self._sums[phase] + sums if phase in self._sums else sums

    def read(self, *, all_reduce: bool = False) -> dict[str, float]:
        """Token means of every phase seen since the last read, then start anew.

        Rows that are not finite are left out of the means and counted in `n_nonfinite`.

        Args:
            all_reduce: sum over the ranks of the default process group, if there is one, first; every rank
                must call it, also one that recorded nothing.
        """
        metrics: dict[str, float] = {}
        for phase, sums in sorted((_reduced(self._sums) if all_reduce else self._sums).items()):
            count, left_out, *totals = sums.tolist()
            prefix = phase_prefix(phase)
            metrics |= {f"{prefix}n_tokens": count, f"{prefix}n_nonfinite": left_out}
            for measure, total in zip(TOKEN_MEASURES, totals, strict=True):
                if measure.name in LIVE_KEYS and count:
                    metrics[prefix + LIVE_KEYS[measure.name]] = total / count
        self._sums.clear()
        return metrics


def _reduced(mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums over all ranks; phases that one rank has not seen count as nothing there."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return dict(mine)
    seen: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(seen, sorted(mine))
    phases = sorted({phase for rank in seen for phase in rank})
    if not phases:
        return {}
    device = torch.device("cpu")
    if torch.distributed.get_backend() == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())
    nothing = torch.zeros(2 + len(TOKEN_MEASURES), dtype=torch.float64, device=device)
    total = torch.stack([mine[phase].to(nothing) if phase in mine else nothing for phase in phases])
    torch.distributed.all_reduce(total)
    return dict(zip(phases, total, strict=True))
