"""What a check comes to, what it is judged against, and how moments and counts are worded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from logitbox.analysis.doctor.expressions import Bound
from logitbox.analysis.doctor.profile import Severity, Status
from logitbox.analysis.doctor.quantities import Quantity, values_of
from logitbox.analysis.doctor.series import Point, Series

Sure = Literal["sure", "likely", "no interval known", ""]


@dataclass(frozen=True)
class Evidence:
    """One number that a finding rests on.

    Attributes:
        point: the value, where and when, and its interval.
        bound: what it is held against, in words.
        off_by: how far it lies beyond the nearest bound it should keep; 0 inside, None where that has no meaning.
        holds: whether the sign it stands for is there; None where it cannot be told.
        told: in words.
    """

    point: Point | None
    bound: str
    off_by: float | None
    holds: bool | None
    told: str


@dataclass(frozen=True)
class Outcome:
    """What a check came to.

    Attributes:
        status: "not enough data" where it could not be told.
        sure: "sure" where the whole interval says the same or a count does, "likely" where only the value does.
        told: in words.
        evidence: what it rests on.
    """

    status: Status
    sure: Sure
    told: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Context:
    """What checks are judged against.

    Attributes:
        series: the run.
        known: values of C and of constants; None where unknown.
        severity: status of a complaint.
        only: members of families to look at, if any are named.
        leave_out: members to pass over.
    """

    series: Series
    known: Mapping[str, float | None]
    severity: Severity = "warn"
    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    def points(self, value: Quantity) -> tuple[list[Point], str]:
        """A quantity over the run, and why it is not known."""
        return values_of(value, self.series, self.only, self.leave_out)

    def bound(self, wanted: Bound | None) -> float | None:
        """A bound as a number."""
        return None if wanted is None else wanted.value(self.known)


def unknown(reason: str) -> Outcome:
    """Nothing can be told."""
    return Outcome("not enough data", "", reason)


def count(n: int, unit: str) -> str:
    """A number of things."""
    return f"{n} {unit}" + ("" if n == 1 else "s")


def moment(point: Point) -> str:
    """When a value was measured, in words."""
    step = "" if point.step is None else f"step {point.step:,}"
    epoch = "" if point.epoch is None else f"epoch {point.epoch:.4g}"
    return f"{epoch} ({step})" if step and epoch else epoch or step


def spoken(key: str) -> str:
    """A key in a sentence: nll is the loss."""
    return key.removesuffix("/nll") + "/loss" if key.endswith("/nll") else key


NO_EPOCHS = "epochs are not known; give steps_per_epoch="
