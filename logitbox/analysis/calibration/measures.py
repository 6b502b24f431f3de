"""Every measure of calibration, as data: what it is, how it is computed, how far off it may be, and how sure it is.

Adding a measure is one entry here and one property in `result.Calibration`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from logitbox.analysis.calibration import binned, corp, cumulative, intervals, smooth, sweep
from logitbox.analysis.calibration.evidence import Evidence
from logitbox.analysis.calibration.intervals import Interval


def _exact(evidence: Evidence) -> float:
    del evidence
    return 0.0


def _no_interval(evidence: Evidence) -> Interval | None:
    del evidence
    return None


@dataclass(frozen=True)
class Measure:
    """One measure. Its functions are only called where there are tokens.

    Attributes:
        name: field of `Calibration`.
        about: formula, unit and source, in one line.
        value: None where the input does not allow it.
        error: what `value` may be off by at most, because it comes from a histogram; 0 where exact.
        interval: 95 %; None where none is known.
    """

    name: str
    about: str
    value: Callable[[Evidence], float | None]
    error: Callable[[Evidence], float] = _exact
    interval: Callable[[Evidence], Interval | None] = _no_interval


MEASURES: tuple[Measure, ...] = (
    Measure("accuracy", "share of right tokens", binned.accuracy, interval=intervals.of_accuracy),
    Measure(
        "confidence", "mean probability of the arg-max", binned.confidence, interval=intervals.of_confidence
    ),
    Measure(
        "overconfidence",
        "confidence − accuracy: above 0 is over-confident",
        binned.overconfidence,
        interval=intervals.of_overconfidence,
    ),
    Measure(
        "ece",
        "Σ_b n_b/N · |accuracy_b − confidence_b| over equal-width bins (Guo et al. 2017, arXiv 1706.04599)",
        binned.ece,
        binned.ece_error,
        intervals.of_ece,
    ),
    Measure(
        "ece_noise",
        "the ECE that a perfectly calibrated model would show on so many tokens, in the mean",
        intervals.ece_noise,
    ),
    Measure(
        "ece_equal_mass",
        "the same over bins of equally many tokens; ties are never split",
        binned.ece_equal_mass,
        binned.ece_equal_mass_error,
        intervals.of_ece_equal_mass,
    ),
    Measure(
        "ece_sweep",
        "the same over as many bins of equally many tokens as keep accuracy from falling (Roelofs et al. 2022, arXiv 2012.08668)",
        sweep.ece_sweep,
        sweep.ece_sweep_error,
    ),
    Measure(
        "mce",
        "largest |accuracy_b − confidence_b|, equal-width",
        binned.mce,
        binned.mce_error,
        intervals.of_mce,
    ),
    Measure(
        "l2",
        "√(Σ_b n_b/N · (accuracy_b − confidence_b)²), equal-width",
        binned.l2,
        binned.l2_error,
        intervals.of_l2,
    ),
    Measure(
        "l2_debiased",
        "the same less a_b(1 − a_b)/(n_b − 1) in each bin, 0 if negative (Kumar et al. 2019, arXiv 1909.10155)",
        binned.l2_debiased,
        binned.l2_debiased_error,
        intervals.of_l2_debiased,
    ),
    Measure(
        "smooth_ece",
        "∫ |smoothed residual| at the bandwidth that equals it (Błasiok & Nakkiran 2023, arXiv 2309.12236)",
        smooth.smooth_ece,
        smooth.smooth_ece_error,
        intervals.of_smooth_ece,
    ),
    Measure(
        "kuiper",
        "max − min of Σ (correct − confidence)/N by ascending confidence, 0 included (Arrieta-Ibarra et al., JMLR 2022)",
        cumulative.kuiper,
        cumulative.kuiper_error,
        intervals.of_kuiper,
    ),
    Measure("kuiper_p", "probability of so large a range if the model were calibrated", cumulative.kuiper_p),
    Measure(
        "brier", "mean (confidence − correct)², of the arg-max", binned.brier, interval=intervals.of_brier
    ),
    Measure(
        "log_score",
        "mean −ln of the probability given to what happened (the arg-max right or not), nats",
        binned.log_score,
        interval=intervals.of_log_score,
    ),
    *(
        Measure(
            f"{score}_{part}",
            f"CORP, {score} score: {about} (Dimitriadis et al. 2021, PNAS 118)",
            corp.part_of(score, part),
            corp.error_of(score, part),
        )
        for score in corp.SCORES
        for part, about in corp.PARTS.items()
    ),
    Measure("nll", "mean −ln p(gold), nats", binned.nll, interval=intervals.of_nll),
    Measure("entropy", "mean entropy of the prediction, nats", binned.entropy, interval=intervals.of_entropy),
    Measure(
        "entropy_gap",
        "mean nll − mean entropy, nats: above 0 is over-confident (Braverman et al. 2020, arXiv 1906.05664)",
        binned.entropy_gap,
        interval=intervals.of_entropy_gap,
    ),
)
"""In the order they are shown."""

BY_NAME = {measure.name: measure for measure in MEASURES}
