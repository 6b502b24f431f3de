"""`Calibration`: all that is known of how far a model's confidence is right, over one set of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from logitbox.analysis.calibration.bin_table import reliability
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.intervals import Interval
from logitbox.analysis.calibration.measures import BY_NAME, MEASURES
from logitbox.analysis.calibration.temperatures import Heat
from logitbox.analysis.calibration.vocabulary import Bounded
from logitbox.analysis.calibration.words import verdict_of
from logitbox.analysis.results import Shown
from logitbox.errors import InputError


@dataclass(frozen=True, eq=False)
class Calibration(Shown):
    """How far confidence is right, over one set of tokens; every field is computed when first asked for.

    A field is None where the input does not allow it (`nll` from arrays of confidences) and without tokens.
    `measures.MEASURES` holds all definitions.

    Attributes:
        evidence: what everything is computed from.
        of: what the tokens are, in words; "" if there is nothing to tell.
        make_heat: fits the temperature; None gives no temperature.
        make_classes: gives (Full-ECE, class-wise ECE) where whole distributions are known.
    """

    evidence: Evidence = field(repr=False)
    of: str = ""
    make_heat: Callable[[], Heat] | None = field(default=None, repr=False)
    make_classes: Callable[[], tuple[Bounded | None, Bounded | None]] | None = field(default=None, repr=False)

    @property
    def n(self) -> int:
        """Tokens."""
        return self.evidence.count

    @property
    def left_out(self) -> int:
        """Tokens with NaN or infinite values, in nothing else."""
        return self.evidence.left_out

    @property
    def bins(self) -> int:
        """Equal-width and equal-mass bins asked for."""
        return self.evidence.bins

    @cached_property
    def table(self) -> pl.DataFrame:
        """The reliability table, of equal-width bins that have tokens.

        Columns `low`, `high`, `n`, `accuracy`, `confidence`, `gap` (accuracy − confidence) and the 95 % interval of
        accuracy, `accuracy_low` and `accuracy_high`.
        """
        return reliability(self.evidence)

    # The measures, one property each, so that editors know them. All come from `measures.MEASURES`.

    @property
    def accuracy(self) -> float | None:
        """Share of right tokens."""
        return self.value("accuracy")

    @property
    def confidence(self) -> float | None:
        """Mean probability of the arg-max."""
        return self.value("confidence")

    @property
    def overconfidence(self) -> float | None:
        """Confidence − accuracy: above 0 is over-confident."""
        return self.value("overconfidence")

    @property
    def ece(self) -> float | None:
        """Expected calibration error, equal-width bins."""
        return self.value("ece")

    @property
    def ece_noise(self) -> float | None:
        """ECE that a perfectly calibrated model would show on so many tokens: what sampling alone makes of 0."""
        return self.value("ece_noise")

    @property
    def ece_equal_mass(self) -> float | None:
        """ECE of equal-mass bins; ties are never split."""
        return self.value("ece_equal_mass")

    @property
    def ece_sweep(self) -> float | None:
        """ECE of as many equal-mass bins as keep accuracy from falling."""
        return self.value("ece_sweep")

    @property
    def mce(self) -> float | None:
        """Largest gap of a bin."""
        return self.value("mce")

    @property
    def l2(self) -> float | None:
        """Root of the mean squared gap of bins."""
        return self.value("l2")

    @property
    def l2_debiased(self) -> float | None:
        """The same with the sampling variance of each bin's accuracy taken off; 0 where that leaves less than nothing."""
        return self.value("l2_debiased")

    @property
    def smooth_ece(self) -> float | None:
        """Kernel-smoothed calibration error at the bandwidth that equals it."""
        return self.value("smooth_ece")

    @property
    def kuiper(self) -> float | None:
        """Range of the cumulative residual."""
        return self.value("kuiper")

    @property
    def kuiper_p(self) -> float | None:
        """Probability of so large a range if the model were calibrated."""
        return self.value("kuiper_p")

    @property
    def brier(self) -> float | None:
        """Mean (confidence − correct)²."""
        return self.value("brier")

    @property
    def log_score(self) -> float | None:
        """Mean −ln of the probability given to what happened, arg-max right or not; nats."""
        return self.value("log_score")

    @property
    def brier_miscalibration(self) -> float | None:
        """CORP: Brier score that the best monotone recalibration takes off."""
        return self.value("brier_miscalibration")

    @property
    def brier_discrimination(self) -> float | None:
        """CORP: Brier score that recalibrated confidence is better than the base rate."""
        return self.value("brier_discrimination")

    @property
    def brier_uncertainty(self) -> float | None:
        """CORP: Brier score of the base rate."""
        return self.value("brier_uncertainty")

    @property
    def log_miscalibration(self) -> float | None:
        """CORP: log score that the best monotone recalibration takes off, nats."""
        return self.value("log_miscalibration")

    @property
    def log_discrimination(self) -> float | None:
        """CORP: log score that recalibrated confidence is better than the base rate, nats."""
        return self.value("log_discrimination")

    @property
    def log_uncertainty(self) -> float | None:
        """CORP: log score of the base rate, nats."""
        return self.value("log_uncertainty")

    @property
    def nll(self) -> float | None:
        """Mean −ln p(gold), nats."""
        return self.value("nll")

    @property
    def entropy(self) -> float | None:
        """Mean entropy of the predicted distribution, nats."""
        return self.value("entropy")

    @property
    def entropy_gap(self) -> float | None:
        """Mean nll − mean entropy, nats: above 0 the model is over-confident, a higher temperature would help."""
        return self.value("entropy_gap")

    @cached_property
    def heat(self) -> Heat | None:
        """The fitted temperature with all that is known of it."""
        return None if self.make_heat is None or not self.n else self.make_heat()

    @property
    def temperature(self) -> float | None:
        """Temperature of least mean nll; None where only bounds are known (`heat` has them)."""
        return None if self.heat is None else self.heat.temperature

    @cached_property
    def of_classes(self) -> tuple[Bounded | None, Bounded | None]:
        """(Full-ECE, class-wise ECE) with their bounds."""
        return (None, None) if self.make_classes is None or not self.n else self.make_classes()

    @property
    def full_ece(self) -> float | None:
        """ECE over all (token, vocabulary entry) pairs, per token (Liu et al. 2024, arXiv 2406.11345)."""
        return None if self.of_classes[0] is None else self.of_classes[0].value

    @property
    def classwise_ece(self) -> float | None:
        """Mean over classes of the ECE of their probability; for classifiers."""
        return None if self.of_classes[1] is None else self.of_classes[1].value

    def value(self, name: str) -> float | None:
        """A measure by name. Raises InputError for one that there is not."""
        return self._values(name)[0]

    def error(self, name: str) -> float:
        """What a measure may be off by at most because its input was rounded or put into bins; 0 where it is exact.

        A histogram's bins that lie across edges, for measures over bins; for `temperature` of a dump the further end of
        what the best temperature within [0.5, 4] lies between (`heat.low`, `heat.high`), since between the recorded
        temperatures mean nll is interpolated; for `full_ece` and `classwise_ece` what recorded distances were rounded by.
        """
        return self._values(name)[1]

    def interval(self, name: str) -> Interval | None:
        """95 % interval (low, high) of a measure, over samples where they are known; None where none is known."""
        if name in _OTHERS or not self.n:
            _check(name)
            return None
        return BY_NAME[_check(name)].interval(self.evidence)

    def _values(self, name: str) -> tuple[float | None, float]:
        if _check(name) in _OTHERS:
            return _OTHERS[name](self)
        if name not in self._known:
            measure = BY_NAME[name]
            given = (measure.value(self.evidence), measure.error(self.evidence)) if self.n else (None, 0.0)
            self._known[name] = given
        return self._known[name]

    @cached_property
    def _known(self) -> dict[str, tuple[float | None, float]]:
        return {}

    @cached_property
    def frame(self) -> pl.DataFrame:  # pyright: ignore[reportIncompatibleVariableOverride] (made when asked for)
        """One row per measure: `measure`, `value`, `low`, `high`, `error`, `about`."""
        rows: list[tuple[str, float | None, float | None, float | None, float, str]] = []
        for measure in MEASURES:
            low, high = self.interval(measure.name) or (None, None)
            value, error = self._values(measure.name)
            rows.append((measure.name, value, low, high, error, measure.about))
        return pl.DataFrame(rows, _SCHEMA, orient="row")

    @property
    def verdict(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] (made when asked for)
        """One line in plain words."""
        return verdict_of(self)


_SCHEMA = {
    "measure": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "error": pl.Float64,
    "about": pl.String,
}


def _of_bounded(found: Bounded | None) -> tuple[float | None, float]:
    if found is None:
        return None, 0.0
    return found.value, max(found.high - found.value, found.value - found.low)


def _of_heat(found: Heat | None) -> tuple[float | None, float]:
    if found is None or found.temperature is None:
        return None, 0.0
    return found.temperature, max(found.temperature - found.low, found.high - found.temperature)


_OTHERS: dict[str, Callable[[Calibration], tuple[float | None, float]]] = {
    "n": lambda found: (float(found.n), 0.0),
    "temperature": lambda found: _of_heat(found.heat),
    "full_ece": lambda found: _of_bounded(found.of_classes[0]),
    "classwise_ece": lambda found: _of_bounded(found.of_classes[1]),
}
"""Fields that need more than `Evidence`, and their (value, error)."""


def _check(name: str) -> str:
    if name not in BY_NAME and name not in _OTHERS:
        raise InputError(f"no measure is called {name!r}; there are {', '.join([*_OTHERS, *BY_NAME])}")
    return name
