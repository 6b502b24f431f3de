"""A comparison as plain data: every documented key, whatever was recorded, and the values of the logits."""

from __future__ import annotations

import dataclasses
import html
import json

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import logsumexp

from logitbox.analysis.explain import explain
from logitbox.analysis.pairs.document import document
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.terminal import json_text

V, T, N = 48, 7, 16
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
WORDS = ["\x1b[31m", "\n", *(f"t{i}" for i in range(2, V))]


def drawn(seed, scale):
    return torch.randn(N, T, V, generator=torch.Generator().manual_seed(seed)) * scale


BASE = drawn(0, 2.0)
LABELS = torch.from_numpy(np.argmax(BASE.numpy() + np.random.default_rng(1).gumbel(size=BASE.shape), axis=-1))
OTHER = (BASE + drawn(2, 0.7)) * 1.7
NASTY = "<script>alert(1)</script>"
TYPED = LABELS % 2 == 0


def record(path, logits, rows=range(N), lse_beta="eval"):
    rows = list(rows)
    with Recorder(path, vocab=WORDS, k=12, types=["even"], lse_beta=lse_beta) as recorder:
        recorder.record(
            logits[rows], LABELS[rows], 3, "eval", sample=rows, shift=False, types={"even": TYPED[rows]}
        )
    return open_dump(path)


def values(logits):
    """(correct, nll) of every token, float64."""
    x, gold = logits.double().numpy().reshape(-1, V), LABELS.numpy().reshape(-1)
    return x.argmax(1) == gold, logsumexp(x, axis=1) - x[np.arange(len(gold)), gold]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    where = tmp_path_factory.mktemp("pair")
    return explain(record(where / "a", OTHER), against=record(where / "b", BASE))


def strict(data):
    """As JSON and back; NaN and infinities are refused."""
    return json.loads(json.dumps(data, allow_nan=False))


def test_the_values_are_those_of_the_logits(result):
    found = strict(document(result))
    (right_a, nll_a), (right_b, nll_b) = values(OTHER), values(BASE)
    assert set(found) >= KEYS
    assert found["tfa"] == pytest.approx({"a": right_a.mean(), "b": right_b.mean()}, abs=1e-15)
    assert found["tfce"] == pytest.approx({"a": nll_a.mean(), "b": nll_b.mean()}, rel=1e-6)
    assert found["delta_tfa"] == pytest.approx(right_a.mean() - right_b.mean(), abs=1e-15)
    assert found["delta_tfce"] == pytest.approx((nll_a - nll_b).mean(), rel=1e-5)
    assert found["verdict"] == result.answer in ("inverted", "not inverted", "not distinguishable")
    assert (found["n_tokens"], found["n_samples"]) == (N * T, N)
    assert found["unaligned"] == dict.fromkeys(["only_a", "only_b", "other_gold", "nonfinite", "replaced"], 0)


def test_the_cells_are_those_of_the_logits(result):
    (right_a, nll_a), (right_b, nll_b) = values(OTHER), values(BASE)
    cells = {
        "both_right": right_a & right_b,
        "only_a": right_a & ~right_b,
        "only_b": ~right_a & right_b,
        "both_wrong": ~right_a & ~right_b,
    }
    rows = strict(document(result))["cells"]
    assert {(row["type"], row["cell"]) for row in rows} == {
        (kind, cell) for kind in ("", "even") for cell in cells
    }
    for row in rows:
        inside = np.ones(N * T, bool) if row["type"] == "" else TYPED.numpy().reshape(-1)
        here = inside & cells[row["cell"]]
        assert row["n"] == here.sum()
        assert row["share"] == pytest.approx(here.sum() / inside.sum())
        lead = right_a.astype(int) - right_b
        assert row["tfa_part"] == pytest.approx(lead[here].sum() / (N * T))
        assert row["tfce_part"] == pytest.approx((nll_a - nll_b)[here].sum() / (N * T), abs=1e-6)


def test_the_reversal_is_that_of_the_logits(result):
    (right_a, nll_a), (right_b, nll_b) = values(OTHER), values(BASE)

    def fewest(difference):
        ranked = np.sort(difference)[::-1]
        return next(k for k in range(len(ranked) + 1) if ranked[k:].sum() <= 0)

    found = strict(document(result))
    lead = right_a.astype(float) - right_b
    for name, sign in (("reversal", 1), ("reversal_of_b", -1)):
        tfce, tfa = fewest(sign * (nll_a - nll_b)), fewest(sign * lead)
        assert found[name] == {
            "tokens": min(tfce, tfa),
            "share": min(tfce, tfa) / (N * T),
            "tfce_tokens": tfce,
            "tfa_tokens": tfa,
        }


def test_both_temperature_parts_add_up(result):
    found = strict(document(result))["temperature"]
    assert found["miscalibration"] + found["refinement"] == pytest.approx(result.delta_tfce.value, abs=1e-12)
    betas = np.linspace(0.3, 2, 400)
    for side, logits in (("a", OTHER), ("b", BASE)):
        means = [values(beta * logits)[1].mean() for beta in betas]
        assert 1 / found[side] == pytest.approx(betas[int(np.argmin(means))], abs=0.02)
    assert found["share"] == pytest.approx(found["miscalibration"] / result.delta_tfce.value)
    assert found["reason"] is None


def test_certificates_of_both_hold(result):
    found = strict(document(result))["certificates"]
    assert set(found) == {"a", "b"}
    for side in found.values():
        assert side["holds"] is True
        assert side["n_tokens"] == N * T
        assert {check["violations"] for check in side["checks"]} == {0}


def test_where_the_temperature_is_not_known(tmp_path):
    first, second = record(tmp_path / "a", OTHER, lse_beta="never"), record(tmp_path / "b", BASE)
    whole = strict(document(explain(first, against=second)))
    assert set(whole) >= KEYS
    found = whole["temperature"]
    assert set(found) >= {"a", "b", "miscalibration", "refinement"}
    assert [found[name] for name in ("a", "miscalibration", "refinement", "share")] == [None] * 4
    assert "A has no lse_beta" in found["reason"]
    assert "is not known" in found["told"]


def test_a_dump_against_itself(tmp_path):
    dump = record(tmp_path / "a", BASE)
    found = strict(document(explain(dump, against=dump), tokens=5))
    assert (found["delta_tfa"], found["delta_tfce"], found["verdict"]) == (0, 0, "not distinguishable")
    assert found["reversal"] == {"tokens": 0, "share": 0, "tfce_tokens": 0, "tfa_tokens": 0}
    assert found["tokens"] == []
    assert found["temperature"]["share"] is None


def test_one_sample_has_nulls_for_what_is_not_known(tmp_path):
    a, b = (record(tmp_path / name, x, [0]) for name, x in (("a", OTHER), ("b", BASE)))
    found = strict(document(explain(a, against=b)))
    assert set(found) >= KEYS
    assert found["intervals"]["delta_tfa"]["low"] is None
    assert found["verdict"] == "not distinguishable"


def test_the_tokens_are_the_worst_first(result):
    found = strict(document(result, tokens=4))["tokens"]
    gap = values(OTHER)[1] - values(BASE)[1]
    gap *= np.sign(gap.sum())
    worst = np.argsort(-gap)[:4]
    assert [(int(row["key"]), row["pos"]) for row in found] == [divmod(int(i), T) for i in worst]
    assert [row["gold_text"] for row in found] == [WORDS[LABELS.reshape(-1)[i]] for i in worst]
    assert document(result)["tokens"] == []


def test_as_printed_it_is_the_same_without_anything_that_steers(result):
    text = json_text(document(result, tokens=N * T))
    assert json.loads(text) == strict(document(result, tokens=N * T))
    assert "\x1b" not in text


def test_the_display_in_notebooks(result):
    shown = result._repr_html_()
    assert shown.count("<table") == 2
    assert html.escape(result.told) in shown
    for metric, both in (("TFA", result.tfa), ("TFCE", result.tfce)):
        row = result.metrics.filter(metric=metric).row(0, named=True)
        assert (row["a"], row["b"]) == (both.a, both.b)
        assert row["delta"] == pytest.approx(both.a - both.b)


def test_the_display_in_notebooks_is_escaped(result):
    """Whatever a stranger's dump calls its types and sources."""
    typed = pl.col("type") != ""
    frame = result.frame.with_columns(type=pl.when(typed).then(pl.lit(NASTY)).otherwise("type"))
    hostile = dataclasses.replace(result, frame=frame)
    hostile.__dict__["temperature"] = NASTY
    shown = hostile._repr_html_()
    assert NASTY not in shown
    assert shown.count("&lt;script&gt;") == 1 + result.frame.filter(typed).height == 5
