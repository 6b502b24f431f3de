"""ECE and the reliability table against a plain NumPy implementation."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from analysis_oracle import COORD, V

from logitbox.analysis.calibration import calibration
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
        InputError, match="by is 'source'; calibration can be split by dataset, pass, step, epoch"
    ):
        calibration(dump, "source")
    with pytest.raises(InputError, match="bins is 7; it must divide 16200"):
        calibration(dump, bins=7)
    with pytest.raises(InputError, match="bins is 18; it must divide 300"):
        calibration(dump, "step", bins=18)
    with pytest.raises(InputError, match="0 rows have phase 'nope'"):
        calibration(dump).ece("nope")


def test_nothing_to_calibrate(tmp_path):
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(torch.full((2, 4, V), torch.nan), torch.zeros(2, 4, dtype=torch.long))
    result = calibration(open_dump(tmp_path / "d"))
    assert str(result) == "no finite supervised tokens to calibrate"
    assert result.frame.is_empty()
    assert result.table.is_empty()
    assert result.frame.schema["ece"] == pl.Float64
