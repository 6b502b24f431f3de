"""Full-ECE and class-wise ECE from dumps against sums over full logits in float64."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.calibration.vocabulary import class_errors
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


def softmax(x):
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def bin_of(p, bins):
    """Left-closed, the last bin closed, edges k/bins."""
    return np.clip(np.searchsorted(np.arange(bins + 1) / bins, p, side="right") - 1, 0, bins - 1)


def full_ece(x, gold, bins):
    """All pairs of a token and an entry in one set of bins, per token."""
    p = softmax(x)
    hit = np.zeros_like(p)
    hit[np.arange(len(p)), gold] = 1
    place = bin_of(p, bins)
    return sum(abs((hit - p)[place == b].sum()) for b in range(bins)) / len(p)


def classwise_ece(x, gold, bins):
    p, total = softmax(x), 0.0
    for c in range(p.shape[1]):
        place = bin_of(p[:, c], bins)
        for b in range(bins):
            at = place == b
            if at.any():
                total += at.mean() * abs((gold[at] == c).mean() - p[at, c].mean())
    return total / p.shape[1]


def made(path, x, gold, k=None, **options):
    with Recorder(path, vocab=x.shape[1], k=k, shard_rows=300, **options) as rec:
        rec.record(torch.from_numpy(x), torch.from_numpy(gold), step=0, phase="eval", shift=False)
    return open_dump(path)


def logits(seed, n, v, scale, sharp=1.0, kind="normal"):
    """float32 logits, and gold drawn from softmax(logits / sharp)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, scale, (n, v))
    if kind == "zipf":
        x -= 1.3 * np.log(np.arange(1, v + 1))[rng.permutation(v)]
    x = x.astype(np.float32)
    return x, np.argmax(x / sharp + rng.gumbel(size=x.shape), axis=1)


@pytest.mark.parametrize("kind", ["normal", "zipf"])
@pytest.mark.parametrize("bins", [10, 15, 31])
def test_full_ece_of_a_language_model(tmp_path, kind, bins):
    x, gold = logits(1, 700, 900, 2.0, 1.5, kind)
    found, of_classes = class_errors(made(tmp_path / "run", x, gold, 32), "eval", bins=bins)
    truth = full_ece(x, gold, bins)
    assert of_classes is None
    assert found.low <= truth <= found.high
    assert found.low <= found.value <= found.high
    assert found.high - found.low < (1e-3 if bins <= 15 else 4e-3)  # with more edges more pairs are near one
    assert found.value == pytest.approx(truth, abs=3e-4)


@pytest.mark.parametrize("k", [1, 2, 5, 14])
def test_fewer_recorded_than_bins(tmp_path, k):
    """A part of the tail may then lie above the lowest bin."""
    x, gold = logits(2, 500, 60, 1.5, 1.3)
    found, _ = class_errors(made(tmp_path / "run", x, gold, k), "eval")
    truth = full_ece(x, gold, 15)
    assert found.low <= truth <= found.high
    if k >= 14:
        assert found.high - found.low < 2e-3


def test_the_only_entry_outside_is_known(tmp_path):
    x, gold = logits(3, 500, 4, 1.0, 1.5)
    found, _ = class_errors(made(tmp_path / "run", x, gold, 3), "eval")
    assert found.low <= full_ece(x, gold, 15) <= found.high
    assert found.high - found.low < 1.5e-2  # 500 · 3 pairs, each worth 1/500 where it is near an edge


@pytest.mark.parametrize(("v", "n"), [(2, 300), (10, 700), (30, 400)])
def test_classifier(tmp_path, v, n):
    x, gold = logits(4, n, v, 1.5, 2.0)
    full, of_classes = class_errors(made(tmp_path / "run", x, gold), "eval")
    truth = classwise_ece(x, gold, 15)
    assert of_classes.low <= truth <= of_classes.high
    assert of_classes.low <= of_classes.value <= of_classes.high
    assert of_classes.high - of_classes.low < 4e-3 / v * 2 + 2e-3
    assert of_classes.value == pytest.approx(truth, abs=1e-3)
    assert full.low <= full_ece(x, gold, 15) <= full.high


def test_classes_that_are_never_gold_count(tmp_path):
    x, gold = logits(5, 200, 6, 1.0)
    gold = gold % 3
    _, found = class_errors(made(tmp_path / "run", x, gold), "eval", bins=5)
    assert found.low <= classwise_ece(x, gold, 5) <= found.high


def test_exact_ties_edges_and_masked_entries(tmp_path):
    """p = 1/5 lies on an edge of five bins, whichever way it is rounded; a masked entry has p = 0."""
    x = np.zeros((40, 6), np.float32)
    x[:, 5] = -np.inf
    x[20:, :4] = -np.inf  # a sure one
    gold = np.where(np.arange(40) < 20, np.arange(40) % 5, 4)
    full, of_classes = class_errors(made(tmp_path / "run", x, gold), "eval", bins=5)
    for found, truth in ((full, full_ece(x, gold, 5)), (of_classes, classwise_ece(x, gold, 5))):
        assert found.low - 1e-12 <= truth <= found.high + 1e-12
    assert full_ece(x, gold, 5) == pytest.approx(0, abs=1e-12)
    full, of_classes = class_errors(made(tmp_path / "other", x, gold), "eval", bins=3)
    for found, truth in ((full, full_ece(x, gold, 3)), (of_classes, classwise_ece(x, gold, 3))):
        assert found.value == pytest.approx(truth, abs=1e-6)
        assert found.high - found.low < 1e-5


def test_distances_beyond_float16(tmp_path):
    """Gold at p = 0 still counts against its class."""
    x = np.zeros((30, 3), np.float32)
    x[:, 1] = -1e5
    gold = np.arange(30) % 3
    full, of_classes = class_errors(made(tmp_path / "run", x, gold), "eval", bins=4)
    assert full.low - 1e-12 <= full_ece(x, gold, 4) <= full.high + 1e-12
    assert of_classes.value == pytest.approx(classwise_ece(x, gold, 4), abs=1e-6)
    assert of_classes.value > 0.2


def test_gold_far_down_and_types_and_where(tmp_path):
    """Gold outside the top k counts in the lowest bin; rows are those of the type, data set and step."""
    rng = np.random.default_rng(6)
    everything = []
    with Recorder(tmp_path / "run", vocab=80, k=20, types=["a", "b"], shard_rows=70) as rec:
        for step, dataset in ((1, "x"), (1, "y"), (2, "x")):
            x, gold = logits(step, 120, 80, 2.0)
            gold = np.where(rng.random(120) < 0.3, np.argmin(x, axis=1), gold)
            types = rng.integers(0, 4, 120)
            where = {"step": step, "phase": "eval", "dataset": dataset}
            rec.record(
                torch.from_numpy(x),
                torch.from_numpy(gold),
                types=torch.from_numpy(types),
                shift=False,
                **where,
            )
            everything.append((where, x, gold, types))
        bad = torch.full((5, 80), torch.nan)
        rec.record(bad, torch.zeros(5, dtype=torch.long), step=2, phase="eval", dataset="x", shift=False)
        names = {"sample": list(range(120)), "dataset": ["x"] * 120, "half": ["low"] * 60 + ["high"] * 60}
        rec.samples(pl.DataFrame(names))
    dump = open_dump(tmp_path / "run")

    def expected(bit=None, **where):
        parts = [
            (x[at], gold[at])
            for place, x, gold, types in everything
            if all(place[name] == value for name, value in where.items())
            for at in [np.ones(120, bool) if bit is None else (types >> bit) & 1 == 1]
        ]
        return full_ece(*(np.concatenate(part) for part in zip(*parts, strict=True)), 15)

    for type_, where, truth in (
        ("", None, expected()),
        ("b", None, expected(bit=1)),
        ("a", {"dataset": "x"}, expected(bit=0, dataset="x")),
        ("", {"step": 1}, expected(step=1)),
        ("", {"step": 1, "dataset": "y"}, expected(step=1, dataset="y")),
        ("", {"step": lambda steps: steps > 1}, expected(step=2)),
    ):
        found, _ = class_errors(dump, "eval", type_, where)
        assert found.low <= truth <= found.high
        assert found.high - found.low < 1e-2
    assert class_errors(dump, "eval", where={"step": 7}) == (None, None)
    with pytest.raises(InputError, match="phase is 'test'; the dump has eval"):
        class_errors(dump, "test")
    with pytest.raises(InputError, match="type is 'c'"):
        class_errors(dump, "eval", "c")
    with pytest.raises(InputError, match="where names 'colour'"):
        class_errors(dump, "eval", where={"colour": "red"})
    with pytest.raises(InputError, match="bins is 0"):
        class_errors(dump, "eval", bins=0)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 40),
    st.integers(1, 40),
    st.integers(1, 20),
    st.floats(0.1, 8),
    st.floats(0.3, 3),
    st.sampled_from([np.float32, np.float16]),
)
@settings(max_examples=25, deadline=None)
def test_the_truth_lies_between_the_bounds(tmp_path_factory, seed, v, k, bins, scale, sharp, dtype):
    """float16 logits have many ties."""
    x, gold = logits(seed, 60, v, scale, sharp)
    x = x.astype(dtype).astype(np.float32)
    dump = made(tmp_path_factory.mktemp("h") / "run", x, gold, min(k, v))
    full, of_classes = class_errors(dump, "eval", bins=bins)
    truth = full_ece(x, gold, bins)
    assert full.low - 1e-9 <= truth <= full.high + 1e-9
    assert full.low - 1e-12 <= full.value <= full.high + 1e-12
    assert (of_classes is None) == (k < v)
    if of_classes is not None:
        assert of_classes.low - 1e-9 <= classwise_ece(x, gold, bins) <= of_classes.high + 1e-9
