"""Temperature scaling of a real language model from its dump, against float64 sums over its full logits."""

import numpy as np
import pytest
import smollm2
import torch
from scipy.optimize import minimize_scalar

import logitbox as lb
from logitbox.analysis.pairs.choice import choose
from logitbox.analysis.scaling import COLUMNS, nll_at
from logitbox.analysis.temperature import fit

pytestmark = pytest.mark.realmodel

SCALES = (1.0, 1.5, 0.6)


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
    """Mean nll at β from all logits, in float64."""
    logits, gold = scored

    def at(beta):
        total = 0.0
        for start in range(0, len(gold), 128):
            x = logits[start : start + 128].double() * beta
            of_gold = x.gather(1, gold[start : start + 128, None])[:, 0]
            total += float((torch.logsumexp(x, dim=1) - of_gold).sum())
        return total / len(gold)

    return at


@pytest.fixture(scope="module")
def best(mean_nll):
    """Direct optimisation over all logits."""
    return minimize_scalar(mean_nll, bounds=(0.6, 1.4), method="bounded", options={"xatol": 1e-3})


@pytest.fixture(scope="module", params=SCALES)
def case(request, scored, tmp_path_factory):
    """(scale, `scan` of a dump of the logits times it, tokens)."""
    logits, gold = scored
    path = tmp_path_factory.mktemp("dump") / "run"
    with lb.Recorder(path, vocab=logits.shape[1], k=32, shard_rows=500) as recorder:
        for start in range(0, len(gold), 256):
            part = logits[start : start + 256] * request.param
            recorder.record(part, gold[start : start + 256], step=0, phase="eval", shift=False)
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
