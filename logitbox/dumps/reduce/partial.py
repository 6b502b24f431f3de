"""What one shard of the vocabulary knows of its rows: some 230 bytes a row, from which whole records are merged."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from logitbox.dumps.ordered import log_sum, widened
from logitbox.dumps.reduce import GroupIndex, Targets, reduce_logits
from logitbox.dumps.spec import BETAS, Group, RecordSpec
from logitbox.dumps.transfer import to_device

CHUNK_BYTES = 32 << 20
"""Memory of one chunk of rows in the passes that are made here."""


@dataclass(frozen=True)
class ShardView:
    """A shard's columns: ids `start` … `start + width − 1` of the vocabulary, padding left out.

    Args:
        spec: of the whole vocabulary.
        start: first id.
        width: number of ids, 0 where the shard is padding only.
    """

    spec: RecordSpec
    start: int
    width: int
    groups: GroupIndex = field(init=False)
    """The groups' ids that are here, as columns of the shard; groups with none are left out."""
    _listed: dict[tuple[str, torch.device], Tensor] = field(
        default_factory=dict[tuple[str, torch.device], Tensor]
    )

    def __post_init__(self) -> None:
        """Cut the groups to the shard."""
        here = [Group(group.name, self._cut(group)) for group in self.spec.groups]
        local = RecordSpec(
            vocab_size=max(self.width, 1),
            k=max(self.k, 1),
            groups=tuple(group for group in here if group.ids),
        )
        object.__setattr__(self, "groups", GroupIndex(local))

    @property
    def k(self) -> int:
        """How many of the best tokens the shard can give."""
        return min(self.spec.k, self.width)

    def contains(self, ids: Tensor) -> Tensor:
        """Which ids are of this shard, same shape, bool."""
        return (ids >= self.start) & (ids < self.start + self.width)

    def bins(self, group: Group, device: torch.device) -> tuple[slice | Tensor, slice | Tensor]:
        """(places in the group, columns of the shard) of the group's ids that are here."""
        columns = self._cut(group)
        if isinstance(columns, range) and isinstance(group.ids, range):
            first = columns.start + self.start - group.ids.start if columns else 0
            return slice(first, first + len(columns)), slice(columns.start, columns.stop)
        key = (group.name, device)
        if key not in self._listed:
            end = self.start + self.width
            here = [place for place, token in enumerate(group.ids) if self.start <= token < end]
            both = torch.tensor([here, list(columns)], dtype=torch.long)
            self._listed[key] = to_device(both, device)  # once: copying at each call could mean waiting
        places, found = self._listed[key]
        return places, found

    def _cut(self, group: Group) -> range | tuple[int, ...]:
        end = self.start + self.width
        if isinstance(group.ids, range):
            low, high = max(group.ids.start, self.start), min(group.ids.stop, end)
            return range(low - self.start, max(low, high) - self.start)
        return tuple(token - self.start for token in group.ids if self.start <= token < end)


@dataclass(frozen=True)
class Partial:
    """Statistics of a shard's columns, [rows, …]; m is the shard's own largest logit, s = Σ e^{x−m}.

    Where all columns are −inf, whatever is relative to m is NaN, and means nothing is there.
    """

    top_logits: Tensor
    """The shard's k best logits in their own dtype, [rows, k]; the first is m."""
    top_ids: Tensor
    """Their ids in the whole vocabulary, int32."""
    tail: Tensor
    """Σ e^{x−m} outside them, float32 like all that follows but the counts; [rows, 1]."""
    shifted: Tensor
    """Σ (x−m) e^{x−m}, [rows, 1]."""
    total: Tensor
    """Sum of the finite logits, [rows, 1]."""
    counts: Tensor
    """Columns above gold's logit, equal to it (gold itself too), equal with a lower id, finite: int32 [rows, 4]."""
    groups: Tensor
    """logsumexp(x − m) over each group's columns here, −inf where there are none; [rows, groups]."""
    betas: Tensor
    """logsumexp(β·(x − m)), [rows, 5], or [rows, 0] where not asked for."""
    gates: Tensor
    """logsumexp((x − m) / T) for each gate temperature but 1, [rows, temperatures]."""

    def pack(self, k: int) -> Tensor:
        """All of it as bytes, uint8 [rows, bytes], with room for `k` of the best."""
        room = (0, k - self.top_ids.shape[1])
        padded = [torch.nn.functional.pad(best, room) for best in (self.top_logits, self.top_ids)]
        rest = [getattr(self, f.name) for f in fields(self)[2:]]
        return torch.cat([part.contiguous().view(torch.uint8) for part in (*padded, *rest)], dim=1)

    @classmethod
    def unpack(cls, packed: Tensor, like: Partial, k: int, own_k: int) -> Partial:
        """Inverse of `pack`.

        Args:
            packed: uint8 [rows, bytes].
            like: a partial of another shard of the same rows.
            k: that it was packed for.
            own_k: how many of the best the shard has.
        """
        found: list[Tensor] = []
        start = 0
        for name in (f.name for f in fields(cls)):
            model: Tensor = getattr(like, name)
            width = k if name.startswith("top_") else model.shape[1]
            stop = start + width * model.element_size()
            piece = model.new_empty(len(packed), width)
            piece.view(torch.uint8).copy_(packed[:, start:stop])
            found.append(piece[:, :own_k] if name.startswith("top_") else piece)
            start = stop
        return cls(*found)


def gate_temperatures(spec: RecordSpec) -> list[float]:
    """Temperatures of gates that need a pass of their own."""
    return sorted({options.gate_at for options in spec.ordered.values()} - {1.0})


def summarise(
    logits: Tensor, rows: Tensor, targets: Targets, gold_logit: Tensor, view: ShardView, *, lse_beta: bool
) -> Partial:
    """The statistics of a shard that is not empty.

    Args:
        logits: float [N, T, width], the shard's columns.
        rows: int64, [rows], into the N·T rows.
        targets: of the whole vocabulary.
        gold_logit: gold's logit, wherever its shard is, [rows, 1].
        view: the shard.
        lse_beta: whether `betas` are wanted.
    """
    local = Targets(torch.zeros_like(targets.gold))  # of the columns that need gold, none is used
    found = reduce_logits(logits, rows, local, view.groups, lse_beta=lse_beta)
    ids = found["top_ids"].long()
    best = at(logits, rows, ids)
    ln_s = widened(found["top_nll"])
    s = ln_s.exp()
    n_finite = found["n_finite"]
    counts, gates = _passes(logits, rows, targets.gold - view.start, gold_logit, best[:, :1], view.spec)
    nothing = torch.full_like(ln_s, -torch.inf)
    logmass = [found.get(f"logmass_{group.name}") for group in view.spec.groups]
    groups = [nothing if mass is None else widened(mass) + ln_s for mass in logmass]
    betas = nothing.new_empty(len(rows), 0)
    if lse_beta:
        betas = widened(found["lse_beta"]) - widened(best[:, :1]) * view.groups.betas(ln_s)
    columns = {
        "tail": (widened(found["tail_mass"]) * s).unsqueeze(1),
        "shifted": ((ln_s - widened(found["entropy"])) * s).unsqueeze(1),
        "total": torch.where(n_finite > 0, widened(found["mean_logit"]) * n_finite, 0.0).unsqueeze(1),
        "groups": torch.stack(groups, dim=1) if groups else nothing.new_empty(len(rows), 0),
        "betas": betas,
    }
    return Partial(
        top_logits=best,
        top_ids=(ids + view.start).to(torch.int32),
        counts=torch.cat([counts, n_finite.unsqueeze(1)], dim=1),
        gates=gates,
        **{name: value.float() for name, value in columns.items()},
    )


def empty_partial(count: int, logits: Tensor, view: ShardView, *, lse_beta: bool) -> Partial:
    """What a shard of padding sends, so that its bytes have the same shape; nobody reads it."""

    def zeros(width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(count, width, dtype=dtype, device=logits.device)

    return Partial(
        top_logits=zeros(0, logits.dtype),
        top_ids=zeros(0, torch.int32),
        tail=zeros(1),
        shifted=zeros(1),
        total=zeros(1),
        counts=zeros(4, torch.int32),
        groups=zeros(len(view.spec.groups)),
        betas=zeros(len(BETAS) if lse_beta else 0),
        gates=zeros(len(gate_temperatures(view.spec))),
    )


def at(logits: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    """logits[row, ids[row]], [rows, n], of logits [N, T, width] and int64 ids [rows, n] within them."""
    length = logits.shape[1]
    return logits[(rows // length).unsqueeze(1), (rows % length).unsqueeze(1), ids]


def _passes(
    logits: Tensor, rows: Tensor, gold: Tensor, gold_logit: Tensor, m: Tensor, spec: RecordSpec
) -> tuple[Tensor, Tensor]:
    """(`counts` but for the finite ones, `gates`); `gold` is a column of the shard, or outside it."""
    length, width = logits.shape[1:]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    temperatures = gate_temperatures(spec)
    columns = torch.arange(width, device=logits.device)
    counts: list[Tensor] = []
    gates: list[Tensor] = []
    step = max(1, CHUNK_BYTES // (3 * width * dtype.itemsize))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        index = rows[part]
        x = logits[index // length, index % length].to(dtype)
        buffer = torch.empty_like(x)  # floats of 0 and 1: their sums are vectorised, and exact up to 2^24
        above = torch.gt(x, gold_logit[part], out=buffer).sum(dim=1)
        equal = torch.eq(x, gold_logit[part], out=buffer)
        n_equal = equal.sum(dim=1)
        before = equal.mul_(columns < gold[part].unsqueeze(1)).sum(dim=1)
        counts.append(torch.stack([above, n_equal, before], dim=1))
        x = x.sub_(m[part].to(dtype)) if temperatures else x
        gates += [log_sum(x, temperature).unsqueeze(1) for temperature in temperatures]
    n = len(temperatures)
    stacked = [torch.cat(gates[i::n]) for i in range(n)]
    return torch.cat(counts).to(torch.int32), torch.cat(stacked, dim=1).float() if n else m.new_empty(
        len(rows), 0, dtype=torch.float32
    )
