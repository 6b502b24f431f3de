"""Temperature scaling of a real language model from its dump, against float64 sums over its full logits."""

from functools import cache

import numpy as np
import pytest
import smollm2
import torch
from scipy.optimize import minimize_scalar

import logitbox as lb
from logitbox.analysis.calibration.temperatures import heat_of
from logitbox.analysis.calibration.vocabulary import class_errors
from logitbox.analysis.pairs.choice import choose
from logitbox.analysis.scaling import COLUMNS, bands, nll_at
from logitbox.analysis.temperature import Range, fit, fits

pytestmark = pytest.mark.realmodel

SCALES = (1.0, 1.5, 0.6)
ROWS = 32
"""Taken at a time by the references: larger arrays cost page faults."""


@pytest.fixture(scope="module")
def scored(model, tokenizer):
    """Full logits [N, V] that predict a token, and the tokens."""
    logits, gold = [], []
    for batch in smollm2.text_batches(tokenizer, smollm2.passages(per_file=2, characters=400), longest=80):
        with torch.inference_mode():
            found = model(batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
        known = batch.labels[:, 1:] >= 0
        logits.append(found[known])
        gold.append(batch.labels[:, 1:][known])
    return torch.cat(logits), torch.cat(gold)


@pytest.fixture(scope="module")
def mean_nll(scored):
    """Mean nll at β from all logits, in float64, by default of all rows; several tests ask for the same."""
    logits, gold = scored

    @cache
    def at(beta, rows=None):
        n = len(gold) if rows is None else rows
        total = 0.0
        for start in range(0, n, ROWS):
            end = min(start + ROWS, n)
            x = logits[start:end].double() * beta
            of_gold = x.gather(1, gold[start:end, None])[:, 0]
            total += float((torch.logsumexp(x, dim=1) - of_gold).sum())
        return total / n

    return at


@pytest.fixture(scope="module")
def best(mean_nll):
    """Direct optimisation over all logits."""
    return minimize_scalar(mean_nll, bounds=(0.6, 1.4), method="bounded", options={"xatol": 1e-3})


@pytest.fixture(scope="module")
def best_of_type(mean_nll, scored):
    """Of the first half of the rows."""
    half = len(scored[1]) // 2
    return minimize_scalar(
        lambda beta: mean_nll(beta, half), bounds=(0.6, 1.4), method="bounded", options={"xatol": 1e-3}
    )


@pytest.fixture(scope="module", params=SCALES)
def case(request, scored, tmp_path_factory):
    """(scale, `scan` of a dump of the logits times it, tokens)."""
    logits, gold = scored
    path = tmp_path_factory.mktemp("dump") / "run"
    # The first half of the rows are of type "first": types have temperatures of their own.
    with lb.Recorder(path, vocab=logits.shape[1], k=32, types=["first"], shard_rows=500) as recorder:
        for start in range(0, len(gold), 256):
            part = logits[start : start + 256] * request.param
            first = (torch.arange(start, start + len(part)) < len(gold) // 2).int()
            recorder.record(part, gold[start : start + 256], step=0, phase="eval", types=first, shift=False)
    return request.param, choose(lb.open(path)).scan, len(gold)


def test_mean_nll_at_any_temperature(case, mean_nll):
    scale, read, n = case
    chunks = list(read(COLUMNS))
    errors = {}
    for beta in (0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 1.75, 2.0):
        found = np.concatenate([nll_at(beta, chunk) for chunk in chunks])
        assert len(found) == n > 500
        errors[beta] = found.mean() - mean_nll(beta * scale)
    print({beta: f"{error:+.1e}" for beta, error in errors.items()})  # shown by `pytest -s`
    assert max(map(abs, errors.values())) < 1e-3
    assert max(abs(errors[beta]) for beta in (0.5, 1.0, 1.5, 2.0)) < 5e-6


def test_the_temperature_is_that_of_the_full_logits(case, best):
    scale, read, n = case
    found = fit(read)
    print(f"{found} against T = {scale / best.x:.4f}, {best.fun:.5f} nats")
    assert found.tokens == n
    assert found.temperature == pytest.approx(scale / best.x, rel=0.01)
    assert found.nll == pytest.approx(best.fun, abs=1e-3)
    assert found.low <= best.fun <= found.high
    assert found.coolest <= scale / best.x <= found.hottest


def test_the_temperature_of_a_type(case, best_of_type):
    scale, read, n = case
    heat, best = heat_of(read.__self__.dump, "eval", "first"), best_of_type
    print(f"{heat} against T = {scale / best.x:.4f}, {best.fun:.5f} nats")
    assert heat.tokens == n // 2
    assert heat.temperature == pytest.approx(scale / best.x, rel=0.01)
    assert heat.nll == pytest.approx(best.fun, abs=1e-3)
    assert heat.low <= scale / best.x <= heat.high


def test_bounds_without_lse_beta(case, mean_nll, best):
    """From the top 32, the tail's mass and entropy alone."""
    scale, read, _ = case

    def without(columns):
        return (
            {name: values for name, values in chunk.items() if name != "lse_beta"} for chunk in read(columns)
        )

    (found,) = fits(without, 1)
    print(f"T = {found.coolest:.4f} to {found.hottest:.4f}, nll {found.low:.5f} to {found.high:.5f} nats")
    assert isinstance(found, Range)
    assert found.coolest <= scale / best.x <= found.hottest
    assert found.low <= best.fun <= found.high
    betas = [0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.5, 2.0]
    sums = sum(bands(betas, chunk).sum(axis=2) for chunk in without(COLUMNS)) / found.tokens
    for beta, (_, _, low, high) in zip(betas, sums, strict=True):
        truth = mean_nll(beta * scale)
        print(f"  T = {1 / beta:.2f}: {low - truth:+.4f} {high - truth:+.4f}")
        assert low - 2e-5 <= truth <= high + 2e-5


def test_full_ece(case, scored):
    """Over all pairs of a token and one of 49,152 entries."""
    scale, read, _ = case
    found, none = class_errors(read.__self__.dump, "eval")
    logits, gold = scored
    sums = torch.zeros(15, dtype=torch.float64)
    edges = torch.arange(16, dtype=torch.float64) / 15
    for start in range(0, len(gold), ROWS):
        p = torch.softmax(logits[start : start + ROWS].double() * scale, dim=1)
        value = -p
        value[torch.arange(len(p)), gold[start : start + ROWS]] += 1
        place = (torch.searchsorted(edges, p.flatten(), right=True) - 1).clamp(0, 14)
        sums.index_add_(0, place, value.flatten())
    truth = float(sums.abs().sum()) / len(gold)
    print(f"Full-ECE {found.value:.6f} ({found.low:.6f} to {found.high:.6f}) against {truth:.6f}")
    assert none is None
    assert found.low <= truth <= found.high
    assert found.value == pytest.approx(truth, abs=2e-4)
    assert found.high - found.low < 4e-3  # each of the few tokens near an edge is worth 1/948
