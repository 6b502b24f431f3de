"""Where a micro-batch belongs, and the counting of passes and micro-batches that makes it so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from logitbox.dumps.arrow import ArrowArray, constant
from logitbox.dumps.schema import WHERE

_REMEMBERED_STEPS = 100_000


@dataclass(frozen=True)
class Where:
    """The columns that are constant over the rows of a micro-batch."""

    phase: str
    dataset: str
    pass_: int
    step: int
    epoch: float | None
    micro: int
    rank: int

    def columns(self, count: int) -> dict[str, ArrowArray]:
        """The `WHERE` columns, each repeated `count` times."""
        values = (self.phase, self.dataset, self.pass_, self.step, self.epoch, self.micro, self.rank)
        return {
            name: constant(value, dtype, count) for (name, dtype), value in zip(WHERE, values, strict=True)
        }


@dataclass
class PassClock:
    """Counts passes and micro-batches, so that every row has an identity."""

    rank: int
    _passes: Counter[tuple[str, str, int]] = field(default_factory=Counter[tuple[str, str, int]])
    """(phase, dataset, step) to the number of passes begun there, the latest steps only."""
    _last: dict[tuple[str, str], tuple[int, int]] = field(
        default_factory=dict[tuple[str, str], tuple[int, int]]
    )
    """(phase, dataset) to (step, micro) of its latest micro-batch."""
    _renewed: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    _phase: str = ""

    def new_pass(self, phase: str, dataset: str) -> None:
        """The next micro-batch of this phase and dataset begins a pass."""
        self._renewed.add((phase, dataset))

    def place(
        self, phase: str, dataset: str, step: int, epoch: float | None = None, micro: int | None = None
    ) -> Where:
        """Count one micro-batch in. Coming back to an evaluation phase begins a pass; to training, none."""
        if phase != self._phase:
            if phase != "train":
                self._renewed |= {key for key in self._last if key[0] == phase}
            self._phase = phase
        stream = (phase, dataset)
        last_step, last_micro = self._last.get(stream, (None, -1))
        begins = step != last_step or stream in self._renewed or (micro is not None and micro < last_micro)
        self._renewed.discard(stream)
        if begins:
            self._begin(phase, dataset, step)
            last_micro = -1
        number = last_micro + 1 if micro is None else int(micro)
        epoch = None if epoch is None else float(epoch)
        self._last[stream] = (step, number)
        return Where(phase, dataset, self._passes[phase, dataset, step] - 1, step, epoch, number, self.rank)

    def _begin(self, phase: str, dataset: str, step: int) -> None:
        self._passes[phase, dataset, step] += 1
        if len(self._passes) > _REMEMBERED_STEPS:
            del self._passes[next(iter(self._passes))]
