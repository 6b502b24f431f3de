"""Which logit row predicts which target token, and what is known about that target.

Each of the B·T logit rows gets one target. With `shift=True` (Hugging Face's convention) the row at index i
predicts the token at i + 1, and the last row of each sequence has no target; with `shift=False` labels and
all other inputs are aligned with the rows already. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor

from logitbox.dumps.flags import IGNORED, Flag
from logitbox.dumps.reduce.source import LogitRows, as_rows, hint
from logitbox.dumps.spec import RecordSpec
from logitbox.errors import InputError

NO_TOKEN = -1


@dataclass(frozen=True)
class Batch:
    """What `Recorder.record` was given, checked: rows of logits, and everything else [B, T] (or None)."""

    source: LogitRows
    labels: Tensor
    input_ids: Tensor | None
    attention_mask: Tensor | None
    position_ids: Tensor | None
    weight: Tensor | None
    types: Mapping[str, Tensor] | Tensor | None
    flags: Mapping[str, Tensor] | Tensor | None
    shift: bool
    flat: bool
    """The user gave logits [N, V]: here B = N and T = 1, each row a sample unless `sample` says otherwise."""


@dataclass(frozen=True)
class Layout:
    """One entry per logit row, flattened to [B·T] (int64 unless noted)."""

    keep: Tensor
    """bool: the row goes into the `tokens` table."""
    gold: Tensor
    """Label id; the input token at ignored positions where it is known; else −1."""
    left: Tensor | None
    right: Tensor | None
    columns: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """`pos`, `flags`, `types`, `weight`, `doc` (number of the packed document within its row)."""


def make_batch(
    logits: Tensor | LogitRows,
    labels: Tensor,
    spec: RecordSpec,
    *,
    shift: bool,
    **optional: Tensor | Mapping[str, Tensor] | None,
) -> Batch:
    """Check shapes and ids and bring what is [N] to [N, 1].

    Raises:
        InputError: shapes that do not match, a vocabulary other than the dump's, labels or types out of
            range (ids are checked here on CPU, by the writer for tensors on a device).
    """
    source = as_rows(logits)
    _check_shapes(source, labels)
    source.check(spec.vocab_size)
    flat = labels.ndim == 1
    shape = labels.shape
    given: dict[str, Tensor | None] = {}
    for name in ("input_ids", "attention_mask", "position_ids", "weight"):
        value = cast("Tensor | None", optional.get(name))
        given[name] = _like_labels(name, value, shape, flat=flat)
    masks = {name: _check_masks(name, optional.get(name), shape, flat=flat) for name in ("types", "flags")}
    _check_types(masks["types"], spec)
    _check_flags(masks["flags"])
    labels = (labels.detach().unsqueeze(1) if flat else labels.detach()).long()
    check_ids(labels, spec.vocab_size)
    return Batch(
        source=source,
        labels=labels,
        types=masks["types"],
        flags=masks["flags"],
        shift=shift and not flat,
        flat=flat,
        **given,
    )


def check_ids(labels: Tensor, vocab_size: int) -> None:
    """Raise InputError if a label is neither in the vocabulary nor −100. Only looks at CPU tensors."""
    if labels.device.type != "cpu" or labels.numel() == 0:
        return
    bad = labels[((labels < 0) & (labels != IGNORED)) | (labels >= vocab_size)]
    if bad.numel():
        raise InputError(
            f"label {int(bad[0])} is outside the vocabulary; allowed are 0 to {vocab_size - 1}, "
            f"and {IGNORED} for ignored positions"
        )


def _check_shapes(source: LogitRows, labels: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise InputError(f"labels are a {type(labels).__name__}; give a torch tensor{hint(labels)}")
    shape, what, last = source.tensor.shape, source.what, source.width
    if len(shape) not in (2, 3) or shape[:-1] != labels.shape:
        raise InputError(
            f"{what} have shape {list(shape)} and labels {list(labels.shape)}; "
            f"give {what} [B, T, {last}] with labels [B, T], or {what} [N, {last}] with labels [N]"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"labels are {labels.dtype}; give integer token ids")


def _like_labels(name: str, value: Tensor | None, shape: torch.Size, *, flat: bool) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; give a tensor of shape {list(shape)}")
    if value.shape != shape:
        raise InputError(f"{name} has shape {list(value.shape)}; it must be {list(shape)}, like the labels")
    return value.detach().unsqueeze(1) if flat else value.detach()


def _check_masks(
    name: str, value: object, shape: torch.Size, *, flat: bool
) -> Mapping[str, Tensor] | Tensor | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.dtype == torch.bool:
            raise InputError(
                f"{name} is a {value.dtype} tensor; give integer bits, or a dict of boolean masks"
            )
        return _like_labels(name, value, shape, flat=flat)
    if not isinstance(value, Mapping):
        raise InputError(
            f"{name} is a {type(value).__name__}; give a tensor of bits or a dict of boolean masks"
        )
    checked: dict[str, Tensor] = {}
    for key, mask in value.items():
        tensor = _like_labels(f"{name}[{key!r}]", mask, shape, flat=flat)
        if tensor is not None:
            checked[str(key)] = tensor
    return checked


def _check_types(types: Mapping[str, Tensor] | Tensor | None, spec: RecordSpec) -> None:
    if isinstance(types, Mapping):
        for name in types:
            if name not in spec.types.names:
                raise InputError(
                    f"token type {name!r} is not declared; Recorder(types=…) has {list(spec.types.names)}"
                )
    elif types is not None and not spec.types.names:
        raise InputError("types are given, but none is declared; name their bits in Recorder(types=[…])")


def _check_flags(flags: Mapping[str, Tensor] | Tensor | None) -> None:
    for name in flags if isinstance(flags, Mapping) else ():
        if name not in _FLAG_BITS:
            raise InputError(f"flag {name!r} cannot be given; allowed are {', '.join(_FLAG_BITS)}")


def layout(batch: Batch, spec: RecordSpec) -> Layout:
    """One target per logit row; see `Layout`."""
    own = _at_target(batch.labels, IGNORED, batch)
    supervised = own != IGNORED
    left = batch.labels if batch.shift else _shifted(own, -1)
    right = _shifted(own, +1)
    edge = ~supervised & ((left != IGNORED) | (right != IGNORED)) & spec.probes
    exists = torch.ones_like(supervised)
    if batch.shift:
        exists[:, -1] = False  # the last logit row of a sequence has no target token
    pad = torch.zeros_like(supervised)
    if batch.attention_mask is not None:
        pad = (_at_target(batch.attention_mask.to(own.device), 0, batch) == 0) & exists
    doc, start, pos = _documents(batch, own)
    bits = {
        Flag.SUPERVISED: supervised,
        Flag.PROMPT: ~supervised & ~pad & exists,
        Flag.PAD: pad,
        Flag.EDGE: edge,
        Flag.BOUNDARY: start,
    }
    computed = torch.stack([mask * int(flag) for flag, mask in bits.items()]).sum(dim=0)
    columns = {"pos": pos, "doc": doc, "flags": computed | _bits(batch.flags, _FLAG_BITS, batch, own)}
    columns["types"] = _bits(batch.types, {n: 1 << i for i, n in enumerate(spec.types.names)}, batch, own)
    if batch.weight is not None:
        columns["weight"] = _at_target(batch.weight.to(own.device).float(), 0.0, batch)
    return Layout(
        keep=((exists if spec.scope == "all" else supervised) | edge).flatten(),
        gold=_gold(batch, own, spec).flatten(),
        left=left.flatten() if spec.probes else None,
        right=right.flatten() if spec.probes else None,
        columns={name: value.flatten() for name, value in columns.items()},
    )


def _gold(batch: Batch, own: Tensor, spec: RecordSpec) -> Tensor:
    token = torch.full_like(own, NO_TOKEN)
    if batch.input_ids is not None:
        token = _at_target(batch.input_ids.to(own.device).long(), NO_TOKEN, batch)
        # Placeholders of images may lie outside the vocabulary; there is no logit to compare them with.
        token = torch.where((token >= 0) & (token < spec.vocab_size), token, NO_TOKEN)
    elif spec.scope == "all":
        raise InputError("scope='all' records ignored positions too; pass input_ids=, their tokens")
    return torch.where(own == IGNORED, token, own)


_COMPUTED = Flag.SUPERVISED | Flag.EDGE | Flag.NONFINITE
_FLAG_BITS = {str(flag.name).lower(): int(flag) for flag in Flag if not flag & _COMPUTED}
"""Flags that a caller may add."""


def _at_target(values: Tensor, fill: float, batch: Batch) -> Tensor:
    """Per-token values [B, T] brought to the logit rows that predict those tokens."""
    return _shifted(values, +1, fill=fill) if batch.shift else values


def _shifted(values: Tensor, by: int, *, fill: float = IGNORED) -> Tensor:
    """values[:, i + by] at column i, for by = ±1; the free column holds `fill`."""
    edge = torch.full_like(values[:, :1], fill)
    return torch.cat([values[:, 1:], edge] if by > 0 else [edge, values[:, :-1]], dim=1)


def _documents(batch: Batch, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(document number within the row, is its first token after another document, pos), each [B, T]."""
    real = torch.ones_like(own, dtype=torch.bool)
    if batch.attention_mask is not None:
        real = batch.attention_mask.to(own.device) != 0
    if batch.position_ids is not None:
        position = batch.position_ids.to(own.device).long()
        start = _restarts(position, real)
        after = position[:, -1:] + 1
    else:
        position, start = _counted(real), torch.zeros_like(real)
        after = position.amax(dim=1, keepdim=True) + 1
    doc = start.cumsum(dim=1)
    if not batch.shift:
        return doc, start, position
    return (
        torch.cat([doc[:, 1:], doc[:, -1:]], dim=1),
        _shifted(start, +1, fill=0),
        torch.cat([position[:, 1:], after], dim=1),
    )


def _restarts(position: Tensor, real: Tensor) -> Tensor:
    """Real tokens whose position is not above that of the last real token before them; padding is skipped."""
    columns = torch.arange(real.shape[1], device=real.device).expand(real.shape)
    latest = torch.where(real, columns, -1).cummax(dim=1).values
    before = _shifted(latest, -1, fill=-1)
    return real & (before >= 0) & (position <= position.gather(1, before.clamp(min=0)))


def _counted(real: Tensor) -> Tensor:
    """Place of each real token among those of its row; padding takes places before and after theirs, each its own."""
    columns = torch.arange(real.shape[1], device=real.device).expand(real.shape)
    lead = real.long().argmax(dim=1, keepdim=True)
    inner = ~real & (columns >= lead)
    beyond = real.sum(dim=1, keepdim=True) + inner.cumsum(dim=1) - 1
    return torch.where(real, real.cumsum(dim=1) - 1, torch.where(inner, beyond, columns - lead))


def _bits(
    given: Mapping[str, Tensor] | Tensor | None, known: Mapping[str, int], batch: Batch, own: Tensor
) -> Tensor:
    if given is None:
        return torch.zeros_like(own)
    if isinstance(given, Tensor):
        return _at_target(given.to(own.device).long(), 0, batch) & sum(known.values())
    total = torch.zeros_like(own)
    for name, mask in given.items():
        total = total | (_at_target(mask.to(own.device) != 0, 0, batch) * known[name])
    return total


def sample_shape(shape: list[int], batch: Batch) -> Literal["row", "token"]:
    """Whether `sample=` of this shape is one id per row or per position. Raises InputError for anything else."""
    labels = list(batch.labels.shape)
    if shape == labels[:1]:
        return "row"
    if shape == labels and not batch.flat:
        return "token"
    allowed = f"[{labels[0]}]" if batch.flat else f"[{labels[0]}] (one a row) or {labels} (one a token)"
    raise InputError(f"sample has shape {shape}; it must be {allowed}")
