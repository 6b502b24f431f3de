"""Other libraries for calibration, each called as its documentation says, on the same arrays.

`PEERS` is what the comparison table is made of: names, what each can do (read from its source or documentation), and calls.
A library that is not installed is left out and told.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

BINS = 15
Call = Callable[[np.ndarray, np.ndarray], float]
GroupCall = Callable[[np.ndarray, np.ndarray, np.ndarray], list[float]]


@dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        package: as installed by pip.
        has: what it offers, feature to a word or two; features not named it does not have.
        ece: top-label ECE of 15 equal-width bins.
        ece_of_groups: the same per group, where the library itself reports groups.
        smooth: smooth ECE.
        replicates: (confidence, correct, replicates): makes bootstrap replicates of an ECE.
        is_other_quantity: `ece` is of something else than ours.
        of_groups_is, replicates_are: what those are, where it is not the ECE.
        most: tokens beyond which a call takes too long or too much memory to be waited for.
    """

    package: str
    has: dict[str, str]
    ece: Call | None = None
    ece_of_groups: GroupCall | None = None
    smooth: Call | None = None
    replicates: Callable[[np.ndarray, np.ndarray, int], Any] | None = None
    most: int = 100_000_000
    module: str = ""
    is_other_quantity: bool = False
    of_groups_is: str = ""
    replicates_are: str = ""

    @property
    def version(self) -> str | None:
        """The version installed; None if it is not, or cannot be imported."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(self.module or self.package)
            return version(self.package)
        except (ImportError, PackageNotFoundError):
            return None


def _netcal(confidence: np.ndarray, correct: np.ndarray) -> float:
    from netcal.metrics import ECE

    return float(ECE(BINS).measure(confidence, correct))


def _torchmetrics(confidence: np.ndarray, correct: np.ndarray) -> float:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    return float(
        binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct).long(), n_bins=BINS)
    )


def _relplot(confidence: np.ndarray, correct: np.ndarray) -> float:
    from relplot.metrics import binnedECE

    return float(binnedECE(confidence, correct, nbins=BINS))


def _relplot_smooth(confidence: np.ndarray, correct: np.ndarray) -> float:
    from relplot.metrics import smECE

    return float(smECE(confidence, correct))


def _relplot_replicates(confidence: np.ndarray, correct: np.ndarray, count: int) -> None:
    from relplot.metrics import smECE

    rng = np.random.default_rng(0)
    for _ in range(count):
        drawn = rng.integers(0, len(confidence), len(confidence))
        smECE(confidence[drawn], correct[drawn])


def _ucal(confidence: np.ndarray, correct: np.ndarray) -> float:
    import calibration

    return float(calibration.get_ece(confidence, correct.astype(np.int64), num_bins=BINS))


def _ucal_replicates(confidence: np.ndarray, correct: np.ndarray, count: int) -> None:
    from calibration.utils import bootstrap_uncertainty, fast_bin, get_equal_prob_bins, plugin_ce

    data = list(zip(confidence, correct, strict=True))
    bins = get_equal_prob_bins(confidence, num_bins=BINS)
    bootstrap_uncertainty(data, lambda rows: plugin_ce(fast_bin(rows, bins), power=1), num_samples=count)


def _sklearn(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The curve has no counts: they are made here, with its own edges."""
    from sklearn.calibration import calibration_curve

    share, mean = calibration_curve(correct, confidence, n_bins=BINS)
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=BINS)
    return float(np.abs(share - mean) @ counts[counts > 0] / len(confidence))


def _calibstats(confidence: np.ndarray, correct: np.ndarray) -> float:
    import calibstats

    return float(calibstats.ece(confidence, correct, n_bins=BINS))


def _calibstats_groups(confidence: np.ndarray, correct: np.ndarray, group: np.ndarray) -> list[float]:
    import calibstats

    parts = {str(g): (confidence[group == g], correct[group == g]) for g in range(int(group.max()) + 1)}
    found = calibstats.compare_subgroups(parts, n_bins=BINS, n_boot=1)
    return [float(one.ece.estimate) for one in found]


def _calibstats_replicates(confidence: np.ndarray, correct: np.ndarray, count: int) -> None:
    import calibstats

    calibstats.bootstrap_ci(confidence, correct, calibstats.ece, n_boot=count)


def _mcgrad(confidence: np.ndarray, correct: np.ndarray) -> float:
    from mcgrad.metrics import expected_calibration_error

    return float(expected_calibration_error(correct, confidence, num_bins=BINS))


def _mcgrad_groups(confidence: np.ndarray, correct: np.ndarray, group: np.ndarray) -> list[float]:
    """Its per-segment value is the cumulative error, not the ECE."""
    import pandas as pd
    from mcgrad.metrics import MulticalibrationError

    frame = pd.DataFrame({"y": correct.astype(np.int64), "p": confidence, "g": group})
    segments = {"categorical_segment_columns": ["g"], "max_depth": 1, "max_values_per_segment_feature": 99}
    found = MulticalibrationError(frame, "y", "p", min_samples_per_segment=1, **segments)
    return [float(value) for value in found.segments_ecce[-(int(group.max()) + 1) :]]


def _probmetrics(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Of two classes, whose arg-max has max(p, 1 − p): another quantity where confidence is below a half."""
    import torch
    from probmetrics.metrics import Metrics

    two = torch.from_numpy(np.stack([1 - confidence, confidence], axis=1))
    found = Metrics.from_names(["ece-15"]).compute_all_from_labels_probs(
        torch.from_numpy(correct).long(), two
    )
    return float(found["ece-15"])


def _model_diagnostics_replicates(confidence: np.ndarray, correct: np.ndarray, count: int) -> None:
    from model_diagnostics.calibration import plot_reliability_diagram

    plot_reliability_diagram(correct, confidence, n_bootstrap=count)


PEERS: tuple[Peer, ...] = (
    Peer(
        "netcal",
        {
            "ECE": "yes",
            "equal mass": "fails on ties",
            "MCE": "yes",
            "temperature": "yes",
            "other recalibration": "many",
            "diagram": "yes",
        },
        _netcal,
    ),
    Peer(
        "torchmetrics",
        {"ECE": "yes", "MCE": "yes", "L2": "yes", "streaming": "keeps all rows"},
        _torchmetrics,
    ),
    Peer(
        "relplot",
        {"ECE": "yes", "smooth ECE": "wrong near 1", "interval": "iid bootstrap", "diagram": "yes"},
        _relplot,
        smooth=_relplot_smooth,
        replicates=_relplot_replicates,
        replicates_are=" (smooth ECE)",
    ),
    Peer(
        "uncertainty-calibration",
        {
            "ECE": "yes",
            "equal mass": "yes",
            "L2": "yes",
            "L2 debiased": "yes",
            "other recalibration": "Platt, bins",
            "interval": "iid bootstrap",
        },
        _ucal,
        replicates=_ucal_replicates,
        most=10_000_000,
        module="calibration",
    ),
    Peer(
        "scikit-learn",
        {
            "equal mass": "curve",
            "Brier": "yes",
            "NLL": "yes",
            "temperature": "yes",
            "other recalibration": "Platt, isotonic",
            "weights": "scores",
            "diagram": "yes",
        },
        _sklearn,
        module="sklearn",
    ),
    Peer(
        "calibstats",
        {
            "ECE": "yes",
            "equal mass": "yes",
            "MCE": "yes",
            "L2": "yes",
            "L2 debiased": "yes",
            "Brier": "binned decomposition",
            "NLL": "yes",
            "temperature": "yes",
            "other recalibration": "Platt",
            "groups": "yes",
            "interval": "iid bootstrap",
            "paired difference": "iid",
            "diagram": "yes",
        },
        _calibstats,
        _calibstats_groups,
        of_groups_is=" (with one bootstrap replicate, its least)",
        replicates=_calibstats_replicates,
    ),
    Peer(
        "mcgrad",
        {
            "ECE": "yes",
            "equal mass": "yes",
            "Kuiper": "with p",
            "other recalibration": "multicalibration",
            "groups": "Kuiper only",
            "weights": "yes",
            "diagram": "yes",
        },
        _mcgrad,
        _mcgrad_groups,
        of_groups_is=" (Kuiper)",
    ),
    Peer(
        "probmetrics",
        {
            "ECE": "of max(p, 1 − p)",
            "MCE": "yes",
            "L2": "yes",
            "smooth ECE": "relplot's",
            "Kuiper": "yes",
            "Brier": "refit decomposition",
            "NLL": "yes",
            "temperature": "yes",
            "other recalibration": "many",
            "weights": "scores",
        },
        _probmetrics,
        module="probmetrics.metrics",
        is_other_quantity=True,
    ),
    Peer(
        "model-diagnostics",
        {"CORP": "yes", "Brier": "yes", "weights": "yes", "interval": "iid bootstrap", "diagram": "yes"},
        replicates=_model_diagnostics_replicates,
        module="model_diagnostics",
        replicates_are=" (isotonic curves, in a figure)",
    ),
)
