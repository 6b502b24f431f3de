"""The tensors a scheme is given, checked, as NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitbox.dumps.flags import IGNORED
from logitbox.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Inputs:
    """One entry per token, each array [B, T]."""

    ids: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    """The label is not −100; all True without labels."""
    real: NDArray[np.bool_]
    """Not padding."""
    document: NDArray[np.int64]
    """Number of the packed document within its row, from 0."""

    @classmethod
    def read(
        cls,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Inputs:
        """Check the arguments of `Scheme.masks`. Raises InputError, as told there."""
        ids = _array("input_ids", input_ids)
        if ids.ndim != 2:
            raise InputError(f"input_ids have shape {list(ids.shape)}; give [B, T], rows of token ids")
        if ids.dtype.kind not in "iu":
            raise InputError(f"input_ids are {input_ids.dtype}; give integer token ids")
        given = {"labels": labels, "attention_mask": attention_mask, "position_ids": position_ids}
        arrays = {name: _like_ids(name, value, ids.shape) for name, value in given.items()}
        supervised, real = np.ones(ids.shape, np.bool_), np.ones(ids.shape, np.bool_)
        if (label := arrays.get("labels")) is not None:
            supervised = label != IGNORED
        if (mask := arrays.get("attention_mask")) is not None:
            real = mask != 0
        document = np.zeros(ids.shape, np.int64)
        if (position := arrays.get("position_ids")) is not None:
            document = _restarts(position, real).cumsum(axis=1)
        return cls(ids.astype(np.int64), supervised, real, document)


def masks_of(named: Mapping[str, NDArray[np.bool_]]) -> dict[str, Tensor]:
    """The arrays as tensors."""
    return {name: torch.from_numpy(mask) for name, mask in named.items()}


def _array(name: str, value: object) -> NDArray[Any]:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; give a torch tensor [B, T]")
    if value.device.type != "cpu":
        raise InputError(
            f"{name} is on {value.device}, and a scheme reads tokens on the CPU: waiting for the device inside "
            "a training step is not allowed. Call `scheme.masks(...)` on the CPU ids in the collator, and "
            "pass the result as `types=` to `record`"
        )
    value = value.detach()
    return (value.float() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16


def _like_ids(name: str, value: Tensor | None, shape: tuple[int, ...]) -> NDArray[Any] | None:
    if value is None:
        return None
    array = _array(name, value)
    if array.shape != shape:
        raise InputError(
            f"{name} has shape {list(array.shape)}; it must be {list(shape)}, like the input_ids"
        )
    return array


def _restarts(position: NDArray[Any], real: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Real tokens whose position is not above that of the last real token before them, as in `positions.layout`."""
    columns = np.broadcast_to(np.arange(real.shape[1]), real.shape)
    latest = np.maximum.accumulate(np.where(real, columns, -1), axis=1)
    before = np.concatenate([np.full_like(latest[:, :1], -1), latest[:, :-1]], axis=1)
    last = np.take_along_axis(position, before.clip(min=0), axis=1)
    return real & (before >= 0) & (position <= last)
