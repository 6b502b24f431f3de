"""What a caller tells of a micro-batch beside its logits and labels: the arguments that all ways of recording share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from torch import Tensor

from logitbox.dumps.hostbatch import SampleIds

Bits = Tensor | Mapping[str, Tensor] | None


class Told(TypedDict, total=False):
    """Keyword arguments of `Recorder.record`, which describes them."""

    step: int
    phase: str
    dataset: str
    sample: SampleIds | None
    micro: int | None
    epoch: float | None
    input_ids: Tensor | None
    attention_mask: Tensor | None
    position_ids: Tensor | None
    types: Bits
    flags: Bits
    weight: Tensor | None
    loss: Tensor | float | None
    shift: bool
