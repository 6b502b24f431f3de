"""`explain` against the oracle, and its identities."""

from __future__ import annotations

import hashlib
import json
import shutil
from math import log

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from analysis_oracle import COORD, V, scored

from logitbox.analysis.classes import NAMES, Thresholds
from logitbox.analysis.explain import explain, explain_of_tally
from logitbox.analysis.metrics import metrics
from logitbox.analysis.tallying import tally_dump
from logitbox.data import load_example
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

K, NEAR = 32, log(2)


def class_of(token, likely=0.5, near=NEAR):
    x, gold = token["x"], token["gold"]
    if x[gold] == x.max() and (x == x.max()).sum() > 1:
        return "tied"
    if token["correct"]:
        return "sure_right" if token["confidence"] >= likely else "barely_right"
    if token["confidence"] >= likely:
        return "confidently_wrong"
    if x.max() - x[gold] <= near:
        return "near_miss"
    return "off" if token["rank_of_gold"] < K else "lost"


@pytest.mark.parametrize("by", [None, "dataset", ["phase", "step"], "source", "type"])
@pytest.mark.parametrize("cut", [{}, {"likely": 0.8, "near": 2.5}])
def test_classes(dump, tokens, by, cut):
    frame = explain(dump, by=by, thresholds=Thresholds(**cut)).frame
    names = [n for n in ([by] if isinstance(by, str) else by or []) if n not in ("phase", "type")]
    assert frame.columns[: len(names) + 3] == ["phase", *names, "type", "cell"]
    belongs = {"": lambda t: True, "coord": lambda t: t["gold"] in COORD, "desc": lambda t: t["is_desc"]}
    for (*place, kind), rows in frame.group_by("phase", *names, "type"):
        if kind not in belongs:
            continue
        mine = [
            t
            for t in tokens
            if t["finite"] and belongs[kind](t) and [t[n] for n in ("phase", *names)] == place
        ]
        assert rows["cell"].to_list() == list(NAMES)
        assert rows["n"].sum() == len(mine)
        nll, right = [t["nll"] for t in mine], [t["correct"] for t in mine]
        assert rows["tfce"].to_list() == pytest.approx([np.mean(nll)] * 7, rel=1e-5)
        assert rows["tfa"].to_list() == pytest.approx([np.mean(right)] * 7)
        for row in rows.iter_rows(named=True):
            inside = [t for t in mine if class_of(t, **cut) == row["cell"]]
            assert row["n"] == len(inside)
            assert row["share"] == pytest.approx(len(inside) / len(mine))
            assert row["tfce_part"] == pytest.approx(sum(t["nll"] for t in inside) / len(mine), rel=1e-5)
            assert row["tfa_part"] == pytest.approx(sum(t["correct"] for t in inside) / len(mine))
            if inside:
                assert row["mean_nll"] == pytest.approx(np.mean([t["nll"] for t in inside]), rel=1e-5)
            else:
                assert row["mean_nll"] is None


def test_ties(tmp_path):
    """Whole-number logits: ties for the best place of both outcomes, beside every other class."""
    rng = np.random.default_rng(3)
    x = np.round(rng.normal(0, 2.2, (600, V)))
    x[:100] /= 4
    gold = rng.integers(0, V, 600)
    x[np.arange(600), gold] += np.round(rng.random(600) * 6)
    x[:30] -= 4 * (x[:30] < 2)
    with Recorder(tmp_path / "d", V, k=K) as rec:
        rec.record(torch.from_numpy(x).float(), torch.from_numpy(gold), phase="eval")
    mine = [scored({"x": row, "gold": int(g)}) for row, g in zip(x, gold, strict=True)]
    frame = explain(open_dump(tmp_path / "d")).frame
    for name, n, share in frame.select("cell", "n", "tfa_part").rows():
        inside = [t for t in mine if class_of(t) == name]
        assert n == len(inside) > 0
        assert share == pytest.approx(sum(t["correct"] for t in inside) / 600)
    assert 0 < frame.filter(cell="tied")["tfa_part"].item() < frame.filter(cell="tied")["share"].item()


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
    assert mean["sure_right"].max() <= log(2) + slack
    assert mean["barely_right"].min() > log(2) - slack
    assert min(mean[name].min() for name in NAMES[3:]) >= log(2) - slack
    assert mean["lost"].min() >= log(K + 1) - slack


@pytest.mark.parametrize("phase", ["eval", "train", "val"])
def test_the_verdict_pools_whatever_the_split(dump, tokens, phase):
    told = str(explain(dump))
    assert told == str(explain(dump, by="step"))
    mine = [t for t in tokens if t["phase"] == phase and t["finite"]]
    lost = sum(t["phase"] == phase for t in tokens) - len(mine)
    nll = {name: sum(t["nll"] for t in mine if class_of(t) == name) for name in NAMES}
    carried = ", ".join(
        f"{name.replace('_', ' ')} tokens ({sum(class_of(t) == name for t in mine) / len(mine):.1%} of all) "
        f"carry {nll[name] / sum(nll.values()):.1%} of TFCE"
        for name in dict.fromkeys([max(NAMES, key=nll.get), "confidently_wrong"])
    )
    assert (
        f"{phase}: TFA {np.mean([t['correct'] for t in mine]):.4f}, TFCE {sum(nll.values()) / len(mine):.4f} nats "
        f"over {len(mine)} tokens ({lost} non-finite left out); {carried}" in told
    )


def test_the_verdict_names_who_carries_most():
    result = explain(load_example("digits"))
    row = result.frame.filter(type="", phase="eval").sort("tfce_part").row(-1, named=True)
    assert row["cell"] == "lost"
    assert f"lost tokens ({row['share']:.1%} of all) carry {row['tfce_part'] / row['tfce']:.1%}" in str(
        result
    )


def test_default_thresholds_share_the_cache_and_others_have_their_own(tmp_path, recorded):
    shutil.copytree(recorded[0], tmp_path / "d", ignore=shutil.ignore_patterns("tallies"))
    copy = open_dump(tmp_path / "d")

    def files():
        return len(list((tmp_path / "d" / "tallies").iterdir()))

    tally_dump(copy)
    once = files()
    same = explain(copy, thresholds=Thresholds(likely=0.5))
    assert files() == once
    other = explain(copy, thresholds=Thresholds(likely=0.9))
    assert files() == 2 * once
    assert not same.frame.equals(other.frame)
    assert explain(copy).frame.equals(same.frame)


def test_rules_tell_the_thresholds(dump):
    rules = explain(dump, thresholds=Thresholds(0.75, 1.0)).rules
    assert rules["cell"].to_list() == list(NAMES)
    assert "another token has p ≥ 0.75" in rules["rule"].to_list()
    assert "gold at most 1 nats below the best" in rules["rule"].to_list()


def test_by_phase_for_the_costly_parts(dump, tokens):
    result = explain(dump)
    phases = ["eval", "train", "val"]
    assert list(result.certificates) == list(result.discordance) == phases
    assert all(one.holds for one in result.certificates.values())
    last = [t for t in tokens if t["phase"] == "train" and t["step"] == 5]
    assert result.certificates["train"].n_tokens == sum(t["finite"] for t in last)
    right, wrong = (
        [t["nll"] for t in last if t["finite"] and t["correct"] == is_right] for is_right in (True, False)
    )
    assert result.discordance["train"].value == pytest.approx(
        np.mean([[a > b for b in wrong] for a in right]), abs=1e-3
    )
    assert result.discordance is result.discordance  # computed once
    assert result.steps["step"].n_unique() > 4


def test_a_token_in_a_sentence(dump, tokens):
    where = {"phase": "eval", "dataset": "a"}
    mine = [t for t in tokens if t["finite"] and t["step"] == 6 and all(t[k] == v for k, v in where.items())]
    rows = dump.tokens.filter(pl.col("step") == 6, phase="eval", dataset="a").collect()
    row = (
        rows.filter(pl.col("flags") == 1)
        .unique(["sample", "pos"], keep="none", maintain_order=True)
        .row(0, named=True)
    )
    told = explain(dump).token(row["sample"], row["pos"], **where)
    assert told.mean_nll == pytest.approx(np.mean([t["nll"] for t in mine]), rel=1e-5)
    assert (told.key, told.pos, told.step, told.gold) == (str(row["sample"]), row["pos"], 6, row["gold"])
    assert str(told) == explain(dump).sentence(row["sample"], row["pos"], **where)
    all_of_it = explain(dump).token(row["sample"], row["pos"], **where, step="all")
    every = [t["nll"] for t in tokens if t["finite"] and all(t[k] == v for k, v in where.items())]
    assert all_of_it.mean_nll == pytest.approx(np.mean(every), rel=1e-5)


def test_lists_that_were_cut_decide_what_is_lost(tmp_path):
    """Somebody else's dump may keep fewer ids in some rows."""
    with Recorder(tmp_path / "d", 20, k=8) as rec:
        x = torch.zeros(6, 20)
        x[:, 1:6] = torch.tensor([2.9, 2.8, 2.7, 2.6, 1.0])
        rec.record(x, torch.full((6,), 5), phase="eval")  # rank 4
    assert explain(open_dump(tmp_path / "d")).frame.filter(cell="off")["n"].to_list() == [6]
    path = next((tmp_path / "d" / "tokens").rglob("*.parquet"))
    table = pq.read_table(path)
    for name in ("top_ids", "top_gap"):
        cut = [row[: (8, 8, 5, 4, 0, 1)[i]] for i, row in enumerate(table[name].to_pylist())]
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(cut, table.schema.field(name).type))
    pq.write_table(table, path)
    journal = next((tmp_path / "d" / "sessions").rglob("journal.jsonl"))
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        if line.get("table") == "tokens":
            line |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame = explain(open_dump(tmp_path / "d")).frame
    assert frame.filter(cell="off")["n"].to_list() == [3]
    assert frame.filter(cell="lost")["n"].to_list() == [3]


def test_errors(dump):
    with pytest.raises(InputError, match="by names 'nope'"):
        explain(dump, by="nope")
    assert explain(dump).frame.schema["mean_nll"] == pl.Float64
    alone = explain_of_tally(tally_dump(dump))
    for what in ("discordance", "certificates", "steps"):
        with pytest.raises(InputError, match="made of a tally alone"):
            getattr(alone, what)
