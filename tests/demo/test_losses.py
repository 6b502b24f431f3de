import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm, wasserstein_distance

from logitbox.demo.losses import CoordLossConfig, composite_loss, coord_parts, gaussian_target

IDS = range(24, 1024)
V = 1024
BINS = np.arange(1000)


def target(bin_, config):
    weight = norm.pdf(BINS, loc=bin_, scale=config.sigma)
    weight[np.abs(BINS - bin_) > config.truncate] = 0
    return weight / weight.sum()


def expected_parts(row, bin_, config):
    """Soft cross-entropy, W1 and gate of one row, in float64."""
    scaled = row.astype(np.float64) / config.temperature
    inside = scaled[IDS.start : IDS.stop]
    wanted, log_p = target(bin_, config), log_softmax(inside)
    w1 = wasserstein_distance(BINS, BINS, np.exp(log_p), wanted)
    gate = logsumexp(scaled) - logsumexp(inside)
    return -(wanted * log_p).sum(), w1 / (1000 if config.normalize_w1 else 1), gate


@pytest.mark.parametrize(
    "config",
    [
        CoordLossConfig(),
        CoordLossConfig(sigma=4.0, truncate=5, temperature=0.7, normalize_w1=False),
    ],
)
def test_coord_parts_agree_with_float64(config):
    bins = np.array([0, 3, 500, 999])
    logits = np.random.default_rng(0).normal(0, 3, size=(4, V)).astype(np.float32)
    measured = coord_parts(torch.from_numpy(logits), torch.from_numpy(bins + IDS.start), IDS, config)
    for index, bin_ in enumerate(bins):
        for got, want in zip(measured, expected_parts(logits[index], bin_, config), strict=True):
            assert got[index].item() == pytest.approx(want, rel=2e-5, abs=2e-6)  # float32 logsumexp


def test_target_is_truncated_and_sums_to_one_at_the_edges():
    config = CoordLossConfig(sigma=8.0, truncate=16)
    wanted = gaussian_target(torch.tensor([0, 500, 999]), 1000, config)
    assert wanted.sum(dim=-1).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    assert (wanted > 0).sum(dim=-1).tolist() == [17, 33, 17]


def test_total_is_text_mean_plus_weighted_coord_means():
    config = CoordLossConfig(soft_ce_weight=0.3, w1_weight=5.0, gate_weight=0.7)
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 5, V)).astype(np.float32)
    labels = np.array([[-100, 4, IDS.start + 9, 7, -100], [-100, IDS.start, 2, -100, -100]])
    text, coord = [], []
    for row, label in zip(logits[:, :-1].reshape(-1, V), labels[:, 1:].flatten(), strict=True):
        if label in IDS:
            coord.append(expected_parts(row, label - IDS.start, config))
        elif label >= 0:
            text.append(-log_softmax(row.astype(np.float64))[label])
    soft_ce, w1, gate = np.mean(coord, axis=0)
    parts = composite_loss(torch.from_numpy(logits), torch.from_numpy(labels), IDS, config)
    assert parts.text_ce.item() == pytest.approx(np.mean(text), rel=1e-5)
    assert parts.coord.item() == pytest.approx(0.3 * soft_ce + 5.0 * w1 + 0.7 * gate, rel=1e-5)
    assert parts.total.item() == pytest.approx(parts.text_ce.item() + parts.coord.item(), rel=1e-6)
