"""The command line as a script or a stranger meets it: exit status, one JSON document, readable errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from logitbox import cli
from logitbox.dumps.recorder import Recorder

VOCAB = 30


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """A dump of one evaluation step, and the logits and labels it was recorded from (aligned)."""
    path = tmp_path_factory.mktemp("cli") / "dump"
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(3, 9, VOCAB, generator=generator) * 2
    labels = torch.randint(0, VOCAB, (3, 9), generator=generator)
    words = [f"w{i}" for i in range(VOCAB - 1)] + ["\x1b[31mred\x1b[0m<script>"]
    with Recorder(path, vocab=words, k=5, groups={"coord": range(10, 20)}) as recorder:
        recorder.record(logits, labels, step=3, phase="eval", input_ids=labels, shift=False)
        recorder.record(logits, labels, step=3, phase="train", shift=False)
    return path, logits, labels


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    status = cli.run([*arguments, "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_metrics_json_equals_the_logits(recorded, capsys):
    path, logits, labels = recorded
    status, document = run_json(capsys, "metrics", str(path))
    values = {row["key"]: row["value"] for row in document["metrics"]}
    flat, gold = logits.double().reshape(-1, VOCAB).numpy(), labels.reshape(-1).numpy()
    log_p = flat - np.log(np.exp(flat).sum(1, keepdims=True))
    nll = -log_p[np.arange(len(gold)), gold]
    assert status == 0
    assert set(document) == {"dump", "verdict", "by", "metrics"}
    assert set(document["metrics"][0]) == {"key", "value", "n", "reduction", "low", "high", "reason"}
    assert values["eval_token_acc"] == pytest.approx((flat.argmax(1) == gold).mean(), abs=1e-15)
    assert values["eval_nll"] == pytest.approx(nll.mean(), rel=1e-6)
    assert values["eval_exp_nll"] == values["val_perplexity"] == pytest.approx(np.exp(nll.mean()), rel=1e-6)


COMMANDS = {
    "info": {"dump", "verdict", "bytes", "bytes_per_token", "columns", "phases", "left_out", "sessions"},
    "metrics": {"dump", "verdict", "by", "metrics"},
    "calibration": {
        "dump",
        "verdict",
        "by",
        "bins",
        "summary",
        "table",
        "worst",
        "temperature",
        "measures",
    },
    "flips": {"dump", "verdict", "by", "flips"},
    "explain": {"dump", "verdict", "by", "cells"},
    "entropy": {"dump", "verdict", "tokens"},
    "tally": {"dump", "shards", "rows"},
    "report": {"dump", "report", "bytes"},
}


@pytest.mark.parametrize(("command", "keys"), COMMANDS.items())
def test_every_command_gives_its_documented_keys(command, keys, recorded, capsys, tmp_path):
    extra = ["--out", str(tmp_path / "r.html")] if command == "report" else []
    status, document = run_json(capsys, command, str(recorded[0]), *extra)
    assert (status, set(document)) == (0, keys)


@pytest.mark.parametrize("command", [*COMMANDS, "verify"])
def test_a_path_that_is_no_dump_is_one_line_and_status_2(command, tmp_path, capsys):
    assert cli.run([command, str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .*is not a dump \(it has no dump\.json\); give the folder.*\n", captured.err)
    status, document = run_json(capsys, command, str(tmp_path))
    assert status == 2
    assert "is not a dump" in document["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["metrics", "{dump}", "--by", "speaker"], "'speaker'.*neither tokens nor samples"),
        (
            ["metrics", "{dump}", "--key", "accuracy"],
            "no metric is called 'accuracy'; this dump has .*token_acc",
        ),
        (["calibration", "{dump}", "--bins", "0"], "bins is 0; give a whole number from 1"),
        (["calibration", "{dump}", "--by", "speaker"], "speaker"),
        (["calibration", "{dump}", "--worst", "0"], "--worst.*0"),
        (["calibration", "{dump}", "--bins", "many"], "many"),
        (["entropy", "{dump}", "--phase", "test"], "phase is 'test'; the dump has eval, train"),
        (["entropy", "{dump}", "--step", "soon"], "--step is 'soon'; give a whole number, 'last' or 'all'"),
        (["entropy", "{dump}", "-n", "0"], "n is 0"),
        (["tally", "{dump}", "--workers", "0"], "--workers is 0"),
        (["metrics"], "Missing argument 'DUMP'"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_bad_usage_names_the_value_and_what_is_allowed(arguments, message, recorded, capsys):
    assert cli.run([argument.format(dump=recorded[0]) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)


def test_verify_exits_1_and_names_the_shard(recorded, capsys, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(recorded[0], broken)
    assert run_json(capsys, "verify", str(broken))[0] == 0
    shard = next((broken / "tokens").glob("*/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])
    status, document = run_json(capsys, "verify", str(broken))
    assert status == 1
    assert not document["ok"]
    assert [damage["shard"] for damage in document["damage"]] == [f"tokens/{shard.parent.name}/{shard.name}"]
    status, document = run_json(capsys, "metrics", str(broken))
    assert status == 2
    assert f"tokens/{shard.parent.name}/{shard.name}" in document["error"]
    assert "--skip-damaged" in document["error"] or "damaged='skip'" in document["error"]
    status, document = run_json(capsys, "info", str(broken), "--skip-damaged")
    assert status == 0
    assert document["left_out"]["damaged_shards"] == 1


def test_tokens_cannot_speak_to_the_terminal(recorded, capsys):
    path, _, labels = recorded
    assert cli.run(["entropy", str(path), "-n", str(labels.numel())]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[31mred" in out


def test_every_help_has_an_example_that_runs(recorded, capsys, tmp_path):
    commands = [name for name in (*COMMANDS, "verify") if name != "demo"]
    for command in commands:
        assert cli.run([command, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        example = re.search(rf"Example: logitbox ({command} .*?)(?: ╰|$)", text)
        assert example, command
        words = example[1].replace("demo-out/dump", str(recorded[0])).split()
        words = [str(tmp_path / word) if word.endswith(".html") else word for word in words]
        assert cli.run(words) == 0, words
        capsys.readouterr()


def test_a_closed_pipe_is_no_error(recorded):
    command = f"'{sys.executable}' -m logitbox.cli metrics '{recorded[0]}' | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_hostile_dump_cannot_speak_to_the_terminal(recorded, capsys, tmp_path):
    broken = tmp_path / "hostile"
    shutil.copytree(recorded[0], broken)
    (broken / "tokens" / "0001-x\x1b]0;owned\x07").mkdir()
    (broken / "tokens" / "0001-x\x1b]0;owned\x07" / "a\x9b31m.parquet").write_bytes(b"")
    assert cli.run(["verify", str(broken)]) == 0
    out = capsys.readouterr().out
    assert "stray" in out
    assert not set(out) & {"\x1b", "\x07", "\x9b"}
    assert cli.run(["verify", str(broken), "--json"]) == 0
    out = capsys.readouterr().out
    assert not set(out) & {"\x1b", "\x07", "\x9b"}
    assert "a\x9b31m.parquet" in json.loads(out)["strays"][0]
