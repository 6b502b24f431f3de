"""The seed's toy example, recorded as it stands; it shows no inversion. The smallest example that does."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch

from logitbox.analysis.pairs.comparison import compare
from logitbox.analysis.pairs.words import headline
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder

V, GOLD, OTHER = 24, 3, 7


def probabilities(gold, other):
    """[V]: gold, one other token, and the rest spread evenly."""
    p = np.full(V, (1 - gold - other) / (V - 2))
    p[[GOLD, OTHER]] = gold, other
    return p


def evaluated(path, rows):
    """One supervised token a sample, logits = ln p."""
    p = np.stack(rows)
    assert p.sum(axis=1) == pytest.approx(1)
    with Recorder(path, vocab=V, k=5) as recorder:
        recorder.record(
            torch.from_numpy(np.log(p)).float(),
            torch.full((len(p),), GOLD),
            phase="eval",
            sample=torch.arange(len(p)),
        )
    return open_dump(path)


@pytest.fixture
def compared(tmp_path):
    """A function that records both sides, given p(gold) and p(other) of each sample, and compares them."""

    def run(a, b):
        sides = [
            evaluated(tmp_path / name, [probabilities(*row) for row in rows])
            for name, rows in (("a", a), ("b", b))
        ]
        return compare(*sides)

    return run


def test_the_seeds_own_numbers_are_no_inversion(compared):
    """A: gold .31 above .30. B: gold .29 behind .33. A is better by both metrics: −ln .31 < −ln .29."""
    result = compared([(0.31, 0.30)], [(0.29, 0.33)])
    assert (result.tfa.a, result.tfa.b) == (1, 0)
    assert result.tfce.a == pytest.approx(-log(0.31), abs=1e-6)
    assert result.tfce.b == pytest.approx(-log(0.29), abs=1e-6)
    assert result.tfce.a < result.tfce.b
    assert result.observed == "not inverted"
    assert result.answer == "not distinguishable"


def test_the_seeds_numbers_in_twenty_samples_agree_on_a(compared):
    a, b = jittered((0.31, 0.30), seed=1), jittered((0.29, 0.33), seed=2)
    result = compared(a, b)
    assert result.answer == "not inverted"
    assert (
        "A has the better accuracy and the better cross-entropy, beyond noise: both metrics agree"
        in headline(result)
    )


def test_the_smallest_inversion_is_one_token(compared):
    """A is right with p(gold) = .31; B is wrong, with gold at .45 behind .46."""
    result = compared([(0.31, 0.30)], [(0.45, 0.46)])
    assert (result.tfa.a, result.tfa.b) == (1, 0)
    assert result.delta_tfce.value == pytest.approx(log(0.45) - log(0.31), abs=1e-6)
    assert result.observed == "inverted"
    assert result.reversal.tfce.tokens == result.reversal.tfa.tokens == 1


def test_one_sample_is_not_enough_to_tell(compared):
    result = compared([(0.31, 0.30)], [(0.45, 0.46)])
    assert result.answer == "not distinguishable"
    assert (result.delta_tfa.low, result.delta_tfce.low) == (None, None)
    assert headline(result).startswith("Not distinguishable: by the numbers alone A has the better accuracy")


def test_twenty_samples_are(compared):
    a, b = jittered((0.31, 0.30), seed=1), jittered((0.45, 0.46), seed=2)
    result = compared(a, b)
    gap = np.log([row[0] for row in b]) - np.log([row[0] for row in a])
    spread = gap.std(ddof=1) / np.sqrt(len(gap))
    assert (result.tfa.a, result.tfa.b) == (1, 0)
    assert result.delta_tfce.value == pytest.approx(gap.mean(), abs=1e-6)
    assert result.delta_tfce.low == pytest.approx(gap.mean() - 1.96 * spread, rel=1e-4)
    assert result.delta_tfce.high == pytest.approx(gap.mean() + 1.96 * spread, rel=1e-4)
    assert result.answer == "inverted"
    assert headline(result) == (
        "Inverted: A has the better accuracy and B has the better cross-entropy, beyond noise, on the same tokens."
    )


def test_removing_tokens_undoes_it_and_not_one_fewer(compared):
    a, b = jittered((0.31, 0.30), seed=1), jittered((0.45, 0.46), seed=2)
    result = compared(a, b)
    gap = np.log([row[0] for row in b]) - np.log([row[0] for row in a])
    assert (gap > 0).all()
    assert result.reversal.tfce.tokens == result.reversal.tfa.tokens == len(gap)
    worst = result.reversal.tfce.rows
    assert worst.tolist() == np.argsort(-gap).tolist()


def test_half_of_the_samples_the_other_way_round_is_no_answer(compared):
    """Sides exchanged in every other sample: both differences are 0 but for jitter."""
    a, b = jittered((0.31, 0.30), seed=1), jittered((0.45, 0.46), seed=2)
    mixed = [(x, y) if i % 2 else (y, x) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    result = compared(*zip(*mixed, strict=True))
    assert result.delta_tfa.value == 0
    assert result.answer == "not distinguishable"


def jittered(row, seed, samples=20):
    """The same token in many samples, p(gold) and p(other) scaled together, so that their order stays."""
    scale = np.random.default_rng(seed).uniform(0.96, 1.04, samples)
    return [(row[0] * s, row[1] * s) for s in scale]
