"""95 % intervals: against formulas and resampling written out, and by how often they hold the truth."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, f, t

from logitbox.analysis.calibration import from_arrays, from_probabilities
from logitbox.analysis.calibration.few import widened
from logitbox.analysis.calibration.resampling import normals, weights

MEANS = ("accuracy", "confidence", "overconfidence", "brier", "log_score")
ERRORS = ("ece", "ece_equal_mass", "mce", "l2", "smooth_ece", "kuiper")
Z = 1.959963984540054


def simulated(rng, samples, factor=1.0, most=60):
    """(confidence, right, cluster) of samples whose tokens are right and wrong together; calibrated if factor is 1.

    In the mean over samples a token is right with probability factor · confidence.
    """
    sizes = rng.integers(1, most, samples)
    cluster = np.repeat(np.arange(samples), sizes)
    p = 1 - 0.5 * rng.random(len(cluster)) ** 2
    effect = rng.choice([-1.0, 1.0], samples)[cluster]
    g = factor * p
    return p, rng.random(len(p)) < g + 0.9 * effect * g * (1 - g), cluster


def of_ratio(x, cluster, w=None):
    """Clustered interval of Σwx/Σw: the mean anew without each cluster (jackknife), Student's t, Kish's number of clusters."""
    w = np.ones(len(x)) if w is None else w
    mean, labels = (w * x).sum() / w.sum(), np.unique(cluster)
    without = [np.average(x[cluster != label], weights=w[cluster != label]) for label in labels]
    error = sqrt(sum((part - mean) ** 2 for part in without))
    sizes = np.array([w[cluster == label].sum() for label in labels])
    half = t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1) * error
    return mean - half, mean + half


@pytest.mark.parametrize("weighted", [False, True])
def test_means_have_the_clustered_interval_of_a_ratio(weighted):
    rng = np.random.default_rng(0)
    p, right, cluster = simulated(rng, 30)
    w = rng.uniform(0.1, 3, len(p)) if weighted else None
    result = from_arrays(p, right, weight=w, cluster=cluster)
    each = {
        "accuracy": right * 1.0,
        "confidence": p,
        "overconfidence": p - right,
        "brier": (p - right) ** 2,
        "log_score": -np.log(np.where(right, p, 1 - p)),
    }
    for name, x in each.items():
        assert result.interval(name) == pytest.approx(of_ratio(x, cluster, w), abs=1e-12), name


def test_means_of_distributions_have_intervals_too():
    rng = np.random.default_rng(1)
    probs = rng.dirichlet([1, 1, 1], 200)
    labels, cluster = rng.integers(0, 3, 200), rng.integers(0, 20, 200)
    result = from_probabilities(probs, labels, cluster=cluster)
    nll, entropy = -np.log(probs[np.arange(200), labels]), -(probs * np.log(probs)).sum(axis=1)
    for name, x in {"nll": nll, "entropy": entropy, "entropy_gap": nll - entropy}.items():
        assert result.interval(name) == pytest.approx(of_ratio(x, cluster), abs=1e-9)


def test_an_accuracy_of_one_has_the_wilson_interval_over_samples():
    result = from_arrays([0.9] * 40, [1] * 40, cluster=np.arange(40) // 4)
    roots = np.roots([1 + Z * Z / 10, -(2 + Z * Z / 10), 1])  # of (1 − p)² = z² p (1 − p) / 10
    assert result.interval("accuracy") == pytest.approx(sorted(roots.real), abs=1e-9)
    assert result.interval("accuracy")[1] == 1.0
    assert from_arrays([0.9] * 40, [0] * 40).interval("accuracy")[0] == 0.0


def test_one_cluster_has_no_interval():
    result = from_arrays([0.2, 0.9, 0.7], [1, 1, 0], cluster=["a", "a", "a"])
    assert [result.interval(name) for name in (*MEANS, *ERRORS)] == [None] * (len(MEANS) + len(ERRORS))
    assert result.ece_noise is None


def test_an_infinite_score_has_no_interval():
    result = from_arrays([1.0, 0.5, 0.6], [0, 1, 1])
    assert result.log_score == np.inf
    assert result.interval("log_score") is None
    assert result.interval("brier") is not None


def noise_written_out(p, right, cluster, bin_of, bins):
    """[replicates, bins]: clusters times the package's normal numbers, the rest by definition; degrees of freedom."""
    mean = np.bincount(bin_of, right - p, bins) / len(p)
    labels = np.unique(cluster)
    parts = [
        np.bincount(bin_of[mine], (right - p)[mine], bins) - mean * mine.sum()
        for mine in (cluster == x for x in labels)
    ]
    share = np.array([np.mean(cluster == x) for x in labels])
    parts = np.array(parts) / len(p) / np.sqrt(1 - share)[:, None]
    return normals(len(labels)) @ parts, mean, 1 / (share**2).sum() - 1


def wide(x, freedom):
    """Replicates, widened from χ² to F; what is signed has its upper 2.5 % among half of them."""
    nu = max(2 * np.mean(x**2) ** 2 / np.var(x**2), 1)
    at = 1 - 0.025 / np.mean(x > 0)
    return x * sqrt(f.ppf(at, nu, nu * freedom) / (chi2.ppf(at, nu) / nu))


@pytest.mark.parametrize("factor", [1.0, 0.97, 0.8, 0.5])
def test_ece_keeps_sure_signs_and_doubts_the_others(factor):
    p, right, cluster = simulated(np.random.default_rng(3), 80, factor)
    noise, mean, freedom = noise_written_out(p, right, cluster, np.minimum((p * 15).astype(int), 14), 15)
    sure = abs(mean) > 3 * noise.std(axis=0)
    signed, either = noise[:, sure] @ np.sign(mean[sure]), abs(noise[:, ~sure]).sum(axis=1)
    low = abs(mean).sum() - np.quantile(wide(signed + either, freedom), 0.975)
    high = abs(mean).sum() + np.quantile(wide(either - signed, freedom), 0.975)
    low = max(low, surely(noise, mean, freedom), 0)
    assert from_arrays(p, right, cluster=cluster).interval("ece") == pytest.approx((low, high), abs=1e-6)


def surely(noise, mean, freedom):
    """No error is below |mean residual| over all tokens, which noise moves by so much in 1 % of cases only."""
    times = t.ppf(0.995, freedom) / t.ppf(0.995, np.inf)
    return abs(mean.sum()) - times * np.quantile(abs(noise.sum(axis=1)), 0.99)


def test_an_error_is_at_least_the_overconfidence_that_is_sure():
    """Sampling hides which bins are off, but not that together they are."""
    rng = np.random.default_rng(5)
    p = rng.random(4000) * 0.9 + 0.05
    result = from_arrays(p, rng.random(4000) < p - 0.03)
    low, _ = result.interval("overconfidence")
    assert low > 0
    for name in ("ece", "ece_equal_mass", "l2", "mce", "smooth_ece", "kuiper"):
        assert 0 < result.interval(name)[0] < result.value(name)


def test_other_errors_have_the_norm_of_the_noise_on_either_side():
    p, right, cluster = simulated(np.random.default_rng(4), 80, 0.9)
    # Confidences at the centres of the clusters' bins, so that both see the same cumulative sums.
    p = (np.floor(p * 300) + 0.5) / 300
    p = np.minimum(p, 298.5 / 300)
    result = from_arrays(p, right, cluster=cluster)
    bin_of = np.minimum((p * 15).astype(int), 14)
    noise, _, freedom = noise_written_out(p, right, cluster, bin_of, 15)
    share = np.bincount(bin_of, minlength=15) / len(p)
    some = share > 0
    fine, mean, _ = noise_written_out(p, right, cluster, (p * 300).astype(int), 300)
    path = np.column_stack([np.zeros(len(fine)), np.cumsum(fine, axis=1)])
    norms = {
        "l2": np.sqrt((noise[:, some] ** 2 / share[some]).sum(axis=1)),
        "mce": (abs(noise[:, some]) / share[some]).max(axis=1),
        "kuiper": np.ptp(path, axis=1),
    }
    for name, norm in norms.items():
        value, half = result.value(name), np.quantile(wide(norm, freedom), 0.975)
        low = max(value - half, surely(fine, mean, freedom), 0)
        assert result.interval(name) == pytest.approx((low, min(value + half, 1)), abs=1e-6), name


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 6)), min_size=2, max_size=60),
    bins=st.sampled_from([1, 2, 7, 15, 400]),
)
def test_an_interval_holds_its_estimate(rows, bins):
    p, right, cluster = (np.array(column) for column in zip(*rows, strict=True))
    result = from_arrays(p, right, cluster=cluster, bins=bins)
    for name in (*MEANS, *ERRORS):
        interval, value = result.interval(name), result.value(name)
        if interval is not None:
            assert interval[0] - 1e-9 <= value <= interval[1] + 1e-9, name
        if name in ERRORS and interval is not None:
            assert 0 <= interval[0] <= interval[1] <= 1


@pytest.mark.parametrize("bins", [1, 7, 15, 300, 1000])
def test_ece_noise_is_the_ece_of_a_calibrated_model(bins):
    """Also where bins do not nest in those of the clusters, or are finer."""
    rng = np.random.default_rng(6)
    found = []
    for _ in range(40):
        p, right, cluster = simulated(rng, 100)
        result = from_arrays(p, right, cluster=cluster, bins=bins)
        found.append((result.ece, result.ece_noise))
    ece, noise = np.mean(found, axis=0)
    # One cluster's tokens are together in finer bins too, so that these are not as independent as they are taken.
    assert noise == pytest.approx(ece, rel=0.15)


def test_few_tokens_that_are_all_right_may_be_calibrated():
    """20 tokens at 0.97, all right: as likely as not. Resampling alone would be sure of an ECE of 0.03."""
    result = from_arrays([0.97] * 20, [1] * 20, cluster=np.arange(20) // 4)
    low, high = result.interval("ece")
    assert low == 0
    assert high > 0.06
    assert result.ece_noise == pytest.approx(sqrt(2 / np.pi) * sqrt(0.97 * 0.03 / 20), rel=0.1)


RUNS = 160


@pytest.fixture(scope="module")
def covered():
    """Share of runs whose interval holds the truth, of a calibrated model and of one that is right 0.9 times as often."""
    found = {}
    for factor in (1.0, 0.9):
        rng, held = np.random.default_rng(int(10 * factor)), {}
        # E p and E p² of 1 − u²/2, u uniform: 5/6 and 43/60. All bins and all prefixes lean the same way.
        mean, square = 5 / 6, 43 / 60
        error = (1 - factor) * mean
        truth = {
            "accuracy": factor * mean,
            "overconfidence": error,
            "brier": square - 2 * factor * square + factor * mean,
        }
        truth |= dict.fromkeys(("ece", "ece_equal_mass", "kuiper", "smooth_ece"), error)
        if factor == 1:
            truth |= dict.fromkeys(("l2", "mce"), 0.0)
        else:
            del truth["smooth_ece"]  # the fixed point is not the mean, but for 0
        for run in range(RUNS):
            p, right, cluster = simulated(rng, 60, factor)
            result = from_arrays(p, right, cluster=cluster)
            for name, value in truth.items():
                if name == "smooth_ece" and run % 4:
                    continue  # takes as long as all others
                low, high = result.interval(name)
                held.setdefault(name, []).append(low - 1e-12 <= value <= high)
            naive = Z * sqrt(right.mean() * (1 - right.mean()) / len(p))
            held.setdefault("naive", []).append(abs(right.mean() - truth["accuracy"]) <= naive)
            held.setdefault("percentile", []).append(_percentile_holds(p, right, cluster, error))
        found[factor] = {name: np.mean(each) for name, each in held.items()}
    return found


def _percentile_holds(p, right, cluster, truth):
    residual = np.zeros((60, 15))
    np.add.at(residual, (cluster, np.minimum((p * 15).astype(int), 14)), right - p)
    drawn = weights(60)
    ece = abs(drawn @ residual).sum(axis=1) / (drawn @ np.bincount(cluster, minlength=60))
    low, high = np.quantile(ece, [0.025, 0.975])
    return low <= truth <= high


def below(share, runs=RUNS):
    """What a coverage is below once in 10,000 by chance, if it is `share`."""
    return share - 3.7 * sqrt(share * (1 - share) / runs)


@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_means_are_covered_as_often_as_promised(covered, factor):
    for name in ("accuracy", "overconfidence", "brier"):
        assert covered[factor][name] >= below(0.94), name
    assert np.mean([covered[factor][name] for name in ("accuracy", "overconfidence", "brier")]) <= 0.985
    # The same test throws out the interval that takes tokens as independent.
    assert covered[factor]["naive"] < below(0.94)


@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_errors_are_covered_at_least_as_often(covered, factor):
    for name, share in covered[factor].items():
        if name not in ("accuracy", "overconfidence", "brier", "naive", "percentile"):
            assert share >= below(0.95, RUNS // 4 if name == "smooth_ece" else RUNS), name


def test_a_percentile_bootstrap_misses_a_calibrated_model(covered):
    assert covered[1.0]["percentile"] == 0


def test_intervals_narrow_to_normal_ones_where_every_gap_is_sure():
    """With one bin ECE is |gap|, whose interval is normal."""
    p, right, cluster = simulated(np.random.default_rng(8), 400, 0.7)
    result = from_arrays(p, right, cluster=cluster, bins=1)
    low, high = result.interval("overconfidence")
    assert result.interval("ece") == pytest.approx((low, high), abs=0.15 * (high - low))


def test_widening_a_signed_sum_gives_students_t():
    """Replicates at normal quantiles become those of t at the level that counts."""
    x = t.ppf((np.arange(100_000) + 0.5) / 100_000, np.inf)
    for freedom in (1.0, 2.5, 9.0, 100.0):
        found = np.quantile(widened(x, freedom), 0.975)
        assert found == pytest.approx(t.ppf(0.975, freedom), rel=1e-3)
        both = np.quantile(widened(abs(x), freedom), 0.975)
        assert both == pytest.approx(t.ppf(1 - 0.0125, freedom), rel=1e-3)
    assert (widened(np.zeros(5), 3.0) == 0).all()


def test_a_norm_of_many_alike_parts_is_known_better():
    """Σ of 20 squares over 6 clusters with as many parts each: the scaled norm is that of a ratio of both sums."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1500):
        parts, truth = rng.standard_normal((6, 20)), rng.standard_normal(20) * sqrt(6)
        size = np.sqrt(((rng.standard_normal((300, 6)) @ parts) ** 2).sum(axis=1))
        held.append(sqrt((truth**2).sum()) <= np.quantile(widened(size, 6.0), 0.975))
    assert 0.95 <= np.mean(held) <= 1


@pytest.mark.parametrize("accuracy", [0.999, 0.99])
def test_means_where_nearly_all_tokens_are_right(accuracy):
    rng, held, runs = np.random.default_rng(1), {}, 150
    for _ in range(runs):
        p = 1 - np.minimum(rng.exponential(1 - accuracy, 300), 1)
        result = from_arrays(p, rng.random(300) < p)
        # Of these confidences: the conditional truth, about which chance alone scatters.
        truth = {"overconfidence": 0.0, "accuracy": p.mean(), "brier": (p * (1 - p)).mean()}
        for name, value in truth.items():
            low, high = result.interval(name)
            held.setdefault(name, []).append(low <= value <= high)
    for name, each in held.items():
        assert np.mean(each) >= below(0.94, runs), name


def test_errors_of_means_are_no_less_than_chance_makes_them():
    """All right: residuals hardly differ, but each token might have been wrong."""
    rng = np.random.default_rng(2)
    p, w = rng.uniform(0.99, 0.999, 400), rng.lognormal(0, 1, 400)
    result = from_arrays(p, np.ones(400), weight=w)
    variance = w**2 * p * (1 - p) / w.sum() ** 2
    times = t.ppf(0.975, w.sum() ** 2 / (w**2).sum() - 1)
    for name, step in {"overconfidence": 1.0, "brier": 1 - 2 * p, "log_score": np.log(p / (1 - p))}.items():
        half = times * sqrt((variance * step**2).sum())
        low, high = result.interval(name)
        assert high - result.value(name) == pytest.approx(half, rel=0.1), name
        assert low == pytest.approx(
            max(result.value(name) - half, -1 if name == "overconfidence" else 0), abs=half / 10
        )


def test_means_stay_where_they_can_be():
    result = from_arrays([1.0, 1.0, 0.9], [0, 0, 1], cluster=[0, 1, 2])
    assert result.interval("overconfidence")[1] == 1
    assert result.interval("brier")[1] == 1
    assert result.interval("brier")[0] == 0
    assert from_arrays([0.9, 0.5], [1, 1]).interval("log_score")[0] == 0


def few(rng, clusters, spread):
    """A calibrated model's tokens in clusters of lognormal size, right and wrong together."""
    sizes = np.maximum(1, 20 * rng.lognormal(0, spread, clusters)).astype(int)
    cluster = np.repeat(np.arange(clusters), sizes)
    p = 1 / (1 + np.exp(-rng.normal(2, 2, len(cluster))))
    return p, rng.random(len(p)) < p + 0.9 * rng.choice([-1, 1], clusters)[cluster] * p * (1 - p), cluster


@pytest.mark.parametrize("clusters", [2, 10])
@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_few_and_unequal_clusters_are_covered(clusters, spread):
    rng, held, runs = np.random.default_rng([clusters, int(spread)]), {}, 60
    for _ in range(runs):
        p, right, cluster = few(rng, clusters, spread)
        result = from_arrays(p, right, cluster=cluster)
        for name in ("ece", "ece_equal_mass", "l2", "mce", "kuiper", "overconfidence"):
            low, high = result.interval(name)
            held.setdefault(name, []).append(low <= 1e-12 <= high + 2e-12)
        held.setdefault("kuiper_p", []).append(result.kuiper_p > 0.05)
    for name, each in held.items():
        assert np.mean(each) >= below(0.94, runs), name
