"""Every measure of calibration in plain words, in the order of what to look at, for the command line."""

from __future__ import annotations

ZERO, HIGH, LOW, NONE = "0", "high", "low", ""

PLAIN: dict[str, tuple[str, str]] = {
    "ece": (ZERO, "how far sure and right are apart, averaged over bins of confidence"),
    "ece_noise": (NONE, "the ece that chance alone would give a calibrated model here"),
    "overconfidence": (ZERO, "confidence − accuracy; above 0 over-, below 0 under-confident"),
    "smooth_ece": (ZERO, "as ece, smoothed instead of put into bins"),
    "kuiper": (ZERO, "largest error added up over any range of confidence; no bins"),
    "kuiper_p": (NONE, "how often a calibrated model shows so large a kuiper; below 0.05 is hardly chance"),
    "l2_debiased": (ZERO, "root mean square gap of bins, less what chance makes of it"),
    "mce": (ZERO, "gap of the worst bin, which may hold few tokens"),
    "ece_equal_mass": (ZERO, "as ece, in bins of equally many tokens"),
    "ece_sweep": (ZERO, "the same in as many bins as keep accuracy from falling"),
    "l2": (ZERO, "root mean square gap of bins"),
    "accuracy": (HIGH, "how often the first choice is right"),
    "confidence": (NONE, "mean probability of the first choice; best where it equals accuracy"),
    "nll": (LOW, "mean −ln p(right token), nats"),
    "entropy": (NONE, "mean entropy of the predictions, nats"),
    "entropy_gap": (ZERO, "nll − entropy, nats; above 0 over-confident"),
    "brier": (LOW, "mean squared distance of confidence from right (1) or wrong (0)"),
    "log_score": (LOW, "mean −ln of the probability that the first choice's fate was given, nats"),
    "brier_miscalibration": (ZERO, "of brier, what the best monotone recalibration would take off"),
    "brier_discrimination": (HIGH, "of brier, what telling sure from unsure tokens takes off"),
    "brier_uncertainty": (NONE, "brier of always saying the accuracy"),
    "log_miscalibration": (ZERO, "of log_score, what the best monotone recalibration would take off"),
    "log_discrimination": (HIGH, "of log_score, what telling sure from unsure tokens takes off"),
    "log_uncertainty": (NONE, "log_score of always saying the accuracy"),
}
"""Measure to what is best (0, high or low; nothing where it says how others are to be read) and what it is."""

HINT = (
    "Look at ece next to ece_noise first, at overconfidence for which way, and at smooth_ece and kuiper, which need no "
    "bins. best: 0 for every error; high or low where no value is perfect."
)
