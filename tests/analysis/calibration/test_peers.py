"""Other libraries: the same values where definitions are the same, and the smallest example of each that differs.

Those that are not installed are skipped; the extra `peers` has all but netcal.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from logitbox.analysis.calibration import from_arrays, from_probabilities

BINS = 15
SAME = {"abs": 1e-6, "rel": 0}


def peer(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they do when imported is theirs
        pytest.importorskip(name.split(".", maxsplit=1)[0])
        return pytest.importorskip(name)


def binary(n: int = 3000, seed: int = 0):
    """Without ties, and no value at an edge; a whole number of tokens for each of 15 bins."""
    rng = np.random.default_rng(seed)
    p = 1 - rng.random(n) ** 2
    return p, rng.random(n) < p**1.5


def many_classes(n: int = 3000, classes: int = 5, seed: int = 1):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), (logits / 2 + rng.gumbel(size=logits.shape)).argmax(axis=1)


AT_EDGES = np.arange(16) / 15, np.arange(16) % 2
"""Every edge once: what differs is where an edge belongs."""


# scikit-learn: brings no ECE, but all its parts.


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_sklearn_curve(strategy):
    calibration_curve = peer("sklearn.calibration").calibration_curve
    p, right = binary()
    found = from_arrays(p, right)
    share, mean = calibration_curve(right, p, n_bins=BINS, strategy=strategy)
    if strategy == "uniform":
        assert found.table["accuracy"].to_list() == pytest.approx(share, **SAME)
        assert found.table["confidence"].to_list() == pytest.approx(mean, **SAME)
    else:  # 200 tokens each
        assert found.ece_equal_mass == pytest.approx(abs(share - mean).mean(), **SAME)


def test_sklearn_scores():
    metrics = peer("sklearn.metrics")
    p, right = binary()
    found = from_arrays(p, right)
    assert found.brier == pytest.approx(metrics.brier_score_loss(right, p), **SAME)
    assert found.log_score == pytest.approx(metrics.log_loss(right, p), **SAME)
    probs, labels = many_classes()
    assert from_probabilities(probs, labels).nll == pytest.approx(metrics.log_loss(labels, probs), **SAME)


def test_sklearn_isotonic():
    isotonic = peer("sklearn.isotonic").IsotonicRegression(out_of_bounds="clip")
    p, right = binary()
    best = isotonic.fit_transform(p, right)
    found = from_arrays(p, right)
    gain = ((p - right) ** 2).mean() - ((best - right) ** 2).mean()
    assert found.brier_miscalibration == pytest.approx(gain, **SAME)


def test_sklearn_closes_bins_on_the_right():
    calibration_curve = peer("sklearn.calibration").calibration_curve
    share, mean = calibration_curve([0, 0, 1], [0.25, 0.5, 0.75], n_bins=2)
    assert (share.tolist(), mean.tolist()) == ([0, 1], [0.375, 0.75])  # .5 is in the lower half
    assert from_arrays([0.25, 0.5, 0.75], [0, 0, 1], bins=2).table["confidence"].to_list() == [0.25, 0.625]


# torchmetrics


def torch_ece(p, right, norm="l1"):
    torch = peer("torch")
    error = peer("torchmetrics.functional.classification").binary_calibration_error
    return float(error(torch.as_tensor(p), torch.as_tensor(right).long(), n_bins=BINS, norm=norm))


@pytest.mark.parametrize(("norm", "name"), [("l1", "ece"), ("l2", "l2"), ("max", "mce")])
def test_torchmetrics_in_float64(norm, name):
    assert from_arrays(*binary()).value(name) == pytest.approx(torch_ece(*binary(), norm), **SAME)
    torch, functional = peer("torch"), peer("torchmetrics.functional.classification")
    probs, labels = many_classes()
    theirs = functional.multiclass_calibration_error(
        torch.as_tensor(probs), torch.as_tensor(labels), num_classes=5, n_bins=BINS, norm=norm
    )
    assert from_probabilities(probs, labels).value(name) == pytest.approx(float(theirs), **SAME)


def test_torchmetrics_has_a_bin_of_its_own_for_one():
    p, right = np.array([1.0, 0.95]), np.array([1, 0])
    assert from_arrays(p, right).ece == pytest.approx((1.95 - 1) / 2)
    assert torch_ece(p, right) == pytest.approx(0.95 / 2)  # |1 − 1|/2 + |0 − .95|/2
    right = np.array([0, 1])  # gaps of opposite sign, which one bin lets cancel
    assert from_arrays(p, right).ece == pytest.approx((1.95 - 1) / 2)
    assert torch_ece(p, right) == pytest.approx((1 + 0.05) / 2)


def test_torchmetrics_sums_in_float32():
    """Its sums of many float32 drift; ours of the same float32 do not."""
    rng = np.random.default_rng(0)
    p = (0.94 + 0.06 * rng.random(1 << 22)).astype(np.float32)
    p = np.minimum(p, np.float32(1 - 2**-24))
    right = rng.random(len(p)) < 0.9
    exact = abs(float(right.mean()) - float(p.mean(dtype=np.float64)))  # one bin holds all
    assert from_arrays(p, right).ece == pytest.approx(exact, abs=1e-12)
    assert torch_ece(p.astype(np.float64), right) == pytest.approx(exact, **SAME)
    assert abs(torch_ece(p, right) - exact) > 1e-4


# relplot


def test_relplot_binned():
    metrics = peer("relplot.metrics")
    p, right = binary()
    assert from_arrays(p, right).ece == pytest.approx(metrics.binnedECE(p, right.astype(float), BINS), **SAME)


def test_relplot_has_a_bin_of_its_own_for_one():
    theirs = peer("relplot.metrics").binnedECE(np.array([1.0, 0.95]), np.array([0.0, 1.0]), BINS)
    assert theirs == pytest.approx((1 + 0.05) / 2)
    assert from_arrays([1.0, 0.95], [0, 1]).ece == pytest.approx((1.95 - 1) / 2)


def test_relplot_smooth():
    """Away from 1; theirs has a mesh, a search in 10 steps and a density that does not vanish."""
    metrics = peer("relplot.metrics")
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 0.8, 3000)
    right = rng.random(3000) < p**2
    assert from_arrays(p, right).smooth_ece == pytest.approx(metrics.smECE(p, right.astype(float)), abs=2e-3)


def test_relplot_smooth_at_one():
    """Half of the tokens at 1, a fifth of them wrong, and half at .5 and calibrated: .2 / 2.

    Theirs reflects all but the last node of the mesh, so that what lies at 1 counts half.
    """
    metrics = peer("relplot.metrics")
    i = np.arange(1000)
    p, right = np.where(i % 2, 1.0, 0.5), np.where(i % 2, i % 10 != 1, i % 4 == 0)
    assert from_arrays(p, right).smooth_ece == pytest.approx(0.1, abs=1e-5)
    assert metrics.smECE(p, right.astype(float)) == pytest.approx(0.2 / 3, abs=2e-3)


# uncertainty-calibration, whose module is called calibration


def test_uncertainty_calibration():
    theirs = peer("calibration")
    (p, right), (probs, labels) = binary(), many_classes()
    found, classified = from_arrays(p, right), from_probabilities(probs, labels)
    right = right.astype(int)
    assert found.ece == pytest.approx(theirs.get_ece(p, right, num_bins=BINS), **SAME)
    assert found.ece_equal_mass == pytest.approx(theirs.get_ece_em(p, right, num_bins=BINS), **SAME)
    width = {"num_bins": BINS, "binning_scheme": theirs.get_equal_prob_bins}
    for debias, name in ((False, "l2"), (True, "l2_debiased")):
        squares = theirs.lower_bound_scaling_ce(p, right, p=2, debias=debias, **width)
        assert found.value(name) == pytest.approx(squares, **SAME)
        squares = theirs.lower_bound_scaling_top_ce(probs, labels, p=2, debias=debias, **width)
        assert classified.value(name) == pytest.approx(squares, **SAME)
    assert classified.ece == pytest.approx(theirs.get_ece(probs, labels, num_bins=BINS), **SAME)
    marginal = theirs.get_ece(probs, labels, num_bins=BINS, mode="marginal")
    assert classified.classwise_ece == pytest.approx(marginal, **SAME)


def test_uncertainty_calibration_closes_bins_on_the_right():
    theirs = peer("calibration").get_ece(np.array([0.25, 0.5, 0.75]), np.array([0, 0, 1]), num_bins=2)
    assert theirs == pytest.approx((0.75 + 0.25) / 3)
    assert from_arrays([0.25, 0.5, 0.75], [0, 0, 1], bins=2).ece == pytest.approx((0.25 + 0.25) / 3)


def test_uncertainty_calibration_takes_a_fraction_for_a_percentage():
    """The interval asked for with alpha = 0.1 is one of 99.9 %: half as wide again, and more, as that of 90 %."""
    bootstrap = peer("calibration.utils").bootstrap_uncertainty
    data = list(np.random.default_rng(0).normal(size=100))
    np.random.seed(0)  # noqa: NPY002 (theirs draws from it)
    low, _, high = bootstrap(data, np.mean, alpha=0.1, num_samples=4000)
    error = np.std(data) / 10
    assert (high - low) / 2 > 2.8 * error  # 1.64 at 90 %, 3.29 at 99.9 %


# model-diagnostics


@pytest.mark.parametrize("weighted", [False, True])
def test_model_diagnostics_corp(weighted):
    scoring = peer("model_diagnostics.scoring")
    p, right = binary(800)
    p = np.round(p, 2).clip(0.01, 0.99)  # with ties
    weight = np.random.default_rng(5).integers(1, 5, 800) if weighted else None
    found = from_arrays(p, right, weight)
    for score, function in (("brier", scoring.SquaredError()), ("log", scoring.LogLoss())):
        theirs = scoring.decompose(right.astype(float), p, weight, scoring_function=function).row(
            0, named=True
        )
        for part in ("miscalibration", "discrimination", "uncertainty"):
            assert found.value(f"{score}_{part}") == pytest.approx(theirs[part], **SAME)
        total = {"brier": found.brier, "log": found.log_score}[score]
        assert total == pytest.approx(theirs["score"], **SAME)


# calibstats


def test_calibstats():
    theirs = peer("calibstats")
    p, right = binary()
    found, right = from_arrays(p, right), right.astype(int)
    assert found.ece == pytest.approx(theirs.ece(p, right), **SAME)
    assert found.ece_equal_mass == pytest.approx(theirs.ace(p, right), **SAME)
    assert found.mce == pytest.approx(theirs.mce(p, right), **SAME)
    assert found.l2 == pytest.approx(theirs.calibration_error(p, right, norm="l2"), **SAME)
    assert found.l2_debiased == pytest.approx(theirs.debiased_ece(p, right), **SAME)
    assert found.brier == pytest.approx(theirs.brier_score(p, right), **SAME)
    probs, labels = many_classes()
    classified = from_probabilities(probs, labels)
    assert classified.ece == pytest.approx(theirs.ece(probs, labels), **SAME)
    assert classified.nll == pytest.approx(theirs.nll(probs, labels), **SAME)


def test_calibstats_has_the_same_edges():
    theirs = peer("calibstats").ece(*AT_EDGES)
    assert from_arrays(*AT_EDGES).ece == pytest.approx(theirs, **SAME)


def test_calibstats_cuts_between_order_statistics():
    """Its quantiles are interpolated, so that bins are not quite even where they could be."""
    p, right = np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 0, 0, 1])
    ours = from_arrays(p, right, bins=3)
    assert ours.ece_equal_mass == pytest.approx((0.3 + 0.6 + 0.1) / 4)  # {.1 .2}, {.6}, {.9}
    assert peer("calibstats").ace(p, right, n_bins=3) == pytest.approx(
        (0.1 + 0.2 + 0.5) / 4
    )  # {.1}, {.2}, {.6 .9}


# netcal


def test_netcal():
    metrics = peer("netcal.metrics")
    p, right = binary()
    found = from_arrays(p, right)
    assert found.ece == pytest.approx(metrics.ECE(BINS).measure(p, right.astype(int)), **SAME)
    assert found.mce == pytest.approx(metrics.MCE(BINS).measure(p, right.astype(int)), **SAME)
    assert from_arrays(*AT_EDGES).ece == pytest.approx(metrics.ECE(BINS).measure(*AT_EDGES), **SAME)


def test_netcal_cannot_take_ties_in_equal_mass_bins():
    metrics = peer("netcal.metrics")
    p, right = np.array([0.5, 1.0, 1.0, 1.0]), np.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match="edge difference"):
        metrics.ECE(3, equal_intervals=False).measure(p, right)
    assert from_arrays(p, right, bins=3).ece_equal_mass == pytest.approx((0.5 + 1) / 4)
