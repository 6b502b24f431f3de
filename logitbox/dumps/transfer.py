"""Bringing a batch's columns to the host without making the training step wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Pending:
    """Columns on their way to the host; `wait` is called on the writer thread."""

    tensors: Mapping[str, Tensor]
    done: tuple[torch.cuda.Event, ...] = ()

    def wait(self) -> dict[str, Array]:
        """The columns as NumPy arrays, once they have arrived."""
        for event in self.done:
            event.synchronize()
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.tensors.items()}


@dataclass
class HostCopier:
    """Copies to pinned memory on a side stream where there is one (CUDA); elsewhere passes tensors on."""

    _streams: dict[torch.device, torch.cuda.Stream] = field(
        default_factory=dict[torch.device, torch.cuda.Stream]
    )

    def start(self, tensors: Mapping[str, Tensor]) -> Pending:
        """Begin the copy of private tensors (nobody else will write to them); returns at once."""
        host = dict(tensors)
        devices = {t.device for t in tensors.values() if t.is_cuda}
        done = tuple(self._copy(host, device) for device in sorted(devices, key=str))
        return Pending(host, done)

    def _copy(self, tensors: dict[str, Tensor], device: torch.device) -> torch.cuda.Event:
        """Replace one device's tensors by host copies on their way; the event says when they have arrived."""
        stream = self._stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        done = torch.cuda.Event(
            blocking=True
        )  # the writer's wait must not spin on a core that training needs
        with torch.cuda.stream(stream):
            for name, tensor in tensors.items():
                if tensor.device == device:
                    target = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
                    target.copy_(tensor, non_blocking=True)
                    tensor.record_stream(stream)
                    tensors[name] = target
            done.record(stream)
        return done

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. Only copies towards a device may run behind: the host would read too early."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def as_int64(values: Array) -> NDArray[np.int64]:
    """The array as int64, without a copy where it is that already."""
    return values.astype(np.int64, copy=False)
