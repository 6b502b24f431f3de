"""`explain` against the oracle, and its identities."""

from __future__ import annotations

from math import log

import numpy as np
import polars as pl
import pytest
from analysis_oracle import COORD

from logitbox.analysis.explain import explain
from logitbox.analysis.metrics import metrics
from logitbox.errors import InputError


def cell_of(token):
    return (
        f"{'right' if token['correct'] else 'wrong'}_{'likely' if token['confidence'] >= 0.5 else 'unlikely'}"
    )


@pytest.mark.parametrize("by", [None, "dataset", ["phase", "step"], "source", "type"])
def test_cells(dump, tokens, by):
    frame = explain(dump, by=by).frame
    names = [n for n in ([by] if isinstance(by, str) else by or []) if n not in ("phase", "type")]
    assert frame.columns[: len(names) + 2] == ["phase", *names, "type"]
    belongs = {"": lambda t: True, "coord": lambda t: t["gold"] in COORD, "desc": lambda t: t["is_desc"]}
    for (*place, kind), rows in frame.group_by("phase", *names, "type"):
        if kind not in belongs:
            continue
        mine = [
            t
            for t in tokens
            if t["finite"] and belongs[kind](t) and [t[n] for n in ("phase", *names)] == place
        ]
        assert rows["n"].sum() == len(mine)
        nll, right = [t["nll"] for t in mine], [t["correct"] for t in mine]
        assert rows["tfce"].to_list() == pytest.approx([np.mean(nll)] * 4, rel=1e-5)
        assert rows["tfa"].to_list() == pytest.approx([np.mean(right)] * 4)
        for row in rows.iter_rows(named=True):
            inside = [t["nll"] for t in mine if cell_of(t) == row["cell"]]
            assert row["n"] == len(inside)
            assert row["share"] == pytest.approx(len(inside) / len(mine))
            assert row["tfce_part"] == pytest.approx(sum(inside) / len(mine), rel=1e-5)
            assert row["tfa_part"] == (row["share"] if row["cell"].startswith("right") else 0)
            if inside:
                assert row["mean_nll"] == pytest.approx(np.mean(inside), rel=1e-5)
            else:
                assert row["mean_nll"] is None


def test_parts_add_up_to_the_metrics_and_bounds_hold(dump):
    result = explain(dump, by="step").frame
    table = metrics(dump, "step").frame
    for (phase, step), rows in result.filter(type="").group_by("phase", "step"):
        prefix = "" if phase == "train" else f"{phase}_"
        value = {
            key: table.filter(key=prefix + key, step=step)["value"].item() for key in ("token_acc", "nll")
        }
        assert rows["tfa_part"].sum() == pytest.approx(value["token_acc"], rel=1e-12)
        assert rows["tfce_part"].sum() == pytest.approx(value["nll"], rel=1e-12)
    mean = {cell: rows["mean_nll"].drop_nulls() for (cell,), rows in result.group_by("cell")}
    slack = 1e-6
    assert mean["right_likely"].max() <= log(2) + slack
    assert mean["right_unlikely"].min() > log(2) - slack
    assert mean["wrong_likely"].min() >= log(2) - slack
    assert mean["wrong_unlikely"].min() >= log(2) - slack


def test_the_verdict_pools_whatever_the_split(dump, tokens):
    told = str(explain(dump))
    assert told == str(explain(dump, by="step"))
    mine = [t for t in tokens if t["phase"] == "eval" and t["finite"]]
    lost = sum(t["phase"] == "eval" for t in tokens) - len(mine)
    bad = [t for t in mine if cell_of(t) == "wrong_likely"]
    part = sum(t["nll"] for t in bad) / sum(t["nll"] for t in mine)
    assert (
        f"eval: TFA {np.mean([t['correct'] for t in mine]):.4f}, TFCE {np.mean([t['nll'] for t in mine]):.4f} nats "
        f"over {len(mine)} tokens ({lost} non-finite left out); confidently wrong tokens (p(top) ≥ ½) are "
        f"{len(bad) / len(mine):.1%} of them and carry {part:.1%} of TFCE" in told
    )


def test_errors(dump):
    with pytest.raises(InputError, match="by names 'nope'"):
        explain(dump, by="nope")
    assert explain(dump).frame.schema["mean_nll"] == pl.Float64
