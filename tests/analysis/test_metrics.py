"""`metrics` against the oracle."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections import defaultdict
from dataclasses import replace
from math import sqrt

import numpy as np
import polars as pl
import pytest
import torch
from analysis_oracle import COORD, OPTIONS, Log, V, agent, agent_prefix, basic, everything, scored

import logitbox as lb
from logitbox.analysis import evaluating
from logitbox.analysis.calibration import calibration
from logitbox.analysis.entropy import high_entropy
from logitbox.analysis.explain import explain
from logitbox.analysis.flips import flips
from logitbox.analysis.intervals import interval
from logitbox.analysis.metrics import metrics, metrics_of_tally
from logitbox.analysis.overview import overview
from logitbox.analysis.tallying import tally_dump
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


def prefix(phase):
    return "" if phase == "train" else f"{phase}_"


def split(tokens, names):
    parts = defaultdict(list)
    for token in tokens:
        epoch = None if token["epoch"] is None else float(np.float32(token["epoch"]))
        parts[tuple(epoch if n == "epoch" else token[n] for n in ("phase", *names))].append(token)
    return parts


@pytest.mark.parametrize(
    "by",
    [None, "step", ["phase", "dataset"], "dataset", "epoch", "source", "parity", "rank", "micro", "sample",
     "gold", ["source", "step"], ["rank", "dataset", "rank"]],
)  # fmt: skip
def test_every_key_and_split(dump, tokens, by):
    table = metrics(dump, by)
    names = list(dict.fromkeys([by] if isinstance(by, str) else by or []))
    assert table.columns == [*names, "key", "value", "n", "reduction", "low", "high", "reason"]
    rows = {}
    for row in table.frame.iter_rows(named=True):
        at = (*(row[n] for n in names), row["key"])
        assert at not in rows
        rows[at] = row
    expected = {}
    for (phase, *where), mine in split(tokens, [n for n in names if n != "phase"]).items():
        there = dict(zip([n for n in names if n != "phase"], where, strict=True)) | {"phase": phase}
        at = tuple(there[n] for n in names)
        for key, value in everything(mine).items():
            expected[(*at, prefix(phase) + key)] = (*value, 0.0)
        for key, value in agent(mine).items():
            expected[(*at, agent_prefix(phase, {"train", "eval", "val"}) + key)] = value
    assert set(expected) == set(rows)
    for at, (value, n, slack) in expected.items():
        row = rows[at]
        assert row["n"] == n, at
        assert (row["value"] is None) == (value is None) == (row["reason"] is not None), at
        if value is not None:
            assert row["value"] == pytest.approx(value, rel=2e-5, abs=1e-5 + slack), at


def test_by_type_gives_the_basic_metrics_of_every_population(dump, tokens):
    table = metrics(dump, ["type"]).frame
    assert set(table["type"]) == {"", "coord", "desc", "format", "text"}
    belongs = {
        "": lambda t: True,
        "coord": lambda t: t["gold"] in COORD,
        "text": lambda t: t["gold"] not in COORD,
        "desc": lambda t: t["is_desc"],
        "format": lambda t: t["is_format"],
    }
    for name, test in belongs.items():
        for (phase,), mine in split([t for t in tokens if test(t)], []).items():
            for key, (value, n) in basic(mine).items():
                row = table.row(
                    by_predicate=(pl.col("type") == name) & (pl.col("key") == prefix(phase) + key), named=True
                )
                assert row["n"] == n
                assert row["value"] == pytest.approx(value, rel=2e-5)


def clustered(tokens, of, evaluations):
    good = [t for t in tokens if t["finite"]]
    sums = defaultdict(lambda: [0.0, 0])
    for t in good:
        place = (t["dataset"], t["step"], t["epoch"], t["sample"])
        sums[place][0] += of(t)
        sums[place][1] += 1
    x, n = np.array(list(sums.values())).T
    g, ratio = len(x), x.sum() / n.sum()
    error = sqrt(evaluations * g / (g - evaluations) * ((x - ratio * n) ** 2).sum()) / n.sum()
    return ratio, error


def test_intervals_equal_a_direct_computation_over_per_sample_sums(tmp_path):
    rng, log = np.random.default_rng(11), Log()
    with Recorder(tmp_path / "d", V, groups={"coord": COORD}, types=["coord", "desc", "format"]) as rec:
        for step in (0, 0, 0, 4, 4, 9):
            log.record(rec, rng, phase="eval", step=step, rows=4)
    tokens = [scored(t) for t in log.tokens]
    for by, evaluations, mine in (
        (None, 3, tokens),
        ("step", 1, [t for t in tokens if t["step"] == 0]),
    ):
        table = metrics(open_dump(tmp_path / "d"), by)
        where = {} if by is None else {"step": 0}
        for key, of in (
            ("eval_token_acc", lambda t: t["correct"]),
            ("eval_nll", lambda t: t["nll"]),
            ("eval_full_entropy", lambda t: t["entropy"]),
            ("eval_coord_token_frac", lambda t: t["is_coord"]),
            ("eval_coord_monitor/coord_vocab_mass_at_gt_text", lambda t: t["mass"]),
        ):
            chosen = [t for t in mine if t["gold"] not in COORD] if "gt_text" in key else mine
            ratio, error = clustered(chosen, of, evaluations)
            row = table.filter(pl.col("key") == key, **where).row(0, named=True)
            assert row["low"] == pytest.approx(max(ratio - 1.959963984540054 * error, 0), rel=1e-4, abs=1e-6)
            assert row["high"] == pytest.approx(ratio + 1.959963984540054 * error, rel=1e-4)


@pytest.mark.parametrize(("phase", "evaluations"), [("train", 1), ("eval", 2), ("val", 1)])
def test_intervals_are_clustered_by_sample(dump, tokens, phase, evaluations):
    """Data set a is evaluated at two steps: the same samples, so half as many of them."""
    table = metrics(dump)
    mine = [t for t in tokens if t["phase"] == phase]
    for key, of in (("token_acc", lambda t: t["correct"]), ("nll", lambda t: t["nll"])):
        ratio, error = clustered(mine, of, evaluations)
        row = table.filter(pl.col("key") == prefix(phase) + key).row(0, named=True)
        if phase == "val":  # both ranks have the samples, in shards of their own
            assert row["low"] < ratio < row["high"]
            continue
        # Shards cut a few samples in two, which counts them twice.
        assert (row["high"] - row["low"]) / 2 == pytest.approx(1.959964 * error, rel=0.25), key


def test_metrics_behave_like_their_frame_and_can_be_copied(dump):
    table = metrics(dump, "step")
    assert len(table) == table.frame.height
    assert table.filter(pl.col("key") == "nll").equals(table.frame.filter(pl.col("key") == "nll"))
    assert table["key"].equals(table.frame["key"])
    assert [column.name for column in table] == table.frame.columns
    for twin in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert twin.frame.equals(table.frame)
        assert str(twin) == str(table)
    assert table != copy.copy(table)
    assert not hasattr(table, "no_such")
    with pytest.raises(AttributeError):
        table.verdict = "other"


def test_value(dump):
    table = metrics(dump, "source")
    assert (
        table.value("token_acc", source=None)
        == table.frame.filter(pl.col("source").is_null() & (pl.col("key") == "token_acc"))["value"].item()
    )
    with pytest.raises(InputError, match=r"3 rows have key 'token_acc'.*choose among rows by source"):
        table.value("token_acc")
    with pytest.raises(InputError, match=r"0 rows have key 'acc'; keys are .*token_acc"):
        metrics(dump).value("acc")
    with pytest.raises(InputError, match="no column 'setp'; columns are source"):
        table.value("token_acc", setp=1)


def test_verdict_says_what_was_pooled_and_left_out(dump, tokens):
    told = str(metrics(dump))
    assert "\n" not in told
    train = [t for t in tokens if t["phase"] == "train"]
    good = [t for t in train if t["finite"]]
    accuracy = np.mean([t["correct"] for t in good])
    assert f"train: accuracy {accuracy:.4f}" in told
    assert f"over {len(good):,} tokens of 6 steps ({len(train) - len(good)} non-finite left out)" in told


def test_sessions_that_recorded_other_things_do_not_dilute(tmp_path):
    """Where a session had no group, its tokens are no part of the group's metrics."""
    rng, plain, full = np.random.default_rng(1), Log(), Log()
    types = ["coord", "desc", "format"]
    with Recorder(tmp_path / "d", V, types=types) as rec:
        plain.record(rec, rng, step=0)
    with Recorder(tmp_path / "d", V, types=types, groups={"coord": COORD}, ordered={"coord": OPTIONS}) as rec:
        full.record(rec, rng, step=1)
    table = metrics(open_dump(tmp_path / "d"))
    of_full = everything([scored(t) for t in full.tokens])
    of_both = everything([scored(t) for t in plain.tokens + full.tokens])
    for key in of_both:
        of_group = "coord_monitor" in key or "softce" in key or key == "text_token_acc" or "bin_error" in key
        value, n = (of_full if of_group else of_both)[key]
        if (
            key == "coord_token_frac"
        ):  # a group's is over all tokens, a type's over those whose types are known
            assert table.value(key) is None
            assert "which tokens it is over" in table.filter(key=key)["reason"].item()
            continue
        assert table.value(key) == pytest.approx(value, rel=2e-5), key
        assert table.filter(pl.col("key") == key)["n"].item() == n, key
    split_by_bin = metrics(open_dump(tmp_path / "d"), "coord_bin").frame
    assert split_by_bin.filter(pl.col("key") == "n_tokens")["value"].sum() == table.value("n_tokens")


def test_a_type_may_bear_the_name_of_a_groups_rest(tmp_path):
    rng, log = np.random.default_rng(2), Log()
    with Recorder(
        tmp_path / "d", V, types=["text", "coord", "desc", "format"], groups={"coord": COORD}
    ) as rec:
        log.record(rec, rng)
    table = metrics(open_dump(tmp_path / "d"))
    outside = sum(t["gold"] not in COORD and scored(t)["finite"] for t in log.tokens)
    frame = table.frame.filter(
        pl.col("key").is_in(["non_coord_token_acc", "coord_monitor/flip_non_coord_to_coord"])
    )
    assert frame["n"].to_list() == [outside, outside]
    assert table.filter(pl.col("key") == "text_token_acc")["n"].item() == 0  # no mask was given


def test_without_groups_types_or_supervised_rows(tmp_path):
    with Recorder(tmp_path / "plain", V) as rec:
        rec.record(torch.randn(2, 5, V), torch.randint(0, V, (2, 5)))
    table = metrics(open_dump(tmp_path / "plain"))
    assert table["key"].to_list() == [
        "token_acc", "token_acc_top5", "nll", "exp_nll", "full_entropy", "confidence", "n_tokens", "n_nonfinite",
        "n_duplicate", "train_entropy", "train_perplexity", "train_top1_prob", "train_top2_prob", "train_top5_prob",
        "train_top10_prob", "train_top10_entropy",
    ]  # fmt: skip
    with Recorder(tmp_path / "none", V, scope="all") as rec:
        ids = torch.randint(0, V, (2, 5))
        rec.record(torch.randn(2, 5, V), torch.full((2, 5), -100), input_ids=ids)
    for by in (None, "step", "type", ["phase", "sample"]):
        empty = metrics(open_dump(tmp_path / "none"), by)
        names = [by] if isinstance(by, str) else by or []
        assert empty.columns == [*names, "key", "value", "n", "reduction", "low", "high", "reason"]
        assert empty.frame.schema["value"] == pl.Float64
        assert len(empty) == 0
        assert str(empty) == "no supervised tokens were recorded"
    with Recorder(tmp_path / "empty", V):
        pass
    with pytest.raises(InputError, match="holds no token rows yet; record something"):
        metrics(open_dump(tmp_path / "empty"))


def test_rows_of_a_classifier_are_samples_of_their_own(tmp_path):
    torch.manual_seed(0)
    logits, labels = torch.randn(400, 7), torch.randint(0, 7, (400,))
    with Recorder(tmp_path / "d", 7) as rec:
        for start in range(0, 400, 100):
            rec.record(logits[start : start + 100], labels[start : start + 100], phase="eval")
    row = metrics(open_dump(tmp_path / "d")).filter(pl.col("key") == "eval_token_acc").row(0, named=True)
    correct = (logits.argmax(1) == labels).double().numpy()
    assert row["value"] == pytest.approx(correct.mean())
    assert (row["high"] - row["low"]) / 2 == pytest.approx(1.959964 * correct.std(ddof=1) / 20, rel=1e-6)


def test_two_passes_at_one_step_are_pooled_and_can_be_told_apart(tmp_path):
    rng, logs = np.random.default_rng(3), [Log(), Log()]
    types = ["coord", "desc", "format"]
    with Recorder(tmp_path / "d", V, types=types) as rec:
        for log in logs:
            rec.start_pass("eval")
            log.record(rec, rng, phase="eval", step=5, sample=[1, 2, 3])
    dump = open_dump(tmp_path / "d")
    each = [basic([scored(t) for t in log.tokens])["nll"] for log in logs]
    both = basic([scored(t) for log in logs for t in log.tokens])["nll"]
    assert metrics(dump).value("eval_nll") == pytest.approx(both[0], rel=2e-5)
    for number, (value, _) in enumerate(each):
        assert metrics(dump, "pass").value("eval_nll", **{"pass": number}) == pytest.approx(value, rel=2e-5)
    # Three samples met twice are three samples: the Wilson or clustered interval is no narrower than for G = 3.
    row = metrics(dump).filter(pl.col("key") == "eval_token_acc").row(0, named=True)
    good = [t for log in logs for t in map(scored, log.tokens) if t["finite"]]
    assert row["n"] == len(good)
    assert row["high"] - row["low"] > 0


def test_infinite_parts_of_a_loss_give_an_infinite_mean_and_no_interval(tmp_path):
    logits = torch.zeros(4, 6, V)
    logits[..., COORD.start + 1] = -torch.inf
    labels = torch.full((4, 6), COORD.start + 2)
    with Recorder(
        tmp_path / "d", V, groups={"coord": COORD}, ordered={"coord": {"soft_ce_weight": 0.0}}
    ) as rec:
        rec.record(logits, labels)
    table = metrics(open_dump(tmp_path / "d"))
    row = table.filter(pl.col("key") == "coord_softce_w1/soft_ce").row(0, named=True)
    assert row["value"] == float("inf")
    assert (row["low"], row["high"]) == (None, None)
    assert np.isfinite(table.value("coord_softce_w1/loss"))


def test_rows_of_infinite_loss_are_left_out_of_it_and_counted(tmp_path):
    """One masked bin: tokens whose target reaches it have an infinite loss, the others keep their mean."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 40, V), torch.randint(0, V, (6, 40))
    bins = labels[:, 1:] - COORD.start
    inside = (bins >= 0) & (bins < len(COORD))
    hit = inside & ((bins - 1).abs() <= 1)
    masked = logits.clone()
    masked[:, :-1][..., COORD.start + 1] = torch.where(hit, -torch.inf, logits[:, :-1, COORD.start + 1])
    labels[:, 1:][inside & (bins == 1)] = COORD.start + 2  # gold itself stays possible
    options = {"coord": {"sigma": 1.0, "truncate": 1}}
    for name, x, y in (
        ("masked", masked, labels),
        ("without", logits, torch.cat([labels[:, :1], labels[:, 1:].masked_fill(hit, -100)], 1)),
    ):
        with Recorder(tmp_path / name, V, groups={"coord": COORD}, ordered=options) as rec:
            rec.record(x, y, phase="eval")
    table, expected = (metrics(open_dump(tmp_path / name)) for name in ("masked", "without"))
    of_loss = pl.col("key").str.contains("softce_w1|bin_error") & (pl.col("reduction") == "token_mean")
    of_loss &= ~pl.col("key").str.ends_with("base_loss")  # that of the other tokens
    assert table.filter(of_loss).height == 7
    assert table.filter(of_loss)["value"].is_finite().all()
    assert table.filter(of_loss)["n"].to_list() == [int((inside & ~hit).sum())] * 7
    for name in ("value", "low", "high"):
        assert table.filter(of_loss)[name].to_list() == pytest.approx(
            expected.filter(of_loss)[name].to_list()
        )
    lost = int(hit.sum())
    assert lost > 5
    base, loss, both = (
        table.value(f"eval_coord_softce_w1/{name}") for name in ("base_loss", "loss", "composite_loss")
    )
    log_p = masked[:, :-1].double().log_softmax(-1)
    outside = -log_p.gather(-1, labels[:, 1:, None])[..., 0][~inside].mean()
    assert base == pytest.approx(float(outside), rel=1e-6)
    assert both == pytest.approx(base + loss, rel=1e-15)
    assert table.value("eval_coord_softce_w1/n_nonfinite") == lost
    assert table.value("eval_coord_softce_w1/coord_tokens") == int(inside.sum())
    assert table.value("eval_n_nonfinite") == 0
    assert str(table).endswith(f"({lost} with a coord loss that is NaN or infinite left out of it)")
    assert "left out" not in str(expected)
    dump = open_dump(tmp_path / "masked")
    types = {"", "coord", "text"}
    assert set(metrics(dump, by="type")["type"]) == types
    assert set(explain(dump).frame["type"]) == set(calibration(dump).frame["type"]) == types


def test_repeated_rows_are_left_out_of_everything_and_counted(tmp_path):
    """What a sampler repeats to fill its last batch changes nothing but a count."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 9, V), torch.randint(0, V, (6, 9))
    logits[5, 3] = torch.nan
    twice = torch.arange(8) % 6
    repeated = (torch.arange(8) >= 6)[:, None].expand(8, 9)
    common = {"vocab": V, "groups": {"coord": COORD}, "ordered": {"coord": {}}}
    with Recorder(tmp_path / "once", **common) as rec:
        rec.record(logits, labels, phase="eval", sample=list(range(6)))
    with Recorder(tmp_path / "twice", **common) as rec:
        samples = [int(i) for i in twice]
        flags = {"duplicate": repeated}
        rec.record(logits[twice], labels[twice], phase="eval", sample=samples, flags=flags)
    once, more = (open_dump(tmp_path / name) for name in ("once", "twice"))
    key, count = pl.col("key"), "eval_n_duplicate"
    assert metrics(more).filter(key != count).equals(metrics(once).filter(key != count))
    assert (metrics(once).value(count), metrics(more).value(count)) == (0, 16)
    assert metrics(more).value("eval_n_nonfinite") == 1
    assert "(1 non-finite and 16 repeated by a sampler left out)" in str(metrics(more))
    assert "16 repeated by a sampler left out" in str(explain(more))
    assert explain(more).frame.equals(explain(once).frame)
    assert calibration(more).table.equals(calibration(once).table)
    best = [high_entropy(dump, 99).frame.drop("best") for dump in (once, more)]
    assert best[0].equals(best[1])
    assert best[0].height == 47
    assert "16 repeated by a sampler left out" in str(high_entropy(more))
    assert overview(more).left_out["duplicate_rows"] == 16
    assert overview(once).left_out["duplicate_rows"] == 0


@pytest.mark.parametrize(
    ("analysis", "leading"),
    [(metrics, 2), (calibration, 2), (explain, 2), (flips, 1), (high_entropy, 2), (lb.report, 3)],
)
def test_only_the_contracts_own_parameters_are_positional(analysis, leading):
    parameters = list(inspect.signature(analysis).parameters.values())
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters[:leading])
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    assert all(p.kind in named for p in parameters[leading:])


def test_metrics_of_one_kind_are_evaluated_in_one_query(dump, monkeypatch):
    """A query per metric took 14 s for the 1,900 of a dump with 25 groups."""
    kinds = []
    monkeypatch.setattr(
        evaluating,
        "interval",
        lambda x, *, is_share: kinds.append(is_share) or interval(x, is_share=is_share),
    )
    assert len(metrics(dump)["key"].unique()) > 100
    assert sorted(kinds) == [False, False, True]  # means, exponentials of means, shares


def test_an_interval_contains_its_value_and_keeps_to_the_range(tmp_path):
    """A capped value has capped ends; a loss with a weight below 0 may be below 0 too."""
    torch.manual_seed(0)
    x = torch.randn(6, 8, V)
    labels = torch.randint(0, V, (6, 8))
    x[:, :-1].scatter_(2, labels[:, 1:, None], -30.0)
    options = {"coord": {"soft_ce_weight": 0.1, "w1_weight": -2.0, "gate_weight": 0.0}}
    with Recorder(tmp_path / "d", V, groups={"coord": COORD}, ordered=options) as rec:
        rec.record(x, labels)
    table = metrics(open_dump(tmp_path / "d")).frame
    row = {r["key"]: r for r in table.iter_rows(named=True)}
    assert [row["train_perplexity"][name] for name in ("low", "value", "high")] == [1e6] * 3
    assert row["exp_nll"]["low"] > 1e6
    loss = row["coord_softce_w1/loss"]
    w1, soft_ce = (row[f"coord_softce_w1/{part}"] for part in ("w1", "soft_ce"))
    assert loss["value"] == pytest.approx(0.1 * soft_ce["value"] - 2 * w1["value"], rel=1e-12)
    assert loss["low"] < loss["value"] < loss["high"] < 0
    # About as wide as that of w1, twice: nothing was cut off.
    assert loss["high"] - loss["low"] == pytest.approx(2 * (w1["high"] - w1["low"]), rel=0.2)
    for r in table.drop_nulls(["low", "high"]).iter_rows(named=True):
        assert r["low"] <= r["value"] <= r["high"], r["key"]


def test_the_range_is_that_of_all_sessions(tmp_path):
    """Of two sessions, only the first has a weight below 0."""
    rng, logs = np.random.default_rng(5), [Log(), Log()]
    for step, (log, weight) in enumerate(zip(logs, (-9.0, 1.0), strict=True)):
        with Recorder(
            tmp_path / "d", V, groups={"coord": COORD}, types=["coord", "desc", "format"],
            ordered={"coord": OPTIONS | {"w1_weight": weight}},
        ) as rec:  # fmt: skip
            log.record(rec, rng, step=step, rows=6)
    first = metrics(open_dump(tmp_path / "d"), "step").filter(key="coord_softce_w1/loss", step=0)
    assert first["low"].item() < first["value"].item() < 0


def test_a_quantity_that_some_shards_lack_is_null_and_not_for_want_of_tokens(dump):
    """As where lists of the best tokens were trimmed in one shard of a session."""
    tally = tally_dump(dump)
    here = (pl.col("phase") == "train") & (pl.col("step") == 1)
    lacking = pl.when(~here).then(pl.col("top5_prob")).alias("top5_prob")
    cells = tally.cells.with_columns(lacking)
    row = metrics_of_tally(replace(tally, cells=cells), dump).filter(key="train_top5_prob")
    assert row["value"].item() is None
    assert row["n"].item() > 0
    assert row["reason"].item().startswith("top5_prob was not recorded")
    by_step = metrics_of_tally(replace(tally, cells=cells), dump, ("step",))
    values = by_step.filter(key="train_top5_prob").sort("step")["value"]
    assert [value is None for value in values] == [step == 1 for step in range(6)]


@pytest.mark.parametrize("name", ["x", "has_lost", "lowest", "is_share", "if_empty", "differs", "order"])
def test_columns_of_samples_may_have_any_name(tmp_path, name):
    torch.manual_seed(0)
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(torch.randn(4, 6, V), torch.randint(0, V, (4, 6)), sample=[0, 1, 2, 3])
        rec.samples({"sample": [0, 1, 2, 3], name: [7, 7, 8, 9]})
    with Recorder(tmp_path / "d", V, groups={"coord": COORD}) as rec:
        rec.record(torch.randn(4, 6, V), torch.randint(0, V, (4, 6)), sample=[0, 1, 2, 3])
    with Recorder(tmp_path / "d", V, groups={"coord": range(5)}) as rec:
        rec.record(torch.randn(4, 6, V), torch.randint(0, V, (4, 6)), sample=[0, 1, 2, 3])
    rows = metrics(open_dump(tmp_path / "d"), name)
    counts = rows.filter(key="n_tokens").select(name, "value").rows()
    assert counts == [(7, 30.0), (8, 15.0), (9, 15.0)]
    assert rows.filter(key="coord_nll")["value"].null_count() == 3
