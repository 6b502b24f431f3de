"""Buckets of positions and of gold frequencies."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitbox.analysis.calibration import calibration
from logitbox.analysis.calibration.buckets import BUCKETS, buckets_of, cut
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


def labels_of(parts):
    return tuple(f"{part[0]:,}" if part[0] == part[-1] else f"{part[0]:,}–{part[-1]:,}" for part in parts)


@given(counts=st.dictionaries(st.integers(0, 10**6), st.integers(1, 1000), min_size=1, max_size=60))
def test_equal_values_stay_together_and_buckets_are_about_equal(counts):
    values = sorted(counts)
    bucket, labels = cut(np.array(values), np.array([counts[value] for value in values]))
    assert (np.diff(bucket) >= 0).all()
    assert sorted(set(bucket.tolist())) == list(range(len(labels)))
    parts = [[v for v, b in zip(values, bucket, strict=True) if b == i] for i in range(len(labels))]
    assert labels == labels_of(parts)
    # Where the middle of a value's tokens lies, written out token by token.
    tokens = [value for value in values for _ in range(counts[value])]
    for value, found in zip(values, bucket, strict=True):
        first = tokens.index(value)
        middle = (first + first + counts[value]) / 2 / len(tokens)
        wanted = min(int(middle * BUCKETS), BUCKETS - 1)
        kept = sorted(
            {
                min(int((2 * tokens.index(v) + counts[v]) / 2 / len(tokens) * BUCKETS), BUCKETS - 1)
                for v in values
            }
        )
        assert kept[found] == wanted
    # A bucket can miss its quarter by the values at its two ends only.
    most = max(counts.values())
    if most * 50 < len(tokens):
        sizes = [sum(counts[v] for v in part) for part in parts]
        assert max(abs(size - len(tokens) / BUCKETS) for size in sizes) <= most + 1


def test_one_value_is_one_bucket():
    bucket, labels = cut(np.array([7]), np.array([100]))
    assert (bucket.tolist(), labels) == ([0], ("7",))


def test_most_tokens_at_one_value_are_told_from_the_rest():
    assert cut(np.arange(5), np.array([900, 25, 25, 25, 25]))[1] == ("0", "1–4")


def test_positions_and_frequencies_of_a_dump(dump):
    frame = dump.tokens.filter((pl.col("flags") & 1) == 1).collect()
    for name, values in (
        ("position", frame["pos"].to_list()),
        ("gold_frequency", [Counter(frame["gold"].to_list())[gold] for gold in frame["gold"].to_list()]),
    ):
        found = buckets_of(dump, name)
        column = frame["pos" if name == "position" else "gold"].to_numpy()
        inside = [[v for v, b in zip(values, found.of(column), strict=True) if b == i] for i in range(4)]
        assert found.labels == labels_of([(min(part), max(part)) for part in inside])
        assert all(max(low) < min(high) for low, high in pairwise(inside))
        assert sum(map(len, inside)) == len(values)
        assert all(len(values) / 8 < len(part) < len(values) / 2.5 for part in inside)


def test_the_table_is_sorted_by_bucket_and_holds_every_token(dump):
    whole = calibration(dump).frame
    for name in ("position", "gold_frequency"):
        frame = calibration(dump, name).frame
        assert frame[name].dtype == pl.Enum(buckets_of(dump, name).labels)
        for (phase, kind), rows in frame.group_by("phase", "type"):
            assert rows["n"].sum() == whole.filter(phase=phase, type=kind)["n"].item()
        here = frame.filter(phase="train", type="")[name].to_list()
        assert here == [label for label in buckets_of(dump, name).labels if label in here]
        assert len(here) == 4
        lows = [int(label.split("–")[0].replace(",", "")) for label in here]
        assert lows == sorted(lows)


def test_names_that_are_taken_and_nothing_to_cut(tmp_path):
    with Recorder(tmp_path / "d", 9) as rec:
        rec.record(torch.randn(2, 4, 9), torch.randint(0, 9, (2, 4)), sample=[0, 1])
        rec.samples({"sample": [0, 1], "position": ["near", "far"]})
    with pytest.raises(InputError, match="by names 'position', which is computed, but samples have"):
        calibration(open_dump(tmp_path / "d"), "position")
    with Recorder(tmp_path / "e", 9, scope="all") as rec:
        rec.record(
            torch.randn(1, 3, 9), torch.full((1, 3), -100), input_ids=torch.zeros(1, 3, dtype=torch.long)
        )
    with pytest.raises(InputError, match=r"by names 'gold_frequency', but .* holds no supervised tokens yet"):
        calibration(open_dump(tmp_path / "e"), "gold_frequency")
