"""The gradient norm, computed on the device and kept in `scalars`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

KEY = "grad_norm"
"""Key in `scalars`; read as seed 002's `train/grad_norm`."""


def grad_norm(parameters: Tensor | Iterable[Tensor]) -> Tensor:
    """Total 2-norm √(Σ g²) of the gradients of all parameters, as a scalar on their device; nothing waits for it.

    Call it after `backward` and before `optimizer.step`; before clipping for the norm as it is, after it for the
    norm that is applied (`torch.nn.utils.clip_grad_norm_` returns the one before). Gradients of 16 bits are summed in float32.
    Of sharded parameters (FSDP) give what clipping returns instead: a rank sees its own shards only.

    Args:
        parameters: such as `model.parameters()`; those without a gradient count 0.

    Raises:
        InputError: something that is no tensor.
    """
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for one in given:
        if not isinstance(one, Tensor):
            raise InputError(
                f"parameters hold a {type(one).__name__}; give tensors, such as model.parameters()"
            )
    grads = [one.grad.detach() for one in given if one.grad is not None]
    if not grads:
        return torch.zeros((), device=given[0].device if given else None)
    norms = [_norm(grad) for grad in grads]
    device = norms[0].device
    return torch.linalg.vector_norm(torch.stack([norm.to(device, non_blocking=True) for norm in norms]))


def _norm(grad: Tensor) -> Tensor:
    values = grad.coalesce().values() if grad.is_sparse else grad
    dtype = torch.float32 if values.dtype in (torch.float16, torch.bfloat16) else None
    return torch.linalg.vector_norm(values, dtype=dtype)


def record_grad_norm(rec: Recorder, step: int, parameters: Tensor | Iterable[Tensor]) -> Tensor:
    """Put the gradient norm of a step into `rec.scalars`, as `grad_norm`.

    Args:
        rec: where.
        step: optimizer step, as given to `rec.record`.
        parameters: as `grad_norm` takes them.

    Returns:
        The norm, a scalar on the device.
    """
    norm = grad_norm(parameters)
    if rec.enabled:
        rec.scalars(step, {KEY: norm})
    return norm
