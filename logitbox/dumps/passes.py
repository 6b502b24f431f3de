"""Where a micro-batch belongs, and the counting of passes and micro-batches that makes it so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from logitbox.dumps.arrow import ArrowArray, constant
from logitbox.dumps.checks import as_integer
from logitbox.dumps.schema import WHERE
from logitbox.errors import InputError

_REMEMBERED_STEPS = 100_000
INT64 = (-(2**63), 2**63 - 1)
_MICRO = (0, 2**31 - 1)


def integer_within(name: str, value: object, limits: tuple[int, int] = INT64) -> int:
    """`value`, which may be 3.0 too, as an int that fits its column. Raises InputError for anything else."""
    number = as_integer(int(value) if isinstance(value, float) and value.is_integer() else value)
    if number is None:
        raise InputError(f"{name} is {value!r}; give an integer")
    if not limits[0] <= number <= limits[1]:
        raise InputError(f"{name} is {number}; allowed are {limits[0]} to {limits[1]}")
    return number


def _name(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} is {value!r}; give a string")
    return str(value)


@dataclass(frozen=True)
class Moment:
    """What the caller said about where a micro-batch belongs, checked."""

    phase: str
    dataset: str
    step: int
    epoch: float | None
    micro: int | None

    @classmethod
    def read(cls, phase: object, dataset: object, step: object, epoch: object, micro: object) -> Moment:
        """Check the arguments of `Recorder.record`. Raises InputError naming the bad one."""
        try:
            when = None if epoch is None else float(epoch)  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"epoch is {epoch!r}; give a number, or leave it out") from error
        number = None if micro is None else integer_within("micro", micro, _MICRO)
        return cls(
            _name("phase", phase), _name("dataset", dataset), integer_within("step", step), when, number
        )


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

    def place(self, moment: Moment) -> Where:
        """Count one micro-batch in. Coming back from training to an evaluation begins a pass of it."""
        phase, dataset, step, micro = moment.phase, moment.dataset, moment.step, moment.micro
        if phase == "train" and self._phase != "train":
            self._renewed |= {key for key in self._last if key[0] != "train"}
        self._phase = phase
        stream = (phase, dataset)
        last_step, last_micro = self._last.get(stream, (None, -1))
        begins = step != last_step or stream in self._renewed or (micro is not None and micro < last_micro)
        self._renewed.discard(stream)
        if begins:
            self._begin(phase, dataset, step)
            last_micro = -1
        number = last_micro + 1 if micro is None else micro
        self._last[stream] = (step, number)
        pass_ = self._passes[phase, dataset, step] - 1
        return Where(phase, dataset, pass_, step, moment.epoch, number, self.rank)

    def _begin(self, phase: str, dataset: str, step: int) -> None:
        self._passes[phase, dataset, step] += 1
        if len(self._passes) > _REMEMBERED_STEPS:
            del self._passes[next(iter(self._passes))]
