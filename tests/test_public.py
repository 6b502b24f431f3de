"""The front door: names of the contract, the layout of the repository, the example dumps."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from pathlib import Path

import polars as pl
import pytest

import logitbox as lb
from logitbox.errors import InputError

ROOT = Path(__file__).resolve().parents[1]

CONTRACT = {
    "Recorder": "path vocab k groups ordered types every scope probes lse_beta resume_from enabled",
    "open": "path",
    "metrics": "dump by",
    "calibration": "dump by",
    "flips": "dump",
    "high_entropy": "dump n",
    "explain": "dump",
    "audit": "logged dump",
    "report": "dump path",
    "load_example": "name",
}
RECORD = (
    "self logits labels step phase dataset sample micro epoch input_ids attention_mask position_ids types flags "
    "weight loss shift vocab_parallel"
)


@pytest.mark.parametrize(("name", "parameters"), CONTRACT.items())
def test_contract_names_and_their_leading_parameters(name: str, parameters: str):
    given = list(inspect.signature(getattr(lb, name)).parameters)
    assert given[: len(parameters.split())] == parameters.split()
    assert name in dir(lb)


def test_record_signature():
    assert list(inspect.signature(lb.Recorder.record).parameters) == RECORD.split()


def test_unknown_name_lists_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'metric'; it has .*metrics"):
        lb.metric  # noqa: B018


@pytest.mark.parametrize("room", ["analysis", "dumps", "reports"])
def test_root_links_lead_into_the_package(room: str):
    link = ROOT / room
    assert link.is_symlink()
    assert str(link.readlink()) == f"logitbox/{room}"


def test_command_is_installed():
    assert [point.value for point in entry_points(group="console_scripts", name="logitbox")] == [
        "logitbox.cli:main"
    ]


@pytest.mark.parametrize(("name", "phases"), [("digits", {"train", "eval"}), ("smollm2", {"eval"})])
def test_examples_are_small_whole_and_have_text(name: str, phases: set[str]):
    dump = lb.load_example(name)
    files = [file for file in dump.path.rglob("*") if file.is_file() and "tallies" not in file.parts]
    assert sum(file.stat().st_size for file in files) < 1_000_000
    assert dump.verify().ok
    assert not dump.verify().strays
    assert set(dump.tokens.select(pl.col("phase").unique()).collect()["phase"]) == phases
    assert lb.high_entropy(dump, n=3).frame["gold_text"].str.len_bytes().min() > 0


def test_examples_show_models_that_learned():
    digits = lb.metrics(lb.load_example("digits"), by="step")
    steps = digits.filter(pl.col("key") == "eval_nll").sort("step")
    assert steps["value"][-1] < 0.25 * steps["value"][0]
    assert digits.value("eval_desc_token_acc", step=steps["step"][-1]) > 0.9
    assert 0.3 < lb.metrics(lb.load_example("smollm2")).value("eval_token_acc") < 0.7


def test_unknown_example_is_told_what_there_is():
    with pytest.raises(InputError, match=r"no example is called 'mnist'; there are digits, smollm2"):
        lb.load_example("mnist")
