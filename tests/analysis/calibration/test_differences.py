"""Paired differences of calibration, of arrays and of two dumps of the same tokens."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.stats import t

from logitbox.analysis.calibration import from_arrays, from_probabilities
from logitbox.analysis.calibration.differences import COMPARED, calibration_difference, difference
from logitbox.analysis.calibration.few import widened
from logitbox.analysis.calibration.resampling import normals
from logitbox.analysis.calibration.result import Calibration
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


def two_models(rng, samples=60, factor=0.8, most=40):
    """(confidence, right) of a calibrated model and of one right factor times as often, and their clusters.

    Both find the same tokens hard, and the same samples.
    """
    cluster = np.repeat(np.arange(samples), rng.integers(1, most, samples))
    n = len(cluster)
    p = 1 - 0.5 * rng.random(n) ** 2
    other = np.clip(p + rng.normal(0, 0.02, n), 0.5, 1)
    luck = np.clip(rng.random(n) + 0.15 * rng.choice([-1, 1], samples)[cluster], 0, 1)
    return (p, luck < p), (other, luck < factor * other), cluster


def rows_of(found):
    return {row["measure"]: row for row in found.frame.iter_rows(named=True)}


def written_out(a, b, cluster):
    """Difference of two means, its jackknife standard error over clusters, and how error is distributed; cluster by cluster."""
    d = a * 1.0 - b
    return (
        d.mean(),
        sqrt(sum((d[cluster != x].mean() - d.mean()) ** 2 for x in np.unique(cluster))),
        t(len(d) ** 2 / sum(np.bincount(cluster) ** 2) - 1),
    )


def test_means_are_paired_by_token_and_cluster():
    (p, right), (q, wrong), cluster = two_models(np.random.default_rng(0))
    found = rows_of(
        difference(from_arrays(p, right, cluster=cluster), from_arrays(q, wrong, cluster=cluster))
    )
    each = {
        "accuracy": (right, wrong),
        "confidence": (p, q),
        "overconfidence": (p - right, q - wrong),
        "brier": ((p - right) ** 2, (q - wrong) ** 2),
    }
    for name, (a, b) in each.items():
        mean, error, student = written_out(a, b, cluster)
        half = student.ppf(0.975) * error
        row = found[name]
        assert row["difference"] == pytest.approx(mean, abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx((mean - half, mean + half), abs=1e-8)
        assert row["p"] == pytest.approx(2 * student.sf(abs(mean) / error), rel=1e-6)
    assert list(found) == list(COMPARED)


def test_ece_is_paired_replicate_by_replicate():
    """With one bin and sure gaps, ECE is a mean, and its interval that of the difference of both gaps."""
    (p, right), (q, wrong), cluster = two_models(np.random.default_rng(1), samples=300, factor=0.7)
    right = right & (np.random.default_rng(2).random(len(p)) < 0.85)
    both = [from_arrays(*side, cluster=cluster, bins=1) for side in ((p, right), (q, wrong))]
    found = difference(*both)
    rows = rows_of(found)
    width = rows["overconfidence"]["high"] - rows["overconfidence"]["low"]
    assert found.interval("ece") == pytest.approx(
        (rows["overconfidence"]["low"], rows["overconfidence"]["high"]), abs=0.15 * width
    )
    alone = [result.interval("ece") for result in both]
    assert width < 0.8 * sum(high - low for low, high in alone)


def test_what_noise_may_add_is_combined_within_a_replicate():
    (p, right), (q, wrong), cluster = two_models(np.random.default_rng(3))
    found = difference(from_arrays(p, right, cluster=cluster), from_arrays(q, wrong, cluster=cluster))
    sizes, taken = [], np.bincount(cluster) / len(cluster)
    for value, hit in ((p, right), (q, wrong)):
        bin_of = np.minimum((value * 15).astype(int), 14)
        share = np.bincount(bin_of, minlength=15) / len(p)
        mean = np.bincount(bin_of, hit - value, 15) / len(p)
        parts = [
            np.bincount(bin_of[m], (hit - value)[m], 15) - mean * m.sum()
            for m in (cluster == x for x in range(60))
        ]
        noise = normals(60) @ (np.array(parts) / len(p) / np.sqrt(1 - taken)[:, None])
        sizes.append(np.sqrt((noise[:, share > 0] ** 2 / share[share > 0]).sum(axis=1)))
    freedom = 1 / (taken**2).sum() - 1
    half = np.quantile(sum(widened(size, freedom) for size in sizes), 0.975)
    row = rows_of(found)["l2"]
    assert (row["low"], row["high"]) == pytest.approx(
        (row["difference"] - half, row["difference"] + half), abs=1e-6
    )


def test_a_model_does_not_differ_from_itself():
    (p, right), _, cluster = two_models(np.random.default_rng(0))
    found = difference(from_arrays(p, right, cluster=cluster), from_arrays(p, right, cluster=cluster))
    for row in found.frame.drop_nulls("difference").iter_rows(named=True):
        assert row["difference"] == 0
        assert row["low"] <= 0 <= row["high"]
        assert row["p"] in (None, 1.0)
    assert "cannot be told apart" in str(found)


def test_swapping_sides_swaps_signs():
    (p, right), (q, wrong), cluster = two_models(np.random.default_rng(4))
    a, b = from_arrays(p, right, cluster=cluster), from_arrays(q, wrong, cluster=cluster)
    one, other = rows_of(difference(a, b)), rows_of(difference(b, a))
    for name, row in one.items():
        if row["low"] is not None:
            swapped = other[name]
            assert (-swapped["high"], -swapped["low"]) == pytest.approx((row["low"], row["high"]), abs=1e-9)
            assert swapped["p"] == row["p"]


def test_differences_are_covered():
    """Also where one side is calibrated and the other is not."""
    rng, held, runs = np.random.default_rng(6), {}, 100
    truth = None
    for _ in range(runs):
        a, b, cluster = two_models(rng)
        if truth is None:
            # Of the population, from many tokens: both are calibrated or over-confident alike in all bins.
            big = two_models(np.random.default_rng(0), samples=40_000)
            gaps = [(p - hit).mean() for p, hit in big[:2]]
            truth = {"overconfidence": gaps[0] - gaps[1], "accuracy": big[0][1].mean() - big[1][1].mean()}
            width = [np.minimum((p * 15).astype(int), 14) for p, _ in big[:2]]
            eces = [
                abs(np.bincount(w, p - hit)).sum() / len(p)
                for w, (p, hit) in zip(width, big[:2], strict=True)
            ]
            truth["ece"] = eces[0] - eces[1]
        found = difference(*(from_arrays(*side, cluster=cluster) for side in (a, b)))
        for name, value in truth.items():
            low, high = found.interval(name)
            held.setdefault(name, []).append(low <= value <= high)
    least = 0.95 - 3.7 * sqrt(0.95 * 0.05 / runs)
    assert {name: np.mean(each) >= least for name, each in held.items()} == dict.fromkeys(held, True)


def test_the_verdict_says_who_is_better():
    (p, right), (q, wrong), cluster = two_models(np.random.default_rng(0), samples=200)
    good, bad = from_arrays(p, right, cluster=cluster), from_arrays(q, wrong, cluster=cluster)
    assert str(difference(good, bad)).startswith(
        f"A is better calibrated than B: ECE {good.ece:.4f} against {bad.ece:.4f}"
    )
    assert str(difference(bad, good)).startswith("B is better calibrated than A")


def test_few_clusters_and_unknown_measures_have_no_interval():
    one = from_arrays([0.9, 0.8], [1, 0], cluster=[0, 0])
    found = difference(one, from_arrays([0.7, 0.6], [1, 0], cluster=[0, 0]))
    assert found.interval("ece") is None
    assert found.interval("nll") is None
    assert rows_of(found)["accuracy"]["difference"] == 0
    assert "no interval" in str(found)
    sure = from_arrays([1.0, 0.8], [0, 1])
    assert rows_of(difference(sure, sure))["log_score"]["difference"] is None
    nothing = from_arrays([], [])
    assert str(difference(nothing, nothing)) == "no tokens to compare"
    with pytest.raises(InputError, match="'temperature' is not compared"):
        found.interval("temperature")


def test_only_the_same_tokens_are_compared():
    p, right = np.linspace(0, 1, 12), np.arange(12) % 2
    a = from_arrays(p, right, cluster=np.arange(12) // 3)
    for other, told in (
        (from_arrays(p[:9], right[:9]), "12 tokens .* 9"),
        (from_arrays(p, right, cluster=np.arange(12) // 2), "4 clusters .* 6"),
        (from_arrays(p, right, bins=10), "15 bins and B 10"),
        (from_arrays(p, right, weight=right + 1), "weight 12.* weight|weight"),
        (Calibration(replace(a.evidence, make_clusters=None)), "clusters of one result only"),
    ):
        with pytest.raises(InputError, match=told):
            difference(a, other)


def test_other_tokens_of_as_many_clusters_are_refused():
    rng = np.random.default_rng(0)
    p, right = rng.random(30), rng.random(30) < 0.5
    one = from_arrays(p, right, cluster=np.repeat([0, 1, 2], [5, 10, 15]))
    other = from_arrays(p, right, cluster=np.repeat([0, 1, 2], [10, 5, 15]))
    with pytest.raises(InputError, match="a cluster has more tokens in A"):
        difference(one, other)


def test_rows_that_are_left_out_have_to_be_so_before():
    """Without clusters rows are paired by their place, which a row left out on one side moves."""
    rng = np.random.default_rng(0)
    p, right = rng.random(30), rng.random(30) < 0.5
    hole = np.where(np.arange(30) == 3, np.nan, p)
    for a, b in ((hole, hole), (hole, np.roll(hole, 5))):
        with pytest.raises(InputError, match="A left out 1 rows and B 1"):
            difference(from_arrays(a, right), from_arrays(b, right))
    cluster = np.arange(30) // 10
    sides = [from_arrays(hole, right, cluster=cluster) for _ in range(2)]
    assert difference(*sides).interval("brier") == (0, 0)
    with pytest.raises(InputError, match="a cluster has more tokens in A"):
        difference(sides[0], from_arrays(np.roll(hole, 15), right, cluster=cluster))


V, T, N = 40, 12, 60
BASE = torch.randn(N, T, V, generator=torch.Generator().manual_seed(0)) * 2.5
LABELS = torch.from_numpy(np.argmax(BASE.numpy() + np.random.default_rng(1).gumbel(size=BASE.shape), axis=-1))
"""Drawn from softmax(BASE), which is calibrated therefore."""


def record(path, logits, order):
    with Recorder(path, vocab=V, k=8, shard_rows=50) as rec:
        for i in range(0, len(order), 4):
            rows = order[i : i + 4]
            rec.record(logits[rows], LABELS[rows], step=0, phase="eval", sample=rows, shift=False)
    return open_dump(path)


def test_two_dumps_are_compared_token_by_token(tmp_path):
    """As full logits are, whatever the order of recording, over the samples that both have."""
    shuffled = np.random.default_rng(2).permutation(N).tolist()
    a = record(tmp_path / "a", BASE, list(range(N)))
    b = record(tmp_path / "b", BASE * 2, shuffled[:50])
    found = calibration_difference(a, b, bins=10)
    common = sorted(shuffled[:50])
    sides = []
    for logits in (BASE, BASE * 2):
        probs = torch.softmax(logits[common].double(), -1).reshape(-1, V).numpy()
        sides.append(
            from_probabilities(probs, LABELS[common].reshape(-1), cluster=np.repeat(common, T), bins=10)
        )
    expected = rows_of(difference(*sides))
    for name, row in rows_of(found).items():
        assert row["difference"] is not None, name
        for column in ("a", "b", "difference"):
            assert row[column] == pytest.approx(expected[name][column], abs=2e-4), (name, column)
        # Samples are numbered otherwise, and so drawn otherwise; means need no draws.
        slack = 1e-4 if row["p"] is not None else 0.06 * (row["high"] - row["low"])
        for column in ("low", "high"):
            assert row[column] == pytest.approx(expected[name][column], abs=slack), (name, column)
    assert found.unaligned.only_a == 10 * T
    assert found.a.n == 50 * T
    assert str(found).startswith("A is better calibrated than B: ECE 0.")
    assert found.interval("entropy_gap")[1] < 0


def test_dumps_of_other_tokens_are_refused(tmp_path):
    a = record(tmp_path / "a", BASE, list(range(10)))
    b = record(tmp_path / "b", BASE, list(range(10, 20)))
    with pytest.raises(InputError, match="no sample key is in both"):
        calibration_difference(a, b)
    with pytest.raises(InputError, match="bins is 0"):
        calibration_difference(a, b, bins=0)
