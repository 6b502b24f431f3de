"""Cases in which calibration once gave a wrong number, failed, or claimed too much."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logitbox.analysis.calibration import calibration, from_arrays, from_probabilities
from logitbox.analysis.calibration.differences import difference
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

V = 20


def simulated(n=200):
    rng = np.random.default_rng(0)
    p = rng.random(n)
    return p, rng.random(n) < p


def test_temperature_of_one_sample_is_of_its_tokens(tmp_path):
    torch.manual_seed(0)
    with Recorder(tmp_path / "d", V) as rec:
        x = 3 * torch.randn(4, 10, V)
        rec.record(x, x.argmax(-1), phase="eval", sample=range(4), shift=False)
    one = calibration(open_dump(tmp_path / "d"), "sample").of("eval", sample=2)
    assert one.n == 10
    assert one.heat.tokens == 10


def test_best_temperature_where_the_search_steps():
    p = 1 / (1 + np.exp(-np.log(2) / np.exp(0.25)))
    found = from_probabilities(np.tile([p, 1 - p], (3, 1)), [0, 0, 1])
    assert found.temperature == pytest.approx(np.exp(-0.25))


def test_objects_that_are_nan_are_one_cluster():
    p, y = simulated()
    labels = np.random.default_rng(0).permutation(np.array([1, 2, float("nan"), 3, 4] * 40, dtype=object))
    asked = from_arrays(p, y, cluster=labels).evidence.clusters
    assert asked.total == from_arrays(p, y, cluster=labels.astype(float)).evidence.clusters.total


@pytest.mark.parametrize("weight", [0.1, 1 / 3])
def test_equal_weights_are_no_weights(weight):
    p, y = simulated()
    given = from_arrays(p, y, weight=np.full(200, weight))
    assert given.ece_equal_mass == from_arrays(p, y).ece_equal_mass


@pytest.mark.parametrize("weight", [1e-200, 1e200])
def test_tiny_and_huge_weights_are_as_any(weight):
    p, y = simulated()
    given = from_arrays(p, y, weight=np.full(200, weight))
    assert given.l2_debiased == pytest.approx(from_arrays(p, y).l2_debiased)


def test_differences_refuse_other_rows():
    p, y = simulated()
    a, b = p.copy(), p.copy()
    a[0], b[-1] = np.nan, np.nan
    with pytest.raises(InputError):
        difference(from_arrays(a, y), from_arrays(b, y))


def test_ragged_truths_are_refused():
    with pytest.raises(InputError, match="correct is not an array of numbers"):
        from_arrays([0.5, 0.5], [[1], [1, 0]])


def test_overconfidence_is_covered_where_nearly_all_are_right():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        p = 1 - rng.exponential(0.001, 300)
        low, high = from_arrays(p, rng.random(300) < p).interval("overconfidence")
        covered += low <= 0 <= high
    assert covered >= 88


def test_ece_of_three_samples_is_covered():
    rng, covered = np.random.default_rng(0), 0
    cluster = np.repeat(np.arange(3), 40)
    for _ in range(100):
        p = 1 / (1 + np.exp(-rng.normal(2, 2, 120)))
        y = rng.random(120) < p + 0.9 * rng.choice([-1, 1], 3)[cluster] * p * (1 - p)
        covered += from_arrays(p, y, cluster=cluster).interval("ece")[0] <= 0
    assert covered >= 88


def test_a_temperature_that_is_not_exact_has_an_error(tmp_path):
    torch.manual_seed(0)
    with Recorder(tmp_path / "d", 400, k=8, lse_beta="always") as rec:
        x = 2 * torch.randn(300, 400)
        rec.record(2 * x, torch.distributions.Categorical(logits=x).sample(), phase="eval", shift=False)
    found = calibration(open_dump(tmp_path / "d")).of("eval")
    assert found.heat.low < found.heat.high
    heat = found.heat
    assert found.error("temperature") == max(heat.temperature - heat.low, heat.high - heat.temperature) > 0


def test_a_phase_of_nothing_but_nan_is_told(tmp_path):
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(torch.randn(2, 4, V), torch.zeros(2, 4, dtype=torch.long), phase="eval")
        rec.record(torch.full((2, 4, V), torch.nan), torch.zeros(2, 4, dtype=torch.long), phase="lost")
    found = calibration(open_dump(tmp_path / "d"))
    assert "lost: no tokens to calibrate (6 non-finite left out)" in str(found)
    lost = found.of("lost")
    assert (lost.n, lost.left_out, lost.ece, lost.heat, lost.full_ece) == (0, 6, None, None, None)
    assert lost.interval("ece") is None
    assert found.frame["phase"].unique().to_list() == ["eval"]
    assert found.of().of == "eval"


def test_bounds_of_nll_with_logits_far_from_zero(tmp_path):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = (rng.normal(0, 1.5, (3, 50)) + 1000).astype(np.float32)
        gold, path = x.argmax(1), tmp_path / f"d{seed}"
        with Recorder(path, 50, k=8, lse_beta="always") as rec:
            rec.record(torch.from_numpy(x), torch.from_numpy(gold), phase="eval", shift=False)
        heat = calibration(open_dump(path)).of("eval").heat
        gap = x.max(1, keepdims=True).astype(float) - x
        least = min(np.log(np.exp(-beta * gap).sum(1)).mean() for beta in np.linspace(0.25, 2, 500))
        assert heat.nll_low - 1e-5 <= least <= heat.nll_high + 1e-5
