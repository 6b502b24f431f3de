"""Dumps that lack something, or have more than usual."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from classifier_oracle import SAMPLES, Run, fill
from polars.testing import assert_frame_equal

from logitbox.analysis.classification import classification
from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.recorder import Recorder


def rows(found: object, key: str) -> pl.DataFrame:
    return found.frame.filter(pl.col("key") == key)


def test_samples_may_come_before_or_after(tmp_path: Path) -> None:
    frames = []
    for name, first in (("before", True), ("after", False)):
        run = Run(tmp_path / name, seed=4)
        if first:
            run.samples()
        fill(run, epochs=2)
        if not first:
            run.samples()
        run.rec.close()
        frames.append(classification(open_dump(tmp_path / name)).frame)
    assert_frame_equal(*frames)


def test_only_training(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.batch("train", 0, 1, [0, 1, 2])
    run.rec.close()
    found = classification(open_dump(tmp_path / "run"))
    assert found.phase is None
    assert "no evaluation phase was recorded" in str(found)
    assert set(found.frame["key"].str.head(6)) == {"train/"}
    assert len(found.gaps) == len(found.confusions(None)) == 0
    assert found.stopping["holds"].null_count() == 4
    assert found.dashboard["key"].to_list()[0] == "val/loss"
    assert found.dashboard["value"][0] is None


def test_only_an_evaluation(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.batch("val", 0, None, [0, 1, 2])
    run.rec.close()
    found = classification(open_dump(tmp_path / "run"))
    assert not found.frame["key"].str.starts_with("train/").any()
    assert found.value("val/accuracy") is not None
    reasons = dict(found.frame.filter(pl.col("value").is_null()).select("key", "reason").rows())
    assert reasons == {
        "val/loss_std": "one batch has no spread",
        "val/speaker_consistency": "no sample has a group",
        "val/per_dataset_accuracy": "no sample has a source",
        "val/duration_accuracy": "no sample has a length in a bucket",
        "learning/improvement_rate": "needs 3 evaluations",
    }
    assert "no groups were given: intervals take samples as independent" in found.verdict


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "run"
    labels = torch.tensor([0, 1, 2, 1, 0])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 0, 1, 0]), 3).float()
    logits[3] = float("nan")
    duplicate = torch.tensor([False, False, False, False, True])
    with Recorder(path, vocab=3) as rec:
        rec.record(logits, labels, 1, "val", flags={"duplicate": duplicate})
    found = classification(open_dump(path))
    assert rows(found, "val/accuracy")["n"].to_list() == [3]
    assert found.value("val/accuracy") == 2 / 3
    assert "1 non-finite and 1 repeated by a sampler left out" in found.verdict
    assert len(found.uncertain(9)) == 3


def test_a_step_with_nothing_finite_is_a_row_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Recorder(path, vocab=3) as rec:
        for step, scale in enumerate((1.0, float("nan"), 1.0, 1.0)):
            rec.record(torch.eye(3) * scale, torch.tensor([0, 1, 2]), step, "val", epoch=step)
    found = classification(open_dump(path))
    accuracy = rows(found, "val/accuracy")
    assert accuracy["value"].to_list() == [1, None, 1, 1]
    assert accuracy["reason"].to_list() == [None, "no finite sample with a label", None, None]
    assert rows(found, "val/macro_f1")["value"].to_list() == [1, None, 1, 1]
    assert rows(found, "learning/improvement_rate")["value"].null_count() == 4


def test_ties_go_to_the_lowest_id(tmp_path: Path) -> None:
    path = tmp_path / "run"
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    with Recorder(path, vocab=3) as rec:
        rec.record(logits, torch.tensor([1, 2, 1]), 1, "val")
    found = classification(open_dump(path))
    assert found.value("val/accuracy") == pytest.approx(1 / 3)
    assert found.value("val/top2_accuracy") == pytest.approx(2 / 3)
    assert found.confusion_matrix().rows() == [(1, 0, 1), (1, 1, 1), (2, 0, 1)]


def test_classes_absent_from_gold_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Recorder(path, vocab=["ant", "bee", "cat", "dog"]) as rec:
        logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2]), 4).float()
        rec.record(logits, torch.tensor([0, 1, 1]), 1, "val")
    found = classification(open_dump(path))
    # sklearn.metrics.f1_score([0, 1, 1], [0, 1, 2], average="macro", zero_division=0): (1 + 2/3 + 0) / 3
    assert found.value("val/macro_f1") == pytest.approx((1 + 2 / 3) / 3)
    assert "no sample is of 2 classes (cat, dog), 1 of which was predicted and counts 0" in found.verdict


def test_groups_of_one_sample_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Recorder(path, vocab=2) as rec:
        rec.samples({"sample": [0, 1, 2, 3], "group": ["a", "a", "b", None]})
        logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1]), 2).float()
        rec.record(logits, torch.tensor([0, 1, 1, 1]), 1, "val", sample=torch.arange(4))
    found = classification(open_dump(path))
    assert rows(found, "val/speaker_consistency").select("value", "n").rows() == [(1.0, 1)]
    assert found.consistency()["consistent"].to_list() == [True, None]
    assert "1 groups of one sample are no part of speaker consistency" in found.verdict


def test_passes_at_one_step_are_apart_in_consistency(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Recorder(path, vocab=2) as rec:
        rec.samples({"sample": [0, 1, 2], "group": ["a", "a", "b"]})
        for predicted in ([0, 0, 0], [1, 0, 1]):
            rec.start_pass("val")
            logits = torch.nn.functional.one_hot(torch.tensor(predicted), 2).float()
            rec.record(logits, torch.tensor([0, 0, 0]), 1, "val", sample=torch.arange(3))
    found = classification(open_dump(path))
    assert rows(found, "val/speaker_consistency").select("value", "n").rows() == [(0.5, 2)]
    assert rows(found, "val/accuracy")["n"].to_list() == [6]


def test_data_sets_are_sources_where_there_are_none(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for dataset in ("timit", "coraal"):
        run.batch("val", 1, 1, [0, 1, 2, 3, 4], dataset=dataset)
    run.rec.close()
    found = classification(open_dump(tmp_path / "run"))
    keys = [key for key in found.frame["key"].unique() if "per_dataset" in key]
    assert sorted(keys) == ["val/per_dataset_accuracy/coraal", "val/per_dataset_accuracy/timit"]
    assert rows(found, "val/accuracy")["n"].to_list() == [10]


def test_groups_of_two_data_sets_are_two(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.samples()
    run.samples(dataset=["other"] * SAMPLES)
    run.batch("val", 1, 1, list(range(8)))
    run.batch("val", 1, 1, list(range(8)), dataset="other")
    run.rec.close()
    found = classification(open_dump(tmp_path / "run"))
    assert rows(found, "val/speaker_consistency")["n"].to_list() == [4]


def test_shards_executors_and_the_cache_give_the_same(dump: Dump, tmp_path: Path) -> None:
    first = classification(dump)
    done: list[tuple[int, int]] = []
    again = classification(dump, progress=lambda *at: done.append(at))
    assert len(dump.shards("tokens")) > 3
    assert done[-1] == (len(done), len(done))
    with ThreadPoolExecutor(2) as pool:
        mapped = classification(dump, executor=pool)
    for other in (again, mapped):
        assert_frame_equal(first.frame, other.frame, check_exact=True)


def test_many_single_samples_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    fill(run, epochs=2)
    run.rec.close()
    dump = open_dump(tmp_path / "run")
    alone = classification(dump)
    monkeypatch.setattr("logitbox.analysis.classification.preparing.MOST_UNITS", 40)
    folded = classification(dump)
    assert len(folded.evidence.evaluated["unit"].unique()) <= 2048
    assert (folded.evidence.evaluated["unit"] < 0).all()
    values = [found.frame.select("step", "key", "value", "n") for found in (alone, folded)]
    assert_frame_equal(*values, check_exact=False, abs_tol=1e-12)
    widths = [
        rows(found, "val/accuracy").select(pl.col("high") - pl.col("low"))["high"]
        for found in (alone, folded)
    ]
    assert widths[0].to_list() == pytest.approx(widths[1].to_list(), rel=0.3)


def test_training_that_was_set_back_is_hidden(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for resume, steps in ((None, range(6)), (4, range(4, 8))):
        with Recorder(path, vocab=3, resume_from=resume) as rec:
            for step in steps:
                rec.record(torch.eye(3), torch.tensor([0, 1, 2]), step, epoch=1 + step // 4)
                rec.scalars(step, {"grad_norm": 1.0 if resume is None else 2.0})
    found = classification(open_dump(path))
    assert rows(found, "train/accuracy").select("step", "n").rows() == [(3, 12), (7, 12)]
    assert rows(found, "train/grad_norm")["value"].to_list() == [1, 2]


def test_gradient_norms_that_are_not_finite_are_no_part_of_the_mean(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Recorder(path, vocab=3) as rec:
        for step, norm in enumerate((1.0, float("inf"), 3.0)):
            rec.record(torch.eye(3), torch.tensor([0, 1, 2]), step, epoch=1)
            rec.scalars(step, {"train/grad_norm": norm})
    found = classification(open_dump(path))
    assert rows(found, "train/grad_norm").select("value", "n").rows() == [(2.0, 2)]


def test_more_classes_than_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(30, 100)).astype(np.float32)
    gold = rng.integers(0, 100, 30)
    with Recorder(path, vocab=100, k=4) as rec:
        rec.record(torch.tensor(logits), torch.tensor(gold), 1, "val")
    found = classification(open_dump(path))
    rank = (logits > logits[np.arange(30), gold][:, None]).sum(axis=1)
    assert found.value("val/top3_accuracy") == np.mean(rank < 3)
    assert found.classes == 100


def test_many_groups_are_put_together_for_intervals_only(tmp_path: Path) -> None:
    path, n = tmp_path / "run", 4400
    rng = np.random.default_rng(1)
    predicted = torch.tensor(rng.integers(0, 2, n))
    with Recorder(path, vocab=2) as rec:
        rec.samples({"sample": list(range(n)), "group": [f"g{i // 2}" for i in range(n)]})
        logits = torch.nn.functional.one_hot(predicted, 2).float()
        rec.record(logits, torch.zeros(n, dtype=torch.long), 1, "val", sample=torch.arange(n))
    found = classification(open_dump(path))
    same = (predicted[::2] == predicted[1::2]).double().mean()
    assert rows(found, "val/speaker_consistency").select("value", "n").rows() == [
        (pytest.approx(float(same)), 2200)
    ]
    hits = (predicted == 0).double().reshape(-1, 2).sum(dim=1).numpy()
    error = np.sqrt(((hits - 2 * hits.mean() / 2) ** 2).sum()) / n
    low, high = rows(found, "val/accuracy").select("low", "high").row(0)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_step_that_stands_for_several_epochs_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Recorder(path, vocab=3) as rec:
        for epoch in (1, 2):  # the step is forgotten
            rec.record(torch.eye(3), torch.tensor([0, 1, 2]), epoch=epoch)
            rec.record(torch.eye(3), torch.tensor([0, 1, 2]), phase="val", epoch=epoch)
    found = classification(open_dump(path))
    assert "several epochs were recorded at one step and are pooled; pass step= to record" in found.verdict
    for key in ("train/accuracy", "val/accuracy"):
        assert rows(found, key).select("step", "epoch", "n").rows() == [(0, 2.0, 6)]
