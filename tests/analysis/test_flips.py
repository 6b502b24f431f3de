"""`flips`: identities and verdicts; the rates themselves are checked with all other metrics."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from analysis_oracle import COORD, V

from logitbox.analysis.flips import flips
from logitbox.analysis.metrics import metrics
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder


def test_rates_and_masses_are_those_of_metrics(dump):
    result = flips(dump, by="step")
    frame = metrics(dump, "step").frame
    assert result.frame.equals(frame.filter(pl.col("key").str.contains("coord_monitor/")))
    assert result.rates.height == 4 * 9
    assert result.masses.height == 4 * 9
    assert result.rates.height + result.masses.height == result.frame.height


@pytest.mark.parametrize("phase", ["", "eval_", "val_"])
def test_text_is_the_weighted_mean_of_its_types(dump, phase):
    table = flips(dump).frame
    for key in ("flip_{}_to_coord", "coord_vocab_mass_at_gt_{}"):
        rows = {n: table.row(by_predicate=pl.col("key") == f"{phase}coord_monitor/{key.format(n)}", named=True)
                for n in ("text", "desc", "format")}  # fmt: skip
        parts = [rows["desc"], rows["format"]]
        assert sum(row["n"] for row in parts) == rows["text"]["n"]
        mean = sum(row["value"] * row["n"] for row in parts) / rows["text"]["n"]
        assert rows["text"]["value"] == pytest.approx(mean, rel=1e-12)


def test_a_type_that_overlaps_the_group_does_not_flip_into_it(tmp_path):
    """Tokens of type `number` whose gold is in `coord` anyway are no flips where the arg-max is in it too."""
    logits = torch.zeros(4, V)
    logits[:, COORD.start] = 9.0
    labels = torch.tensor([COORD.start, COORD.start, COORD.start + 1, 2])
    with Recorder(tmp_path / "d", V, groups={"coord": COORD}, types=["number"]) as rec:
        rec.record(logits, labels, types={"number": torch.ones(4, dtype=torch.bool)})
    table = metrics(open_dump(tmp_path / "d"))
    assert table.value("coord_monitor/flip_number_to_coord") == 0.25
    assert table.value("coord_monitor/flip_text_to_coord") == 1.0
    assert table.value("coord_monitor/flip_coord_to_noncoord") == 0.0


def test_verdicts(dump, tmp_path):
    whole = flips(dump)
    worst = whole.rates.drop_nulls("value").sort("value", descending=True).row(0, named=True)
    assert str(whole) == f"highest flip rate: {worst['key']} = {worst['value']:.4f} of {worst['n']:,} tokens"
    assert " at step " in str(flips(dump, by="step"))
    with Recorder(tmp_path / "plain", V) as rec:
        rec.record(torch.randn(3, V), torch.tensor([1, 2, 3]))
    assert str(flips(open_dump(tmp_path / "plain"))).startswith(
        "no vocabulary groups were recorded; pass groups="
    )
    logits = torch.zeros(2, V)
    logits[0, COORD.start] = logits[1, 0] = 9.0
    with Recorder(tmp_path / "calm", V, groups={"coord": COORD}) as rec:
        rec.record(logits, torch.tensor([COORD.start + 1, 1]))
    assert (
        str(flips(open_dump(tmp_path / "calm")))
        == "no flips: the arg-max never crosses a group's border (2 rates)"
    )
