"""Every key against scikit-learn, or its definition written out over the rows."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import polars as pl
import pytest
from classifier_oracle import C, Run
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from logitbox.analysis.classification import Classification, classification
from logitbox.dumps.dump import Dump

EPOCHS = (1, 2, 3, 4)
STEPS = (4, 8, 12, 16)


@pytest.fixture(scope="module")
def found(dump: Dump) -> Classification:
    return classification(dump)


def arrays(rows: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gold, predicted = (np.array([row[name] for row in rows]) for name in ("gold", "predicted"))
    return gold, predicted, np.exp(np.stack([row["log_p"] for row in rows]))


@pytest.mark.parametrize(("step", "epoch"), [(4, 1), (8, 2), (12, 3), (16, 4)])
def test_val_keys_are_those_of_scikit_learn(found: Classification, run: Run, step: int, epoch: int) -> None:
    rows = run.of("val", step=step)
    gold, predicted, p = arrays(rows)
    classes = np.arange(C)
    expected = {
        "val/accuracy": accuracy_score(gold, predicted),
        "val/top2_accuracy": top_k_accuracy_score(gold, p, k=2, labels=classes),
        "val/top3_accuracy": top_k_accuracy_score(gold, p, k=3, labels=classes),
        "val/macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
        "val/loss": log_loss(gold, p, labels=classes),
        "val/avg_entropy": np.mean([row["entropy"] for row in rows]),
    }
    for key, value in expected.items():
        assert found.value(key, step) == pytest.approx(value, abs=2e-6), key
    here = found.frame.filter(pl.col("step") == step, pl.col("key").is_in(list(expected)))
    assert here["n"].to_list() == [45] * len(expected)
    assert set(here["epoch"]) == {epoch}


@pytest.mark.parametrize("step", STEPS)
def test_the_confusion_matrix(found: Classification, run: Run, step: int) -> None:
    gold, predicted, _ = arrays(run.of("val", step=step))
    matrix = np.zeros((C, C), dtype=int)
    for g, p, n in found.confusion_matrix(step).iter_rows():
        matrix[g, p] = n
    assert (matrix == confusion_matrix(gold, predicted, labels=np.arange(C))).all()


@pytest.mark.parametrize("epoch", EPOCHS)
def test_train_keys(found: Classification, run: Run, epoch: int) -> None:
    rows, step = run.of("train", epoch=epoch), 4 * epoch - 1
    assert found.value("train/accuracy", step) == np.mean([row["gold"] == row["predicted"] for row in rows])
    assert found.value("train/loss", step) == pytest.approx(np.mean([row["nll"] for row in rows]), abs=2e-6)
    norms = [np.float64(np.float32(0.1 * (s + 1))) for s in range(4 * epoch - 4, 4 * epoch)]
    assert found.value("train/grad_norm", step) == pytest.approx(np.mean(norms), rel=1e-12)
    assert found.value("train/grad_norm_std", step) == pytest.approx(np.std(norms), rel=1e-12)


def losses(rows: list[dict], key: str) -> list[float]:
    of: dict = defaultdict(list)
    for row in rows:
        of[row[key]].append(row["nll"])
    return [float(np.mean(nll)) for nll in of.values()]


def test_loss_std_is_over_batches(found: Classification, dump: Dump, run: Run) -> None:
    train, val = run.of("train", epoch=2), run.of("val", step=8)
    assert found.value("train/loss_std", 7) == pytest.approx(np.std(losses(train, "batch")), abs=2e-6)
    assert found.value("val/loss_std", 8) == pytest.approx(np.std(losses(val, "batch")), abs=2e-6)
    other = classification(dump, batch="step", ddof=1)
    assert other.value("train/loss_std", 7) == pytest.approx(np.std(losses(train, "step"), ddof=1), abs=2e-6)
    assert other.value("val/loss_std", 8) == pytest.approx(np.std(losses(val, "batch"), ddof=1), abs=2e-6)


def test_by_step_training_is_split_by_step(dump: Dump, run: Run) -> None:
    found = classification(dump, by="step")
    steps = found.frame.filter(pl.col("key") == "train/loss")
    assert steps["step"].to_list() == list(range(16))
    for step, value, n in steps.select("step", "value", "n").iter_rows():
        rows = run.of("train", step=step)
        assert n == len(rows) == (12 if step == 2 else 14)
        assert value == pytest.approx(np.mean([row["nll"] for row in rows]), abs=2e-6)
        assert found.value("train/grad_norm", step) == np.float32(0.1 * (step + 1))
    assert found.value("val/accuracy") == classification(dump).value("val/accuracy")
    std = found.frame.filter(pl.col("key") == "train/grad_norm_std")
    assert std["value"].null_count() == 16
    assert set(std["reason"]) == {"one grad_norm has no spread"}


def test_speaker_consistency(found: Classification, run: Run) -> None:
    of: dict = defaultdict(set)
    for row in run.of("val", step=16):
        if row["group"] is not None:
            of[row["group"]].add(row["predicted"])
    same = [len(predicted) == 1 for predicted in of.values()]
    assert len(same) == 11
    assert found.value("val/speaker_consistency") == np.mean(same)
    details = found.consistency()
    assert details["consistent"].to_list() == [same for _, same in sorted(zip(of, same, strict=True))]
    assert details.filter("consistent")["predicted"].to_list() == [
        str(next(iter(predicted))) for _, predicted in sorted(of.items()) if len(predicted) == 1
    ]


def test_sources_and_lengths(found: Classification, run: Run) -> None:
    rows = run.of("val", step=16)
    for source in ("web", "book"):
        hits = [row["gold"] == row["predicted"] for row in rows if row["source"] == source]
        assert found.value(f"val/per_dataset_accuracy/{source}") == np.mean(hits)
    for name, low, high in (("0-5s", 0, 5), ("5-10s", 5, 10), ("10-15s", 10, 15), ("15+s", 15, np.inf)):
        hits = [
            row["gold"] == row["predicted"]
            for row in rows
            if row["length"] is not None and low <= row["length"] < high
        ]
        assert found.value(f"val/duration_accuracy/{name}") == np.mean(hits)
        assert found.frame.filter(pl.col("key") == f"val/duration_accuracy/{name}")["n"][-1] == len(hits)


def test_the_improvement_rate_is_a_least_squares_slope(found: Classification, dump: Dump, run: Run) -> None:
    accuracy = [
        np.mean([row["gold"] == row["predicted"] for row in run.of("val", step=step)]) for step in STEPS
    ]
    key = "learning/improvement_rate"
    for end in (2, 3):
        slope = np.polyfit(EPOCHS[end - 2 : end + 1], accuracy[end - 2 : end + 1], 1)[0]
        assert found.value(key, STEPS[end]) == pytest.approx(slope, abs=1e-12)
    early = found.frame.filter(pl.col("key") == key).head(2)
    assert early["value"].to_list() == [None, None]
    assert set(early["reason"]) == {"needs 3 evaluations"}
    two = classification(dump, window=2)
    assert two.value(key, STEPS[1]) == pytest.approx(accuracy[1] - accuracy[0], abs=1e-12)


def test_gaps_are_train_minus_val_by_source(found: Classification, run: Run) -> None:
    gaps = found.gaps
    assert gaps["gap"].to_list() == sorted(gaps["gap"], reverse=True)
    for row in gaps.iter_rows(named=True):
        train = [r["gold"] == r["predicted"] for r in run.of("train", epoch=4, source=row["source"])]
        val = [r["gold"] == r["predicted"] for r in run.of("val", step=16, source=row["source"])]
        assert (row["n_train"], row["n_val"]) == (len(train), len(val))
        assert row["gap"] == pytest.approx(np.mean(train) - np.mean(val), abs=1e-12)
        assert row["low"] < row["gap"] < row["high"]
        key = f"train/per_dataset_accuracy/{row['source']}"
        assert found.value(key) == row["train"]


def test_the_most_uncertain_samples(found: Classification, run: Run) -> None:
    rows = sorted(run.of("val", step=16), key=lambda row: -row["entropy"])[:5]
    shown = found.uncertain(5)
    assert shown["key"].to_list() == [str(row["sample"]) for row in rows]
    assert shown["group"].to_list() == [row["group"] for row in rows]
    assert shown["source"].to_list() == [row["source"] for row in rows]
    assert shown["gold"].to_list() == [str(row["gold"]) for row in rows]
    assert shown["predicted"].to_list() == [str(row["predicted"]) for row in rows]
    assert shown["entropy"].to_list() == pytest.approx([row["entropy"] for row in rows], abs=1e-6)
    assert shown["p_gold"].to_list() == pytest.approx([np.exp(-row["nll"]) for row in rows], abs=1e-6)
    assert shown["p_predicted"].to_list() == pytest.approx(
        [np.exp(row["log_p"].max()) for row in rows], abs=1e-6
    )
    assert len(found.uncertain(1000)) == 45
