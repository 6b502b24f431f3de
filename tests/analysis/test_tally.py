"""The tally: what is summed, adding up, memory; and identities on random dumps."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from analysis_oracle import COORD, OPTIONS, V
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.explain import explain_of_tally
from logitbox.analysis.metrics import metrics
from logitbox.analysis.passes import merge_all, tasks_of
from logitbox.analysis.populations import is_internal
from logitbox.analysis.reading import ShardTask
from logitbox.analysis.sums import Classes, compress
from logitbox.analysis.tally import merge, tally_shard
from logitbox.analysis.tallying import tally_dump
from logitbox.dumps.definitions.registry import populations_of
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.schema import table_schema
from logitbox.dumps.shards import write_shard
from logitbox.dumps.spec import build_spec

PARTS = ("cells",)


def close(a, b, rel=1e-12):
    """Equal counts, and floats within `rel`, whatever the order of rows."""
    for part in PARTS:
        left, right = getattr(a, part), getattr(b, part)
        keys = [
            n
            for n in left.columns
            if left[n].dtype != pl.Float64 and n not in ("n", "clusters", "n_nonfinite", "n_duplicate")
        ]
        left, right = left.sort(keys, nulls_last=True), right.select(left.columns).sort(keys, nulls_last=True)
        assert left.select(keys).equals(right.select(keys))
        for name in left.columns:
            if name in keys:
                continue
            assert left[name].to_numpy() == pytest.approx(right[name].to_numpy(), rel=rel, abs=1e-12), (
                part,
                name,
            )


def tasks(dump):
    return tasks_of(dump, (), ShardTask)


def test_merging_is_associative_and_the_order_does_not_matter(dump):
    parts = [tally_shard(task) for task in tasks(dump)]
    assert len(parts) > 8
    flat = merge(parts)
    close(flat, merge([merge(parts[:3]), merge([merge(parts[3:5]), *parts[5:]])]))
    shuffled = parts.copy()
    random.Random(0).shuffle(shuffled)
    close(flat, merge(shuffled))
    close(flat, merge_all(merge, parts * 1))
    for count in (1, 15, 16, 17, 257):  # carries over two levels
        many = (parts * (count // len(parts) + 1))[:count]
        close(merge(many), merge_all(merge, iter(many)))
    # Keys come as they were first met, so levels are put together from the oldest on.
    late = parts[-1]
    order = merge_all(merge, [*parts, *[late] * (20 - len(parts))]).cells.select("phase", "step", "type")
    assert order.equals(flat.cells.select("phase", "step", "type"))


def test_a_shard_may_be_cut_anywhere_between_samples(tmp_path):
    spec, table = random_table(3, rows=400)
    whole = tally_shard(task_of(write(table, spec, tmp_path, 0), spec))
    sample = table["sample"].to_numpy()
    cuts = [i for i in range(1, 400) if sample[i] != sample[i - 1]]
    assert len(cuts) > 20
    edges = [0, cuts[3], cuts[4], cuts[15], 400]
    parts = [
        tally_shard(task_of(write(table.slice(a, b - a), spec, tmp_path, i + 1), spec))
        for i, (a, b) in enumerate(pairwise(edges))
    ]
    close(whole, merge(parts))


def random_table(seed, rows, steps=5, overlap=True):
    """A shard's columns, drawn at random; samples in runs, types overlapping."""
    rng = np.random.default_rng(seed)
    spec = build_spec(V, 3, {"coord": COORD, "low": (1, 5, 2)}, {"coord": {}}, ["a", "b", "coord"],
                      probes=False, lse_beta=False, scope="supervised")  # fmt: skip
    gold = rng.integers(0, V, rows)
    values = {
        "phase": ["train"] * rows, "dataset": np.sort(rng.choice(["", "x"], rows)),
        "step": np.sort(rng.integers(0, steps, rows)) if steps else np.zeros(rows),
        "pass": np.zeros(rows), "epoch": np.zeros(rows, np.float32), "sample": np.repeat(np.arange(rows), rng.integers(1, 12, rows))[:rows],
        "gold": gold, "flags": np.where(rng.random(rows) < 0.1, 1025, rng.integers(0, 5, rows) > 0),
        "types": rng.integers(0, 4 if overlap else 1, rows) + 4 * ((gold >= 20) & (gold < 50)),
        "n_gt": rng.integers(0, 8, rows), "n_eq_before": rng.integers(0, 2, rows),
    }  # fmt: skip
    arrays = {}
    for column in table_schema("tokens", spec):
        if pa.types.is_list(column.type):
            rows_of = [[int(i) for i in rng.integers(0, V, rng.integers(1, 4))] for _ in range(rows)]
            arrays[column.name] = pa.array(rows_of).cast(column.type, safe=False)
            continue
        value = values.get(column.name, rng.exponential(1, rows))
        arrays[column.name] = pa.array(value).cast(column.type, safe=False)
    return spec, pa.table(arrays)


def write(table, spec, folder, number):
    entry = write_shard(table, folder, "tokens", number)
    return folder / entry.name, entry.sha256


def task_of(written, spec, **more):
    path, digest = written
    return ShardTask(path, path.name, digest, spec, None, **more)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 120))
@settings(max_examples=25, deadline=None)
def test_cells_equal_a_loop_over_samples(tmp_path_factory, seed, rows):
    """Every population, with types and groups that overlap: n, Σx, Σx², Σxn by brute force."""
    spec, table = random_table(seed, rows)
    tally = tally_shard(task_of(write(table, spec, tmp_path_factory.mktemp("s"), 0), spec))
    frame = pl.from_arrow(table)
    top = frame["top_ids"].list.first()
    frame = frame.with_columns(
        correct=((pl.col("n_gt") + pl.col("n_eq_before")) == 0).cast(pl.Float64),
        is_low=pl.col("gold").is_in([1, 5, 2]).cast(pl.Float64),
        top_in_low=(top.is_in([1, 5, 2]) & ~pl.col("gold").is_in([1, 5, 2])).cast(pl.Float64),
        nll=pl.col("nll").cast(pl.Float64),
        mass_coord=pl.col("logmass_coord").cast(pl.Float64).exp(),
    )
    belongs = {
        "": pl.lit(value=True), "a": pl.col("types") % 2 == 1, "b": pl.col("types") // 2 % 2 == 1,
        "coord": pl.col("gold").is_between(20, 49), "text": ~pl.col("gold").is_between(20, 49),
        "low": pl.col("gold").is_in([1, 5, 2]), "non_low": ~pl.col("gold").is_in([1, 5, 2]),
    }  # fmt: skip
    assert set(belongs) == {p.name for p in populations_of(spec) if not p.is_internal}
    supervised = frame.filter(pl.col("flags") % 2 == 1)
    good = supervised.filter(pl.col("flags") < 1024)
    rows_seen = 0
    for name, test in belongs.items():
        for (dataset, step), mine in supervised.filter(test).group_by("dataset", "step"):
            cell = tally.cells.filter(type=name, dataset=dataset, step=step).row(0, named=True)
            rows_seen += 1
            kept = mine.filter(pl.col("flags") < 1024)
            assert cell["n_nonfinite"] == mine.height - kept.height
            samples = [part for _, part in kept.group_by("sample")]
            assert (cell["n"], cell["clusters"]) == (kept.height, len(samples))
            n = np.array([part.height for part in samples], dtype=float)
            assert cell["nn"] == (n * n).sum()
            for q in ("correct", "is_low", "top_in_low", "nll", "mass_coord"):
                x = np.array([part[q].sum() for part in samples])
                got = [cell[q], cell[f"{q}:xx"], cell[f"{q}:xn"]]
                assert got == pytest.approx([x.sum(), (x * x).sum(), (x * n).sum()], rel=1e-12), q
    assert rows_seen == sum(not is_internal(name) for name in tally.cells["type"])
    counted = tally.cells.group_by("type").agg(pl.col("n").sum())
    assert dict(counted.rows()).get("", 0) == good.height


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_identities(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("d") / "dump"
    torch.manual_seed(seed)
    labels = torch.randint(0, V, (3, 9))
    coord = (labels >= COORD.start) & (labels < COORD.stop)
    desc = ~coord & (torch.rand(labels.shape) < 0.4)
    types = {"coord": coord, "desc": desc, "format": ~coord & ~desc}
    with Recorder(path, V, groups={"coord": COORD}, ordered={"coord": OPTIONS}, types=list(types)) as rec:
        rec.record((torch.randn(3, 9, V) * 4).bfloat16(), labels, types=types)
    dump = open_dump(path)
    table = metrics(dump)
    row = {r["key"]: r for r in table.frame.iter_rows(named=True)}

    def weighted(parts):
        total = sum(row[p]["n"] for p in parts)
        return sum((row[p]["value"] or 0) * row[p]["n"] for p in parts) / total

    assert sum(row[f"{t}_token_frac"]["value"] for t in types) == pytest.approx(1, abs=1e-12)
    assert row["token_acc"]["value"] == pytest.approx(
        weighted(["coord_token_acc", "text_token_acc"]), abs=1e-12
    )
    assert row["nll"]["value"] == pytest.approx(weighted([f"{t}_nll" for t in types]), rel=1e-12)
    loss = {p: row[f"coord_softce_w1/{p}"]["value"] for p in ("loss", "soft_ce", "w1", "gate")}
    if loss["loss"] is not None:
        assert loss["loss"] == pytest.approx(
            loss["soft_ce"] + 0.5 * loss["w1"] + 0.25 * loss["gate"], rel=1e-12
        )
    for r in row.values():
        if r["value"] is not None and r["low"] is not None:
            assert r["low"] <= r["value"] + 1e-9
            assert r["value"] <= r["high"] + 1e-9
    cells = explain_of_tally(tally_dump(dump)).frame.filter(type="")
    assert cells["share"].sum() == pytest.approx(1, abs=1e-12)
    assert cells["tfce_part"].sum() == pytest.approx(row["nll"]["value"], rel=1e-12)


def test_memory_does_not_grow_with_the_number_of_shards(tmp_path):
    """Of the shards' tallies at most 16 per level of the merge are held."""
    spec, table = random_table(1, rows=300, steps=0)
    one = tally_shard(task_of(write(table, spec, tmp_path, 0), spec))
    alive, most = [0], [0]

    class Counted(type(one)):
        def __init__(self):
            super().__init__(one.cells)
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    peaks = []
    for count in (256, 1024):
        most[0] = 0
        tracemalloc.start()
        merged = merge_all(merge, (Counted() for _ in range(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert merged.cells["n"].sum() == count * one.cells["n"].sum()
        assert most[0] <= 17
    assert peaks[1] < 1.6 * peaks[0]  # 4 times the shards, one more level


def test_compress_and_many_populations():
    rng = np.random.default_rng(0)
    for size in (1, 50, 1 << 20):
        code = rng.integers(0, size, 1000)
        distinct, index = compress(code, size)
        assert np.array_equal(distinct, np.unique(code))
        assert np.array_equal(distinct[index], code)
    masks = [rng.random(500) < p for p in np.linspace(0, 1, 90)]
    classes = Classes.of(masks)
    assert np.array_equal(classes.member[classes.of_row].T, np.array(masks))
    assert len(np.unique(classes.member, axis=0)) == len(classes)
    assert len(Classes.of([np.zeros(0, dtype=bool)])) == 0
