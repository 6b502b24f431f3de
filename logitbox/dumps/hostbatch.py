"""What of a micro-batch goes to the host: which rows are reduced, and the inputs that name their samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from logitbox.dumps.flags import IGNORED
from logitbox.dumps.passes import integer_within
from logitbox.dumps.positions import Batch, Layout, sample_shape
from logitbox.dumps.samples import id_of_key
from logitbox.errors import InputError

SampleIds = Sequence[int] | Sequence[str] | NDArray[np.integer] | Tensor


@dataclass(frozen=True)
class Given:
    """What the caller said about the samples of a micro-batch.

    Args:
        kind: one id per row, one per token, or none.
        ids: int64, shape [B] or [B, T].
        keys: where the ids were given as strings, these; one per row.
    """

    kind: str
    ids: Tensor | None = None
    keys: tuple[str, ...] | None = None


def read_sample(sample: SampleIds | None, batch: Batch) -> Given:
    """Check `record(sample=…)`. String keys become ids by hashing."""
    if sample is None:
        return Given("none")
    if isinstance(sample, Tensor):
        if sample.is_floating_point():
            raise InputError(f"sample is a {sample.dtype} tensor; give integer ids or string keys")
        return Given(sample_shape(list(sample.shape), batch), sample.detach().long().clone())
    values = _as_objects(sample)
    shape = sample_shape(list(values.shape), batch)
    if all(isinstance(value, str) for value in values.flat) and values.size:
        if values.ndim != 1:
            raise InputError(
                f"sample holds strings in shape {list(values.shape)}; give one key a row, or integer ids"
            )
        keys = tuple(str(key) for key in values)
        return Given(shape, torch.tensor([id_of_key(key) for key in keys]), keys)
    for value in values.flat:
        if not isinstance(value, (int, np.integer)):
            raise InputError(f"sample holds {value!r}; give integer ids or string keys, all of one kind")
        integer_within("a sample id", value)
    return Given(shape, torch.from_numpy(values.astype(np.int64)))


def _as_objects(sample: SampleIds) -> NDArray[Any]:
    try:
        return np.asarray(sample, dtype=object)
    except ValueError as error:
        raise InputError(f"sample is ragged ({error}); give ids of shape [B] or [B, T]") from error


def select_rows(plan: Layout, *, now: bool) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Row numbers to reduce, and their columns as private copies.

    Args:
        plan: the layout of all rows.
        now: False where counting the rows to keep would mean waiting for a device: then all rows (None) are
            reduced, and the column `keep` tells the writer which to drop.
    """
    columns = {"gold": plan.gold, **plan.columns}
    if plan.left is not None and plan.right is not None:
        columns |= {"left": plan.left, "right": plan.right}
    columns["row"] = torch.arange(len(plan.gold), device=plan.gold.device)
    if not now:
        columns["keep"] = plan.keep
        return None, {name: value.clone() for name, value in columns.items()}
    rows = plan.keep.nonzero().squeeze(1)
    return rows, {name: value[rows] for name, value in columns.items()}


def most_rows(plan: Layout | None) -> int:
    """How many token rows there will be; an upper bound where counting would mean waiting for a device."""
    if plan is None:
        return 0
    return int(plan.keep.sum()) if plan.keep.device.type == "cpu" else len(plan.keep)


def whole_batch(
    batch: Batch, plan: Layout | None, given: Given, loss: Tensor | float | None
) -> dict[str, Tensor]:
    """What naming samples and the `batches` row need of the whole batch, as private copies."""
    supervised = batch.labels[:, 1:] if batch.shift else batch.labels
    whole = {"n_supervised": (supervised != IGNORED).sum().reshape(1), "labels": batch.labels.clone()}
    if plan is not None:
        whole["doc"] = _document_of_tokens(batch, plan)
    if batch.input_ids is not None:
        whole["input_ids"] = batch.input_ids.long().clone()
    if batch.attention_mask is not None:
        whole["mask"] = batch.attention_mask != 0
    if given.ids is not None:
        whole["sample"] = given.ids
    if loss is not None:
        whole["loss"] = _loss(loss)
    return whole


def _loss(loss: Tensor | float) -> Tensor:
    value = torch.as_tensor(loss).detach().reshape(-1)
    if value.numel() != 1:
        raise InputError(f"loss has {value.numel()} values; give the micro-batch's one loss")
    # A device may have no float64; the writer widens it on the host.
    return (
        value.float().clone() if value.is_floating_point() and value.dtype != torch.float64 else value.clone()
    )


def _document_of_tokens(batch: Batch, plan: Layout) -> Tensor:
    """Document number of each token [B, T] (the layout's is per target)."""
    doc = plan.columns["doc"].view_as(batch.labels)
    return torch.cat([torch.zeros_like(doc[:, :1]), doc[:, :-1]], dim=1) if batch.shift else doc.clone()
