"""What is fitted, and how rarely chance is taken for a reason."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from engine_run import evidence_of, lines_of, log_of, make_tokens, mean_of, verdict_of

TOKENS = make_tokens(range(1, 31), seed=3)
EVIDENCE = evidence_of(TOKENS)
STEPS = [5, 10, 15, 20, 25, 30]
LOSS = [value for _, value in lines_of(TOKENS, STEPS)]
UNIFORM = [value for _, value in lines_of(TOKENS, STEPS, value="uniform_nll")]


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("digits", [4, 6])
def test_the_interval_of_epsilon_holds_the_true_one(epsilon: float, digits: int) -> None:
    smoothed = [(1 - epsilon) * nll + epsilon * other for nll, other in zip(LOSS, UNIFORM, strict=True)]
    for key, values in (("loss", smoothed), ("perplexity", [math.exp(value) for value in smoothed])):
        found = verdict_of(log_of(zip(STEPS, values, strict=True), key, digits=digits), EVIDENCE, key)
        fit = next(fit for fit in found.closest if fit.hypothesis == "label-smoothing")
        assert fit.fits
        name, low, high = fit.parameter
        assert name == "ε"
        assert low <= epsilon <= high
        assert high - low < 0.02 * 10.0 ** (4 - digits)


@pytest.mark.parametrize("factor", [0.25, 0.9, 1.1, 3.0])
def test_the_interval_of_a_factor_holds_the_true_one(factor: float) -> None:
    found = verdict_of(log_of([(s, factor * v) for s, v in zip(STEPS, LOSS, strict=True)]), EVIDENCE)
    assert (found.verdict, found.hypothesis) == ("other convention", "constant-factor")
    _, low, high = found.closest[0].parameter
    assert low <= factor - 1 <= high


def test_one_line_never_names_a_fitted_parameter() -> None:
    found = verdict_of(log_of([(5, 0.9 * LOSS[0])]), EVIDENCE)
    assert (found.verdict, found.hypothesis) == ("cannot tell", None)


@pytest.mark.parametrize("n_lines", [1, 2, 5])
@pytest.mark.parametrize("digits", [3, 4, 6])
def test_a_drift_that_no_hypothesis_is_about_is_not_given_a_name(n_lines: int, digits: int) -> None:
    """A smooth drift and an average over every other step: both are off in all lines alike."""
    rng = np.random.default_rng(n_lines)
    told: Counter[str] = Counter()
    steps, loss = STEPS[:n_lines], np.array(LOSS[:n_lines])
    x = np.linspace(0, 1, n_lines)
    for _ in range(6):
        level, slope, bend = rng.choice([-1, 1], 3) * 10 ** rng.uniform(-1.5, -0.5, 3)
        drifted = loss + level + slope * x + bend * x**2
        told[verdict_of(log_of(zip(steps, drifted, strict=True), digits=digits), EVIDENCE).verdict] += 1
    odd = [(s, math.fsum(mean_of(TOKENS, step, step) for step in range(s - 4, s + 1, 2)) / 3) for s in steps]
    told[verdict_of(log_of(odd, digits=digits), EVIDENCE).verdict] += 1
    assert told["bug"] + told["other convention"] == 0
    assert told["agrees"] <= (n_lines == 1)


def test_an_accuracy_of_0_agrees_however_it_is_averaged() -> None:
    """That all averages are one number is not the token counts' doing."""
    tokens = make_tokens(range(1, 11), seed=5)
    never = [type(token)(**{**vars(token), "correct": 0.0}) for token in tokens]
    found = verdict_of(log_of([(5, 0.0), (10, 0.0)], "token_acc"), evidence_of(never), "token_acc")
    assert (found.verdict, found.hypothesis) == ("agrees", "definition")
    assert "micro-mean" in found.ties_with
