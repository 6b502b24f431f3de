"""Where rows of logits come from: a tensor of them, hidden states, or shards of the vocabulary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from logitbox.dumps.reduce import GroupIndex, Targets, reduce_logits
from logitbox.errors import InputError


class LogitRows(ABC):
    """Rows of logits over the whole vocabulary, one for each label, wherever they come from."""

    what: ClassVar[str] = "logits"
    width: ClassVar[str] = "V"
    """What the rows are called in messages, and the letter of their last dimension."""

    @property
    @abstractmethod
    def tensor(self) -> Tensor:
        """What the caller gave, [B, T, …] or [N, …]: it says the shape of the labels and the device."""

    @property
    def device(self) -> torch.device:
        """Where the reduction runs."""
        return self.tensor.device

    @property
    def writes(self) -> bool:
        """Whether this process writes the rows. Of several that hold parts of the same rows, one does."""
        return True

    @property
    def is_shared(self) -> bool:
        """Whether other processes wait for this one's part: then `reduce` must be called in any case."""
        return False

    @abstractmethod
    def check(self, vocab_size: int) -> None:
        """Raise InputError where the rows have another vocabulary than the Recorder."""

    @abstractmethod
    def reduce(
        self, rows: Tensor | None, targets: Targets, groups: GroupIndex, *, lse_beta: bool
    ) -> dict[str, Tensor]:
        """What `reduce_logits` gives for these rows; nothing where another process writes them."""


@dataclass(frozen=True)
class PlainRows(LogitRows):
    """A tensor of logits, float [B, T, V] or [N, V]."""

    logits: Tensor
    is_writer: bool = True

    @property
    def tensor(self) -> Tensor:
        """The logits."""
        return self.logits

    @property
    def writes(self) -> bool:
        """False for a replica of what another process writes."""
        return self.is_writer

    def check(self, vocab_size: int) -> None:
        """Raise InputError unless the last dimension is the vocabulary's size."""
        check_width(f"logits have {self.logits.shape[-1]} columns", self.logits.shape[-1], vocab_size)

    def reduce(
        self, rows: Tensor | None, targets: Targets, groups: GroupIndex, *, lse_beta: bool
    ) -> dict[str, Tensor]:
        """See `reduce_logits`."""
        return reduce_logits(self.logits, rows, targets, groups, lse_beta=lse_beta)


def as_rows(given: object) -> LogitRows:
    """Rows as they are, and a tensor of logits as rows. Raises InputError for anything else."""
    return given if isinstance(given, LogitRows) else PlainRows(float_tensor("logits", given))


def float_tensor(name: str, value: object) -> Tensor:
    """`value`, if it is a floating-point tensor. Raises InputError for anything else."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name} are a {type(value).__name__}; give a torch tensor{hint(value)}")
    if not value.is_floating_point():
        raise InputError(f"{name} are {value.dtype}; give a floating-point tensor")
    return value


def hint(value: object) -> str:
    """How to make a tensor of what was given instead."""
    if hasattr(value, "logits"):
        return ": its .logits"
    return ": torch.from_numpy(…)" if hasattr(value, "__array__") else ""


def check_width(found: str, width: int, vocab_size: int) -> None:
    """Raise InputError, `found` saying what there is, unless `width` is the vocabulary's size."""
    if width != vocab_size:
        raise InputError(
            f"{found}, the Recorder's vocabulary {vocab_size}; "
            f"pass vocab_size={width} beside the tokenizer or tokens where the embedding is padded, "
            "or vocab=<the logits' last dimension>"
        )


def cut(targets: Targets, part: slice) -> Targets:
    """The targets of a part of the rows."""
    left, right = (None if t is None else t[part] for t in (targets.left, targets.right))
    return Targets(targets.gold[part], left, right)
