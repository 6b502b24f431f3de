"""Arguments of `classification`, and what it says to bad ones."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from classifier_oracle import Run, fill

from logitbox.analysis.classification import classification
from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]


def test_names_and_expected_pairs(dump: Dump) -> None:
    found = classification(dump, names=NAMES, expected=[("ant", "bee"), (3, 2)])
    shown = found.confusions(None, 0.0)
    assert set(shown["gold"]) | set(shown["predicted"]) == set(NAMES)
    pairs = {("ant", "bee"), ("bee", "ant"), ("cat", "dog"), ("dog", "cat")}
    for row in shown.iter_rows(named=True):
        assert row["gold"] == NAMES[row["gold_id"]]
        assert row["expected"] == ((row["gold"], row["predicted"]) in pairs)
    assert shown["expected"].any()
    assert classification(dump).confusions(None, 0.0)["expected"].null_count() == len(shown)
    by_id = classification(dump, names={0: "ant"}).confusions(None, 0.0)
    assert {"ant", "1"} <= set(by_id["gold"])


def test_the_vocabulary_names_the_classes(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", vocab=NAMES)
    fill(run, epochs=1)
    run.rec.close()
    shown = classification(open_dump(tmp_path / "run")).confusions("last", 0.0)
    assert set(shown["gold"]) <= set(NAMES)


def test_buckets_and_their_unit(dump: Dump, tmp_path: Path) -> None:
    keys = classification(dump, buckets=(4, 20)).frame["key"].unique().to_list()
    assert {key for key in keys if "duration" in key} == {
        f"val/duration_accuracy/{n}" for n in ("4-20s", "20+s")
    }
    run = Run(tmp_path / "run", length_unit=None)
    run.samples()
    fill(run, epochs=1)
    run.rec.close()
    keys = classification(open_dump(tmp_path / "run")).frame["key"].unique().to_list()
    assert "val/duration_accuracy/15+" in keys


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "test"}, "phase is 'test'; the dump has train, val"),
        ({"by": "batch"}, "by is 'batch'; allowed are epoch, step"),
        ({"batch": "epoch"}, "batch is 'epoch'; allowed are micro, step"),
        ({"buckets": (5, 0)}, "buckets are .*ascending"),
        ({"buckets": ()}, "buckets are .*ascending"),
        ({"buckets": "05"}, "buckets are .*ascending"),
        ({"window": 1}, "window is 1; give a whole number, 2 or more"),
        ({"ddof": -1}, "ddof is -1; give a whole number, 0 or more"),
        ({"confusion_rate": 10}, "confusion_rate is 10; give a share between 0 and 1"),
        ({"names": "abcdef"}, "names are 'abcdef'; give a list of class names"),
        ({"expected": [("0", "9")]}, "expected names the class '9'; classes are 0 to 5"),
        ({"expected": [(0, True)]}, "expected names the class True"),
        ({"expected": [(0, 1, 2)]}, "give pairs of classes"),
        ({"expected": ["01"]}, "give pairs of classes"),
    ],
)
def test_bad_arguments_are_told(dump: Dump, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        classification(dump, **options)


def test_bad_questions_are_told(dump: Dump) -> None:
    found = classification(dump)
    for ask, message in (
        (lambda: found.value("val/acc"), "there is no key 'val/acc'; keys are learning/"),
        (lambda: found.value("val/accuracy", 5), "val/accuracy has no step 5; it has 4, 8, 12, 16"),
        (lambda: found.confusions(5), "step is 5; evaluations are at 4, 8, 12, 16; or give 'last'"),
        (lambda: found.confusions("first"), "step is 'first'"),
        (lambda: found.confusions(rate=2), "rate is 2; give a share"),
        (lambda: found.uncertain(0), "n is 0; give a whole number, 1 or more"),
        (lambda: found.consistency(3), "step is 3"),
    ):
        with pytest.raises(InputError, match=message):
            ask()


def test_what_is_no_dump_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="open it first"):
        classification(str(tmp_path))
    Recorder(tmp_path / "empty", vocab=3).close()
    with pytest.raises(InputError, match="holds no token rows yet"):
        classification(open_dump(tmp_path / "empty"))


def phases(path: Path, *names: str) -> Dump:
    run = Run(path)
    for name in names:
        run.batch(name, 3, 1, [0, 1, 2, 3])
    run.rec.close()
    return open_dump(path)


def test_the_phase_that_is_taken(tmp_path: Path) -> None:
    assert classification(phases(tmp_path / "a", "train", "eval", "val")).phase == "val"
    found = classification(phases(tmp_path / "b", "train", "held-out"))
    assert found.phase == "held-out"
    assert "held-out, 6 classes" in found.verdict
    several = phases(tmp_path / "c", "train", "one", "two")
    with pytest.raises(InputError, match="has the phases one, two; choose one of them with phase="):
        classification(several)
    chosen = classification(several, phase="two")
    assert chosen.phase == "two"
    assert "phase one not looked at" in chosen.verdict


def test_epochs_in_fractions_are_pooled_by_the_one_that_ends(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for step in range(12):
        run.batch("train", step, (step + 1) / 6, [0, 1, 2, 3, 4])
        if step % 3 == 2:
            run.batch("val", step, (step + 1) / 6, [5, 6, 7, 8])
    run.rec.close()
    frame = classification(open_dump(tmp_path / "run")).frame
    train = frame.filter(pl.col("key") == "train/accuracy")
    assert train.select("step", "epoch", "n").rows() == [(5, 1.0, 30), (11, 2.0, 30)]
    val = frame.filter(pl.col("key") == "val/accuracy")
    assert val.select("step", "epoch", "n").rows() == [(2, 0.5, 4), (5, 1.0, 4), (8, 1.5, 4), (11, 2.0, 4)]


def test_without_epochs_steps_stand_for_them(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for step in range(4):
        run.batch("train", step, None, [0, 1, 2, 3, 4])
        run.batch("val", step, None, [5, 6, 7, 8])
    run.rec.close()
    found = classification(open_dump(tmp_path / "run"))
    assert "no epochs were recorded with training, so it is split by step" in found.verdict
    train = found.frame.filter(pl.col("key") == "train/accuracy")
    assert train["step"].to_list() == [0, 1, 2, 3]
    assert train["epoch"].null_count() == 4
    assert found.value("learning/improvement_rate") is not None


def test_training_without_an_epoch_is_left_out_and_told(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.batch("train", 0, None, [0, 1, 2])
    run.batch("train", 1, 1, [0, 1, 2, 3])
    run.batch("val", 1, 1, [0, 1, 2, 3])
    run.rec.close()
    found = classification(open_dump(tmp_path / "run"))
    assert found.frame.filter(pl.col("key") == "train/loss")["n"].to_list() == [4]
    assert "3 training samples without an epoch left out" in found.verdict
