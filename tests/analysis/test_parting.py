"""Changes between steps against plain statistics, and runs whose parting is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logitbox.analysis.explain import explain
from logitbox.analysis.pairs.choice import choose
from logitbox.analysis.parting import StepSums, change, steps_of, sums_by_step, told_parting
from logitbox.analysis.tallying import tally_dump
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder


def sums(rng, ids, tokens=10.0):
    n = np.full(len(ids), tokens)
    return StepSums(
        np.array(ids), n, rng.binomial(int(tokens), 0.6, len(ids)).astype(float), rng.gamma(3, 3, len(ids))
    )


def test_same_samples_are_compared_as_pairs():
    rng = np.random.default_rng(0)
    a, b = sums(rng, range(40)), sums(rng, range(40))
    found = change(a, b)
    for value, error, x, y in (
        (found.tfa, found.se_tfa, a.correct, b.correct),
        (found.tfce, found.se_tfce, a.nll, b.nll),
    ):
        each = (y - x) / 10  # equally long samples: the mean of their differences
        assert value == pytest.approx(each.mean())
        assert error == pytest.approx(each.std(ddof=1) / np.sqrt(40))


def test_other_samples_are_independent():
    rng = np.random.default_rng(1)
    a, b = sums(rng, range(50)), sums(rng, range(50, 100))
    apart = [s.nll / 10 for s in (a, b)]
    assert change(a, b).tfce == pytest.approx(apart[1].mean() - apart[0].mean())
    # Two samples of 50: variances add up; G is 100, so that its correction is smaller.
    expected = np.sqrt(sum(x.var() / 50 for x in apart) * 100 / 99)
    assert change(a, b).se_tfce == pytest.approx(expected)


def test_ragged_samples_that_partly_overlap_against_the_jackknife():
    rng = np.random.default_rng(2)
    a, b = sums(rng, range(300)), sums(rng, range(100, 400))
    b = StepSums(b.sample, rng.integers(1, 30, 300).astype(float), b.correct, b.nll)

    def without(step, i):
        keep = step.sample != i
        return StepSums(*(getattr(step, name)[keep] for name in ("sample", "n", "correct", "nll")))

    left = np.array([change(without(a, i), without(b, i)).tfce for i in range(400)])
    jackknife = np.sqrt(399 / 400 * ((left - left.mean()) ** 2).sum())
    assert change(a, b).se_tfce == pytest.approx(jackknife, rel=0.05)


def one(tfa, tfce, error=0.1):
    base = change(*(sums(np.random.default_rng(i), range(9)) for i in (1, 2)))
    return type(base)(tfa, tfce, error, error)


@pytest.mark.parametrize(
    ("tfa", "tfce", "told"),
    [(0.3, 0.3, "both rose"), (-0.3, -0.3, "both fell"), (0.3, -0.3, ""), (-0.3, 0.3, ""),
     (0.19, 0.3, ""), (0.3, 0.19, ""), (0.0, 0.3, "")],
)  # fmt: skip
def test_parted_needs_both_beyond_noise(tfa, tfce, told):
    assert one(tfa, tfce).parted == told
    assert one(tfa, tfce, None).parted == ""


def test_one_sample_has_no_noise_to_tell_from():
    found = change(*(sums(np.random.default_rng(i), [4]) for i in (1, 2)))
    assert found.se_tfa is found.se_tfce is None


def record(path, table):
    """Per step (share right, nll of right, nll of wrong, …): three token kinds over a vocabulary of four."""
    rng = np.random.default_rng(0)
    with Recorder(path, vocab=4) as rec:
        for step, (right, sure) in table.items():
            hit = rng.random((60, 12)) < right
            logits = torch.zeros(60, 12, 4)
            logits[..., 1] = torch.from_numpy(np.where(hit, sure, 0.0)) + torch.from_numpy(
                rng.normal(0, 0.02, hit.shape)
            )
            logits[..., 2] = torch.from_numpy(np.where(hit, 0.0, sure))
            labels = torch.full((60, 12), 1)
            rec.record(logits, labels, phase="eval", step=step, sample=list(range(60)), shift=False)
    return open_dump(path)


def test_a_run_that_becomes_overconfident(tmp_path):
    """Accuracy grows throughout; from step 20 on the loss grows too: wrong tokens become confidently wrong."""
    dump = record(tmp_path / "d", {0: (0.4, 0.5), 10: (0.6, 1.5), 20: (0.7, 6.0), 30: (0.8, 16.0)})
    frame = explain(dump).steps
    assert frame["parted"].to_list() == [None, "", "both rose", "both rose"]
    assert frame["best"].to_list() == [None, 0, 10, 10]
    assert frame["parted_best"].to_list() == [None, "", "both rose", "both rose"]
    assert frame["moved"].to_list()[2:] == ["confidently_wrong"] * 2
    told = explain(dump).parting
    assert told.startswith(
        "eval: accuracy and loss part ways at step 20: since the lowest loss (step 10) TFA +0."
    )
    assert "in its last step confidently wrong tokens moved TFCE most (+" in told
    assert told.endswith("both moved the same way between 2 of 3 pairs of neighbouring steps")


def test_a_run_that_just_learns(tmp_path):
    dump = record(tmp_path / "d", {0: (0.3, 0.5), 10: (0.6, 1.0), 20: (0.9, 2.0)})
    frame = explain(dump).steps
    assert frame["parted"].to_list() == [None, "", ""]
    assert explain(dump).parting == (
        "eval: accuracy and loss never moved the same way, beyond noise, neither from step to step nor "
        "since the lowest loss (3 steps)"
    )


def test_a_single_step_tells_nothing(tmp_path):
    assert explain(record(tmp_path / "d", {3: (0.5, 1.0)})).parting == ""


def test_steps_of_a_mixed_dump(dump, tokens):
    """Hidden sessions, ranks, data sets, NaN rows: the same tokens as the oracle's."""
    frame = steps_of(dump, tally_dump(dump))
    keys = sorted({(t["phase"], t["dataset"], t["step"]) for t in tokens if t["finite"]})
    assert frame.select("phase", "dataset", "step").rows() == keys
    for row in frame.iter_rows(named=True):
        mine = [
            t for t in tokens if t["finite"] and all(t[n] == row[n] for n in ("phase", "dataset", "step"))
        ]
        assert row["n"] == len(mine)
        assert row["tfa"] == pytest.approx(np.mean([t["correct"] for t in mine]))
        assert row["tfce"] == pytest.approx(np.mean([t["nll"] for t in mine]), rel=1e-5)
        assert sum(value for name, value in row.items() if name.startswith("share_")) == pytest.approx(1)
    train = frame.filter(phase="train")
    for name in ("tfa", "tfce"):
        assert train[f"d_{name}"].to_list()[1:] == pytest.approx(train[name].diff().to_list()[1:], abs=1e-9)
    assert told_parting(frame).startswith("eval · a: ")


def test_sums_are_per_sample(dump, tokens):
    found = sums_by_step(choose(dump, "eval", "all"))[("a", 6)]
    mine = [t for t in tokens if t["finite"] and (t["dataset"], t["step"]) == ("a", 6)]
    assert found.sample.tolist() == sorted({t["sample"] for t in mine})
    for i, sample in enumerate(found.sample):
        of = [t for t in mine if t["sample"] == sample]
        assert (found.n[i], found.correct[i]) == (len(of), sum(t["correct"] for t in of))
        assert found.nll[i] == pytest.approx(sum(t["nll"] for t in of), rel=1e-5)
