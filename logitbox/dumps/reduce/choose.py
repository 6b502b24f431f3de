"""Which reduction runs: the fused kernel where it can, else the reference. Both give the same columns."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from logitbox.dumps.reduce import reference
from logitbox.dumps.reduce.groups import GroupIndex, Targets
from logitbox.errors import InputError

Way = Literal["auto", "fused", "reference"]

VARIABLE = "LOGITBOX_REDUCE"
"""Environment variable that says which reduction runs, where the call does not."""

FUSED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


IS_PROVEN = False
"""Whether the kernel has agreed with float64 on a real device (`benchmarks/gpu.py`); until then it runs only where it is asked
for. A wrong number would be worse than a slow one."""


@dataclass
class _State:
    """Whether the kernel has failed to build in this process: then it is not tried again."""

    failed: bool = False


_STATE = _State()


def reduce_logits(
    logits: Tensor,
    rows: Tensor | None,
    targets: Targets,
    groups: GroupIndex,
    *,
    lse_beta: bool,
    way: Way | None = None,
) -> dict[str, Tensor]:
    """Every computed column of the `tokens` table for the chosen rows: see `reference.reduce_logits`.

    Args:
        logits: as there; so are rows, targets, groups and lse_beta.
        rows: see `logits`.
        targets: see `logits`.
        groups: see `logits`.
        lse_beta: see `logits`.
        way: "auto" takes the fused kernel for float32, float16 and bfloat16 on CUDA where Triton is installed, once
            it `IS_PROVEN`, else the reference; "fused" and "reference" insist (no rows and float64 are the reference's in any case). By
            default what the environment variable LOGITBOX_REDUCE says, else "auto".

    Raises:
        InputError: the kernel is insisted on where there is no Triton, or the way is none of the three.
    """
    chosen = _way(way)
    plain = logits.dtype not in FUSED_DTYPES or (rows.shape[0] if rows is not None else logits.numel()) == 0
    if chosen == "fused" and not _has_triton():
        raise InputError(
            "the fused reduction needs Triton, which is not installed; pip install triton, or take 'auto'"
        )
    if plain or chosen == "reference" or (chosen == "auto" and not _fits(logits)):
        return reference.reduce_logits(logits, rows, targets, groups, lse_beta=lse_beta)
    if chosen == "fused":
        return _fused(logits, rows, targets, groups, lse_beta=lse_beta)
    try:
        return _fused(logits, rows, targets, groups, lse_beta=lse_beta)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, OSError, ImportError) as error:  # no compiler or no driver for it in this container
        _STATE.failed = True
        warnings.warn(
            f"the fused reduction does not run here, the slower reference is taken: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return reference.reduce_logits(logits, rows, targets, groups, lse_beta=lse_beta)


def _way(way: Way | None) -> Way:
    given = way if way is not None else os.environ.get(VARIABLE) or "auto"
    if given not in get_args(Way):
        raise InputError(f"{VARIABLE} is {given!r}; allowed are {', '.join(get_args(Way))}")
    return cast("Way", given)


def _fits(logits: Tensor) -> bool:
    """Whether the kernel is taken unasked. Triton's interpreter, on the CPU, is for tests alone."""
    return IS_PROVEN and logits.is_cuda and _has_triton() and not _STATE.failed


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _fused(
    logits: Tensor, rows: Tensor | None, targets: Targets, groups: GroupIndex, *, lse_beta: bool
) -> dict[str, Tensor]:
    from logitbox.dumps.reduce import fused  # noqa: PLC0415 (Triton is imported only where it is used)

    return fused.reduce_logits(logits, rows, targets, groups, lse_beta=lse_beta)
