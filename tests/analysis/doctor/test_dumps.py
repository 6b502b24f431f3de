"""Dumps: the examples that come with the package, and made-up classifiers."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from logitbox.analysis.classification import classification
from logitbox.analysis.doctor import doctor
from logitbox.analysis.doctor.sources.classifiers import is_classifier
from logitbox.analysis.doctor.sources.tokens import token_series
from logitbox.data import load_example
from logitbox.dumps.dump import open_dump
from logitbox.dumps.flags import Flag
from logitbox.dumps.recorder import Recorder

NAMES = [
    "New England",
    "Deep South",
    "West",
    "New York",
    "Mid-Atlantic",
    "South Atlantic",
    "Upper Midwest",
    "Lower Midwest",
]
C, N = len(NAMES), 160


def logits_of(labels, right, generator, scale=4.0, wrong=None):
    """Logits whose arg-max is the label for a share of samples, else `wrong` (else another class)."""
    target = labels.clone()
    missed = torch.rand(len(labels), generator=generator) > right
    other = (labels + torch.randint(1, C, labels.shape, generator=generator)) % C
    target[missed] = other[missed] if wrong is None else wrong[missed]
    noise = torch.rand(len(labels), C, generator=generator)
    return noise + scale * torch.nn.functional.one_hot(target, C)


def classifier(path, rights, epochs=True, wrong=None):
    """A dump of a classifier over some epochs, right for the shares given."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % C
    with Recorder(path, vocab=NAMES, length_unit="s") as rec:
        rec.samples({
            "sample": list(range(N)),
            "source": ["TIMIT" if i % 2 else "CORAAL" for i in range(N)],
            "group": [f"s{i % C}-{i // 40}" for i in range(N)],
            "length": [float(1 + i % 20) for i in range(N)],
        })  # fmt: skip
        for epoch, right in enumerate(rights, 1):
            at = {"epoch": epoch} if epochs else {}
            for batch in torch.arange(N).split(20):
                out = logits_of(labels[batch], right, generator)
                rec.record(out, labels[batch], 10 * epoch, sample=batch, **at)
                rec.scalars(10 * epoch, {"grad_norm": 0.3})
            out = logits_of(labels, right, generator, wrong=wrong)
            rec.record(out, labels, 10 * epoch, "val", sample=torch.arange(N), **at)
    return open_dump(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("good") / "dump", [0.3, 0.5, 0.6, 0.65, 0.7, 0.72, 0.74, 0.76])


def test_a_classifier(good):
    assert is_classifier(good)
    found = doctor(good)
    assert found.profile.name == "classification"
    assert (found.facts.classes, found.facts.phase) == (C, "val")
    assert found.ok, str(found)
    accuracy = good.tokens.filter(pl.col("phase") == "val", pl.col("step") == 80).collect()
    expected = float(((accuracy["n_gt"] + accuracy["n_eq_before"]) == 0).mean())
    [evidence] = found.finding("val-accuracy").evidence
    assert evidence.point.value == pytest.approx(expected)
    assert evidence.point.low < expected < evidence.point.high
    assert found.finding("val-accuracy").sure in ("sure", "likely")
    assert found.finding("dataset-timit").status in ("pass", "warn")
    assert found.finding("dataset-commonvoice").status == "not enough data"
    assert found.finding("uncertain-samples").status in ("pass", "warn")
    assert found.finding("unexpected-confusions").status in ("pass", "warn", "fail")


def test_what_is_missing(tmp_path):
    with Recorder(tmp_path / "d", vocab=C) as rec:
        rec.record(torch.rand(40, C), torch.arange(40) % C, 0, "val", epoch=1)
    found = doctor(tmp_path / "d")
    for rule in ("speaker-consistency", "dataset-behind", "duration-jumps", "mislabeled-data", "grad-norm"):
        assert found.finding(rule).status == "not enough data", rule
        assert found.finding(rule).told.count("no "), found.finding(rule).told


def test_training_alone(tmp_path):
    with Recorder(tmp_path / "d", vocab=C) as rec:
        for epoch in (1, 2, 3):
            for i in range(3):
                rec.record(torch.rand(20, C), torch.arange(20) % C, 10 * epoch + i, epoch=epoch)
    found = doctor(tmp_path / "d")
    assert found.finding("val-accuracy").status == "not enough data"
    assert found.finding("loss-std").status in ("pass", "warn")
    assert found.facts.phase == ""


def test_pairs_that_are_never_confused_pass(tmp_path):
    dump = classifier(tmp_path / "d", [1.0, 1.0])
    assert doctor(dump).finding("unexpected-confusions").status == "pass"
    wrong = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])[torch.arange(N) % C]
    dump = classifier(tmp_path / "e", [0.5, 0.5], wrong=wrong)
    found = doctor(dump)
    assert found.finding("unexpected-confusions").status == "fail"
    assert found.finding("unexpected-confusions").evidence[0].point.key.split("/")[-1] in (
        "New England → Deep South",
        "Deep South → New England",
        "West → New York",
        "New York → West",
    )


def test_without_epochs(tmp_path):
    dump = classifier(tmp_path / "d", [0.4, 0.4, 0.4], epochs=False)
    assert doctor(dump).finding("val-accuracy").status == "not enough data"
    assert doctor(dump, steps_per_epoch=1.5).finding("val-accuracy").status == "warn"


def test_language_model_rules_of_a_classifier(good):
    found = doctor(good, "language-model")
    assert found.finding("entropy-collapse").status != "not enough data"


@pytest.mark.parametrize(("name", "told"), [("digits", 12), ("smollm2", 4)])
def test_examples_are_healthy(name, told):
    found = doctor(load_example(name))
    assert found.profile.name == "language-model"
    assert found.ok, str(found)
    assert not found.of("warn"), str(found)
    assert len(found.of("pass")) >= told


def test_confident_errors_and_bins_by_hand():
    dump = load_example("digits")
    series = token_series(dump, None, {})
    rows = dump.tokens.filter(pl.col("phase") == "eval", pl.col("step") == 480).collect()
    rows = rows.filter((pl.col("flags") & int(Flag.SUPERVISED)) != 0)
    p = np.exp(-rows["top_nll"].to_numpy().astype(np.float64))
    wrong = (rows["n_gt"] + rows["n_eq_before"]).to_numpy() > 0
    assert series.points("eval/confident_errors")[-1].value == pytest.approx(wrong[p > 0.9].mean())
    bins = rows.drop_nulls("coord_bin")

    def effective(values):
        counts = np.unique(values, return_counts=True)[1]
        q = counts / counts.sum()
        return math.exp(-(q * np.log(q)).sum())

    expected = effective(bins["coord_bin"].to_numpy()) / effective(bins["gold"].to_numpy())
    assert series.points("eval/bins_used/coord")[-1].value == pytest.approx(expected)
    assert series.points("eval/bins_used/coord")[-1].n == bins.height


def test_an_untrained_coordinate_model_is_told_so(tmp_path):
    """The first evaluation of the demo: nothing has been learned, so that text and coordinates are confused."""
    dump = load_example("digits")
    series = token_series(dump, None, {})
    first = series.points("eval/flip_out/coord")[0].value
    assert first == pytest.approx(0.3472, abs=1e-4)
    assert set(series.members("eval/flip_in/*")) == {"text → coord", "desc → coord", "format → coord"}


def test_line_breaks_are_no_coordinates():
    series = token_series(load_example("smollm2"), None, {})
    assert not series.members("eval/flip_out/*")


def test_collapsed_coordinates_are_told(tmp_path):
    generator = torch.Generator().manual_seed(0)
    coord = range(10, 74)
    labels = torch.randint(10, 74, (24, 6), generator=generator)
    logits = torch.rand(24, 6, 80, generator=generator)
    logits[:, :, 20] += 8.0  # always the same bin
    with Recorder(
        tmp_path / "d", vocab=80, groups={"coord": coord}, ordered={"coord": {"sigma": 2.0}}
    ) as rec:
        rec.record(logits, labels, 0, "eval", shift=False)
    found = doctor(tmp_path / "d")
    assert found.finding("coordinate-collapse").status == "fail"
    assert found.finding("confident-errors").status == "fail"
    assert found.finding("entropy-collapse").status == "fail"
    assert found.finding("coordinates-to-text").status == "pass"


def test_text_where_coordinates_should_be(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat(
        [
            torch.randint(10, 74, (24, 3), generator=generator),
            torch.randint(0, 10, (24, 3), generator=generator),
        ],
        1,
    )
    logits = torch.rand(24, 6, 80, generator=generator)
    logits[:, :3, 5] += 4.0
    logits[:, 3:, 20] += 4.0
    with Recorder(
        tmp_path / "d", vocab=80, groups={"coord": range(10, 74)}, ordered={"coord": {"sigma": 2.0}}
    ) as rec:
        rec.record(logits, labels, 0, "eval", shift=False)
    found = doctor(tmp_path / "d")
    for rule in ("coordinates-to-text", "text-to-coordinates"):
        assert (found.finding(rule).status, found.finding(rule).sure) == ("fail", "sure"), found.finding(rule)


def test_a_classification_is_judged_as_it_was_asked_for(good):
    found = doctor(classification(good, buckets=(0, 10), expected=[("West", "Deep South")]))
    assert found.profile.name == "classification"
    keys = set(found.series["key"])
    assert {"val/duration_accuracy/0-10s", "val/duration_accuracy/10+s"} <= keys
    pairs = {"West → Deep South", "Deep South → West"}
    assert {f"val/expected_confusions/{pair}" for pair in pairs} & keys
    assert not {f"val/top_confusions/{pair}" for pair in pairs} & keys
    assert [f.status for f in doctor(classification(good)).findings] == [
        f.status for f in doctor(good).findings
    ]


@pytest.mark.parametrize("phase", ["train", "val"])
def test_logits_that_are_nan_are_told(tmp_path, phase):
    labels = torch.arange(20) % 4
    with Recorder(tmp_path / "dump", vocab=4) as rec:
        for epoch in (1, 2, 3):
            for one in ("train", "val"):
                logits = 3.0 * torch.nn.functional.one_hot(labels, 4)
                if (one, epoch) == (phase, 2):
                    logits[:5] = float("nan")
                rec.record(logits, labels, epoch, one, epoch=epoch)
    found = doctor(open_dump(tmp_path / "dump")).finding("nonfinite")
    assert found.status == "fail"
    [evidence] = found.evidence
    assert (evidence.point.key, evidence.point.value, evidence.point.step) == (
        f"nonfinite/{phase}/logits",
        5,
        2,
    )


def test_training_tokens_that_are_nan_are_told(tmp_path):
    with Recorder(tmp_path / "dump", vocab=30) as rec:
        for step in range(4):
            for phase in ("train", "eval"):
                logits = torch.rand(3, 8, 30)
                if (phase, step) == ("train", 1):
                    logits[0] = float("nan")
                rec.record(logits, torch.randint(0, 30, (3, 8)), step, phase)
    found = doctor(open_dump(tmp_path / "dump"))
    assert found.finding("nonfinite-training-tokens").status == "fail"
    assert found.finding("nonfinite-tokens").status == "pass"
