"""`label_issues` on dumps: which rows it reads, what it says, and that cleanlab says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from logitbox.analysis.labels import label_issues
from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

C, N = 5, 200


def predictions(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits, labels, truth): a fair model, and 15 % of labels wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, C, N)
    logits = rng.normal(size=(N, C)).astype(np.float32)
    logits[np.arange(N), truth] += 3
    labels = np.where(rng.random(N) < 0.15, rng.integers(0, C, N), truth)
    return logits, labels, truth


def record(rec: Recorder, logits: np.ndarray, labels: np.ndarray, step: int, phase: str) -> None:
    given = torch.tensor(logits), torch.tensor(labels)
    rec.record(*given, step, phase, sample=torch.arange(len(labels)))


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Dump:
    path = tmp_path_factory.mktemp("labels") / "run"
    with Recorder(path, vocab=[f"class {c}" for c in range(C)]) as rec:
        rec.samples(
            {"sample": list(range(N)), "group": [f"g{i % 20}" for i in range(N)], "source": ["a"] * N}
        )
        record(rec, *predictions(1)[:2], step=1, phase="val")
        record(rec, *predictions(3)[:2], step=5, phase="train")
        record(rec, *predictions(0)[:2], step=5, phase="val")
    return open_dump(path)


def test_the_last_evaluation_is_read(dump: Dump) -> None:
    logits, labels, _ = predictions(0)
    p = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True)
    found = label_issues(dump)
    frame = found.frame
    assert len(frame) == N
    assert set(frame.select("phase", "step").unique().rows()) == {("val", 5)}
    assert frame["self_confidence"].is_sorted()
    assert frame["gold_id"].to_list() == labels[frame["sample"]].tolist()
    own = p[np.arange(N), labels]
    np.testing.assert_allclose(frame["self_confidence"], own[frame["sample"]], atol=1e-6)
    others = np.where(np.arange(C) == labels[:, None], -1.0, p).max(axis=1)
    np.testing.assert_allclose(frame["margin"], (own - others)[frame["sample"]], atol=1.8e-4)
    first = frame.row(0, named=True)
    assert first["gold"] == f"class {first['gold_id']}"
    assert first["group"] == f"g{first['sample'] % 20}"
    assert first["source"] == "a"
    assert not found.from_training
    assert found.undetermined == 0
    assert found.n_issues == frame["is_issue"].sum() == len(found.issues)
    assert str(found).startswith(f"{found.n_issues} of 200 labels of phase val are likely wrong")


def test_wrong_labels_are_found(dump: Dump) -> None:
    _, labels, truth = predictions(0)
    found = label_issues(dump)
    wrong = labels != truth
    at = found.frame["sample"].to_numpy()[: wrong.sum()]
    assert wrong[at].mean() > 0.8
    issues = found.issues
    right = truth[issues["sample"]] == issues["suggested_id"].to_numpy()
    assert right.mean() > 0.75
    by_margin = label_issues(dump, rank_by="margin").frame
    assert by_margin["margin"].is_sorted()


def test_thresholds_and_the_confident_joint(dump: Dump) -> None:
    found = label_issues(dump)
    means = found.frame.group_by("gold").agg(pl.col("self_confidence").mean(), pl.len()).sort("gold")
    assert found.thresholds["label"].to_list() == means["gold"].to_list()
    np.testing.assert_allclose(found.thresholds["threshold"], means["self_confidence"], atol=1e-12)
    off = found.joint.filter(pl.col("gold") != pl.col("confident"))["n"].sum()
    assert off >= found.n_issues > 0


def test_cleanlab_agrees(dump: Dump) -> None:
    pytest.importorskip("cleanlab")
    from cleanlab.filter import find_label_issues  # noqa: PLC0415
    from cleanlab.rank import get_label_quality_scores  # noqa: PLC0415

    logits, labels, _ = predictions(0)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    frame = label_issues(dump).frame.sort("sample")
    mask = find_label_issues(labels, p, filter_by="confident_learning")
    assert frame["is_issue"].to_list() == mask.tolist()
    own = get_label_quality_scores(labels, p, method="self_confidence")
    np.testing.assert_allclose(frame["self_confidence"], own, atol=1e-6)
    assert label_issues(dump).frame["sample"].to_list() == np.argsort(own, kind="stable").tolist()
    margin = get_label_quality_scores(labels, p, method="normalized_margin")
    np.testing.assert_allclose((frame["margin"] + 1) / 2, margin, atol=1e-4)
    mine = label_issues(dump, rank_by="margin").frame["sample"].to_numpy()
    # Rounded gaps may swap neighbours whose margins differ by less.
    assert (np.diff(margin[mine]) > -1e-4).all()


def test_only_training_is_read_with_a_warning(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", vocab=C) as rec:
        record(rec, *predictions(0)[:2], step=1, phase="train")
    found = label_issues(open_dump(tmp_path / "run"))
    assert found.from_training
    assert "a model that memorised its labels agrees with them" in found.verdict


def test_a_phase_may_be_chosen(dump: Dump) -> None:
    found = label_issues(dump, "train")
    assert found.from_training
    assert set(found.frame["phase"]) == {"train"}
    with pytest.raises(InputError, match="phase is 'test'; the dump has train, val"):
        label_issues(dump, "test")
    with pytest.raises(InputError, match="rank_by is 'entropy'; allowed are self_confidence, margin"):
        label_issues(dump, rank_by="entropy")


def test_each_sample_once_its_last_row(tmp_path: Path) -> None:
    logits, labels, _ = predictions(0)
    with Recorder(tmp_path / "run", vocab=C) as rec:
        record(rec, logits, labels, step=1, phase="val")
        record(rec, logits[:50] * 2, labels[:50], step=2, phase="val")
        rec.start_pass("val")
        record(rec, logits[:20] * 3, labels[:20], step=2, phase="val")
        flags = {"duplicate": torch.ones(10, dtype=torch.bool)}
        rec.record(
            torch.tensor(logits[:10]),
            torch.tensor(labels[:10]),
            3,
            "val",
            sample=torch.arange(10),
            flags=flags,
        )
        broken = torch.full((1, C), float("nan"))
        rec.record(broken, torch.tensor([0]), 4, "val", sample=torch.tensor([7]))
    found = label_issues(open_dump(tmp_path / "run"))
    frame = found.frame.sort("sample")
    assert frame["sample"].to_list() == list(range(N))
    assert frame["step"].to_list() == [2] * 50 + [1] * 150
    x = np.concatenate([logits[:20] * 3, logits[20:50] * 2, logits[50:]]).astype(np.float64)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(frame["self_confidence"], p[np.arange(N), labels], atol=1e-6)
    assert "1 non-finite and 10 repeated by a sampler left out" in found.verdict


def test_few_best_classes_say_what_they_cannot_tell(tmp_path: Path) -> None:
    logits, labels, _ = predictions(0)
    with Recorder(tmp_path / "run", vocab=C, k=1) as rec:
        record(rec, logits, labels, step=1, phase="val")
    found = label_issues(open_dump(tmp_path / "run"))
    assert found.undetermined > 0
    assert f"{found.undetermined} could not be told from the recorded best classes" in found.verdict
    top = found.frame.filter(pl.col("gold_id") == pl.col("predicted").cast(pl.Int64))
    assert top["margin"].null_count() == len(top)


def test_an_empty_dump_is_told(tmp_path: Path) -> None:
    Recorder(tmp_path / "run", vocab=3).close()
    with pytest.raises(InputError, match="holds no token rows yet"):
        label_issues(open_dump(tmp_path / "run"))


def test_a_model_that_guesses_is_told(dump: Dump, tmp_path: Path) -> None:
    said = "the model is hardly better than guessing, so this ranking means little"
    assert said not in label_issues(dump).verdict
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(N) < 0.5, 0, rng.integers(0, C, N))
    with Recorder(tmp_path / "guess", vocab=C) as rec:
        record(rec, rng.normal(size=(N, C)).astype(np.float32), labels, step=1, phase="val")
    assert said in label_issues(open_dump(tmp_path / "guess")).verdict
    # Always the most frequent class: as accurate as its share, and no better.
    with Recorder(tmp_path / "majority", vocab=C) as rec:
        record(rec, np.eye(C, dtype=np.float32)[np.zeros(N, np.int64)], labels, step=1, phase="val")
    assert said in label_issues(open_dump(tmp_path / "majority")).verdict
