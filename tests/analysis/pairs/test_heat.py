"""The split of a loss gap by temperature, from recorded dumps, against full logits and direct optimisation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from logitbox.analysis.pairs.align import align
from logitbox.analysis.pairs.choice import choose
from logitbox.analysis.pairs.heat import Temperature, temperature_of
from logitbox.analysis.pairs.paired import Difference, clustered_error
from logitbox.analysis.temperature import Fit
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

V, T, N = 90, 12, 40


def noise(seed, scale):
    return torch.randn(N, T, V, generator=torch.Generator().manual_seed(seed)) * scale


BASE = noise(0, 2.5)
LABELS = torch.from_numpy(np.argmax(BASE.numpy() + np.random.default_rng(1).gumbel(size=BASE.shape), axis=-1))
"""Drawn from softmax(BASE): its own best temperature is about 1."""


def record(path, logits, order=range(N), lse_beta="eval", k=16, sessions=1):
    """One evaluation, three samples a call, in shards that samples straddle."""
    order = list(order)
    for session in range(sessions):
        mode = lse_beta if session == 0 else "never"
        part = order[session::sessions]
        with Recorder(path, vocab=V, k=k, lse_beta=mode, shard_rows=50) as rec:
            for i in range(0, len(part), 3):
                rows = part[i : i + 3]
                rec.record(logits[rows], LABELS[rows], step=0, phase="eval", sample=rows, shift=False)
    return open_dump(path)


def nll_of(logits, beta, rows):
    x = logits[rows].numpy().astype(np.float64)
    gold = np.take_along_axis(x, LABELS[rows].numpy()[..., None], -1)[..., 0]
    return logsumexp(beta * x, axis=-1) - beta * gold


def truth(logits, rows):
    """(T, nll [rows, T] at 1, nll at T)."""
    best = minimize_scalar(lambda b: nll_of(logits, b, rows).mean(), bounds=(0.25, 2), method="bounded").x
    return 1 / best, nll_of(logits, 1, rows), nll_of(logits, best, rows)


def paired(tmp_path, a, b, **options):
    return align(choose(record(tmp_path / "a", a, **options)), choose(record(tmp_path / "b", b)))


@pytest.fixture(scope="module")
def other():
    """A worse model, over-confident: noise added, times 1.6."""
    return (BASE + noise(7, 0.8)) * 1.6


def test_a_scaled_model_is_all_miscalibration(tmp_path):
    found = temperature_of(paired(tmp_path, BASE * 1.5, BASE))
    assert found.a.temperature / found.b.temperature == pytest.approx(1.5, rel=2e-3)
    delta = nll_of(BASE * 1.5, 1, range(N)).mean() - nll_of(BASE, 1, range(N)).mean()
    assert found.miscalibration.value + found.refinement.value == pytest.approx(delta, abs=1e-6)
    assert found.refinement.value == pytest.approx(0, abs=2e-4)
    assert found.share == pytest.approx(1, abs=2e-3)
    low, high = found.refinement_bounds
    assert low <= 0 <= high
    assert "of A's worse loss is over-confidence (T = 1.5" in str(found)


def test_parts_and_intervals_against_full_logits(tmp_path, other):
    """Orders differ and each side lacks samples: the fits are on the shared tokens only."""
    order = np.random.default_rng(2).permutation(N)[:35]
    a = choose(record(tmp_path / "a", other, order))
    b = choose(record(tmp_path / "b", BASE, range(5, N)))
    pair = align(a, b)
    rows = sorted(set(order.tolist()) & set(range(5, N)))
    found = temperature_of(pair)
    (t_a, one_a, best_a), (t_b, one_b, best_b) = truth(other, rows), truth(BASE, rows)
    assert len(pair) == len(rows) * T == found.a.tokens
    assert found.a.temperature == pytest.approx(t_a, rel=2e-3)
    assert found.b.temperature == pytest.approx(t_b, rel=2e-3)
    nll_a, nll_b = pair.nll
    assert found.miscalibration.value + found.refinement.value == pytest.approx(
        (nll_a - nll_b).mean(), abs=1e-12
    )
    parts = {
        "miscalibration": (one_a - best_a) - (one_b - best_b),
        "refinement": best_a - best_b,
    }
    for name, values in parts.items():
        part = getattr(found, name)
        error = 1.959964 * clustered_error(values.sum(axis=1), np.full(len(rows), float(T)))
        assert part.value == pytest.approx(values.mean(), abs=1e-3)
        assert part.high - part.low == pytest.approx(2 * error, rel=0.02)
    low, high = found.refinement_bounds
    assert low <= best_a.mean() - best_b.mean() <= high
    mirrored = temperature_of(dataclasses.replace(pair, a=pair.b, b=pair.a))
    assert mirrored.refinement.value == -found.refinement.value
    assert mirrored.miscalibration.value == pytest.approx(-found.miscalibration.value, abs=1e-12)
    assert mirrored.a == found.b


def test_the_interval_counts_the_fitting_of_the_temperature_as_nothing():
    """The envelope theorem: refitting T in resamples of the samples changes the spread by little."""
    rng = np.random.default_rng(3)
    rows = np.arange(N)
    best = truth(BASE * 1.4, rows)
    fixed, refitted = [], []
    for _ in range(40):
        drawn = rng.integers(0, N, N)
        fixed.append(best[2][drawn].mean())
        refitted.append(truth(BASE * 1.4, drawn)[2].mean())
    assert np.std(refitted) == pytest.approx(np.std(fixed), rel=0.05)


def test_without_lse_beta_on_a_side_there_is_a_reason(tmp_path):
    found = temperature_of(paired(tmp_path, BASE, BASE * 1.2, lse_beta="never"))
    assert (found.a, found.miscalibration, found.refinement, found.share) == (None, None, None, None)
    assert found.refinement_bounds is None
    assert "A has no lse_beta for 480 of 480 tokens" in found.reason
    assert str(found).startswith("How much of the loss gap is a matter of temperature is not known: A has")


def test_a_session_without_lse_beta_is_counted(tmp_path):
    found = temperature_of(paired(tmp_path, BASE, BASE * 1.2, sessions=2))
    assert "A has no lse_beta for 240 of 480 tokens" in found.reason


def test_an_optimum_at_the_edge_has_no_split(tmp_path):
    found = temperature_of(paired(tmp_path, BASE, BASE * 9))
    assert found.a is not None
    assert found.refinement is None
    assert "B's best temperature is 4 or more" in str(found)


def test_a_dump_against_itself_has_no_gap(tmp_path):
    choice = choose(record(tmp_path / "a", BASE))
    found = temperature_of(align(choice, choice))
    assert (found.miscalibration.value, found.refinement.value, found.share) == (0, 0, None)
    assert str(found).startswith("No loss gap")


def test_rows_that_do_not_return_are_told(tmp_path):
    pair = paired(tmp_path, BASE, BASE * 1.2)
    fewer = dataclasses.replace(pair.a.choice, places=pair.a.choice.places.clear())
    with pytest.raises(InputError, match="changed while it was read"):
        temperature_of(dataclasses.replace(pair, a=dataclasses.replace(pair.a, choice=fewer)))


def _split(fit, t_a, t_b, miscalibration, refinement, spread=0.001):
    parts = [Difference(v, v - spread, v + spread, 0.01) for v in (miscalibration, refinement)]
    return Temperature(
        dataclasses.replace(fit, temperature=t_a), dataclasses.replace(fit, temperature=t_b), *parts
    )


SENTENCES = {
    (1.31, 1.05, 0.072, 0.028): (
        "72% of A's worse loss is over-confidence (T = 1.31)",
        "(B's is 1.05) A would still be behind by 0.0280 nats (95 % 0.0270 to 0.0290).",
    ),
    (1.31, 1.05, 0.12, -0.02): (
        "All of A's worse loss is over-confidence (T = 1.31)",
        "(B's is 1.05) A would be ahead by 0.0200 nats (95 % 0.0190 to 0.0210).",
    ),
    (1.0, 0.8, -0.05, 0.02): (
        "All of B's worse loss is under-confidence (T = 0.80)",
        "(A's is 1.00) B would be ahead by 0.0200 nats (95 % 0.0190 to 0.0210).",
    ),
    (1.2, 1.3, -0.01, 0.05): (
        "None of A's worse loss is miscalibration (T = 1.20)",
        "(B's is 1.30) A would still be behind by 0.0500 nats (95 % 0.0490 to 0.0510).",
    ),
    (1.2, 1.0, 0.05, 0.0001): (
        "99% of A's worse loss is over-confidence (T = 1.20)",
        "(B's is 1.00) A would be level within noise (+0.0001 nats of loss, 95 % -0.0009 to +0.0011).",
    ),
}


@pytest.mark.parametrize("given", SENTENCES)
def test_the_sentence(given):
    fitted = Fit(1.0, 2.0, 1.9, 1.8, 1.9, at_edge=False, tokens=10, left_out=0)
    first, last = SENTENCES[given]
    assert str(_split(fitted, *given)) == f"{first}; with each at its own best temperature {last}"


def test_one_sample_has_no_interval_but_a_sentence(tmp_path):
    a, b = (record(tmp_path / name, x, [0]) for name, x in (("a", BASE * 1.5), ("b", BASE)))
    found = temperature_of(align(choose(a), choose(b)))
    assert found.refinement.low is None
    assert "95 %" not in str(found)
    assert " nats." in str(found)
