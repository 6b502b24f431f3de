"""`Recorder.metrics`: which phase, which steps, and what is left for the next call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import logitbox as lb
from logitbox.dumps import live
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

V = 20


@pytest.fixture
def rec(tmp_path: Path) -> Iterator[Recorder]:
    torch.manual_seed(0)
    with Recorder(tmp_path / "dump", V) as recorder:
        yield recorder


def put(rec: Recorder, n: int = 3, **where: object) -> float:
    """Record n rows; their mean nll, in float64."""
    logits, labels = torch.randn(n, V) * 3, torch.randint(0, V, (n,))
    rec.record(logits, labels, **where)
    return float(torch.nn.functional.cross_entropy(logits.double(), labels))


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-6)


# Which phase.


def test_a_prefix_reads_its_phase_and_the_others_run_on(rec: Recorder) -> None:
    first, evaluated = put(rec, step=1), put(rec, step=1, phase="eval")
    found = rec.metrics("eval_")
    assert found["eval_nll"] == near(evaluated)
    assert found["eval_perplexity"] == near(np.exp(evaluated))  # every key has the prefix that was asked for
    assert all(key.startswith("eval_") for key in found)
    assert rec.metrics("eval_") == {}
    second = put(rec, step=2)
    assert rec.metrics("")["nll"] == near((first + second) / 2)
    assert rec.metrics() == {}


@pytest.mark.parametrize(
    ("prefix", "phase"), [("", "train"), ("train_", "train"), ("eval_", "eval"), ("val_", "eval")]
)
def test_every_prefix_of_a_family_is_its_phases(rec: Recorder, prefix: str, phase: str) -> None:
    expected = {name: put(rec, step=1, phase=name) for name in ("train", "eval", "test")}
    assert rec.metrics(prefix)[f"{prefix}nll"] == near(expected.pop(phase))
    others = {"n_tokens" if name == "train" else f"{name}_n_tokens" for name in expected}
    assert {key for key in rec.metrics() if key.endswith("n_tokens")} == others


def test_val_is_a_phase_of_its_own_where_there_is_one(rec: Recorder) -> None:
    expected = {name: put(rec, step=1, phase=name) for name in ("eval", "val")}
    found = rec.metrics()
    for name, value in expected.items():
        assert found[f"{name}_nll"] == near(value)
        assert found[f"{name}_perplexity"] == near(np.exp(value))
    expected = {name: put(rec, step=2, phase=name) for name in ("eval", "val")}
    assert rec.metrics("val_")["val_nll"] == near(expected["val"])


@pytest.mark.parametrize("prefix", ["eval_", "eval/", "val_", "val/", "test_", "eval_ood_"])
def test_a_prefix_of_a_phase_without_rows_reads_nothing_else(rec: Recorder, prefix: str) -> None:
    """As when evaluation batches were dropped, another rank had them all, or none has been run yet."""
    value = put(rec)
    assert rec.metrics(prefix) == {}
    assert rec.metrics()["nll"] == near(value)
    put(rec, phase="eval")
    assert rec.metrics("") == rec.metrics("train_") == rec.metrics("train/") == {}
    assert rec.metrics()["eval_n_tokens"] == 3


@pytest.mark.parametrize(
    ("prefix", "phase"),
    [("train/", "train"), ("eval/", "eval"), ("val/", "eval"), ("my_set/", "my_set"), ("eval_ood_", "eval")],
)
def test_a_prefix_may_name_its_phase_in_other_ways(rec: Recorder, prefix: str, phase: str) -> None:
    expected = {name: put(rec, phase=name) for name in ("train", "eval", "my", "my_set")}
    assert rec.metrics(prefix)[f"{prefix}nll"] == near(expected[phase])


def test_a_prefix_of_ones_own_is_of_the_one_phase_there_is(rec: Recorder) -> None:
    value = put(rec, phase="eval")
    assert rec.metrics("mine/")["mine/nll"] == near(value)
    for phase in ("train", "eval"):
        put(rec, phase=phase)
    with pytest.raises(
        InputError, match=r"prefix 'mine/' could be of any of the phases eval, train; say which with phase="
    ):
        rec.metrics("mine/")
    assert rec.metrics("mine/", phase="train")["mine/n_tokens"] == 3  # nothing was lost
    assert rec.metrics("mine/", phase="eval")["mine/n_tokens"] == 3


def test_phase(rec: Recorder) -> None:
    expected = {name: put(rec, phase=name) for name in ("train", "eval")}
    assert rec.metrics(phase="none") == {}
    assert rec.metrics(phase="eval")["eval_nll"] == near(expected["eval"])
    assert rec.metrics(phase="train")["nll"] == near(expected["train"])


def test_an_unknown_reduction(rec: Recorder) -> None:
    put(rec)
    with pytest.raises(InputError, match="reduction is 'mean'; allowed are token_mean, step_mean"):
        rec.metrics(reduction="mean")  # type: ignore[arg-type]
    assert rec.metrics()["n_tokens"] == 3


# Which steps.


def test_step_means(rec: Recorder) -> None:
    """Of each data set and pass at each step; tokens weigh alike within a step only."""
    sizes = (1, 5, 2)
    train = [put(rec, n, step=step) for step, n in enumerate(sizes)]
    evaluated = [put(rec, 4, step=2, phase="eval", dataset=name) for name in "ab"]
    rec.start_pass("eval", "a")
    evaluated.append(put(rec, 4, step=2, phase="eval", dataset="a"))
    found = rec.metrics(reduction="step_mean")
    assert found["nll"] == near(np.mean(train))
    assert found["exp_nll"] == near(np.mean(np.exp(train)))
    assert found["n_tokens"] == near(np.mean(sizes))
    assert found["eval_exp_nll"] == near(np.mean(np.exp(evaluated)))
    for step, n in enumerate(sizes, start=3):
        put(rec, n, step=step)
    assert rec.metrics()["exp_nll"] != near(np.mean(np.exp(train)))


def test_micro_batches_are_one_step(rec: Recorder) -> None:
    parts = [put(rec, n, step=7) * n for n in (1, 6)]
    assert rec.metrics(reduction="step_mean")["exp_nll"] == near(np.exp(sum(parts) / 7))


def test_very_many_steps_are_kept_as_one(rec: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_STEPS", 5)
    put(rec, 2, step=0, phase="eval")
    values = [put(rec, 2, step=step) for step in range(17)]
    most = max(len(steps) for steps in rec._live._sums.values())
    assert most <= 5
    with pytest.raises(
        InputError, match=r"more than 5 steps of phase 'train' since the last metrics\(\); call it more often"
    ):
        rec.metrics(reduction="step_mean")
    assert rec.metrics(phase="eval", reduction="step_mean")["eval_n_tokens"] == 2  # this one has few
    found = rec.metrics()
    assert found["nll"] == near(np.mean(values))
    assert found["n_tokens"] == 34
    value = put(rec, 2, step=99)
    assert rec.metrics(reduction="step_mean")["nll"] == near(value)


# Detailed metrics every n steps.


def detailed(folder: Path, every: int) -> Recorder:
    return Recorder(folder / "dump", V, detailed={"log_detailed_metrics_every_n_steps": every})


def test_detailed_metrics_are_reported_every_n_steps_over_all_tokens_since(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with detailed(tmp_path, 3) as rec:
        since: list[float] = []
        for step in range(1, 8):
            since.append(put(rec, step=step))
            found = rec.metrics()
            assert found["nll"] == near(since[-1])  # other metrics are of this step alone
            if step in (3, 6):
                assert found["train_perplexity"] == near(np.exp(np.mean(since)))
                since.clear()
            else:
                assert not [key for key in found if key.startswith("train_")]
        evaluated = put(rec, step=7, phase="eval")
        found = rec.metrics()
        assert found["val_perplexity"] == near(np.exp(evaluated))  # evaluations are always reported
        assert "train_perplexity" not in found
        since.append(put(rec, step=8))
        since.append(put(rec, step=9))
        assert rec.metrics(reduction="step_mean")["train_perplexity"] == near(np.mean(np.exp(since)))
    whole = lb.metrics(lb.open(tmp_path / "dump")).value("train_perplexity")  # the dump has every step
    assert whole > 1


def test_a_report_that_was_due_between_two_calls_is_made_up_for(tmp_path: Path) -> None:
    """Logging every 4 steps meets no multiple of 3 for long; what was due is reported at the next call."""
    torch.manual_seed(0)
    with detailed(tmp_path, 3) as rec:
        values = [put(rec, step=step) for step in (1, 2, 3, 4)]
        assert rec.metrics()["train_perplexity"] == near(np.exp(np.mean(values)))
        put(rec, step=5)
        assert "train_perplexity" not in rec.metrics()


def test_switched_off(tmp_path: Path) -> None:
    with Recorder(tmp_path / "dump", V, detailed=False) as rec:
        put(rec)
        assert not [key for key in rec.metrics() if key.startswith("train_")]


# Keys.


@pytest.mark.parametrize(
    ("phase", "types", "key"), [("full", (), "full_entropy"), ("desc", ("desc",), "desc_token_acc")]
)
def test_a_phase_whose_keys_mean_something_else_already(
    tmp_path: Path, phase: str, types: tuple[str, ...], key: str
) -> None:
    """It is refused before a row of it is recorded; the Recorder goes on."""
    with Recorder(tmp_path / "dump", V, types=types) as rec:
        put(rec, 2)
        for _ in range(2):
            with pytest.raises(
                InputError,
                match=rf"phase is {phase!r}, .*the key '{key}' would mean two things.*another name",
            ):
                put(rec, 5, phase=phase)
        put(rec, 4, step=1)
        assert rec.metrics()["n_tokens"] == 6
    dump = lb.open(tmp_path / "dump")
    assert dump.tokens.collect()["phase"].unique().to_list() == ["train"]
    assert dump.batches.collect().height == 2


def test_other_phases_are_free(tmp_path: Path) -> None:
    with Recorder(tmp_path / "dump", V, types=["desc"]) as rec:
        for phase in ("description", "eval", "val", "test", "ood", "eval_ood"):
            put(rec, phase=phase)
        assert len({key for key in rec.metrics() if key.endswith("_n_tokens")}) == 6
