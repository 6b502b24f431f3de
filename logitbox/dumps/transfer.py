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
    done: torch.cuda.Event | None = None

    def wait(self) -> dict[str, Array]:
        """The columns as NumPy arrays, once they have arrived."""
        if self.done is not None:
            self.done.synchronize()
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.tensors.items()}


@dataclass
class HostCopier:
    """Copies to pinned memory on a side stream where there is one (CUDA); elsewhere passes tensors on."""

    _streams: dict[torch.device, torch.cuda.Stream] = field(
        default_factory=dict[torch.device, torch.cuda.Stream]
    )

    def start(self, tensors: Mapping[str, Tensor]) -> Pending:
        """Begin the copy of private tensors (nobody else will write to them); returns at once."""
        device = next((t.device for t in tensors.values() if t.is_cuda), None)
        if device is None:
            return Pending(dict(tensors))
        stream = self._stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        done = torch.cuda.Event()
        with torch.cuda.stream(stream):
            host = {name: self._copy(tensor, stream) for name, tensor in tensors.items()}
            done.record(stream)
        return Pending(host, done)

    def _copy(self, tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        target = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        target.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)
        return target

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
