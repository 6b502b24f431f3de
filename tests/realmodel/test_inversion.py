"""Seed 004 on a real model: higher accuracy and higher cross-entropy, against float64 on the full logits."""

import inversion
import numpy as np
import pytest
import record_inversion
from inversion_reference import LABELLED, clustered, reference

import logitbox as lb

pytestmark = pytest.mark.realmodel


@pytest.fixture(scope="module")
def evaluations(model, tokenizer):
    return {one.name: one for one in inversion.evaluations(model, tokenizer)}


@pytest.fixture(scope="module")
def dumps(evaluations, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inversion")
    return {name: record_inversion.record(one, folder, tokenizer) for name, one in evaluations.items()}


@pytest.fixture(scope="module")
def base(evaluations):
    return reference(evaluations["base"], 1.0)


@pytest.fixture(scope="module", params=["overfit", "trimmed"])
def case(request, evaluations, dumps, base):
    """(name, the comparison with base, float64 of both sides)."""
    result = lb.explain(dumps[request.param], dumps["base"])
    own = reference(evaluations[request.param], result.temperature.a.temperature)
    return request.param, result, own, base


def in_order(result, evaluation):
    """Row of the reference of each token of the comparison, whose samples come in an order of their own."""
    sample = [evaluation.keys.index(key) for key in result.pair.keys.to_list()]
    return np.asarray(sample)[result.pair.cluster] * LABELLED + result.pair.pos - 1


def test_training_and_held_out_topics_share_no_text(tokenizer, evaluations):
    train, held_out = inversion.split(inversion.openings(tokenizer))
    assert tuple(held_out) == evaluations["base"].keys
    assert len(held_out) >= 40
    lines = [
        {line for ids in texts.values() for line in tokenizer.decode(ids).splitlines() if len(line) > 40}
        for texts in (train, held_out)
    ]
    assert not {line for line in lines[0] & lines[1] if line.strip("*")}


def test_both_cases_are_inverted_beyond_noise(case):
    _, result, own, base = case
    assert result.answer == result.observed == "inverted"
    for delta, values in (
        (result.delta_tfa, own.right.astype(float) - base.right),
        (result.delta_tfce, own.nll - base.nll),
    ):
        mean, half = clustered(values)
        assert mean - half > 0
        assert (delta.value, delta.low, delta.high) == pytest.approx(
            (mean, mean - half, mean + half), abs=2e-5
        )


def test_both_metrics_equal_float64_on_the_full_logits(case, evaluations):
    _, result, own, base = case
    order = in_order(result, evaluations["base"])
    for side, (right, nll), wanted in zip(
        "ab", zip(result.pair.right, result.pair.nll, strict=True), (own, base), strict=True
    ):
        assert np.array_equal(right, wanted.right[order])
        assert (np.abs(nll - wanted.nll[order]) / np.maximum(1, wanted.nll[order])).max() < 2e-6
        assert getattr(result.tfa, side) == pytest.approx(wanted.right.mean(), abs=1e-12)
        assert getattr(result.tfce, side) == pytest.approx(wanted.nll.mean(), abs=1e-6)


def test_the_temperatures_are_those_of_the_full_logits(case):
    _, result, own, base = case
    for fit, wanted in ((result.temperature.a, own), (result.temperature.b, base)):
        assert fit.temperature == pytest.approx(wanted.temperature, rel=0.01)
        assert fit.nll == pytest.approx(wanted.at_best.mean(), abs=1e-3)
        assert fit.low <= wanted.at_best.mean() <= fit.high


def test_miscalibration_and_refinement_are_the_whole_gap(case):
    _, result, own, base = case
    found = result.temperature
    mean, half = clustered(own.at_best - base.at_best)
    assert found.refinement.value == pytest.approx(mean, abs=1e-3)
    assert found.refinement.high - found.refinement.low == pytest.approx(2 * half, rel=0.02)
    assert found.miscalibration.value + found.refinement.value == pytest.approx(
        (own.nll - base.nll).mean(), abs=1e-6
    )


def test_temperature_explains_the_one_and_not_the_other(case):
    name, result, _, _ = case
    refinement = result.temperature.refinement
    if name == "overfit":
        assert result.temperature.a.temperature > 1.3
        assert refinement.high < 0
        assert "over-confidence" in result.told
    else:
        assert refinement.low > 0
        assert "still be behind" in result.told


def test_the_reversal_set_is_the_fewest_tokens(case, evaluations):
    _, result, own, base = case
    gap = np.sort(own.nll - base.nll)[::-1]
    left = gap.sum() - np.cumsum(gap)
    assert result.reversal.tfce.tokens == int(np.argmax(left <= 0)) + 1
    order = in_order(result, evaluations["base"])[result.reversal.tfce.rows]
    assert (own.nll - base.nll)[order] == pytest.approx(gap[: len(order)], abs=1e-4)
    assert result.reversal.tfa.tokens == own.right.sum() - base.right.sum()


def test_the_tokens_that_hold_the_gap_are_those_that_explain_it(case, evaluations):
    """Trimmed away, and so outside the recorded best; or another token taken for sure."""
    name, result, own, _ = case
    gold, rows = result.tokens(None)["gold"].to_numpy(), result.reversal.tfce.rows
    order = in_order(result, evaluations["base"])[rows]
    assert np.array_equal(gold, evaluations["base"].input_ids[:, 1:].reshape(-1).numpy()[order])
    assert not own.right[order].any()
    if name == "trimmed":
        assert (gold >= inversion.KEPT).all()
        assert (own.rank[order] >= record_inversion.K).mean() > 0.9
    else:
        assert (gold >= inversion.KEPT).mean() < 0.5


def test_the_overfit_models_loss_is_of_confidently_wrong_tokens(dumps):
    shares = {}
    for name in ("base", "overfit"):
        whole = lb.explain(dumps[name]).frame.filter(type="", cell="confidently_wrong").row(0, named=True)
        shares[name] = whole["tfce_part"] / whole["tfce"]
    assert shares["base"] < 0.25
    assert shares["overfit"] > 0.5


def test_both_certificates_hold_on_both_sides(case):
    _, result, _, _ = case
    assert [one.holds for one in result.certificates] == [True, True]
    assert result.certificates[0].n_tokens == len(result.pair)
