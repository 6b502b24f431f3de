"""Chance over clusters, against sums written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from logitbox.analysis.calibration import from_arrays
from logitbox.analysis.calibration.evidence import CLUSTER_GRID, Clusters, Evidence
from logitbox.analysis.calibration.resampling import (
    REPLICATES,
    flipped,
    least_variance,
    noise,
    normals,
    reached,
    signs,
    weights,
)


def clustered(clusters=40, rows=3000, seed=0, accuracy=0.6):
    """(confidence, correct, cluster): samples differ a lot."""
    rng = np.random.default_rng(seed)
    cluster = np.append(np.arange(clusters), rng.integers(0, clusters, rows - clusters))
    p = rng.random(rows)
    right = rng.random(rows) < np.clip(accuracy + 0.3 * rng.standard_normal(clusters)[cluster], 0, 1)
    return p, right, cluster


def written_out(p, right, cluster, drawn, weight=None):
    """The noise of every bin of 300, cluster by cluster."""
    w = np.ones(len(p)) if weight is None else weight
    cell = np.minimum((p * 300).astype(int), 299)
    total = w.sum()
    mean = np.bincount(cell, w * (right - p), 300) / total
    found = np.zeros((len(drawn), 300))
    labels = np.unique(cluster)
    for place, label in enumerate(labels):
        mine = cluster == label
        part = np.bincount(cell[mine], (w * (right - p))[mine], 300) - mean * w[mine].sum()
        found += np.outer(drawn[:, place], part) / np.sqrt(1 - w[mine].sum() / total)
    return found / total


def in_300(z):
    """The finer bins near 1 put together."""
    return np.column_stack([z[:, :299], z[:, 299:].sum(axis=1)])


@pytest.mark.parametrize("universe", [2, 7, 2048])
def test_every_replicate_draws_as_many_as_there_are(universe):
    drawn = weights(universe)
    assert drawn.shape == (REPLICATES, universe)
    assert (drawn.sum(axis=1) == universe).all()
    assert ((drawn >= 0) & (drawn == np.floor(drawn))).all()
    assert drawn.var() == pytest.approx(1 - 1 / universe, rel=0.1)
    assert abs(drawn.mean(axis=0) - 1).max() < 5.5 / np.sqrt(REPLICATES)


def test_draws_are_always_the_same_and_cannot_be_changed():
    for draw in (weights, normals, signs):
        first = draw(31).copy()
        draw.cache_clear()
        assert (draw(31) == first).all()
        with pytest.raises(ValueError, match="read-only"):
            draw(31)[0, 0] = 5


def test_normal_numbers_and_signs_are_that():
    for drawn in (normals(300), signs(300)):
        assert drawn.shape == (REPLICATES, 300)
        assert drawn.mean() == pytest.approx(0, abs=0.01)
        assert drawn.var() == pytest.approx(1, abs=0.01)
        assert abs(np.corrcoef(drawn[:, :5].T) - np.eye(5)).max() < 0.15
    assert set(np.unique(signs(300)).tolist()) == {-1, 1}
    assert kstest(normals(300)[:, 0], "norm").pvalue > 0.001


def test_noise_is_what_clusters_deviate_by():
    p, right, cluster = clustered()
    found = noise(from_arrays(p, right, cluster=cluster).evidence)
    assert found.shape == (REPLICATES, CLUSTER_GRID.n_bins)
    assert in_300(found) == pytest.approx(written_out(p, right, cluster, normals(40)), abs=2e-9)


def test_weights_of_rows_count():
    p, right, cluster = clustered(accuracy=0.5)
    w = np.random.default_rng(3).integers(1, 4, len(p)).astype(float)
    found = noise(from_arrays(p, right, weight=w, cluster=cluster).evidence)
    assert in_300(found) == pytest.approx(written_out(p, right, cluster, normals(40), w), abs=2e-9)


def test_flips_turn_the_residuals_of_whole_clusters():
    p, right, cluster = clustered()
    found = flipped(from_arrays(p, right, cluster=cluster).evidence)
    cell = np.minimum((p * 300).astype(int), 299)
    expected = [np.bincount(cell, row[cluster] * (right - p), 300) / len(p) for row in signs(40)]
    assert in_300(found) == pytest.approx(np.array(expected), abs=2e-9)
    assert flipped(from_arrays([0.5, 0.7], [1, 0], cluster=[4, 4]).evidence) is None


def test_data_reach_themselves():
    """Whatever float32 rounds: of 3 clusters every fourth turning is the data, or its mirror."""
    rows = np.array([[0.1, 0.2, 0.3, 0.3 * (1 - 1e-7)]])
    assert reached(np.array([0.3]), rows).tolist() == [3 / 5]
    assert reached(np.array([0.0]), np.zeros((1, 9))).tolist() == [1.0]


def test_least_variance_is_that_of_calibrated_independent_tokens():
    rng = np.random.default_rng(7)
    p, w = rng.uniform(0.8, 1, 2000), rng.lognormal(0, 1.5, 2000)
    for weight in (None, w):
        squares = np.ones(2000) if weight is None else w**2
        total = 2000 if weight is None else w.sum()
        found = least_variance(from_arrays(p, rng.random(2000) < p, weight=weight).evidence)
        exact = (squares * p * (1 - p)).sum() / total**2
        assert found == pytest.approx(exact, rel=1e-9 if weight is None else 0.1)


def test_a_real_bootstrap_spreads_as_much():
    """Whole clusters drawn with replacement, the ratio computed anew each time."""
    p, right, cluster = clustered(clusters=200, rows=20_000)
    found = noise(from_arrays(p, right, cluster=cluster).evidence)
    rng = np.random.default_rng(1)
    residual, n = np.bincount(cluster, right - p), np.bincount(cluster)
    drawn = rng.integers(0, 200, (20_000, 200))
    ratios = residual[drawn].sum(axis=1) / n[drawn].sum(axis=1)
    assert found.sum(axis=1).std() == pytest.approx(ratios.std(), rel=0.08)


def test_subgroups_of_the_same_units_are_drawn_alike():
    p, right, cluster = clustered()
    whole = from_arrays(p, right, cluster=cluster).evidence.clusters
    units = np.array([3, 4, 17, 30, 39])
    mine = np.isin(cluster, units)
    alone = from_arrays(p[mine], right[mine]).evidence
    some = Clusters(units, 40, whole.grid, whole.n[units], whole.residual[units], {}, len(units))
    found = noise(replace(alone, make_clusters=lambda: some))
    expected = written_out(p[mine], right[mine], cluster[mine], normals(40)[:, units])
    assert in_300(found) == pytest.approx(expected, abs=5e-8)


def test_the_same_evidence_gives_the_same_noise():
    p, right, cluster = clustered()
    one, other = (from_arrays(p, right, cluster=cluster).evidence for _ in range(2))
    assert noise(one) is noise(one)
    assert (noise(one) == noise(other)).all()
    with pytest.raises(ValueError, match="read-only"):
        noise(one)[0, 0] = 1


def test_one_cluster_has_no_noise():
    assert noise(from_arrays([0.5, 0.7], [1, 0], cluster=[4, 4]).evidence) is None
    p, right, _ = clustered()
    given = from_arrays(p, right).evidence
    unknown = Evidence(given.count, 0, given.n, 15, given.table, {}, lambda: given.atoms)
    assert noise(unknown) is None


@pytest.mark.parametrize("confidence", [0.99, 0.2])
@pytest.mark.parametrize("known", [True, False])
def test_tokens_that_are_all_right_do_not_pretend_that_chance_cannot_err(confidence, known):
    p = np.full(500, confidence)
    given = from_arrays(p, np.ones(500), cluster=np.arange(500) // 10).evidence
    sums = given.sums if known else {}
    evidence = Evidence(500, 0, 500.0, 15, given.table, sums, lambda: given.atoms, lambda: given.clusters)
    variance = (noise(evidence) ** 2).mean(axis=0).sum()
    assert variance == pytest.approx(confidence * (1 - confidence) / 500, rel=0.2)


def test_sure_and_always_right_has_no_noise():
    assert not noise(from_arrays(np.ones(50), np.ones(50)).evidence).any()


def test_ten_million_rows_are_some_thousand_units():
    """Independent rows are put together by hash; their noise is still that of independent rows."""
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    evidence = from_arrays(p, rng.random(len(p)) < p).evidence
    assert len(evidence.clusters) == 2048
    assert noise(evidence).sum(axis=1).std() == pytest.approx(np.sqrt((p * (1 - p)).sum()) / len(p), rel=0.08)
