"""Circumstances of a call that a recorder must know of: compiled graphs, recomputation, captured CUDA graphs."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

import torch

from logitbox.errors import InputError

P = ParamSpec("P")
_INSIDE = ("logitbox.dumps.", "torch._dynamo.")
_asides: dict[Any, Any] = {}


def aside(function: Callable[P, None]) -> Callable[P, None]:
    """Run outside graphs that torch.compile makes: it breaks them where it is called, with the tensors as they are.

    `torch.compiler.disable` does that too, but imports the compiler where nobody uses it, which takes seconds.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        # In this order: `is_compiling` is a constant to the compiler, which then does not look into `sys.modules`.
        if torch.compiler.is_compiling() or "torch._dynamo" in sys.modules:
            if function not in _asides:
                _asides[function] = torch.compiler.disable(function)
            _asides[function](*args, **kwargs)
        else:
            function(*args, **kwargs)

    return call


def level_of_caller() -> int:
    """`stacklevel` of the line outside that called into recording, for a warning in what the calling function calls."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    return level


@dataclass
class OnceOnly:
    """Tells a call that gradient checkpointing repeats: it computes forward anew, within the backward pass."""

    _was_forward: bool = False

    def is_repeated(self) -> bool:
        """Whether this call is made in a backward pass, after others in forward passes.

        Raises:
            InputError: in a backward pass, and there was never a call in a forward pass that it could repeat.
        """
        if torch._C._current_graph_task_id() == -1:  # pyright: ignore[reportPrivateUsage] # noqa: SLF001
            self._was_forward = True
            return False
        if not self._was_forward:
            raise InputError(
                "record() was called in a backward pass and never before in a forward pass; what is called there is "
                "taken for what gradient checkpointing repeats, and left out. Call it where the loss is computed"
            )
        return True


def refuse_capture(device: torch.device) -> None:
    """Raise InputError while a CUDA graph is captured: replayed, it would run the kernels, but nothing would write."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise InputError(
            "record() was called while a CUDA graph is captured; a replay would record nothing. Keep the logits in a "
            "static tensor, and call record() on it after each replay, outside torch.cuda.graph"
        )
