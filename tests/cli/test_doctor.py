"""`logitbox doctor` as a script or a stranger meets it."""

from __future__ import annotations

import json
import re

import pytest
import torch

from logitbox import cli
from logitbox.dumps.recorder import Recorder

KEYS = {"source", "profile", "verdict", "ok", "classes", "phase", "notes", "counts", "findings", "dashboard"}
FINDING = {"rule", "title", "status", "sure", "told", "why", "heading", "actions", "evidence"}
EVIDENCE = {"key", "step", "epoch", "value", "low", "high", "n", "bound", "off_by", "holds", "told"}
LINE = re.compile(r"^(pass|WARN|FAIL|  \? )  [a-z0-9-]+ +\S")


@pytest.fixture
def log(tmp_path):
    """A log with a loss of zero: two rules fail."""
    path = tmp_path / "trainer_state.json"
    rows = [{"step": i, "epoch": i / 4, "loss": 0.0, "grad_norm": 0.0} for i in range(8)]
    path.write_text(json.dumps({"log_history": rows}), encoding="utf-8")
    return path


@pytest.fixture
def healthy(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{i},{2 - i / 20}\n" for i in range(20)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """A classifier whose class names steer terminals."""
    path = tmp_path_factory.mktemp("doctor") / "dump"
    names = ["\x1b[31mred", "blue", "\u202egreen", "grey"]
    labels = torch.arange(80) % 4
    with Recorder(path, vocab=names) as rec:
        rec.samples({"sample": list(range(80)), "source": ["\x1b[2Ja" if i < 40 else "b" for i in range(80)]})
        for epoch in (1, 2, 3):
            wrong = torch.where(labels == 1, 0, labels)
            logits = 3.0 * torch.nn.functional.one_hot(wrong, 4)
            rec.record(logits, labels, epoch, "val", epoch=epoch, sample=torch.arange(80))
    return path


def run_json(capsys, *arguments):
    status = cli.run(["doctor", *map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_one_line_per_rule_then_details_then_the_verdict(log, capsys):
    assert cli.run(["doctor", str(log)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if LINE.match(line))  # a long path takes two lines
    total = int(re.search(r"(\d+)\s+checks", "\n".join(lines[:head]))[1])
    lacking = int(re.search(r"^(\d+) checks lack data: ", out, re.MULTILINE)[1])
    assert "--all lists them" in " ".join(lines)
    count = total - lacking
    assert all(LINE.match(line) for line in lines[head : head + count]), lines[head : head + count]
    assert not LINE.match(lines[head + count])
    assert "FAIL the training loss is zero" in out
    assert "1. Check that labels are not all ignored (-100)" in out
    assert "Do: as for loss-zero" in out
    assert "language-model: 2 of" in out
    assert "pass no check" not in out


def test_all_lists_what_lacks_data(log, capsys):
    cli.run(["doctor", str(log), "--all"])
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if LINE.match(line))
    count = int(re.search(r"(\d+)\s+checks", "\n".join(lines[:head]))[1])
    assert all(LINE.match(line) for line in lines[head : head + count])
    assert not any("checks lack data: " in line for line in lines)


def test_counts_have_no_interval(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    rows = [{"step": 10 * i, "loss": float("nan") if i == 3 else 2 - i / 20} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    cli.run(["doctor", str(path)])
    out = capsys.readouterr().out
    assert re.search(r"^FAIL  nonfinite +train/loss at step 30: NaN$", out, re.MULTILINE)
    assert "\n  train/loss at step 30: NaN\n" in out
    assert "95 %" not in out
    assert "sure" not in out


def test_a_loss_of_zero_is_told_plainly(log, capsys):
    cli.run(["doctor", str(log)])
    out = capsys.readouterr().out
    assert "\n  train/loss is 0 at 8 of 8 steps; at epoch 1.75 (step 7)\n" in out or (
        "\n  train/loss is 0 at 8 of 8 steps\n" in out
    )
    assert "off by" not in out


def test_details_of_a_pass_only_with_all(healthy, capsys):
    cli.run(["doctor", str(healthy)])
    assert "\npass sudden spike" not in capsys.readouterr().out
    cli.run(["doctor", str(healthy), "--all"])
    assert "\npass sudden spike" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "expected"), [([], 0), (["--strict"], 1)])
def test_strict(log, capsys, options, expected):
    assert cli.run(["doctor", str(log), *options]) == expected
    status, document = run_json(capsys, log, *options) if not capsys.readouterr().err else (None, None)
    assert status == expected
    assert document["ok"] is False


def test_strict_passes_without_a_fail(healthy):
    assert cli.run(["doctor", str(healthy), "--strict"]) == 0


def test_json(log, dump, capsys):
    for path in (log, dump):
        status, document = run_json(capsys, path)
        assert status == 0
        assert set(document) == KEYS
        assert sum(document["counts"].values()) == len(document["findings"])
        for finding in document["findings"]:
            assert set(finding) == FINDING
            assert all(set(evidence) == EVIDENCE for evidence in finding["evidence"])
            assert finding["evidence"] or finding["status"] == "not enough data"
    assert document["classes"] == 4
    assert document["profile"] == "classification"


def test_a_dump_is_judged_and_safe_to_print(dump, capsys):
    assert cli.run(["doctor", str(dump), "--all"]) == 0
    out = capsys.readouterr().out
    assert "top-confusions" in out
    assert "blue → \\x1b[31mred" in out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)


@pytest.mark.parametrize("columns", ["60", "100", "200"])
def test_widths(dump, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert cli.run(["doctor", str(dump)]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= int(columns)


def test_own_profile(log, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[constants]\nmost = 1.0\n[[rule]]\nname = "mine"\ntitle = "my \x5cu001b rule"\nkind = "range"\n'
        'value = "loss"\nhigh = "most"\nseverity = "fail"\n',
        encoding="utf-8",
    )
    assert cli.run(["doctor", str(log), "--profile", str(path), "--strict"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert cli.run(["doctor", str(log), "--profile", str(path), "--strict", "--set", "most=-1"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.json"], "none.json is neither a dump"),
        (["NOTEBOOK"], "a.ipynb holds no logged rows; expected are dicts"),
        (["LOG", "--profile", "x"], "no profile 'x'; give classification, language-model"),
        (["LOG", "--set", "clip"], "--set is 'clip'; give NAME=NUMBER"),
        (["LOG", "--set", "klip=1"], "no constant 'klip'"),
        (["LOG", "--classes", "1"], "classes is 1"),
        (["LOG", "--profile", "BAD"], "line 4: rule[1].vlaue is unknown"),
    ],
)
def test_errors(log, tmp_path, capsys, arguments, said):
    bad = tmp_path / "bad.toml"
    bad.write_text('[[rule]]\nname = "a"\ntitle = "b"\nvlaue = "x"\nkind = "range"\n', encoding="utf-8")
    notebook = tmp_path / "a.ipynb"
    notebook.write_text('{"nbformat": 4, "cells": []}', encoding="utf-8")
    places = {"NOTEBOOK": str(notebook), "LOG": str(log), "BAD": str(bad)}
    status = cli.run(["doctor", *(places.get(one, one) for one in arguments)])
    captured = capsys.readouterr()
    assert status == 2
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_help_has_an_example(capsys):
    cli.run(["doctor", "--help"])
    out = capsys.readouterr().out
    assert "DUMP_OR_LOG" in out
    assert "Example: logitbox doctor" in out
