"""The fused reduction: the reference's columns from one pass over the logits, by the Triton kernels.

Beside the columns it takes 8 bytes a tile of 256 logits and row, for at most `ROWS_AT_ONCE` rows at a time. Nothing
here waits for the device, and no logits are copied: a view as of `logits[:, :-1]` is read where it is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitbox.dumps.best import best_columns, cut_columns
from logitbox.dumps.ordered import gate, ordered_columns
from logitbox.dumps.reduce import kernel, tournament
from logitbox.dumps.reduce.groups import GroupIndex, Targets, plain_arithmetic
from logitbox.dumps.spec import Group
from logitbox.dumps.topk import TILE

ROWS_AT_ONCE = 4096
"""Rows a launch: nearly all that an H200 holds at a time (32 programs on each of 132 processors)."""

MOST_REGISTERS = {False: 128, True: 168}
"""A thread's in the pass without and with `lse_beta`, where a program is one warp: 16 or 12 of them share a processor then.
Uncapped the compiler takes 212 and more, to save 1 to 3 % of the instructions."""

ORDERED_AT_ONCE = 1024
"""Rows a step of the ordered groups' scores, which torch computes in float64."""

_SUM, _TILTED, _GOLD, _LEFT, _RIGHT, _BETA, _GROUP = 0, 1, 2, 3, 4, 5, 10  # as in the kernel


@dataclass(frozen=True)
class Launch:
    """How the kernels are launched: columns a block (256 times a power of two), warps a program."""

    block: int = 1024
    warps: int = 1
    best_warps: int = 1

    @classmethod
    def of(cls, vocab_size: int) -> Launch:
        """By the vocabulary's size alone: nothing is tried out on the device."""
        if vocab_size <= 2048:
            return cls(block=256)
        return cls() if vocab_size <= 1 << 18 else cls(best_warps=2)


@dataclass(frozen=True)
class Part:
    """Some of the rows, with their labels, as the kernels take them.

    Args:
        logits: [N, V] or [B, T, V], strided as it may be.
        rows: int64 [count], or None for first, first + 1, …
        first: see `rows`.
        count: number of rows.
        targets: their labels.
    """

    logits: Tensor
    rows: Tensor | None
    first: int
    count: int
    targets: Targets

    @property
    def shape(self) -> tuple[int, ...]:
        """(first, width, stride_b, stride_t, stride_v, V): row r lies at (r // width, r % width)."""
        x = self.logits
        if x.ndim == 3:
            return self.first, x.shape[1], *x.stride(), x.shape[2]
        return self.first, x.shape[0], 0, *x.stride(), x.shape[1]

    @property
    def index(self) -> Tensor:
        """The rows' numbers, or something to point at where there are none."""
        return self.targets.gold if self.rows is None else self.rows

    @property
    def options(self) -> dict[str, Any]:
        """What every kernel is compiled for."""
        nvidia = self.logits.is_cuda and torch.version.hip is None
        return {  # the last is a word to the compiler, which else warns that its default will change
            "HAS_ROWS": self.rows is not None,
            "CONTIGUOUS": self.logits.stride(-1) == 1,
            "FTZ": nvidia,
            "enable_fp_fusion": True,
        }

    def empty(self, *width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A buffer [count, *width] on the logits' device."""
        return torch.empty(self.count, *width, dtype=dtype, device=self.logits.device)

    def steps(self, size: int) -> list[Part]:
        """These rows, so many at a time."""
        return [self._slice(slice(i, min(i + size, self.count))) for i in range(0, self.count, size)]

    def _slice(self, part: slice) -> Part:
        given = (self.targets.gold, self.targets.left, self.targets.right)
        gold, left, right = (None if label is None else label[part].contiguous() for label in given)
        rows = None if self.rows is None else self.rows[part].contiguous()
        targets = Targets(self.targets.gold if gold is None else gold, left, right)
        return Part(self.logits, rows, self.first + part.start, part.stop - part.start, targets)

    def columns(self, group: Group, groups: GroupIndex) -> Tensor:
        """Logits of a group's ids, float32 [count, ids] in group order; nothing else is read."""
        x, rows = self.logits, self.rows
        if rows is None:
            rows = torch.arange(self.first, self.first + self.count, device=x.device)
        where = (rows // x.shape[1], rows % x.shape[1]) if x.ndim == 3 else (rows,)
        if isinstance(group.ids, range):
            return x[..., group.ids.start : group.ids.stop][where].float()
        return x[(*(index.unsqueeze(1) for index in where), groups.ids(group, x.device))].float()


def reduce_logits(
    logits: Tensor,
    rows: Tensor | None,
    targets: Targets,
    groups: GroupIndex,
    *,
    lse_beta: bool,
    launch: Launch | None = None,
) -> dict[str, Tensor]:
    """`reference.reduce_logits` by the kernels, for float32, float16 and bfloat16 logits and at least one row."""
    x = logits.detach()
    count = x.shape[:-1].numel() if rows is None else rows.shape[0]
    chosen = launch or Launch.of(x.shape[-1])
    with plain_arithmetic(x.device), _on(x.device):
        every = Part(x, rows, 0, count, targets)
        parts = [_reduce(part, groups, chosen, lse_beta=lse_beta) for part in every.steps(ROWS_AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _reduce(part: Part, groups: GroupIndex, launch: Launch, *, lse_beta: bool) -> dict[str, Tensor]:
    spec = groups.spec
    counts, numbers, tiles = _scan(part, groups, launch, lse_beta=lse_beta)
    top_logits, top_ids, tail = _best(part, spec.k, tiles, launch)
    m = top_logits[:, 0]
    rest = tail + (top_logits[:, 1:] - m.unsqueeze(1)).exp().sum(dim=1)
    ln_s, s = rest.log1p(), 1.0 + rest
    tilted = torch.where(m.isfinite(), numbers[:, _TILTED], torch.nan)
    columns = _count_columns(counts) | {
        "mean_logit": numbers[:, _SUM] / counts[:, 3],
        "nll": (m - numbers[:, _GOLD]) + ln_s,
        "top_nll": ln_s,
        "lse": m + ln_s,
        "entropy": ln_s - tilted / s,
        "top_ids": top_ids,
        "top_gap": (m.unsqueeze(1) - top_logits).to(torch.float16),
        "tail_mass": tail / s,
    }
    probes = {"nll_unshifted": (part.targets.left, _LEFT), "nll_next": (part.targets.right, _RIGHT)}
    for name, (label, at) in probes.items():
        if label is not None:
            columns[name] = (m - numbers[:, at]) + ln_s
    columns |= _group_columns(numbers[:, _GROUP:], m, ln_s, groups)
    columns |= _ordered_columns(part, m, columns, groups, launch)
    log_p = top_logits - m.unsqueeze(1) - ln_s.unsqueeze(1)
    if wanted := spec.best_columns:
        columns |= best_columns(log_p, tail / s, wanted)
    if spec.min_prob is not None:
        columns |= cut_columns(log_p, spec.min_prob)
    if lse_beta:
        at_betas = numbers[:, _BETA:_GROUP].log() + m.unsqueeze(1) * groups.betas(m)
        columns["lse_beta"] = torch.where(m.isfinite().unsqueeze(1), at_betas, torch.nan)
    return columns


def _run(function: Any, part: Part, warps: int, *given: object, **constants: object) -> None:
    """Launch a kernel, one program a row."""
    function[(part.count,)](*given, *part.shape, **part.options, num_warps=warps, **constants)


def _scan(
    part: Part, groups: GroupIndex, launch: Launch, *, lse_beta: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """(counts [rows, 4], numbers [rows, …], (tile maxima, tile sums, their base by block)): see `kernel.scan_rows`."""
    width, count = part.logits.shape[-1], len(groups.spec.groups)
    tables = groups.tables(part.logits.device, launch.block)
    n_tiles, n_numbers = -(-width // TILE), _GROUP + 2 * count
    tiles = part.empty(n_tiles), part.empty(n_tiles), part.empty(-(-width // launch.block))
    counts, numbers = part.empty(4, dtype=torch.int32), part.empty(n_numbers)
    given = part.targets
    both = given.left is not None and given.right is not None
    capped = {"maxnreg": MOST_REGISTERS[lse_beta]} if part.options["FTZ"] and launch.warps == 1 else {}
    _run(
        kernel.scan_rows, part, launch.warps,
        part.logits, part.index, given.gold, *((given.left, given.right) if both else (given.gold,) * 2),
        tables.spans, tables.members, tables.holds, *tiles, counts, numbers,
        PROBES=both, BETAS=lse_beta, GROUPS=count, LISTED=tables.listed, NUMBERS=n_numbers, BLOCK=launch.block,
        **capped,
    )  # fmt: skip
    for g in tables.gathered:
        ids = groups.ids(groups.spec.groups[g], part.logits.device)
        _run(
            tournament.gathered_sums, part, 1, part.logits, part.index, ids, numbers, len(ids), g,
            GROUPS=count, NUMBERS=n_numbers, SIZE=min(_power_of_two(len(ids)), 256),
        )  # fmt: skip
    return counts, numbers, tiles


def _best(part: Part, k: int, tiles: tuple[Tensor, ...], launch: Launch) -> tuple[Tensor, Tensor, Tensor]:
    """(top logits [rows, k], their ids, Σ e^{x − m} over all others [rows])."""
    top_logits, top_ids, tail = part.empty(k), part.empty(k, dtype=torch.int32), part.empty()
    _run(
        tournament.best_of_rows, part, launch.best_warps,
        part.logits, part.index, *tiles, top_logits, top_ids, tail,
        K=k, TILES=_power_of_two(tiles[0].shape[1]), BLOCK=launch.block,
    )  # fmt: skip
    return top_logits, top_ids, tail


def _power_of_two(n: int) -> int:
    """The least one that is not below n."""
    return 1 << (n - 1).bit_length()


def _count_columns(counts: Tensor) -> dict[str, Tensor]:
    """The counts without gold itself, which equals its own logit unless that is NaN."""
    n_gt, same, before, finite = counts.unbind(dim=1)
    return {"n_gt": n_gt, "n_eq": (same - 1).clamp(min=0), "n_eq_before": before, "n_finite": finite}


def _group_columns(numbers: Tensor, m: Tensor, ln_s: Tensor, groups: GroupIndex) -> dict[str, Tensor]:
    """Natural log of each group's mass from its maximum and its sum below that, [rows, 2 · groups]."""
    count = len(groups.spec.groups)
    highest, sums = numbers[:, :count], numbers[:, count:]
    logmass = ((highest - m.unsqueeze(1)) + sums.log() - ln_s.unsqueeze(1)).clamp(max=0.0)
    return {f"logmass_{group.name}": logmass[:, g] for g, group in enumerate(groups.spec.groups)}


def _ordered_columns(
    part: Part, m: Tensor, columns: dict[str, Tensor], groups: GroupIndex, launch: Launch
) -> dict[str, Tensor]:
    """Scores of the ordered groups, by torch on the groups' columns alone."""
    found: dict[str, Tensor] = {}
    for name, options in groups.spec.ordered.items():
        group, at = groups.spec.group(name), options.gate_at
        gates = -columns[f"logmass_{name}"]
        tempered = None if at == 1.0 else _tempered(part, m, at, launch).log()
        steps: list[dict[str, Tensor]] = []
        for step in part.steps(ORDERED_AT_ONCE):
            inside = step.columns(group, groups)
            rows = slice(step.first - part.first, step.first - part.first + step.count)
            bins, _ = groups.bins(step.targets.gold, group)
            scores = {"gate": gates[rows]}
            if tempered is not None:
                scores["gate"] = gate(tempered[rows], inside - m[rows].unsqueeze(1), options)
            steps.append(scores | ordered_columns(inside, bins, options))
        for score in steps[0]:
            found[f"{name}_{score}"] = torch.cat([step[score] for step in steps])
    return found


def _tempered(part: Part, m: Tensor, temperature: float, launch: Launch) -> Tensor:
    """Σ e^{(x − m) / T} of each row, [rows]: another pass, where a gate is taken at T ≠ 1."""
    sums = part.empty()
    _run(
        tournament.tempered_sums, part, launch.warps,
        part.logits, part.index, m.contiguous(), sums, 1.0 / temperature, BLOCK=launch.block,
    )  # fmt: skip
    return sums
