"""Calibration of a dump: against a plain NumPy implementation, and against the same numbers as arrays."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from analysis_oracle import COORD, V

from logitbox.analysis.calibration import calibration, dumped, from_arrays
from logitbox.analysis.calibration.buckets import COLUMNS, buckets_of
from logitbox.analysis.calibration.measures import BY_NAME
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


def plain(confidence, correct, bins):
    """(ECE, MCE, rows) with left-closed bins, the last closed."""
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    place = np.minimum(np.searchsorted(np.arange(bins + 1) / bins, confidence, side="right") - 1, bins - 1)
    ece, mce, rows = 0.0, 0.0, []
    for b in range(bins):
        mine = place == b
        if mine.any():
            accuracy, mean = correct[mine].mean(), confidence[mine].mean()
            ece += mine.mean() * abs(accuracy - mean)
            mce = max(mce, abs(accuracy - mean))
            rows.append((b, int(mine.sum()), accuracy, mean))
    return ece, mce, rows


def recorded_confidence(dump):
    """The probability of the arg-max as recorded (float32 ln), so that edges fall the same way."""
    frame = dump.tokens.filter((pl.col("flags") & 1025) == 1).collect()
    return frame.with_columns(
        confidence=pl.Series(2.718281828459045 ** -frame["top_nll"].cast(pl.Float64).to_numpy()),
        correct=(pl.col("n_gt") + pl.col("n_eq_before")) == 0,
    )


@pytest.mark.parametrize(
    "by", [None, "dataset", "step", ["epoch"], ["step", "pass"], ["dataset", "type", "phase"]]
)
@pytest.mark.parametrize("bins", [10, 15, 20, 25])
def test_ece_mce_and_table(dump, by, bins):
    result = calibration(dump, by, bins=bins)
    names = [n for n in ([by] if isinstance(by, str) else by or []) if n not in ("phase", "type")]
    frame = recorded_confidence(dump)
    types = {
        "": pl.lit(value=True),
        "coord": pl.col("gold").is_between(20, 49),
        "text": ~pl.col("gold").is_between(20, 49),
    }
    types |= {
        name: pl.col("types").cast(pl.Int64) & (1 << dump.types.names.index(name)) != 0
        for name in ("desc", "format")
    }
    seen = 0
    for name, test in types.items():
        for place, mine in frame.filter(test).group_by("phase", *names, maintain_order=True):
            where = dict(zip(["phase", *names, "type"], [*place, name], strict=True))
            here = [pl.col(key).eq_missing(pl.lit(value)) for key, value in where.items()]
            ece, mce, rows = plain(mine["confidence"], mine["correct"], bins)
            got = result.frame.filter(here).row(0, named=True)
            assert got["n"] == mine.height
            assert got["ece"] == pytest.approx(ece, abs=1e-12)
            assert got["mce"] == pytest.approx(mce, abs=1e-12)
            assert got["accuracy"] == pytest.approx(mine["correct"].mean())
            assert got["confidence"] == pytest.approx(mine["confidence"].mean())
            table = result.table.filter(here)
            assert table.select("bin", "n").rows() == [row[:2] for row in rows]
            assert table.select("accuracy", "confidence").to_numpy() == pytest.approx(np.array(rows)[:, 2:])
            assert table["low"].to_numpy() == pytest.approx(table["bin"].to_numpy() / bins, abs=0)
            seen += 1
    assert seen == result.frame.height
    assert list(result.table.columns) == [
        "phase",
        *names,
        "type",
        "bin",
        "low",
        "high",
        "n",
        "accuracy",
        "confidence",
        "gap",
    ]


def test_confidences_against_the_full_logits(dump, tokens):
    for phase in ("train", "eval", "val"):
        mine = [t for t in tokens if t["phase"] == phase and t["finite"]]
        got = calibration(dump).frame.filter(phase=phase, type="").row(0, named=True)
        assert got["confidence"] == pytest.approx(np.mean([t["confidence"] for t in mine]), rel=1e-5)
        assert got["accuracy"] == pytest.approx(np.mean([t["correct"] for t in mine]))
        coord = [t for t in mine if t["gold"] in COORD]
        assert calibration(dump).frame.filter(phase=phase, type="coord")["n"].item() == len(coord)


def test_confidence_of_exactly_one_and_on_edges(tmp_path):
    logits = torch.zeros(6, V)
    logits[:3, 5] = 1000.0  # p = 1 to the last bit
    logits[3:, 2:] = -torch.inf  # p = 1/2, an edge of 10 and 20 bins
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(logits, torch.tensor([5, 5, 0, 0, 1, 1]), phase="eval")
    dump = open_dump(tmp_path / "d")
    frame = recorded_confidence(dump)
    for bins in (10, 15, 20, 25):
        result = calibration(dump, bins=bins)
        ece, mce, rows = plain(frame["confidence"], frame["correct"], bins)
        assert result.ece("eval") == pytest.approx(ece, abs=1e-15)
        assert result.frame["mce"].item() == pytest.approx(mce, abs=1e-15)
        assert result.table.select("bin", "n").rows() == [row[:2] for row in rows]
        assert result.table["bin"][-1] == bins - 1
    assert "over-confident" in str(calibration(dump)) or "under-confident" in str(calibration(dump))


def test_the_verdict_is_about_all_tokens_however_split(dump, tokens):
    n = sum(t["finite"] for t in tokens if t["phase"] == "eval")
    whole = str(calibration(dump))
    assert f"(15 bins) over {n:,} tokens" in whole
    assert str(calibration(dump, "dataset")) == whole
    assert [part.split(";")[0] for part in str(calibration(dump, "step")).split("eval")] == [
        part.split(";")[0] for part in whole.split("eval")
    ]


def test_errors(dump):
    with pytest.raises(
        InputError, match="by names 'speaker', which is a column of neither tokens nor samples"
    ):
        calibration(dump, "speaker")
    with pytest.raises(InputError, match="by names 'nll', which results use for a column of their own"):
        calibration(dump, "nll")
    with pytest.raises(InputError, match="bins is 0; give a whole number from 1 to"):
        calibration(dump, bins=0)
    with pytest.raises(
        InputError, match="cluster is 'speaker'; it can be sample, or a column of samples: key, source"
    ):
        calibration(dump, cluster="speaker")
    with pytest.raises(InputError, match="0 rows have phase 'nope'"):
        calibration(dump).ece("nope")
    table = calibration(dump, "source")
    for wanted, message in (
        ({"phase": "nope"}, "phase is 'nope'; there are eval, train, val"),
        ({"type": "nope"}, "type is 'nope'; there are '', 'coord', 'desc', 'format', 'text'"),
        ({"step": 3}, "'step' is no by-column of this table; it can be narrowed by source, dataset"),
        ({"source": "radio"}, "source is 'radio'; there are 'book', 'web', None"),
        ({"source": 3}, "source is 3; there are 'book', 'web', None"),
        ({"phase": "train", "dataset": "a"}, "dataset is 'a'; there are ''"),
    ):
        with pytest.raises(InputError, match=message):
            table.of(**wanted)
    with pytest.raises(InputError, match="by names 'step', but this table is split by source, type"):
        table.worst(by="step")


def test_nothing_to_calibrate(tmp_path):
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(torch.full((2, 4, V), torch.nan), torch.zeros(2, 4, dtype=torch.long))
    result = calibration(open_dump(tmp_path / "d"))
    assert str(result) == "train: no tokens to calibrate (6 non-finite left out)"
    assert result.frame.is_empty()
    assert result.table.is_empty()
    assert result.frame.schema["ece"] == pl.Float64


def arrays_of(frame):
    return from_arrays(
        frame["confidence"].to_numpy(), frame["correct"].to_numpy(), cluster=frame["cluster"].to_numpy()
    )


def with_clusters(dump):
    """Counted tokens with their sources, and their cluster as a text."""
    frame = recorded_confidence(dump).join(
        dump.samples.select("sample", "dataset", "source", "parity").collect(),
        on=["sample", "dataset"],
        how="left",
    )
    return frame.with_columns(cluster=pl.format("{} {}", "dataset", "sample"))


BY = (
    ("source",),
    ("micro", "parity"),
    ("rank", "step", "source"),
    ("position",),
    ("source", "gold_frequency", "dataset"),
    ("gold",),
)


@pytest.mark.parametrize("by", BY)
def test_any_column_can_split(dump, by):
    """Sums of the columns' own groups; buckets are tested on their own and only filtered by here."""
    frame = with_clusters(dump)
    for name in set(by) & set(COLUMNS):
        found = buckets_of(dump, name)
        labels = [found.labels[i] for i in found.of(frame[found.column].to_numpy())]
        frame = frame.with_columns(pl.Series(name, labels))
    result = calibration(dump, by, bins=10)
    assert result.by == by
    assert result.frame.columns[: len(by) + 2] == ["phase", *by, "type"]
    rows = result.frame.filter(type="")
    groups = list(frame.group_by("phase", *by))
    assert rows.height == len(groups)
    for key, mine in groups:
        where = [pl.col(n).cast(pl.String).eq_missing(pl.lit(v).cast(pl.String))
                 for n, v in zip(["phase", *by], key, strict=True)]  # fmt: skip
        (got,) = rows.filter(where).to_dicts()
        ece, mce, _ = plain(mine["confidence"], mine["correct"], 10)
        p, hit = mine["confidence"].to_numpy(), mine["correct"].to_numpy().astype(float)
        assert (got["n"], got["clusters"]) == (mine.height, mine["cluster"].n_unique())
        nll, entropy = (mine[name].cast(pl.Float64).mean() for name in ("nll", "entropy"))
        wanted = {
            "accuracy": hit.mean(), "confidence": p.mean(), "overconfidence": p.mean() - hit.mean(), "ece": ece, "mce": mce,
            "brier": ((p - hit) ** 2).mean(), "nll": nll, "entropy": entropy, "entropy_gap": nll - entropy,
        }  # fmt: skip
        for name, value in wanted.items():
            assert got[name] == pytest.approx(value, abs=1e-12), name


def test_left_out_tokens_are_counted(dump, tokens):
    frame = calibration(dump, "dataset").frame
    for row in frame.filter(type="").iter_rows(named=True):
        mine = [t for t in tokens if (t["phase"], t["dataset"]) == (row["phase"], row["dataset"])]
        assert row["left_out"] == sum(not t["finite"] for t in mine)
        assert row["n"] == len(mine) - row["left_out"]
    assert frame["left_out"].max() > 3
    assert "non-finite left out" in str(calibration(dump))


@pytest.mark.parametrize("phase", ["train", "eval"])
@pytest.mark.parametrize("by", [None, "step"])
def test_every_measure_is_that_of_the_arrays_within_its_error(dump, phase, by):
    mine = with_clusters(dump).filter(pl.col("phase") == phase)
    given, found = arrays_of(mine), calibration(dump, by).of(phase)
    assert (found.n, found.of) == (given.n, phase)
    for name in BY_NAME:
        exact, value = given.value(name), found.value(name)
        if exact is None or name == "ece_noise":  # of other draws
            continue
        assert value == pytest.approx(exact, abs=found.error(name) + 1e-9), name
        if by is None and name != "smooth_ece" and not name.startswith(("kuiper_p", "log_", "brier_")):
            assert found.error(name) < 1e-3, name  # the fine grid tells much
    for name in ("accuracy", "confidence", "overconfidence", "brier", "log_score"):
        assert found.interval(name) == pytest.approx(given.interval(name), abs=1e-9), name
    low, high = given.interval("ece")
    assert found.interval("ece") == pytest.approx((low, high), abs=0.15 * (high - low))
    assert found.ece_noise == pytest.approx(given.ece_noise, rel=0.1)
    assert found.interval("nll")[0] < found.nll < found.interval("nll")[1]


def test_intervals_resample_what_is_asked_for(dump):
    frame = with_clusters(dump).filter(pl.col("phase") == "train")
    by_source = calibration(dump, cluster="source")
    told = pl.coalesce(pl.col("source"), pl.col("cluster"))
    given = arrays_of(frame.with_columns(cluster=told))
    assert by_source.of("train").interval("overconfidence") == pytest.approx(
        given.interval("overconfidence"), abs=1e-12
    )
    row = by_source.frame.filter(phase="train", type="").row(0, named=True)
    assert row["clusters"] == frame.select(told.n_unique()).item() < frame["cluster"].n_unique()
    assert (row["overconfidence_low"], row["overconfidence_high"]) == pytest.approx(
        given.interval("overconfidence"), abs=1e-12
    )


def test_the_frame_has_the_intervals_of_each_subset(dump):
    table = calibration(dump, "dataset")
    for row in table.frame.iter_rows(named=True):
        found = table.of(row["phase"], row["type"], dataset=row["dataset"])
        assert found.of.startswith(f"{row['phase']}")
        for name in ("ece", "overconfidence", "entropy_gap"):
            assert (row[f"{name}_low"], row[f"{name}_high"]) == (found.interval(name) or (None, None))
        for name in ("n", "accuracy", "ece", "ece_noise", "l2_debiased", "mce", "brier", "left_out"):
            assert row[name] == getattr(found, name)


def test_subsets_are_pooled_over_what_is_not_named(dump):
    table = calibration(dump, ["step", "source"])
    frame = with_clusters(dump)
    for where in ({}, {"step": 4}, {"source": None}, {"source": "web", "step": 2}):
        mine = frame.filter(
            pl.col("phase") == "train", *(pl.col(name).eq_missing(value) for name, value in where.items())
        )
        found = table.of("train", **where)
        assert found.n == mine.height
        assert found.ece == pytest.approx(plain(mine["confidence"], mine["correct"], 15)[0], abs=1e-12)
    assert table.of().of == "eval"
    assert "train · coord · step 4" in str(table.of("train", "coord", step=4))
    assert table.of("eval", dataset="a").n == frame.filter(phase="eval", dataset="a").height


def test_bins_that_do_not_nest_say_how_far_off_they_may_be(dump):
    frame = recorded_confidence(dump)
    exact = calibration(dump, bins=18)
    assert set(exact.frame["ece_error"]) == {0.0}
    for by, bins in ((None, 7), ("pass", 18), ("pass", 301)):
        result = calibration(dump, by, bins=bins)
        errors = result.frame.filter(type="")["ece_error"].to_list()
        assert max(errors) > 0
        for (phase,), mine in frame.group_by("phase"):
            row = result.frame.filter(phase=phase, type="").row(0, named=True)
            ece, _, _ = plain(mine["confidence"], mine["correct"], bins)
            assert abs(row["ece"] - ece) <= row["ece_error"] + 1e-12
    assert "right to within" in str(result)


def test_many_rows_have_intervals_where_asked_for_only(dump, monkeypatch):
    monkeypatch.setattr(dumped, "MOST_ROWS", 10)
    table = calibration(dump, "step")
    assert table.frame.height > 10
    assert table.frame.select(
        "ece_low", "ece_high", "ece_noise", "overconfidence_low", "entropy_gap_high"
    ).null_count().row(0) == ((table.frame.height,) * 5)
    assert f"{table.frame.height} rows are more than 10: intervals only where asked for" in str(table)
    assert table.of("train", step=2).interval("ece") is not None
    forced = calibration(dump, "step", intervals=True)
    assert forced.frame["overconfidence_low"].null_count() < forced.frame.height
    assert "rows are more than" not in str(forced)
    assert calibration(dump, intervals=False).frame["ece_low"].is_null().all()


def test_the_worst_are_ranked_among_what_is_asked_for(dump):
    table = calibration(dump, ["source", "position"])
    ranked = table.worst(None, by="source")
    assert set(ranked["type"]) == {""}
    places = table.frame.filter(type="").select("phase", "source")
    assert ranked.height == places.n_unique() > 1
    for row in ranked.iter_rows(named=True):
        mine = (
            with_clusters(dump).filter(phase=row["phase"]).filter(pl.col("source").eq_missing(row["source"]))
        )
        assert row["ece"] == pytest.approx(plain(mine["confidence"], mine["correct"], 15)[0], abs=1e-12)
        assert row["p"] is None or row["p"] <= row["p_adjusted"]
    assert ranked["ece_low"].drop_nulls().to_list() == sorted(ranked["ece_low"].drop_nulls(), reverse=True)
    everything = table.worst(None)
    parts = {
        (row["phase"], row["source"], row["position"], row["n"], row["ece"])
        for row in table.frame.iter_rows(named=True)
    }
    assert everything.height == len(parts) < table.frame.height  # the same tokens under two names count once
    assert everything["position"].dtype == table.frame["position"].dtype
    assert set(table.worst(3, by="type")["type"]) <= {"coord", "desc", "format", "text"}
    assert table.worst(2).height == 2


def test_nothing_to_rank(tmp_path):
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(torch.randn(2, 5, V), torch.randint(0, V, (2, 5)))
    table = calibration(open_dump(tmp_path / "d"))
    assert table.worst().is_empty()
    assert {"phase", "type", "ece", "p_adjusted"} <= set(table.worst().columns)


def test_a_further_pass_reads_the_same_tokens(dump):
    table = calibration(dump, ["dataset", "position", "gold_frequency"])
    row = table.frame.filter(type="coord", phase="train").sort("n").row(-1, named=True)
    found = table.of("train", "coord", **{name: row[name] for name in table.by})
    assert found.heat.tokens == found.n == row["n"]
    assert found.heat.nll_before == pytest.approx(found.nll, rel=1e-9)
    by_source = calibration(dump, "source").of("train", source=None)
    assert by_source.heat.tokens == by_source.n


def test_the_log_score_may_be_infinite(tmp_path):
    """Sure to the last bit, and wrong."""
    logits = torch.zeros(4, V)
    logits[:, 5] = 1000.0
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(logits, torch.tensor([5, 5, 5, 0]), phase="eval", sample=[0, 0, 1, 1])
    table = calibration(open_dump(tmp_path / "d"))
    assert table.of().log_score == float("inf")
    assert table.of().interval("log_score") is None
    assert (table.of().brier, table.of().ece) == (0.25, 0.25)
    assert "on average 100.0 % sure, right 75.0 % of the time: over-confident by 25.0 points" in str(table)
