"""`logitbox explain A --against B` as a script or a stranger meets it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from logitbox import cli
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder

V, T, N = 40, 6, 12
WORDS = ["\x1b[31mred", "\n", *(f"t{i}" for i in range(2, V))]
KEYS = {
    "tfa",
    "tfce",
    "delta_tfa",
    "delta_tfce",
    "verdict",
    "cells",
    "reversal",
    "temperature",
    "certificates",
}


def drawn(seed, scale):
    return torch.randn(N, T, V, generator=torch.Generator().manual_seed(seed)) * scale


LABELS = torch.randint(0, V, (N, T), generator=torch.Generator().manual_seed(5))
LOGITS = {
    ("a", 0): drawn(0, 3),
    ("a", 4): drawn(1, 1.5),
    ("b", 0): drawn(2, 2),
    ("b", 4): drawn(3, 1),
}


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """Two dumps of the same samples at steps 0 and 4, and one of others."""
    where = tmp_path_factory.mktemp("dumps")
    for name, keys in (("a", range(N)), ("b", range(N)), ("other", range(100, 100 + N))):
        with Recorder(where / name, vocab=WORDS, k=8, types=["even"]) as recorder:
            for step in (0, 4):
                logits = LOGITS["a" if name == "other" else name, step]
                types = {"even": LABELS % 2 == 0}
                recorder.record(logits, LABELS, step, "eval", sample=list(keys), shift=False, types=types)
            if name == "a":
                recorder.record(logits, LABELS, 4, "train", sample=list(keys), shift=False, types=types)
    return {name: str(where / name) for name in ("a", "b", "other")}


def nll(name, step):
    log_p = LOGITS[name, step].double().log_softmax(-1)
    return -log_p.gather(-1, LABELS[..., None])[..., 0].numpy()


def run_json(capsys, *arguments):
    status = cli.run([*arguments, "--json"])
    out = capsys.readouterr().out
    return status, json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ([], (4, 4)),
        (["--step", "0"], (0, 0)),
        (["--step", "4", "--against-step", "0"], (4, 0)),
        (["--against-step", "0"], (4, 0)),
        (["--step", "0", "--against-step", "last"], (0, 4)),
        (["--step", "all"], (4, 4)),
        (["--phase", "eval"], (4, 4)),
    ],
)
def test_json_is_of_the_steps_asked_for(dumps, capsys, options, steps):
    status, found = run_json(capsys, "explain", dumps["a"], "--against", dumps["b"], *options)
    assert status == 0
    assert set(found) >= KEYS
    sides = {"a": nll("a", steps[0]), "b": nll("b", steps[1])}
    assert found["tfce"] == pytest.approx({side: values.mean() for side, values in sides.items()}, rel=1e-6)
    assert found["delta_tfce"] == pytest.approx((sides["a"] - sides["b"]).mean(), rel=1e-5)
    assert (found["dump"], found["against"]) == (dumps["a"], dumps["b"])
    assert found["tokens"] == []


def test_two_steps_of_one_dump(dumps, capsys):
    status, found = run_json(
        capsys, "explain", dumps["a"], "--against", dumps["a"], "--step", "4", "--against-step", "0"
    )
    assert status == 0
    assert found["delta_tfce"] == pytest.approx((nll("a", 4) - nll("a", 0)).mean(), rel=1e-5)


def test_json_lists_as_many_tokens_as_asked_for(dumps, capsys):
    _, found = run_json(capsys, "explain", dumps["a"], "--against", dumps["b"], "--tokens", "3")
    gap = nll("a", 4) - nll("b", 4)
    gap = (gap * np.sign(gap.mean())).reshape(-1)
    worst = [divmod(int(i), T) for i in np.argsort(-gap)[:3]]
    assert [(int(row["key"]), row["pos"]) for row in found["tokens"]] == worst


def test_the_tables_are_whole_and_safe(dumps, capsys):
    arguments = ["explain", dumps["a"], "--against", dumps["b"], "--tokens", "1000"]
    assert cli.run(arguments) == 0
    captured = capsys.readouterr()
    out = captured.out
    assert captured.err == ""
    assert "\x1b" not in out
    assert out.startswith(f"A {dumps['a']} (eval, step 4)\nB {dumps['b']} (eval, step 4)\n")
    a, b = nll("a", 4).mean(), nll("b", 4).mean()
    assert re.search(rf"TFCE, nats +{a:.4f} +{b:.4f} +{a - b:.4f}", out)
    assert re.search(r"\(all\) +both_wrong +\d+", out)
    assert re.search(r"even +only_a +\d+", out)
    assert "…" not in out
    paragraph = " ".join(out.partition("\nBoth metrics")[0].split())
    _, found = run_json(capsys, *arguments)
    assert paragraph.endswith(found["told"])
    assert out.count("\n") < 60 + len(found["tokens"])
    for row in found["tokens"][:5]:
        assert re.search(rf"^{row['key']} +{row['pos']} +{row['gold']} ", out, re.MULTILINE)
    assert cli.run(arguments[:-2]) == 0
    assert "Tokens that hold" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "--against", "nowhere"], "nowhere"),
        (["{a}", "--against", "{other}"], r"only 0 of 72 tokens \(0\.0%\) are in both dumps"),
        (["{a}", "--against", "{b}", "--phase", "train"], "phase is 'train'; the dump has eval"),
        (["{a}", "--against", "{b}", "--phase", "test"], "phase is 'test'; the dump has eval, train"),
        (
            ["{a}", "--against", "{b}", "--step", "3"],
            "step is 3; the nearest recorded of phase eval are 0, 4",
        ),
        (["{a}", "--against", "{b}", "--against-step", "7"], "step is 7; the nearest recorded"),
        (["{a}", "--against", "{b}", "--step", "soon"], "--step is 'soon'; give a whole number"),
        (["{a}", "--against", "{b}", "--against-step", "soon"], "--against-step is 'soon'; give a whole"),
        (["{a}", "--against", "{b}", "--by", "step"], "--by is for one dump"),
        (["{a}", "--against", "{b}", "--tokens", "-1"], "Invalid value for '--tokens'"),
        (["{a}", "--step", "0"], "--step is of use with --against only"),
        (["{a}", "--phase", "eval", "--step", "3"], "--phase and --step are of use with --against only"),
        (["{a}", "--against-step", "0"], "--against-step is of use with --against only"),
    ],
)
def test_errors_are_one_line_and_status_2(dumps, capsys, arguments, message):
    typed = ["explain", *(argument.format(**dumps) for argument in arguments)]
    assert cli.run(typed) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: .*\n", captured.err)
    assert re.search(message, captured.err)
    status, found = run_json(capsys, *typed)
    assert (status, set(found)) == (2, {"error"})
    assert re.search(message, found["error"])


def test_nothing_finite_is_refused(dumps, capsys, tmp_path):
    with Recorder(tmp_path / "nan", vocab=WORDS) as recorder:
        recorder.record(LOGITS["a", 4] * torch.nan, LABELS, 4, "eval", sample=list(range(N)), shift=False)
    assert cli.run(["explain", dumps["a"], "--against", str(tmp_path / "nan")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(
        r"error: all 72 tokens in both dumps are NaN or infinite on a side: .*\n", captured.err
    )


def test_a_report_against_another_dump(dumps, capsys, tmp_path):
    target = tmp_path / "r.html"
    typed = ["report", dumps["a"], "--against", dumps["b"], "--against-step", "0", "--out", str(target)]
    status, found = run_json(capsys, *typed)
    assert (status, found["report"]) == (0, str(target))
    delta = (nll("a", 4) - nll("b", 0)).mean()
    page = target.read_text(encoding="utf-8")
    assert f'<a href="#against">Against {dumps["b"].rpartition("/")[2]}</a>' in page
    assert f"{delta:+.4f}".replace("-", "−") in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "{other}"], "only 0 of 72 tokens"),
        (["--against", "nowhere"], "nowhere"),
        (["--step", "0"], "--step is of use with --against only"),
    ],
)
def test_a_report_that_is_refused_leaves_nothing(dumps, capsys, tmp_path, arguments, message):
    typed = [argument.format(**dumps) for argument in arguments]
    assert cli.run(["report", dumps["a"], "--out", str(tmp_path / "r.html"), *typed]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: .*\n", captured.err)
    assert re.search(message, captured.err)
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_options_of_a_comparison(capsys):
    for command in ("explain", "report"):
        assert cli.run([command, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert {"--against", "--step", "--against-step", "--phase"} <= set(re.findall(r"--[a-z-]+", text))


def test_tokens_of_one_dump_are_those_of_highest_loss(dumps, capsys):
    _, found = run_json(capsys, "explain", dumps["a"], "--tokens", "4")
    assert len(found["tokens"]) == 4
    nll = [row["nll"] for row in found["tokens"]]
    tokens = open_dump(Path(dumps["a"])).tokens.filter(pl.col("phase") == "eval").collect()
    last = tokens.filter(pl.col("step") == tokens["step"].max())
    assert nll == last["nll"].sort(descending=True).head(4).to_list()
    assert cli.run(["explain", str(dumps["a"]), "--tokens", "2"]) == 0
    assert "2 tokens of highest nll" in capsys.readouterr().out


def test_a_damaged_shard_is_an_error_alone_even_where_the_tally_is_cached(tmp_path, dumps, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(dumps["a"], copy)
    assert cli.run(["explain", str(copy)]) == 0
    capsys.readouterr()
    shard = min(copy.glob("tokens/*/*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    assert cli.run(["explain", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "damaged shard" in err
