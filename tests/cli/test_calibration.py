"""`logitbox calibration`: what a stranger reads, against a softmax by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from logitbox import cli, terminal
from logitbox.analysis.calibration.measures import MEASURES
from logitbox.commands.measures_told import PLAIN
from logitbox.dumps.recorder import Recorder

V = 16


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, int], tuple]]:
    """Two steps of training and of an evaluation, over-confident, of 12 samples; (logits, labels) of each."""
    path, generator = tmp_path_factory.mktemp("calibration") / "dump", torch.Generator().manual_seed(11)
    kept = {}
    with Recorder(path, V, k=V, groups={"coord": range(8, V)}, lse_beta=True, shard_rows=64) as rec:
        for step in (1, 2):
            for phase in ("train", "eval"):
                labels = torch.randint(0, V, (12, 10), generator=generator)
                logits = torch.randn(12, 10, V, generator=generator) * 3
                logits.scatter_add_(2, labels[..., None], torch.full((12, 10, 1), 2.0 * step))
                rec.record(logits, labels, step=step, phase=phase, sample=list(range(12)), shift=False)
                kept[phase, step] = (logits.double().reshape(-1, V).numpy(), labels.reshape(-1).numpy())
        rec.samples({"sample": list(range(12)), "source": ["a"] * 6 + ["b"] * 6})
    return path, kept


def by_hand(parts: list[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, correct, gold of rows put together."""
    logits, gold = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p.max(1), p.argmax(1) == gold, gold


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["calibration", *arguments]) == 0
    return capsys.readouterr().out


def lines_of(text: str, *words: str) -> list[str]:
    """Lines that begin with these words."""
    table = text.split("says it is sure: ", maxsplit=1)[0]
    return [line for line in table.splitlines() if line.split()[: len(words)] == list(words)]


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert cli.run(["calibration", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_the_table_says_what_the_logits_say(recorded, capsys):
    path, kept = recorded
    text = said(capsys, str(path))
    confidence, correct, gold = by_hand([kept["eval", 1], kept["eval", 2]])
    for name, mask in (("(all)", gold >= 0), ("coord", gold >= 8)):
        (line,) = lines_of(text, "eval", name)
        sure, right = confidence[mask].mean(), correct[mask].mean()
        assert f" {mask.sum()} " in line
        assert f" {sure:.1%}".replace("%", " %") in line
        assert f" {right:.1%}".replace("%", " %") in line
        assert f"over {100 * (sure - right):.1f} [" in line
        bins = np.minimum((confidence[mask] * 15).astype(int), 14)
        residual = np.bincount(bins, correct[mask] - confidence[mask])
        assert f" {abs(residual).sum() / mask.sum():.4f} [" in line
    assert "over-confident" in text
    assert "By chance: the ECE that chance alone" in " ".join(text.split())


def test_all_tokens_come_first_and_types_only_where_asked_for(recorded, capsys):
    path = str(recorded[0])
    text = said(capsys, path)
    types = [line.split()[1] for line in lines_of(text, "eval")]
    assert types[0] == "(all)"
    assert {"coord"} < set(types)
    text = said(capsys, path, "--by", "step")
    assert [line.split()[:3] for line in lines_of(text, "eval")] == [
        ["eval", "1", "(all)"],
        ["eval", "2", "(all)"],
    ]
    text = said(capsys, path, "--by", "step", "--by", "type")
    assert len(lines_of(text, "eval", "1")) > 2


def test_narrow_terminals_drop_columns_then_put_intervals_below(recorded, capsys, monkeypatch):
    assert "entropy gap" in " ".join(said(capsys, str(recorded[0])).split())
    monkeypatch.setattr(terminal, "_WIDE", 100)
    text = said(capsys, str(recorded[0]))
    assert max(map(len, text.splitlines())) <= 100
    (line,) = lines_of(text, "eval", "(all)")
    assert len(re.findall(r"\[[^\]]*\]", line)) == 2
    monkeypatch.setattr(terminal, "_WIDE", 80)
    for more in ([], ["--by", "step", "--by", "type"], ["--by", "source", "--by", "position"]):
        text = said(capsys, str(recorded[0]), *more)
        assert max(map(len, text.splitlines())) <= 80
        line = next(line for line in text.splitlines() if line.startswith("eval ") and "(all)" in line)
        assert "[" not in line
        below = text.splitlines()[text.splitlines().index(line) + 1]
        assert len(re.findall(r"\[[^\]]*\]", below)) == 2


def test_one_step_or_the_last_of_each_phase(recorded, capsys):
    path, kept = recorded
    text = " ".join(said(capsys, str(path)).split())
    assert "eval: 2 evaluations pooled, steps 1 to 2" in text
    assert "eval (2 evaluations pooled, steps 1 to 2): on average" in text
    for step, number in (("last", 2), ("1", 1)):
        document = run_json(capsys, str(path), "--step", step, "--temperature", "--measures")
        assert {row["step"] for part in ("summary", "temperature", "measures") for row in document[part]} == {
            number
        }
        row = next(row for row in document["summary"] if (row["phase"], row["type"]) == ("eval", ""))
        confidence, correct, _ = by_hand([kept["eval", number]])
        assert row["n"] == len(confidence)
        assert row["overconfidence"] == pytest.approx(confidence.mean() - correct.mean(), abs=1e-6)
        assert f"eval (step {number}): " in document["verdict"]
        logits, gold = kept["eval", number]
        nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(gold)), gold]
        heat = next(row for row in document["temperature"] if (row["phase"], row["type"]) == ("eval", ""))
        assert heat["nll_before"] == pytest.approx(nll.mean(), rel=1e-5)
    assert cli.run(["calibration", str(path), "--step", "7"]) == 2
    assert "there are 1, 2" in capsys.readouterr().err


def test_json_has_the_rows_of_the_table(recorded, capsys):
    path = str(recorded[0])
    for more, has_types in (([], True), (["--by", "step"], False), (["--by", "step", "--by", "type"], True)):
        document = run_json(capsys, path, *more, "--worst", "99", "--temperature", "--measures")
        keys = [
            [tuple(row.get(name) for name in ("phase", "step", "type")) for row in document[part]]
            for part in ("summary", "temperature", "measures")
        ]
        assert keys[0] == keys[1] == keys[2]
        assert {row["type"] for row in document["table"]} == {key[2] for key in keys[0]}
        assert {tuple(row.get(n) for n in ("phase", "step", "type")) for row in document["worst"]} <= set(
            keys[0]
        )
        assert any(key[2] for key in keys[0]) == has_types


def test_measures_are_told_in_order_of_importance(recorded, capsys, monkeypatch):
    assert set(PLAIN) == {measure.name for measure in MEASURES}
    for width in (200, 80):
        monkeypatch.setattr(terminal, "_WIDE", width)
        text = said(capsys, str(recorded[0]), "--measures", "--by", "phase")
        assert max(map(len, text.splitlines())) <= width
        places = [text.index(f"\n{name} ") for name in PLAIN]
        assert places == sorted(places)
        whole = " ".join(text.split())
        assert whole.count("gap of the worst bin") == (2 if width == 200 else 1)


def test_one_sample_says_why_there_is_no_interval(tmp_path, capsys):
    torch.manual_seed(0)
    with Recorder(tmp_path / "one", V) as rec:
        rec.record(torch.randn(1, 40, V), torch.randint(0, V, (1, 40)), phase="eval", sample=[0], shift=False)
    text = said(capsys, str(tmp_path / "one"), "--worst", "3")
    assert "One sample: no interval" in text


def test_what_cannot_be_split_by_says_what_can(recorded, capsys):
    assert cli.run(["calibration", str(recorded[0]), "--by", "nonsense"]) == 2
    assert "there are type, position, gold_frequency, step" in capsys.readouterr().err


def test_worst_temperature_and_measures(recorded, capsys):
    path, kept = recorded
    text = said(capsys, str(path), "--worst", "3", "--temperature", "--measures")
    assert "Worst calibrated subgroups" in text
    assert "Best temperature" in text
    assert "smooth_ece" in text
    document = run_json(capsys, str(path), "--worst", "3", "--temperature", "--measures")
    assert len(document["worst"]) == 3
    heat = next(row for row in document["temperature"] if (row["phase"], row["type"]) == ("eval", ""))
    logits, gold = (np.concatenate([kept["eval", step][i] for step in (1, 2)]) for i in (0, 1))
    grid = np.geomspace(0.5, 4, 2000)

    def nll(temperature: float) -> float:
        scaled = logits / temperature
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(gold)), gold]).mean())

    best = min(grid, key=nll)
    assert heat["temperature"] == pytest.approx(best, rel=0.01)
    assert heat["nll_before"] == pytest.approx(nll(1), rel=1e-5)
    assert heat["nll"] == pytest.approx(nll(best), abs=1e-3)
    whole = next(row for row in document["measures"] if (row["phase"], row["type"]) == ("eval", ""))
    values = {row["measure"]: row["value"] for row in whole["measures"]}
    confidence, correct, _ = by_hand([kept["eval", 1], kept["eval", 2]])
    assert values["brier"] == pytest.approx(((confidence - correct) ** 2).mean(), rel=1e-5)


def test_what_is_not_asked_for_is_null(recorded, capsys):
    document = run_json(capsys, str(recorded[0]))
    assert (document["worst"], document["temperature"], document["measures"]) == (None, None, None)
    assert document["by"] == []


def test_the_reliability_table_is_of_all_tokens(recorded, capsys):
    path = str(recorded[0])
    assert "Reliability, all tokens" not in said(capsys, path)
    text = said(capsys, path, "--table")
    assert "Reliability, all tokens" in text
    assert lines_of(text[text.index("Reliability") :], "train")


def test_a_single_phase_has_the_reliability_table(tmp_path, capsys):
    torch.manual_seed(0)
    with Recorder(tmp_path / "one", V) as rec:
        rec.record(torch.randn(40, V), torch.randint(0, V, (40,)), phase="eval")
    text = said(capsys, str(tmp_path / "one"))
    assert "Reliability, all tokens" in text


def test_temperatures_that_are_only_bounded_say_so(tmp_path, capsys):
    torch.manual_seed(0)
    with Recorder(tmp_path / "bounded", V, k=4, lse_beta=False) as rec:
        rec.record(torch.randn(90, V) * 3, torch.randint(0, V, (90,)), phase="eval")
    text = said(capsys, str(tmp_path / "bounded"), "--temperature")
    assert "bounds only" in text
    assert re.search(r"lse_beta was not recorded", text)


def test_a_dump_without_finite_tokens_is_told(tmp_path, capsys):
    with Recorder(tmp_path / "nan", V) as rec:
        rec.record(torch.full((9, V), float("nan")), torch.zeros(9, dtype=torch.long), phase="eval")
    text = said(capsys, str(tmp_path / "nan"), "--temperature", "--measures", "--table")
    assert "no " in text


def test_two_steps_against_each_other(tmp_path, capsys):
    path, kept, generator = tmp_path / "dump", {}, torch.Generator().manual_seed(3)
    labels = torch.randint(0, V, (12, 10), generator=generator)
    with Recorder(path, V) as rec:
        for step in (1, 2):
            logits = torch.randn(12, 10, V, generator=generator) * 3
            logits.scatter_add_(2, labels[..., None], torch.full((12, 10, 1), 2.0 * step))
            rec.record(logits, labels, step=step, phase="eval", sample=list(range(12)), shift=False)
            kept["eval", step] = (logits.double().reshape(-1, V).numpy(), labels.reshape(-1).numpy())
    options = [str(path), "--against", str(path), "--phase", "eval", "--step", "2", "--against-step", "1"]
    text = said(capsys, *options)
    (a, right_a, _), (b, right_b, _) = by_hand([kept["eval", 2]]), by_hand([kept["eval", 1]])
    line = next(line for line in text.splitlines() if line.startswith("accuracy"))
    assert line.split()[1:4] == [
        f"{x:.4f}" for x in (right_a.mean(), right_b.mean(), right_a.mean() - right_b.mean())
    ]
    assert "ECE" in " ".join(text.splitlines()[-2:])
    document = json.loads(said(capsys, *options, "--json"))
    assert set(document) == {"dump", "against", "verdict", "bins", "tokens", "measures", "left_out"}
    brier = next(row for row in document["measures"] if row["measure"] == "brier")
    assert brier["a"] == pytest.approx(((a - right_a) ** 2).mean(), abs=1e-6)
    assert brier["b"] == pytest.approx(((b - right_b) ** 2).mean(), abs=1e-6)
    assert brier["low"] < brier["difference"] < brier["high"]


@pytest.mark.parametrize(
    ("options", "said_of_it"),
    [
        (["--phase", "eval"], "--phase is of use with --against only"),
        (["--against", "DUMP", "--by", "type"], "--against compares all measures of two evaluations"),
        (["--against", "DUMP", "--step", "some"], "some"),
        (["--step", "some"], "some"),
        (["--against", "DUMP", "--phase", "nope"], "nope"),
    ],
)
def test_options_for_two_dumps_are_checked(recorded, capsys, options, said_of_it):
    path = str(recorded[0])
    assert cli.run(["calibration", path, *(path if o == "DUMP" else o for o in options)]) == 2
    error = capsys.readouterr().err
    assert said_of_it in error
    assert len(error.splitlines()) == 1
