"""`logitbox audit` as a script or a stranger meets it."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace

import polars as pl
import pytest
import torch

import logitbox as lb
from logitbox import cli
from logitbox.analysis.audit import audit as engine
from logitbox.analysis.audit.audit import Audit
from logitbox.analysis.audit.inequalities.entries import Held
from logitbox.analysis.audit.result import Fit, KeyVerdict, Notice, Violation
from logitbox.analysis.audit.windows import EVAL, TRAIN
from logitbox.analysis.logs.frame import SCHEMA, Logged

DOCUMENT = {"logged", "dump", "ok", "source", "format", "framework", "runs", "notes"}
DOCUMENT |= {"keys", "violations", "notices", "left_out", "held"}
KEY = {
    "run",
    "verdict",
    "hypothesis",
    "ties_with",
    "max_error",
    "tolerance",
    "logged",
    "reference",
    "step",
    "n_lines",
    "n_skipped",
    "about",
    "fix",
    "tell_apart",
    "alignment",
    "closest",
}

MICRO = KeyVerdict(
    "token_acc",
    0,
    "other convention",
    "micro-mean",
    max_error=2.5e-5,
    tolerance=5e-5,
    logged=0.7634,
    reference=0.7702,
    step=30,
    n_lines=3,
    n_skipped=2,
    about="it is the mean of micro-batch means: explains all 3 compared lines.",
    fix="weight by tokens.",
    ties_with=("sample-mean",),
    closest=(Fit("micro-mean", "the mean of micro-batch means", 0.5, 2.5e-5),),
)
AGREES = KeyVerdict("eval_loss", 0, "agrees", "definition", n_lines=2, about="the token mean explains both.")
UNTOLD = [KeyVerdict(name, 0, "cannot tell", about="there is no dump.") for name in ("loss", "entropy")]
BROKEN = Violation(
    "ce-accuracy",
    1,
    10,
    ("loss", "mean_token_accuracy"),
    0.0954,
    0.24818,
    "CE ≥ (1 − acc)·ln 2",
    "A wrong token costs ln 2 at least.",
    "look for batches without labels.",
    count=2,
)
HELD = Held("ce-accuracy", 0, 30, ("loss", "mean_token_accuracy"), 0.5, 0.25, "CE ≥ (1 − acc)·ln 2", 7)
ODD = Notice("loss-zero", 0, 40, ("loss",), "the loss is 0", 7)


def log_of(*runs: int) -> Logged:
    rows = [(run, i, 10 * i, None, "train", "loss", 1.0, 1e-4) for run in runs for i in range(1, 4)]
    frame = pl.DataFrame(rows, SCHEMA, orient="row")
    return Logged(frame, "state.json", "transformers trainer_state.json", "trl", ("2 rows twice, dropped",))


def audit_of(*keys: KeyVerdict, runs: tuple[int, ...] = (0,), **more) -> Audit:
    return Audit(
        frame=pl.DataFrame(), verdict="what it comes down to", keys=keys, logged=log_of(*runs), **more
    )


@pytest.fixture
def given(monkeypatch, tmp_path):
    """Makes the engine find what it is told; returns the command line for it and what the engine was asked."""
    path, asked = tmp_path / "state.json", []
    path.write_text("{}", encoding="utf-8")

    def make(found: Audit) -> list[str]:
        monkeypatch.setattr(engine, "audit", lambda *one, **named: asked.append((one, named)) or found)
        return ["audit", "--logged", str(path)]

    make.asked = asked
    return make


@pytest.fixture(autouse=True)
def wide(monkeypatch) -> None:
    """As wide as lines get, wherever the tests run."""
    monkeypatch.setenv("COLUMNS", "100")


def out_of(capsys, command: list[str]) -> tuple[int, str]:
    return cli.run(command), capsys.readouterr().out


def test_a_healthy_log_is_short(given, capsys):
    status, out = out_of(capsys, given(audit_of(*UNTOLD, left_out={"epoch": "no metric", "lr": "no metric"})))
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "state.json: transformers trainer_state.json, by trl; 1 run, 3 lines, steps 10 to 30"
    assert lines[2] == "note: 2 rows twice, dropped"
    assert lines[4:6] == ["loss     cannot tell", "entropy  cannot tell"]
    assert lines[6] == "  there is no dump."
    assert lines[7] == "not audited (2), no metric: epoch, lr"
    assert lines[-1] == "what it comes down to"
    assert len(lines) == 10


def test_a_verdict_is_told_with_its_numbers_and_what_to_do(given, capsys):
    status, out = out_of(capsys, given(audit_of(AGREES, MICRO)))
    assert status == 0
    assert "token_acc  other convention  micro-mean\n  step 30: logged" in out
    assert "\n  it is the mean of micro-batch means: " in out
    assert "step 30: logged 0.7634, its name promises 0.7702; explained to 2.5e-05 (tolerance 5e-05)" in out
    assert "\n  Do: weight by tokens.\n" in out
    assert "\n  Fits as well: sample-mean\n" in out
    assert out.index("token_acc") < out.index("eval_loss  agrees")


def test_keys_with_one_explanation_stand_together_with_the_figures_of_each(given, capsys):
    other = replace(
        MICRO, key="entropy", logged=3.5, about="it is the mean of micro-batch means: off by 0.1."
    )
    _, out = out_of(capsys, given(audit_of(MICRO, AGREES, other)))
    assert "token_acc  other convention  micro-mean\n  step 30: logged 0.7634" in out
    assert "\nentropy    other convention  micro-mean\n  step 30: logged 3.5" in out
    assert out.count("it is the mean of micro-batch means") == 1
    assert "\n  token_acc: it is the mean of micro-batch means" in out


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (audit_of(AGREES, MICRO, *UNTOLD), 0),
        (audit_of(KeyVerdict("loss", 0, "bug", "sum", about="a sum.")), 1),
        (audit_of(KeyVerdict("loss", 0, "impossible", about="broken.")), 1),
        (audit_of(*UNTOLD, violations=(BROKEN,)), 1),
        (audit_of(KeyVerdict("loss", 0, "unexplained", about="nothing fits.")), 0),
        (audit_of(*UNTOLD, notices=(ODD,)), 0),
    ],
)
def test_exit_status(given, capsys, found, expected):
    command = given(found)
    assert out_of(capsys, command)[0] == expected
    assert out_of(capsys, [*command, "--json"])[0] == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (audit_of(AGREES, MICRO, held=(HELD,)), 0),
        (audit_of(*UNTOLD, held=(HELD,)), 0),
        (audit_of(*UNTOLD), 1),
        (audit_of(AGREES, KeyVerdict("loss", 0, "unexplained", about="nothing fits.", n_lines=2)), 1),
        (audit_of(left_out={"lr": "no metric"}), 1),
        (audit_of(KeyVerdict("loss", 0, "bug", "sum", about="a sum.")), 1),
    ],
)
def test_strict_fails_for_what_is_left_open(given, capsys, found, expected):
    assert out_of(capsys, [*given(found), "--strict"])[0] == expected


def test_strict_fails_where_a_dump_covers_no_line_of_the_log(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    command = ["audit", "--logged", str(log), str(lb.load_example("digits").path)]
    log.write_text('{"step": 7, "eval_loss": 2.0}\n', encoding="utf-8")
    status, out = out_of(capsys, command)
    assert status == 0
    assert "eval_loss  cannot tell" in out
    assert out_of(capsys, [*command, "--strict"])[0] == 1


def test_a_broken_inequality_shows_both_sides_and_where(given, capsys):
    broken = KeyVerdict("loss", 1, "impossible", about=BROKEN.about, fix=BROKEN.repair)
    _, out = out_of(capsys, given(audit_of(broken, runs=(0, 1), violations=(BROKEN,), notices=(ODD,))))
    assert "2 runs, 6 lines" in out
    assert "impossible run 2, step 10: loss, mean_token_accuracy  ce-accuracy\n" in out
    assert (
        "  CE ≥ (1 − acc)·ln 2 is broken: 0.0954 on the left, 0.24818 on the right; 2 lines of the run" in out
    )
    assert "loss (run 2)  impossible\n" in out
    assert out.count("look for batches without labels") == 1
    assert "notice run 1, step 40: loss  loss-zero (7 lines)\n  the loss is 0\n" in out


def test_lines_fit_into_80_columns(given, capsys, monkeypatch):
    monkeypatch.setattr("logitbox.terminal._WIDE", 80)
    told = (
        "it is the mean of micro-batch means, each of which counts the same, however many tokens it has. " * 3
    )
    long = KeyVerdict(
        "token_acc", 0, "bug", "micro-mean", n_lines=3, about=told, fix=told, ties_with=("a",) * 30
    )
    _, out = out_of(capsys, given(audit_of(long, *UNTOLD, violations=(BROKEN,), notices=(ODD,))))
    assert max(len(line) for line in out.splitlines()) <= 80


def test_columns_are_obeyed_in_a_pipe(given, capsys, monkeypatch):
    long = KeyVerdict("token_acc", 0, "bug", "micro-mean", about="each counts the same, however long. " * 9)
    for columns, widest in (("60", 60), ("300", 100), ("none", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        _, out = out_of(capsys, given(audit_of(long)))
        assert widest - 15 < max(len(line) for line in out.splitlines()) <= widest


@pytest.mark.parametrize(
    ("way", "step", "told"),
    [
        (TRAIN[1], 30, "recorded ones count from 0: the line at step 30 is about recorded steps 20 to 29"),
        (TRAIN[1], 10, "recorded ones count from 0: the line at step 10 is about recorded steps up to 9"),
        (TRAIN[1], 11, "recorded ones count from 0: the line at step 11 is about recorded step 10"),
        (EVAL[1], 30, "the evaluation logged at step 30 is the one recorded at step 29"),
    ],
)
def test_how_steps_are_counted_is_told_by_a_line_after_the_verdicts(given, capsys, way, step, told):
    key = replace(MICRO, key="loss", step=step, alignment=way.about)
    _, out = out_of(capsys, given(audit_of(key, replace(key, key="acc"))))
    assert out.count(f"\nsteps: {told}\n") == 1
    assert out.index("Do: ") < out.index("steps: ")


def test_a_tie_that_is_a_bug_is_told_to_be_one(given, capsys):
    key = replace(MICRO, ties_with=("pad-weight", "eval-batch+composite", "micro-mean-by-step"))
    _, out = out_of(capsys, given(audit_of(key)))
    told = (
        "Fits as well: pad-weight (a bug; the same where padded sizes are equal), eval-batch+composite (the same where batches have "
        "as many rows), micro-mean-by-step"
    )
    assert told in " ".join(out.split())


def test_what_holds_is_told_of_a_log_alone(given, capsys):
    ranges = [replace(HELD, keys=(name,), formula="x ≥ 0") for name in ("loss", "acc")]
    _, out = out_of(capsys, given(audit_of(*UNTOLD, held=(*[HELD] * 7, *ranges))))
    told = (
        "CE ≥ (1 − acc)·ln 2 (loss, mean_token_accuracy) holds in 7 rows, nearest a factor of 2 (step 30)\n"
    )
    assert out.count(told) == 6
    rest = "also checked, and not broken: 1 more inequality of several keys, 2 ranges of single keys, such as x ≥ 0 what"
    assert rest in " ".join(out.split())


def test_what_was_checked_stands_in_the_document(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 1, "loss": 1.5, "token_acc": 0.5}\n{"step": 2, "loss": 1.0, "token_acc": 0.25}\n'
    )
    _, out = out_of(capsys, ["audit", "--json", "--logged", str(log)])
    held = {one["inequality"]: one for one in json.loads(out)["held"]}
    assert set(held) == {"ce-accuracy", "fraction-above-one", "fraction-below-zero", "below-zero"}
    nearest = held["ce-accuracy"]
    assert (nearest["step"], nearest["lhs"], nearest["rows"]) == (2, 1.0, 2)
    assert nearest["rhs"] == pytest.approx(0.75 * math.log(2))


def test_representations_are_short():
    every = [replace(MICRO, key=f"key{i}") for i in range(20)]
    assert len(repr(audit_of(*every, violations=(BROKEN,)))) < 100
    assert len(repr(every[0])) < 400
    assert "about" not in repr(every[0]) + repr(BROKEN)


def test_a_log_alone_shows_no_progress(given, capsys, monkeypatch):
    monkeypatch.setattr("logitbox.commands.audit.progress_bar", lambda _: pytest.fail("a bar"))
    assert out_of(capsys, given(audit_of(*UNTOLD)))[0] == 0


def test_json_has_every_key_always(given, capsys):
    second = KeyVerdict("loss", 1, "cannot tell")
    command = given(audit_of(*UNTOLD, MICRO, second, runs=(0, 1), violations=(BROKEN,), notices=(ODD,)))
    status, out = out_of(capsys, [*command, "--json"])
    document = json.loads(out, parse_constant=pytest.fail)
    assert (status, set(document)) == (1, DOCUMENT)
    assert set(document["keys"]) == {"loss", "entropy", "token_acc", "loss (run 2)"}
    assert {frozenset(one) for one in document["keys"].values()} == {frozenset(KEY)}
    assert document["keys"]["loss"]["hypothesis"] is None
    assert document["keys"]["token_acc"]["ties_with"] == ["sample-mean"]
    (broken,) = document["violations"]
    assert {"inequality", "step", "lhs", "rhs"} <= set(broken)
    assert document["ok"] is False
    assert document["runs"] == 2


def test_names_that_steer_terminals_stay_text(given, capsys):
    evil = KeyVerdict("\x1b[2Jloss", 0, "bug", "\u202esum", about="\x1b[31m it")
    _, out = out_of(capsys, given(audit_of(evil, left_out={"\x07": "\x1b"})))
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\x07" not in out


def test_options_reach_the_engine(given, capsys):
    command = given(audit_of(AGREES))
    out_of(capsys, [*command, "--key", "loss", "--key", "acc", "--noise", "0.001"])
    (source, dump), named = given.asked[0]
    assert (source.name, dump) == ("state.json", None)
    assert (named["key"], named["noise"]) == (["loss", "acc"], 0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to audit; give --logged FILE, a DUMP, or both"),
        (["nowhere"], "nowhere does not exist"),
        (["--logged", "nowhere.json"], "nowhere.json"),
        (["--logged", "log.json", "--key", "lost"], "key is 'lost'"),
        (["--logged", "log.json", "--noise", "-1"], "--noise"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.json").write_text('[{"loss": 1.0, "step": 1}]', encoding="utf-8")
    assert cli.run(["audit", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .*\n", captured.err)
    assert message in captured.err


def test_a_dump_without_scalars_is_told_so(tmp_path, capsys):
    with lb.Recorder(tmp_path / "dump", 8) as rec:
        rec.record(torch.zeros(1, 3, 8), torch.ones(1, 3, dtype=torch.long), step=1)
    for command in ([str(tmp_path / "dump")], ["--logged", str(tmp_path / "dump")]):
        assert cli.run(["audit", *command]) == 2
        error = capsys.readouterr().err
        assert error == f"error: {tmp_path / 'dump'} has no `rec.scalars`; name the log with --logged FILE\n"


def test_a_dump_alone_is_audited_by_its_own_scalars(digits_at_work, capsys):
    """The example of --help, as it stands."""
    assert cli.run(["audit", "--help"]) == 0
    example = re.search(r"Example: logitbox (audit .*?)(?: ╰|$)", " ".join(capsys.readouterr().out.split()))
    status, out = out_of(capsys, example[1].split())
    assert status == 0
    assert "token_acc  other convention  " in out
    assert "against the dump demo-out/dump" in out
    as_log = out_of(capsys, ["audit", "--logged", "demo-out/dump", "--key", "token_acc"])
    assert as_log == (status, out)


@pytest.fixture
def digits_at_work(tmp_path, monkeypatch):
    """A folder in which the demo was run."""
    shutil.copytree(lb.load_example("digits").path, tmp_path / "demo-out" / "dump")
    monkeypatch.chdir(tmp_path)
