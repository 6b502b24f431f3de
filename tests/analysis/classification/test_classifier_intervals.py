"""Intervals against their definitions: over groups where there are groups."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from classifier_oracle import C, Run, clustered
from sklearn.metrics import f1_score

from logitbox.analysis.calibration.resampling import weights
from logitbox.analysis.classification import Classification, classification
from logitbox.analysis.classification.macro_f1 import macro_f1
from logitbox.analysis.classification.spread import spread
from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.recorder import Recorder

Z = 1.959963984540054


@pytest.fixture(scope="module")
def found(dump: Dump) -> Classification:
    return classification(dump)


def ends(found: Classification, key: str, step: int = 16) -> tuple[float, float]:
    row = found.frame.filter(pl.col("key") == key, pl.col("step") == step).row(0, named=True)
    return row["low"], row["high"]


def hits(rows: list[dict]) -> list[float]:
    return [float(row["gold"] == row["predicted"]) for row in rows]


@pytest.mark.parametrize(
    ("key", "of"), [("val/accuracy", None), ("val/loss", "nll"), ("val/avg_entropy", "entropy")]
)
def test_means_are_clustered_by_group(found: Classification, run: Run, key: str, of: str | None) -> None:
    rows = run.of("val", step=16)
    mean, error = clustered(rows, hits(rows) if of is None else [row[of] for row in rows])
    low, high = mean - Z * error, mean + Z * error
    assert ends(found, key) == pytest.approx((low, min(high, 1.0) if of is None else high), abs=2e-6)


def test_training_is_clustered_over_the_epoch(found: Classification, run: Run) -> None:
    rows = run.of("train", epoch=4)
    mean, error = clustered(rows, hits(rows))
    assert ends(found, "train/accuracy", 15) == pytest.approx((mean - Z * error, mean + Z * error), abs=1e-12)


def wilson(share: float, n: int) -> tuple[float, float]:
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return centre - half, centre + half


def test_consistency_is_over_groups(found: Classification) -> None:
    share = found.value("val/speaker_consistency")
    assert share is not None
    n = 11
    error = np.sqrt(n / (n - 1) * n * share * (1 - share)) / n
    expected = (max(share - Z * error, 0), min(share + Z * error, 1)) if error else wilson(share, n)
    assert ends(found, "val/speaker_consistency") == pytest.approx(expected, abs=1e-12)


def test_the_macro_f1_bootstrap_is_that_of_scikit_learn_on_every_drawing(run: Run) -> None:
    rows = run.of("val", step=16)
    units = sorted({(row["group"] or "~", row["sample"] if row["group"] is None else 0) for row in rows})
    number = {unit: i for i, unit in enumerate(units)}
    unit = np.array(
        [number[row["group"] or "~", row["sample"] if row["group"] is None else 0] for row in rows]
    )
    gold, predicted = (np.array([row[name] for row in rows]) for name in ("gold", "predicted"))
    drawn = weights(len(units))
    values = [
        f1_score(
            gold,
            predicted,
            average="macro",
            zero_division=0,
            sample_weight=w[unit],
            labels=np.unique(np.r_[gold[w[unit] > 0], predicted[w[unit] > 0]]),
        )
        for w in drawn[:1000]
    ]
    pairs = pl.DataFrame(
        {"unit": unit, "gold": gold, "predicted": predicted, "n": np.ones(len(rows), dtype=int)}
    )
    found = macro_f1(pairs)
    low, high = found.value + np.quantile(np.array(values) - np.mean(values), (0.025, 0.975))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_macro_f1_with_many_classes_goes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pairs = pl.DataFrame(
        {
            "unit": rng.integers(0, 30, 400),
            "gold": rng.integers(0, 50, 400),
            "predicted": rng.integers(0, 50, 400),
            "n": np.ones(400, dtype=int),
        }
    )
    whole = macro_f1(pairs)
    monkeypatch.setattr("logitbox.analysis.classification.macro_f1._CELLS", 200)
    parts = macro_f1(pairs)
    assert (parts.value, parts.low, parts.high) == pytest.approx(
        (whole.value, whole.low, whole.high), abs=1e-7
    )


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_not_certain(right: bool) -> None:
    gold = [0, 1, 2] * 4
    pairs = pl.DataFrame(
        {"unit": range(12), "gold": gold, "predicted": gold if right else [3] * 12, "n": [1] * 12}
    )
    found = macro_f1(pairs)
    assert (found.value, (found.low, found.high)) == (float(right), pytest.approx(wilson(float(right), 12)))


def test_one_unit_has_no_interval() -> None:
    pairs = pl.DataFrame({"unit": [3, 3], "gold": [0, 1], "predicted": [0, 2], "n": [2, 1]})
    found = macro_f1(pairs)
    assert (found.value, found.low, found.high) == (pytest.approx(1 / 3), None, None)
    assert found.absent == (2,)


def test_the_slope_s_interval_knows_that_evaluations_share_samples(found: Classification, run: Run) -> None:
    steps = (8, 12, 16)
    weight = np.array([-0.5, 0.0, 0.5])  # least squares over three equidistant points
    of: dict = defaultdict(lambda: np.zeros((3, 2)))
    for at, step in enumerate(steps):
        for row in run.of("val", step=step):
            of[row["group"] or row["sample"]][at] += (row["gold"] == row["predicted"], 1)
    sums = np.stack(list(of.values()))
    total = sums.sum(axis=0)
    parts = ((sums[:, :, 0] - total[:, 0] / total[:, 1] * sums[:, :, 1]) / total[:, 1]) @ weight
    g = len(sums)
    half = Z * np.sqrt(g / (g - 1) * (parts**2).sum())
    slope = float(weight @ (total[:, 0] / total[:, 1]))
    assert ends(found, "learning/improvement_rate") == pytest.approx((slope - half, slope + half), abs=1e-12)


def test_confusion_rates(found: Classification, run: Run) -> None:
    rows = run.of("val", step=8)
    shown = found.confusions(8, 0.0)
    assert len(shown) > 5
    assert shown["rate"].to_list() == sorted(shown["rate"], reverse=True)
    for row in shown.iter_rows(named=True):
        of_gold = [r for r in rows if r["gold"] == row["gold_id"]]
        x = [float(r["predicted"] == row["predicted_id"]) for r in of_gold]
        assert (row["n"], row["of"]) == (sum(x), len(x))
        mean, error = clustered(of_gold, x)
        assert row["rate"] == pytest.approx(mean)
        low, high = mean - Z * error, mean + Z * error
        if error > 1e-6:
            assert (row["low"], row["high"]) == pytest.approx((max(low, 0), min(high, 1)), abs=1e-9)


def test_confusions_that_are_there_are_all_told(found: Classification, run: Run) -> None:
    wrong = {
        (row["gold"], row["predicted"]) for row in run.of("val", step=4) if row["gold"] != row["predicted"]
    }
    shown = found.confusions(4, 0.0)
    assert set(shown.select("gold_id", "predicted_id").rows()) == wrong
    assert set(found.confusions(None, 0.0)["step"]) == {4, 8, 12, 16}
    assert found.confusions(4)["rate"].min() > 0.1
    assert len(found.confusions(4, 1.0)) == 0


def test_spread_of_batches() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        found = spread(rng.normal(1.0, 0.3, 60), 0)
        low, high = found.deviation_ends
        assert low is not None
        assert high is not None
        inside += low < 0.3 < high
    assert 0.88 < inside / 400 < 0.99
    assert spread(np.ones(20), 0).deviation == 0
    assert spread(np.ones(20), 0).deviation_ends == (None, None)
    assert spread(np.array([1.0]), 1).deviation is None
    assert C == 6


def test_a_group_may_have_samples_of_several_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    gold, predicted = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    with Recorder(tmp_path / "run", vocab=3) as rec:
        rec.samples({"sample": list(range(60)), "group": [f"g{i % 7}" for i in range(60)]})
        logits = torch.nn.functional.one_hot(torch.tensor(predicted), 3).float()
        rec.record(logits, torch.tensor(gold), 1, "val", sample=torch.arange(60))
    shown = classification(open_dump(tmp_path / "run")).confusions("last", 0.0)
    assert len(shown) == 6
    rows = [{"group": f"g{i % 7}", "sample": i} for i in range(60)]
    for row in shown.iter_rows(named=True):
        of_gold = [r for r in rows if gold[r["sample"]] == row["gold_id"]]
        x = [float(predicted[r["sample"]] == row["predicted_id"]) for r in of_gold]
        mean, error = clustered(of_gold, x)
        assert (row["n"], row["of"]) == (sum(x), len(x))
        ends = (max(mean - Z * error, 0), min(mean + Z * error, 1))
        assert (row["low"], row["high"]) == pytest.approx(ends, abs=1e-9)
