"""Logs alone: formats, names, and what cannot be said without logits."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.doctor import doctor
from logitbox.analysis.doctor.sources.logs import read_log, series_rows
from logitbox.errors import InputError

HISTORY = [
    {"epoch": 0.5, "loss": 1.5, "grad_norm": 2.0, "learning_rate": 1e-4, "step": 50},
    {"epoch": 1.0, "eval_loss": 1.2, "eval_accuracy": 0.5, "eval_runtime": 3.0, "step": 100},
    {"epoch": 1.5, "loss": 1.0, "grad_norm": 2.5, "learning_rate": 1e-4, "step": 150},
    {"epoch": 2.0, "eval_loss": 1.0, "eval_accuracy": 0.6, "eval_runtime": 3.0, "step": 200},
    {"epoch": 2.0, "step": 200, "train_loss": 1.25, "train_runtime": 9.0, "total_flos": 1.0},
]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def lines(rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def csv(rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    return "\n".join([",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)])


FORMATS = {
    "trainer_state.json": json.dumps({"epoch": 2.0, "log_history": HISTORY}),
    "list.json": json.dumps(HISTORY),
    "lines.jsonl": lines(HISTORY),
    "state_at_the_end.jsonl": lines([*HISTORY[:2], {"loss": 9, "log_history": HISTORY}]),
    "cut_short.jsonl": lines(HISTORY) + '{"loss": 0.',
    "wide.csv": csv(HISTORY),
    "tabs.tsv": csv(HISTORY).replace(",", "\t"),
    "bom.csv": "\ufeff" + csv(HISTORY),
    "long.csv": csv([
        {"step": row["step"], "epoch": row["epoch"], "key": key, "value": value}
        for row in HISTORY
        for key, value in row.items()
        if key not in ("step", "epoch")
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path, name):
    found = doctor(write(tmp_path / name, FORMATS[name]), "classification", classes=4)
    values = found.series.filter(~pl.col("key").str.starts_with("nonfinite")).drop_nulls("value")
    got = {(row["key"], row["step"]): (row["value"], row["epoch"]) for row in values.iter_rows(named=True)}
    assert got[("train/loss", 50)] == (1.5, 0.5)
    assert got[("val/accuracy", 200)] == (0.6, 2.0)
    assert got[("train/grad_norm", 150)] == (2.5, 1.5)
    assert ("train/loss", 200) not in got  # the mean of the whole run is no value of that step
    assert not [key for key, _ in got if "runtime" in key]


def test_rules_that_need_logits_say_so(tmp_path):
    found = doctor(write(tmp_path / "state.json", FORMATS["trainer_state.json"]))
    assert found.profile.name == "classification"
    assert found.finding("avg-entropy").status == "not enough data"
    assert found.finding("avg-entropy").told == "no val/avg_entropy: it takes recorded logits"
    assert found.finding("val-accuracy").told == "the number of classes is not known; give classes="
    assert found.finding("grad-norm-at-max").status == "not enough data"  # logged before clipping
    known = doctor(tmp_path / "state.json", classes=4)
    assert known.finding("val-accuracy").status == "pass"
    assert len(known.of("not enough data")) < len(found.of("not enough data"))


@pytest.mark.parametrize(
    ("rows", "profile"),
    [
        ([{"step": 1, "loss": 1.0, "mean_token_accuracy": 0.5}], "language-model"),
        ([{"step": 1, "eval_accuracy": 0.5, "perplexity": 3.0}], "language-model"),
        ([{"step": 1, "eval_accuracy": 0.5}], "classification"),
        ([{"epoch": 1, "val/accuracy": 0.5}], "classification"),
        ([{"step": 1, "loss": 1.0}], "language-model"),
    ],
)
def test_profile_that_fits(rows, profile):
    assert doctor(rows).profile.name == profile
    assert doctor(pl.DataFrame(rows)).profile.name == profile


def test_not_a_number():
    rows = [{"step": i, "loss": float("nan") if i in (2, 5) else 1.0} for i in range(8)]
    found = doctor(rows)
    assert found.finding("nonfinite").status == "fail"
    [evidence] = found.finding("nonfinite").evidence
    assert (evidence.point.value, evidence.point.step) == (2, 5)
    assert found.finding("nonfinite").sure == "sure"
    assert not found.ok


def test_nothing_is_trained():
    rows = [{"step": i, "loss": 0.0, "grad_norm": 0.0} for i in range(8)]
    found = doctor(rows)
    assert {finding.rule.name for finding in found.of("fail")} == {"loss-zero", "grad-zero"}
    assert str(found).startswith("2 of ")


@pytest.mark.parametrize("name", ["step", "global_step", "_step", "current_steps", "global_step/max_steps"])
def test_names_of_steps(name):
    value = "7/40" if "/" in name else 7
    [row, *_] = series_rows([{name: value, "loss": "1.5"}], {"loss": "train/nll"})
    assert (row["step"], row["key"], row["value"]) == (7, "train/nll", 1.5)


def test_without_steps_the_order_counts():
    found = doctor([{"loss": value} for value in (1.0, 0.9, 0.9, 4.0)])
    assert found.finding("loss-spike").status == "warn"
    assert found.finding("loss-spike").evidence[0].point.step == 3


def test_steps_per_epoch():
    rows = [{"step": 100 * i, "val/accuracy": 0.3, "val/loss": 1.0} for i in range(1, 9)]
    assert (
        doctor(rows, classes=8).finding("val-accuracy").told == "epochs are not known; give steps_per_epoch="
    )
    assert doctor(rows, classes=8, steps_per_epoch=100).finding("val-accuracy").status == "warn"
    assert doctor(rows, classes=8, steps_per_epoch=400).finding("val-accuracy").status == "pass"


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no logged rows"), ("[]", "no logged rows"), ('"a"', "no logged rows"), ("{a", "line 1: no JSON")],
)
def test_what_is_no_log(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_log(write(tmp_path / "x.json", text))


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["step", "epoch", "loss", "eval_loss", "eval_accuracy", "grad_norm", "key", "value", "x y"]
            ),
            st.one_of(
                st.floats(),
                st.integers(),
                st.text(max_size=5),
                st.none(),
                st.booleans(),
                st.lists(st.floats()),
            ),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["classification", "language-model"]),
)
@settings(max_examples=60, deadline=None)
def test_any_log_is_judged(rows, profile):
    try:
        found = doctor(rows, profile, classes=4)
    except InputError as error:
        assert "no metric recognised" in str(error)  # noqa: PT017 (either is right)
        return
    assert len(found.findings) == len(found.profile.rules)
    for finding in found.findings:
        assert finding.told
        assert bool(finding.sure) == (finding.status != "not enough data")


def test_csv_that_is_none(tmp_path):
    with pytest.raises(InputError, match="is no CSV"):
        read_log(write(tmp_path / "x.csv", "a,b\n" + "1" * 200_000 + ",2\n"))


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="neither a dump"):
        doctor(tmp_path / "none.json")
    (tmp_path / "x.json").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match="no text"):
        doctor(tmp_path / "x.json")
    with pytest.raises(InputError, match="cannot read a int"):
        doctor(3)
    with pytest.raises(InputError, match="cannot read a list"):
        doctor([])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": 1}, "classes is 1"),
        ({"classes": 2.5}, "classes is 2.5"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0"),
        ({"steps_per_epoch": True}, "steps_per_epoch is True"),
        ({"phase": "val"}, "only of a dump can a phase be chosen"),
        ({"profile": 3}, "profile is 3; give classification"),
        ({"constants": ["clip"]}, "give a dict such as {'clip': 1.0}"),
        ({"profile": "x"}, "no profile 'x'"),
        ({"profile": "classification", "constants": {"klip": 1.0}}, "no constant 'klip'; it has clip"),
        ({"profile": "classification", "constants": {"clip": "1"}}, "constant clip is '1'"),
    ],
)
def test_bad_arguments(options, said):
    with pytest.raises(InputError, match=said):
        doctor(HISTORY, **options)


def test_result():
    found = doctor(HISTORY, classes=4)
    assert found.frame.height == len(found.findings) == len(found.profile.rules)
    assert found.frame["rule"].to_list() == [rule.name for rule in found.profile.rules]
    assert set(found.frame["status"]) <= {"pass", "warn", "fail", "not enough data"}
    assert "val/accuracy 0.6" in found.frame.filter(rule="val-accuracy")["told"].item()
    assert found.to_frame() is found.frame
    assert "<table" in found._repr_html_()
    assert found.dashboard["key"].to_list()[0] == "val/loss"
    assert found.dashboard["value"].to_list()[0] == 1.0
    assert str(found).startswith("no check of ")
    other = doctor([{"step": 1, "perplexity": 1, "loss": 1}], "classification")
    assert other.finding("val-accuracy").status == "not enough data"


def test_a_loss_that_was_nan_is_told_though_a_later_key_is_fine():
    found = doctor([{"step": 50, "loss": float("nan")}, {"step": 100, "loss": 1.0, "eval_loss": 1.0}])
    assert found.finding("nonfinite").status == "fail"
    assert found.finding("nonfinite").told == "train/loss at step 50: NaN"


def test_numbers_by_epoch_and_by_step_are_not_mixed():
    by_epoch = [{"epoch": e, "val/accuracy": e / 10} for e in range(1, 6)]
    train = [{"step": 100 * e, "epoch": e, "train/accuracy": e / 10} for e in range(1, 6)]
    found = doctor(by_epoch + train, "classification", classes=8)
    gap = found.finding("insufficient-capacity").evidence[1]
    assert gap.point.value == 0
    train = [{"step": 100 * e, "train/accuracy": e / 10} for e in range(1, 6)]
    found = doctor(by_epoch + train, "classification", classes=8)
    assert "never measured together" in found.finding("insufficient-capacity").evidence[1].told


def test_a_row_without_a_moment_is_of_the_one_before():
    rows = [{"step": 10, "epoch": 1, "val/accuracy": 0.2}, {"val/accuracy": 0.5}]
    [point] = [r for r in series_rows(rows, {}) if r["key"] == "val/accuracy" and r["value"] == 0.5]
    assert (point["step"], point["epoch"]) == (10, 1)
    assert doctor(rows, "classification", classes=8).finding("val-accuracy").evidence[0].point.value == 0.5


def test_what_was_never_measured_together_is_told():
    rows = [{"epoch": e, f"val/duration_accuracy/{name}": 0.5} for e, name in ((1, "0-5s"), (2, "5-10s"))]
    told = doctor(rows, "classification", classes=8).finding("duration-same").told
    assert told == "no 2 of val/duration_accuracy/* were ever measured together"


def test_numbers_beyond_float64_are_left_out():
    rows = [{"epoch": 1, "val/top2_accuracy": 1e308, "val/accuracy": -1e308}]
    found = doctor(rows, "classification", classes=8)
    assert found.finding("top2-confused").status == "not enough data"


NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (NOTEBOOK, "nbformat, nbformat_minor, metadata, cells"),
        ({"foo": 1}, "foo"),
        ([{"step": 1, "key": "foo", "value": 2.0}], "foo"),
        (dict.fromkeys("abcdefgh", 1), "a, b, c, d, e, f, …"),
        ({"val/accuracy_of_nothing": 1}, "val/accuracy_of_nothing"),
    ],
)
@pytest.mark.parametrize("profile", [None, "classification"])
def test_a_file_that_is_no_log_is_an_error(tmp_path, data, keys, profile):
    path = write(tmp_path / "x.json", json.dumps(data))
    with pytest.raises(InputError) as error:
        doctor(path, profile)
    assert str(error.value) == (
        f"no metric recognised in {path}; its keys are {keys}; "
        "a log has loss, eval_loss, val/accuracy, … or name columns so"
    )


def test_a_metric_that_only_another_profile_knows_is_no_error():
    [note] = doctor([{"epoch": 1, "val/duration_accuracy/0-5s": 0.5}], "language-model").facts.notes
    assert note == "the rules of language-model look at none of its keys (epoch, val/duration_accuracy/0-5s)"
    assert doctor([{"epoch": 1, "val/accuracy": 0.5}], "classification").facts.notes == ()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ([float("nan")], "train/loss at step 10: NaN"),
        ([float("-inf")], "train/loss at step 10: infinite"),
        ([float("nan")] * 3, "train/loss at step 10: NaN, and 2 more times up to step 30"),
        (["inf", "nan"], "train/loss at step 10: NaN or infinite, and 1 more time up to step 20"),
    ],
)
@pytest.mark.parametrize("profile", ["classification", "language-model"])
def test_what_was_not_finite_and_when(bad, told, profile):
    values = [1.0, *bad, 0.9, 0.8]
    rows = [{"step": 10 * i, "loss": value} for i, value in enumerate(values)]
    finding = doctor(rows, profile).finding("nonfinite")
    assert (finding.status, finding.told) == ("fail", told)
    assert finding.evidence[0].point.is_exact


def test_a_loss_of_zero_is_counted():
    rows = [{"step": i, "loss": 0.0} for i in range(8)]
    assert doctor(rows).finding("loss-zero").told == "train/loss is 0 at 8 of 8 steps"
    rows[0]["loss"] = 1.0
    assert doctor(rows, "classification").finding("loss-zero").told == "train/loss is 0 at 7 of 8 steps"


@pytest.mark.parametrize("name", ["TIMIT", "timit", "Timit"])
def test_sources_are_found_without_regard_to_case(name):
    sources = {name: 0.5, "other": 0.9}
    found = doctor(
        [{"epoch": 1} | {f"val/per_dataset_accuracy/{s}": v for s, v in sources.items()}], "classification"
    )
    finding = found.finding("dataset-timit")
    assert finding.status == "warn"
    assert finding.evidence[0].point.value == pytest.approx(0.4)
    assert f"− {name} 0.4" in finding.told


def test_a_family_of_one_is_compared_with_nothing():
    found = doctor([{"epoch": 1, "val/per_dataset_accuracy/timit": 0.5}], "classification")
    assert found.finding("dataset-timit").status == "not enough data"
    assert "compared with nothing" in found.finding("dataset-timit").told
    found = doctor([{"epoch": 1, "val/duration_accuracy/10-15s": 0.5}], "classification", classes=8)
    for name in ("duration-shortest", "duration-second", "duration-best"):
        assert found.finding(name).status == "not enough data", name
    two = {"epoch": 1, "val/duration_accuracy/10-15s": 0.5, "val/duration_accuracy/15+s": 0.6}
    told = doctor([two], "classification").finding("duration-shortest").told
    assert told == "val/duration_accuracy/10-15s (the first and the lowest) 0: lowest accuracy"


def test_a_pass_with_one_sign_names_it():
    rows = [{"step": i, "loss": 2 + i / 10, "eval_loss": 2 + i / 10} for i in range(8)]
    told = doctor(rows, "language-model").finding("overfitting").told
    assert told == "1 of 2 signs (eval/nll); 2 needed"


def test_console_lines(tmp_path):
    text = "INFO | {'loss': 1.2, 'epoch': 0.1}\n\r 3%|  |{'eval_loss': '1.5', 'epoch': 0.2}\nsaved\n"
    series = doctor(write(tmp_path / "train.log", text)).series.drop_nulls("value")
    got = {row["key"]: (row["value"], row["epoch"]) for row in series.iter_rows(named=True)}
    assert got["train/nll"] == (1.2, 0.1)
    assert got["eval/nll"] == (1.5, 0.2)


def test_names_of_steps_in_capitals(tmp_path):
    chart = '"Step","mine - loss","mine - loss__MIN"\n"5","1.5","1.5"\n"10","1.25","1.25"\n'
    series = doctor(write(tmp_path / "chart.csv", chart)).series.filter(key="train/nll")
    assert series["step"].to_list() == [5, 10]
    assert series["value"].to_list() == [1.5, 1.25]


@pytest.mark.parametrize("text", ["epoch 1: loss 2.3\n", "step,loss\n1,2\n"])
def test_text_without_rows_is_told(tmp_path, text):
    with pytest.raises(InputError, match=r"train\.log holds no logged rows; expected are dicts with a loss"):
        doctor(write(tmp_path / "train.log", text))


def test_the_verdict_of_one_check(tmp_path):
    rule = '[[rule]]\nname = "a"\ntitle = "b"\nkind = "range"\nvalue = "loss"\nhigh = 1\n'
    path = write(tmp_path / "mine.toml", rule)
    assert str(doctor([{"loss": 0.5}], path)) == "1 check passes"
    assert str(doctor([{"loss": 1.5}], path)) == "the one check warns (b)"
    path.write_text(rule + 'severity = "fail"\n', encoding="utf-8")
    assert str(doctor([{"loss": 1.5}], path)) == "the one check fails (b)"


def judged(rows, key="train/nll"):
    """(step, value) of a key, and the notes."""
    found = doctor(rows, "language-model")
    values = found.series.filter(pl.col("key") == key)
    return list(zip(values["step"], values["value"], strict=True)), found.facts.notes


def rows_of(steps, value=1.0):
    return [{"step": s, "epoch": s / 100, "loss": value + s / 1000, "lr": 0.1} for s in steps]


def test_repeated_rows_count_once():
    values, notes = judged([row for row in rows_of([1, 2, 3]) for _ in range(2)])
    assert values == [(1, 1.001), (2, 1.002), (3, 1.003)]
    assert notes == ("3 rows repeated an earlier one word for word: dropped",)


def test_what_a_resume_replaced_is_left_out():
    evaluation = {"step": 30, "eval_loss": 0.5}
    values, notes = judged([*rows_of([10, 20, 30, 40]), evaluation, *rows_of([30, 40, 50], 2.0)])
    assert values == [(10, 1.01), (20, 1.02), (30, 2.03), (40, 2.04), (50, 2.05)]
    assert notes == (
        "run 2 begins at row 5: resumed at step 30, after 40; 3 rows of the run before replaced",
        "of 2 runs the last is judged: 2 rows of earlier ones that it replaces left out",
    )
    again, _ = judged([*rows_of([10, 20]), evaluation, evaluation | {"eval_loss": 0.6}], "eval/nll")
    assert again == [(30, 0.6)]


@pytest.mark.parametrize("long", [False, True])
def test_of_several_trainings_the_last_is_judged(long):
    rows = [*rows_of([10, 20, 30]), *rows_of([10, 20], 2.0)]
    if long:
        rows = [
            {"step": row["step"], "key": key, "value": row[key]}
            for row in rows
            for key in ("loss", "lr", "epoch")
        ]
    values, notes = judged(rows)
    assert values == [(10, 2.01), (20, 2.02)]
    assert "of 2 runs the last is judged: 3 rows of earlier ones that it replaces left out" in notes


def test_names_with_slashes():
    rows = [{"step": s, "train/loss": 1.0, "eval/loss": 2.0} for s in (1, 2)]
    assert judged(rows)[0] == [(1, 1.0), (2, 1.0)]
    assert judged(rows, "eval/nll")[0] == [(1, 2.0), (2, 2.0)]


def test_names_that_are_no_text():
    assert judged([{1: 2.0, "loss": 1.5, "step": 1, None: 3}])[0] == [(1, 1.5)]
