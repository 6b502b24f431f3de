from dataclasses import replace

import polars as pl
import pytest
import torch

from logitbox.demo.config import DemoConfig, eval_steps, schedule
from logitbox.demo.model import ModelConfig
from logitbox.demo.train import train
from logitbox.dumps.dump import open_dump
from logitbox.errors import InputError

SMALL = DemoConfig(
    steps=3,
    micro_batch=4,
    log_every=2,
    record_every=2,
    evals=2,
    eval_scenes=8,
    warmup=1,
    model=ModelConfig(width=32, channels=16, blocks=1),
)


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory, told):
    return train(tmp_path_factory.mktemp("demo"), SMALL, lambda *message: told.append(message))


@pytest.fixture(scope="module")
def dump(run):
    return open_dump(run.dump)


def test_the_dump_holds_training_and_evaluation(run, dump):
    tokens = dump.tokens.collect()
    assert set(tokens.select("phase", "step").unique().rows()) == {("train", 2), ("eval", 0), ("eval", 3)}
    evaluated = tokens.filter(phase="eval", step=3)
    assert set(evaluated["sample"]) == set(range(8))
    assert evaluated["coord_w1"].count() == 4 * 12  # 8 scenes, 12 digits, four coordinates each
    assert run.seconds > 0


def test_every_token_has_exactly_one_type(dump):
    bits = dump.tokens.select(pl.col("types").bitwise_count_ones()).collect().to_series()
    assert (bits == 1).all()


def test_samples_tell_their_source(dump):
    samples = dump.samples.filter(pl.col("key").str.starts_with("eval-")).collect()
    assert samples["source"].value_counts().sort("source").rows() == [("one digit", 4), ("two digits", 4)]
    assert samples["text"].str.starts_with('[{"desc":"').all()


def test_logged_values_agree_with_the_records(run, dump):
    logged = {
        (phase, step, key): value
        for phase, step, key, value in dump.scalars.select("phase", "step", "key", "value").collect().rows()
    }
    assert ("train", 2, "token_acc") in logged
    assert ("train", 2, "learning_rate") in logged
    assert logged["eval", 0, "eval_loss"] == pytest.approx(run.first_eval_loss)
    assert logged["eval", 3, "eval_loss"] == pytest.approx(run.final_eval_loss)
    tokens = dump.tokens.filter(phase="eval", step=3).collect()
    right = ((tokens["n_gt"] + tokens["n_eq_before"]) == 0).mean()
    assert logged["eval", 3, "eval_token_acc"] == pytest.approx(right)


def test_the_loss_trained_on_is_the_loss_recorded(dump):
    """Eight scenes are one batch, so what was logged is a mean over tokens."""
    evaluated = dump.scalars.filter(phase="eval", step=3).collect()
    logged = dict(evaluated.select("key", "value").rows())
    tokens = dump.tokens.filter(phase="eval", step=3).collect()
    parts = [tokens[f"coord_{name}"].mean() for name in ("soft_ce", "w1", "gate")]
    coord = 0.1 * parts[0] + 2.0 * parts[1] + parts[2]
    text = tokens.filter(pl.col("coord_w1").is_null())["nll"].mean()
    keys = [f"eval_coord_softce_w1/{name}" for name in ("soft_ce", "w1", "gate", "loss")]
    assert [logged[key] for key in [*keys, "eval_loss"]] == pytest.approx(
        [*parts, coord, coord + text], rel=1e-6
    )


def test_progress_is_told_and_threads_are_put_back(tmp_path, told):
    before = torch.get_num_threads()
    train(tmp_path, replace(SMALL, steps=1, threads=1))
    assert torch.get_num_threads() == before
    assert [message[:2] for message in told] == [(0, 3), (2, 3), (3, 3), (3, 3)]


def test_a_run_repeats(run, tmp_path):
    again = train(tmp_path, SMALL)
    assert again.first_eval_loss == run.first_eval_loss
    assert again.final_eval_loss == pytest.approx(run.final_eval_loss, rel=1e-4)


def test_a_second_run_in_the_same_folder_is_refused(run):
    with pytest.raises(InputError, match="already exists"):
        train(run.dump.parent, SMALL)


def test_schedule_warms_up_and_comes_down():
    assert schedule(20, warmup=40, steps=480) == pytest.approx(0.5)
    assert schedule(40, warmup=40, steps=480) == pytest.approx(1.0)
    assert schedule(480, warmup=40, steps=480) == pytest.approx(0.0)
    assert eval_steps(DemoConfig()) == [0, 80, 160, 240, 320, 400, 480]
