"""`logitbox export`: lines in seed 003's form, against a softmax by hand; and how `logitbox metrics` reads."""

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

V = 12
ANSWERS = {"accept": [2, 5], "reject": [3]}
KEYS = ["sample_id", "p_accept", "p_reject", "gt", "pred", "correct"]
LABELS = [2, 3, 5, 3, 7]
SAMPLES = ["case-1", "2", "\x1b]0;owned\x07\x9b31m", "naïve", "out"]
"""The last one's text has no answer."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, int, np.ndarray]]]:
    """Train and two evaluation steps of five samples, and (phase, step, logits) of each."""
    path, generator = tmp_path_factory.mktemp("export") / "runs" / "a", torch.Generator().manual_seed(5)
    calls: list[tuple[str, int, np.ndarray]] = []
    with Recorder(path, V, k=3, answers=ANSWERS, shard_rows=6) as rec:
        for phase, step in (("train", 1), ("eval", 1), ("train", 2), ("eval", 2)):
            logits = torch.randn(5, V, generator=generator) * 2
            sample = [0, 1, 2, 3, 4] if phase == "eval" else SAMPLES
            rec.record(logits, torch.tensor(LABELS), step=step, phase=phase, sample=sample)
            calls.append((phase, step, logits.double().numpy()))
    return path, calls


def by_hand(calls: list, phase: str, steps: list[int]) -> list[dict]:
    lines: list[dict] = []
    for where, step, logits in calls:
        if where != phase or step not in steps:
            continue
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for i, gold in enumerate(LABELS[:4]):
            accept, reject = p[i, 2] + p[i, 5], p[i, 3]
            gt, pred = ("reject" if gold == 3 else "accept"), ("accept" if accept >= reject else "reject")
            name = i if phase == "eval" else SAMPLES[i]
            lines.append(
                dict(zip(KEYS, (name, accept, reject, gt, pred, gt == pred), strict=True)) | {"step": step}
            )
    return lines


def check(text: str, expected: list[dict], keys: list[str]) -> None:
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert text.endswith("\n")
    assert len(lines) == len(expected) > 0
    for line, want in zip(lines, expected, strict=True):
        assert list(line) == keys
        for name in keys:
            if name.startswith("p_"):
                assert line[name] == pytest.approx(want[name], rel=1e-6)
            else:
                assert line[name] == want[name]
                assert type(line[name]) is type(want[name])


def test_lines_of_the_last_evaluation(recorded, capsys):
    path, calls = recorded
    assert cli.run(["export", str(path), "--decisions"]) == 0
    captured = capsys.readouterr()
    check(captured.out, by_hand(calls, "eval", [2]), KEYS)
    assert captured.out.startswith('{"sample_id": 0, "p_accept": 0.')
    assert re.search(r'"gt": "accept", "pred": "\w+", "correct": (true|false)}\n', captured.out)
    assert re.fullmatch(
        r"4 lines; eval, step 2: 4 decisions, .*; 1 sample evaluated without a decision slot\n", captured.err
    )


@pytest.mark.parametrize(("step", "steps"), [("1", [1]), ("2", [2]), ("last", [2])])
def test_steps_and_phases_to_a_file(step, steps, recorded, capsys, tmp_path):
    path, calls = recorded
    target = tmp_path / "d.jsonl"
    target.write_text("old")
    arguments = ["export", str(path), "--decisions", "--out", str(target), "--phase", "train", "--step", step]
    assert cli.run(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"4 lines in {target}; train, step {steps[0]}: 4 decisions")
    text = target.read_text(encoding="utf-8")
    check(text, by_hand(calls, "train", steps), KEYS)
    assert not set(text) & {"\x1b", "\x07", "\x9b"}
    assert [file.name for file in tmp_path.iterdir()] == ["d.jsonl"]


def test_all_steps_say_which(recorded, capsys):
    path, calls = recorded
    assert cli.run(["export", str(path), "--decisions", "--step", "all"]) == 0
    check(capsys.readouterr().out, by_hand(calls, "eval", [1, 2]), [*KEYS, "step"])


def test_one_json_document(recorded, capsys, tmp_path):
    path, calls = recorded
    assert cli.run(["export", str(path), "--decisions", "--json", "--out", str(tmp_path / "d.jsonl")]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert list(document) == ["dump", "verdict", "decisions"]
    assert captured.err == ""
    lines = "".join(json.dumps(line) + "\n" for line in document["decisions"])
    check(lines, by_hand(calls, "eval", [2]), KEYS)
    check((tmp_path / "d.jsonl").read_text(), by_hand(calls, "eval", [2]), KEYS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing was chosen to export; give --decisions"),
        (["--decisions", "--phase", "test"], "phase is 'test'; the dump has eval, train"),
        (["--decisions", "--step", "soon"], "--step is 'soon'; give a whole number, 'last' or 'all'"),
        (["--decisions", "--step", "7"], "step is 7; .* nearest recorded steps are 1, 2"),
        (["--decisions", "--dataset", "x"], "dataset is 'x'; phase eval has ''"),
        (["--decisions", "--out", "{tmp}"], "is a folder; give the name of the file"),
        (["--decisions", "--out", "{tmp}/a/b"], "does not exist; create the folder"),
        (["--decisions", "--out", "/dev/null"], "/dev/null is no ordinary file"),
    ],
)
def test_errors_are_one_line_and_status_2(arguments, message, recorded, capsys, tmp_path):
    words = ["export", str(recorded[0]), *(word.format(tmp=tmp_path) for word in arguments)]
    assert cli.run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)
    assert cli.run([*words, "--json"]) == 2
    assert re.search(message, json.loads(capsys.readouterr().out)["error"])
    assert list(tmp_path.iterdir()) == []


def test_a_dump_without_answers(capsys, tmp_path):
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(torch.zeros(2, V), torch.tensor([1, 2]))
    assert cli.run(["export", str(tmp_path / "d"), "--decisions"]) == 2
    assert "recorded without answers; pass answers=" in capsys.readouterr().err


def test_a_file_that_cannot_be_replaced_stays(recorded, capsys, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    target = tmp_path / "d.jsonl"
    target.write_text("old")
    monkeypatch.setattr("logitbox.jsonl.os.fsync", fail)
    assert cli.run(["export", str(recorded[0]), "--decisions", "--out", str(target)]) == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["d.jsonl"]


def test_what_a_link_points_to_is_replaced(recorded, tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert cli.run(["export", str(recorded[0]), "--decisions", "--out", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert len((tmp_path / "real").read_text().splitlines()) == 4


def test_damaged_shards_are_left_out_only_on_request(recorded, capsys, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(recorded[0], broken)
    shards = sorted((broken / "tokens").glob("*/*.parquet"))
    assert len(shards) > 1
    shards[0].write_bytes(shards[0].read_bytes()[:-10])
    assert cli.run(["export", str(broken), "--decisions"]) == 2
    capsys.readouterr()
    assert cli.run(["export", str(broken), "--decisions", "--skip-damaged"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: left out 1 damaged shards")
    assert "1 damaged shard left out" in captured.err


def test_help_has_an_example_that_runs(recorded, capsys, tmp_path, monkeypatch):
    assert cli.run(["export", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    example = re.search(r"Example: logitbox (export .*?)(?: ╰|$)", text)
    assert example
    shutil.copytree(recorded[0], tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    assert cli.run(example[1].split()) == 0
    assert len((tmp_path / "decisions.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("buffering", ["", "-u"])
def test_a_closed_pipe_is_no_error(buffering, recorded):
    """Whether it shows at the last flush or in the midst of writing."""
    command = f"'{sys.executable}' {buffering} -m logitbox.cli export '{recorded[0]}' --decisions --step all | head -n 1"
    for _ in range(3):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0
        assert json.loads(done.stdout)["sample_id"] == 0
        assert "Error" not in done.stderr


def table(capsys, *arguments: str) -> list[list[str]]:
    assert cli.run(["metrics", *arguments]) == 0
    return [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_metrics_stand_under_headings_with_their_reasons(recorded, capsys):
    lines = table(capsys, str(recorded[0]))
    assert lines[0] == ["metric", "value", "95 % interval", "n"]
    at = {line[0]: i for i, line in enumerate(lines)}
    assert at["eval · tokens"] < at["eval_nll"] < at["eval · decision"] < at["eval_avg_p_accept"]
    assert (
        at["eval_avg_p_accept"]
        < at["train · tokens"]
        < at["nll"]
        < at["train · decision"]
        < at["avg_p_accept"]
    )
    assert lines[at["eval_decision_slots"]] == ["eval_decision_slots", "8"]
    cells = lines[at["eval_decision_accuracy"]]
    correct = [line["correct"] for line in by_hand(recorded[1], "eval", [1, 2])]
    assert cells[1] == f"{np.mean(correct):.4f}"
    assert re.fullmatch(r"[\d.]+ – [\d.]+", cells[2])
    assert cells[3] == "8"
    assert lines[at["val_top10_prob"]] == ["val_top10_prob", "–", "0"]
    below = " ".join(" ".join(line) for line in lines[at["decision_slots"] + 1 :])
    assert re.search(r"– top10_prob was not recorded.*val_top10_prob, train_top10_prob", below)


def test_metrics_by_step_and_reduction(recorded, capsys):
    both = table(
        capsys, str(recorded[0]), "--key", "eval_decision_accuracy", "--by", "step", "--reduction", "both"
    )
    assert both[0] == ["step", "metric", "value", "95 % interval", "n", "mean over"]
    assert [line[:2] + line[-1:] for line in both[1:5]] == [
        [step, "eval_decision_accuracy", over] for step in ("1", "2") for over in ("tokens", "steps")
    ]
    assert cli.run(["metrics", str(recorded[0]), "--reduction", "mean"]) == 2
    assert "reduction is 'mean'; allowed are token_mean, step_mean, both" in capsys.readouterr().err
