"""Running sums on the device, for the trainer's own log. Nothing waits until the numbers are read.

The sums are of `logitbox.dumps.definitions`, the same that the analyses evaluate from a dump: a matrix of populations
by quantities per step, made by one product, so that a metric more costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from logitbox.dumps.definitions.agent import gaps_needed
from logitbox.dumps.definitions.entries import phase_of, prefix_of
from logitbox.dumps.definitions.registry import check_keys, check_phases
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.definitions.tokens import duplicate, finite
from logitbox.dumps.definitions.values import Sheet, StepReduction, Sums
from logitbox.dumps.flags import Flag
from logitbox.dumps.passes import Where
from logitbox.dumps.reduce import GroupIndex
from logitbox.errors import InputError

MOST_STEPS = 1024
"""Steps told apart between two reads; from then on they count as one."""

Moment = tuple[int, str, int]
"""(step, dataset, pass): what one logging step is."""

_BEFORE: Moment = (-1, "", -1)
"""Where sums are kept that are no longer told apart."""

Steps = dict[Moment, Sums]


@dataclass
class LiveMetrics:
    """Sums since the last read, per phase and step."""

    groups: GroupIndex
    reasons: dict[str, str] = field(default_factory=dict[str, str])
    """Why the null values of the last read are null."""
    _sums: dict[str, dict[Moment, Tensor]] = field(default_factory=dict[str, dict[Moment, Tensor]])
    _unreported: dict[str, Steps] = field(default_factory=dict[str, Steps])
    _phases: set[str] = field(default_factory=set[str])
    _checked: set[str] = field(default_factory=lambda: {"train"})

    def __post_init__(self) -> None:
        """Raise InputError where two metrics would have one key."""
        check_keys(self.groups.spec)

    @cached_property
    def sheet(self) -> Sheet:
        """What is summed."""
        return Sheet(self.groups.spec)

    def check_phase(self, phase: str) -> None:
        """Raise InputError where a key of this phase would mean something in another one; train is always one."""
        if phase not in self._checked:
            check_phases(self.groups.spec, phase, self._checked)
            self._checked.add(phase)

    def add(self, where: Where, columns: Mapping[str, Tensor]) -> None:
        """Add the supervised rows of a micro-batch; stays on the device."""
        self._phases.add(where.phase)
        steps = self._sums.setdefault(where.phase, {})
        moment = (where.step, where.dataset, where.pass_)
        sums = summed(columns, self.sheet, self.groups)
        steps[moment] = steps[moment] + sums if moment in steps else sums
        if len(steps) > MOST_STEPS:
            total = torch.stack(list(steps.values())).sum(dim=0)
            steps.clear()
            steps[_BEFORE] = total

    def read(
        self,
        prefix: str | None = None,
        *,
        phase: str | None = None,
        reduction: StepReduction = "token_mean",
        all_reduce: bool = False,
    ) -> dict[str, float | None]:
        """`Recorder.metrics`."""
        if reduction not in get_args(StepReduction):
            raise InputError(f"reduction is {reduction!r}; allowed are {', '.join(get_args(StepReduction))}")
        ranks = all_reduce and torch.distributed.is_available() and torch.distributed.is_initialized()
        pending = (
            self._pending_anywhere() if ranks else {name: list(steps) for name, steps in self._sums.items()}
        )
        chosen = self._chosen(prefix, phase, sorted(pending))
        moments = {name: pending.get(name, []) for name in chosen}
        if reduction == "step_mean":
            self._check_steps(moments)
        mine = {name: self._sums.pop(name, {}) for name in chosen}
        found = _on_host(mine, moments, self.sheet, all_reduce=ranks)
        values: dict[str, float | None] = {}
        self.reasons = {}
        for name, steps in found.items():
            values |= self._values(name, steps, prefix, reduction)
        return values

    def _pending_anywhere(self) -> dict[str, list[Moment]]:
        """Phases and steps that any rank has to read, the same on all ranks."""
        mine = {phase: list(steps) for phase, steps in self._sums.items()}
        seen: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(seen, (mine, sorted(self._phases)))
        self._phases.update(*(phases for _, phases in seen))
        names = {name for pending, _ in seen for name in pending}
        return {
            name: sorted({step for pending, _ in seen for step in pending.get(name, ())})
            for name in sorted(names)
        }

    def _chosen(self, prefix: str | None, phase: str | None, pending: list[str]) -> list[str]:
        """The phases that a read is about."""
        if phase is not None:
            return [phase]
        if prefix is None:
            return pending
        named = phase_of(prefix, self._phases)
        if named is not None:
            return [named]
        if len(pending) > 1:
            raise InputError(
                f"prefix {prefix!r} could be of any of the phases {', '.join(pending)}; say which with phase="
            )
        return pending

    def _check_steps(self, moments: Mapping[str, list[Moment]]) -> None:
        """Raise InputError, before anything is taken, where the steps are no longer told apart."""
        for name, steps in moments.items():
            if _BEFORE in steps:
                raise InputError(
                    f"more than {MOST_STEPS} steps of phase {name!r} since the last metrics(); call it more often, "
                    "or now once with reduction='token_mean', to have step means"
                )

    def _values(
        self, phase: str, steps: Steps, prefix: str | None, reduction: StepReduction
    ) -> dict[str, float | None]:
        over, detailed = list(steps.values()), self._due(phase, steps)
        if reduction == "token_mean":  # all steps as one
            over, detailed = [_total(over)], None if detailed is None else [_total(detailed)]
        values: dict[str, float | None] = {}
        for metric in self.sheet.metrics:
            sums = detailed if metric.family == "001" else over
            if sums is None:
                continue
            before = prefix_of(metric.family, phase, self._phases) if prefix is None else prefix
            values[before + metric.key] = value = self.sheet.step_mean(metric, sums)
            if value is None:
                self.reasons[before + metric.key] = self.sheet.reason(metric, sums)
        return values

    def _due(self, phase: str, steps: Steps) -> list[Sums] | None:
        """What detailed metrics are reported over; None where no step since the last report asks for one."""
        over = _together(self._unreported.pop(phase, {}), steps)
        every = self.groups.spec.detailed.log_detailed_metrics_every_n_steps
        if phase != "train" or _BEFORE in over or any(step % every == 0 for step, _, _ in over):
            return list(over.values())
        self._unreported[phase] = over
        return None


def summed(columns: Mapping[str, Tensor], sheet: Sheet, groups: GroupIndex) -> Tensor:
    """Sums [populations, counts and quantities] over the supervised rows, float64 (float32 on mps)."""
    rows, dtype = _rows(columns, sheet, groups)
    supervised = rows.flagged(Flag.SUPERVISED)
    repeated = duplicate(rows)
    good = supervised & finite(rows) & ~repeated
    counted = [good, supervised & ~repeated & ~finite(rows), supervised & repeated]
    values = [torch.where(good, quantity.value(rows), 0) for quantity in sheet.quantities]
    masks = {population.name: population.mask(rows) for population in sheet.populations}
    values += [good & masks[name] for name in sheet.types]
    x = torch.stack([value.to(dtype) for value in (*counted, *values)])
    member = torch.stack([mask.to(dtype) for mask in masks.values()])
    infinite = x.isinf()
    # 0 · ∞ would spoil the sums of populations that the row is not in.
    sums = member @ torch.where(infinite, 0.0, x).T
    return torch.where(member @ infinite.to(dtype).T > 0, torch.inf, sums)


def _rows(columns: Mapping[str, Tensor], sheet: Sheet, groups: GroupIndex) -> tuple[Rows, torch.dtype]:
    dtype = torch.float32 if columns["gold"].device.type == "mps" else torch.float64
    given = dict(columns)
    given["top_1"] = given["top_ids"][:, 0].long()
    if "keep" in given:
        given["flags"] = torch.where(given["keep"], given["flags"], 0)
    given["top_gap"] = given["top_gap"][:, : gaps_needed(sheet.spec)]
    wide = {name: value.to(dtype) for name, value in given.items() if value.is_floating_point()}
    return Rows(given | wide, sheet.spec, groups.bins), dtype


def _together(first: Steps, second: Steps) -> Steps:
    both = dict(first)
    for step, sums in second.items():
        both[step] = both[step] + sums if step in both else sums
    return both


def _total(steps: list[Sums]) -> Sums:
    return np.sum(steps, axis=0)


def _on_host(
    mine: Mapping[str, Mapping[Moment, Tensor]],
    moments: Mapping[str, list[Moment]],
    sheet: Sheet,
    *,
    all_reduce: bool,
) -> dict[str, Steps]:
    """Sums on the host, over all ranks if asked for, of steps with tokens; the one place that waits for the device."""
    keys = [(phase, step) for phase, steps in moments.items() for step in steps]
    if not keys:
        return {}
    nothing = torch.zeros(sheet.shape, dtype=torch.float64, device=_device(mine, reduce=all_reduce))
    total = torch.stack([_at(mine, phase, step, nothing) for phase, step in keys])
    if all_reduce:
        torch.distributed.all_reduce(total)
    found: dict[str, Steps] = {}
    for (phase, step), sums in zip(keys, total.cpu().numpy(), strict=True):
        # What is recorded without labels (scope="all", probes) is no step of a metric.
        if sheet.has_tokens(sums):
            found.setdefault(phase, {})[step] = sums
    return found


def _at(mine: Mapping[str, Mapping[Moment, Tensor]], phase: str, step: Moment, nothing: Tensor) -> Tensor:
    """One step's sums; a step that this rank has not seen counts as nothing."""
    sums = mine.get(phase, {}).get(step)
    return nothing if sums is None else sums.to(nothing.device).to(nothing.dtype)


def _device(mine: Mapping[str, Mapping[Moment, Tensor]], *, reduce: bool) -> torch.device:
    """Where the sums are stacked: where they are, so that one copy brings them all; nccl reduces on its device."""
    if reduce:
        is_nccl = torch.distributed.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if is_nccl else torch.device("cpu")
    devices = {sums.device for steps in mine.values() for sums in steps.values()}
    has_float64 = len(devices) == 1 and next(iter(devices)).type != "mps"
    return devices.pop() if has_float64 else torch.device("cpu")
