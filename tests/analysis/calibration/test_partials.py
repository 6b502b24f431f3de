"""Sums for calibration: against loops over tokens, and the same however tokens lie in shards."""

from __future__ import annotations

import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.analysis.calibration import partials
from logitbox.analysis.calibration.partials import (
    CALIBRATION,
    KIND,
    SPLIT,
    WHOLE,
    CalibrationTask,
    merge_partials,
    partial_of_shard,
    size_of,
)
from logitbox.analysis.passes import merge_all, merge_by_size, run, tasks_of
from logitbox.dumps.schema import table_schema
from logitbox.dumps.shards import write_shard
from logitbox.dumps.spec import build_spec

V = 40
GROUP = range(10, 20)
COUNTS = {"n_nonfinite", "n_duplicate", "n", "right", "unit", "bin", "cell", "cluster"}


def random_rows(seed, rows):
    """Columns of `tokens`: samples come back, types overlap, some rows are NaN, repeated or unsupervised."""
    rng = np.random.default_rng(seed)
    correct = rng.random(rows) < 0.6
    odd = rng.random(rows)
    top_nll = np.exp(rng.normal(-3, 3, rows)).astype(np.float32)
    top_nll[rng.random(rows) < 0.1] = 0
    return {
        "phase": rng.choice(["train", "eval"], rows).tolist(),
        "dataset": rng.choice(["", "x"], rows).tolist(),
        "step": rng.integers(0, 3, rows),
        "sample": rng.integers(0, 9, rows),
        "gold": rng.integers(0, V, rows),
        "types": rng.integers(0, 4, rows),
        "flags": np.where(odd < 0.1, 1024, 0)
        + np.where((odd > 0.05) & (odd < 0.2), 512, 0)
        + (rng.random(rows) > 0.05),
        "top_nll": top_nll,
        "nll": np.where(correct, top_nll, top_nll + rng.exponential(2, rows)).astype(np.float32),
        "entropy": rng.exponential(1, rows).astype(np.float32),
        "n_gt": np.where(correct, 0, rng.integers(0, 3, rows)),
        "n_eq_before": np.where(correct, 0, 1),
    }


def write(columns, first, last, folder, number):
    """A shard of some of the rows, and what tells a worker of it."""
    spec = build_spec(V, 3, {"g": GROUP}, {}, ["a", "b"], probes=False, lse_beta=False, scope="all")
    arrays = {}
    for field in table_schema("tokens", spec):
        empty = [[1]] * (last - first) if pa.types.is_list(field.type) else np.zeros(last - first)
        part = columns[field.name][first:last] if field.name in columns else empty
        arrays[field.name] = pa.array(part).cast(field.type, safe=False)
    entry = write_shard(pa.table(arrays), folder, "tokens", number)
    path = folder / entry.name
    return {"path": path, "name": path.name, "sha256": entry.sha256, "spec": spec, "hidden_from": None}


def shards(columns, cuts, folder, **options):
    edges = sorted({0, len(columns["gold"]), *cuts})
    tasks = [
        CalibrationTask(**write(columns, a, b, folder, i), **options)
        for i, (a, b) in enumerate(pairwise(edges))
    ]
    return [partial_of_shard(task) for task in tasks]


def told(partial, keys):
    """Everything as dicts by key, population kind, and bin or cluster."""
    cells = partial.cells.select(*keys, KIND).rows()
    clusters = [(cells[c], u) for c, u in partial.clusters.select("cell", "unit").rows()]
    return {
        "cells": {
            row[:-2]: row[-2:]
            for row in partial.cells.select(*keys, KIND, "n_nonfinite", "n_duplicate").rows()
        },
        "histogram": {(cells[row[0]], row[1]): row[2:] for row in partial.histogram.rows()},
        "clusters": dict(zip(clusters, partial.clusters.drop("cell", "unit").rows(), strict=True)),
        "binned": {(clusters[row[0]], row[1]): row[2:] for row in partial.binned.rows()},
    }


def by_hand(columns, profile, keys):
    """The same by a loop over tokens; clusters are (dataset, sample)."""
    cells = defaultdict(lambda: np.zeros(2))
    histogram, clusters, binned = (defaultdict(lambda k=k: np.zeros(k)) for k in (4, 7, 2))
    for i in range(len(columns["gold"])):
        row = {name: values[i] for name, values in columns.items()}
        if not row["flags"] & 1:
            continue
        inside = row["gold"] in GROUP
        kinds = [
            "",
            *(n for bit, n in ((1, "a"), (2, "b")) if row["types"] & bit),
            "g" if inside else "non_g",
        ]
        cell = (*(row[name] for name in keys), "\n".join(kinds))
        repeated, broken = bool(row["flags"] & 512), bool(row["flags"] & 1024)
        cells[cell] += [broken and not repeated, repeated]
        if repeated or broken:
            continue
        p = math.exp(-float(row["top_nll"]))
        hit = float(row["n_gt"] + row["n_eq_before"] == 0)
        wrong = -math.expm1(-float(row["top_nll"]))
        log = float(row["top_nll"]) if hit else -math.log(wrong) if wrong else math.inf
        at = [min(int(np.searchsorted(grid.edges, p, side="right")) - 1, grid.n_bins - 1)
              for grid in (profile.atoms, profile.clusters)]  # fmt: skip
        unit = (row["dataset"], int(row["sample"]))
        histogram[cell, at[0]] += [1, hit, p, p * hit]
        clusters[cell, unit] += [1, hit, p, (p - hit) ** 2, log, float(row["nll"]), float(row["entropy"])]
        binned[(cell, unit), at[1]] += [1, hit - p]
    return {"cells": cells, "histogram": histogram, "clusters": clusters, "binned": binned}


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 150), split=st.booleans())
@settings(max_examples=25, deadline=None)
def test_sums_equal_a_loop_over_tokens(tmp_path_factory, seed, rows, split):
    profile, by = (SPLIT, ("step",)) if split else (WHOLE, ())
    keys = ("phase", "dataset", *by)
    columns = random_rows(seed, rows)
    folder = tmp_path_factory.mktemp("s")
    (found,) = shards(columns, [], folder, profile=profile, by=by)
    found, wanted = told(found, keys), by_hand(columns, profile, keys)
    unit_of = {}  # hashes name clusters one to one
    for (cell, unit), values in found["clusters"].items():
        match = [
            key
            for key in wanted["clusters"]
            if key[0] == cell and wanted["clusters"][key] == pytest.approx(values)
        ]
        assert match
        if len(match) == 1:
            assert unit_of.setdefault(unit, match[0][1]) == match[0][1]
    assert len(set(unit_of.values())) == len(unit_of)
    everywhere = {unit for _, unit in found["clusters"]}
    assert len(everywhere) == len({unit for _, unit in wanted["clusters"]})
    for part in ("cells", "histogram", "clusters"):
        assert len(found[part]) == len(wanted[part]), part
    for part in ("cells", "histogram"):
        for key, values in found[part].items():
            assert values == pytest.approx(wanted[part][key], rel=1e-12), (part, key)
    for ((cell, unit), at), values in found["binned"].items():
        if unit in unit_of:
            assert values == pytest.approx(wanted["binned"][(cell, unit_of[unit]), at], rel=1e-12, abs=1e-15)
    assert len(found["binned"]) == len(wanted["binned"])


def same_counts_and_close_sums(a, b, keys):
    a, b = told(a, keys), told(b, keys)
    for part in a:
        assert a[part].keys() == b[part].keys(), part
        for key, values in a[part].items():
            assert values[:1] == b[part][key][:1], "counts are identical"
            assert values == pytest.approx(b[part][key], rel=1e-12, abs=1e-13), part


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 150),
    cuts=st.lists(st.lists(st.integers(0, 150), max_size=25), min_size=2, max_size=2),
    most=st.sampled_from([2, 5, 11, 1000]),
    least=st.sampled_from([0, 100, 10**6]),
)
@settings(max_examples=25, deadline=None)
def test_any_split_into_shards_gives_the_same(tmp_path_factory, seed, rows, cuts, most, least):
    """Also where clusters are too many and are put together: only their union decides."""
    columns = random_rows(seed, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partials, "MOST_CLUSTERS", most)
        first, second = (
            shards(
                columns,
                [min(c, rows) for c in some],
                tmp_path_factory.mktemp("s"),
                by=("step",),
                profile=SPLIT,
            )
            for some in cuts
        )
        one, other = merge_by_size(merge_partials, first, size_of, least), merge_all(merge_partials, second)
        again = merge_by_size(merge_partials, iter(first), size_of, least)
    assert all(a.equals(b) for a, b in zip(vars(one).values(), vars(again).values(), strict=True))
    same_counts_and_close_sums(one, other, ("phase", "dataset", "step"))
    for phase, mine in one.clusters.with_columns(
        phase=one.cells["phase"].gather(one.clusters["cell"])
    ).group_by("phase"):
        good = [
            i for i in range(rows)
            if columns["flags"][i] % 2 and columns["flags"][i] < 512 and columns["phase"][i] == phase[0]
        ]  # fmt: skip
        samples = {(columns["dataset"][i], columns["sample"][i]) for i in good}
        units = mine["unit"].unique()
        assert len(units) == len(samples) if len(samples) <= most else len(units) <= most
        assert (units.max() < most) == (len(samples) > most)
        for found in (one, other):
            lone = found.lone.filter(phase=phase[0])["unit"]
            assert lone.n_unique() == len(lone) == (len(good) if len(samples) == len(good) else 1)
            assert (lone.min() == 0) == (len(samples) < len(good))


@given(seed=st.integers(0, 10_000), at=st.lists(st.integers(1, 99), max_size=8))
@settings(max_examples=8, deadline=None)
def test_merging_in_groups_gives_identical_counts(tmp_path_factory, seed, at):
    columns = random_rows(seed, 100)
    parts = shards(columns, range(0, 100, 10), tmp_path_factory.mktemp("s"))
    edges = sorted({0, len(parts), *(i * len(parts) // 100 for i in at)})
    grouped = merge_partials([merge_partials(parts[a:b]) for a, b in pairwise(edges)])
    same_counts_and_close_sums(merge_partials(parts), grouped, ("phase", "dataset"))


def test_sums_are_the_same_to_the_bit_whoever_makes_them(dump):
    tasks = tasks_of(dump, (), CalibrationTask)
    cold = merge_by_size(merge_partials, [partial_of_shard(task) for task in tasks], size_of)
    with ThreadPoolExecutor(3) as executor:
        for found in (run(CALIBRATION, dump, tasks, executor), run(CALIBRATION, dump, tasks)):
            for name in ("cells", "histogram", "clusters", "binned", "lone"):
                left, right = getattr(cold, name), getattr(found, name)
                assert left.equals(right, null_equal=True), name
                for column in left.select(pl.col(pl.Float64)).columns:
                    assert left[column].to_numpy().tobytes() == right[column].to_numpy().tobytes()


def test_what_was_put_together_stays_so(tmp_path, monkeypatch):
    """One more token can bring a cluster that would have had room."""
    columns = random_rows(5, 60) | {"flags": np.ones(60, dtype=int), "phase": ["eval"] * 60}
    parts = shards(columns, range(60), tmp_path)
    for most in range(2, 18):
        monkeypatch.setattr(partials, "MOST_CLUSTERS", most)
        one_by_one = reduce(lambda whole, part: merge_partials([whole, part]), parts)
        same_counts_and_close_sums(one_by_one, merge_partials(parts), ("phase", "dataset"))
        assert one_by_one.clusters["unit"].max() < most


def test_no_more_than_twice_the_sum_is_held():
    """Parts that wait, while the sum no longer grows; and few merges."""
    held, merges = [], []

    def merge(parts):
        held.append(sum(parts))
        merges.append(len(parts))
        return min(sum(parts), 100)

    assert merge_by_size(merge, iter([1] * 10_000), int, least=10) == 100
    assert max(held) <= 200
    assert len(merges) <= 10_000 / 100 + 15


def test_a_cluster_is_one_sample_of_a_data_set_wherever_it_is_met(tmp_path):
    columns = random_rows(1, 60)
    columns |= {
        "flags": np.ones(60, dtype=int),
        "sample": np.arange(60) % 5 * 10**12,
        "dataset": [["", "x", "y"][i % 3] for i in range(60)],
    }
    parts = shards(columns, [13, 29], tmp_path)
    units = [set(part.clusters["unit"]) for part in parts]
    assert len(units[0] | units[1] | units[2]) == 15
    assert units[1] == units[2] >= units[0]
    assert min(map(min, units)) >= 2**62


def test_clusters_can_be_another_column_of_samples(tmp_path):
    columns = random_rows(2, 80) | {"flags": np.ones(80, dtype=int), "dataset": [""] * 80}
    lookup = pl.DataFrame(
        {"sample": range(9), "dataset": "", "group": ["p", "p", "q", "q", "q", None, None, None, "p"]}
    )
    plain, grouped = (
        merge_partials(shards(columns, [40], tmp_path, **options))
        for options in ({}, {"cluster": "group", "lookup": lookup})
    )
    assert plain.clusters["unit"].n_unique() == 9
    assert grouped.clusters["unit"].n_unique() == 2 + 3
    assert len(set(grouped.clusters["unit"]) & set(plain.clusters["unit"])) == 3, "samples without a group"
    assert grouped.clusters["n"].sum() == plain.clusters["n"].sum() == 80
    assert KIND in grouped.cells.columns
    assert "group" not in grouped.cells.columns


def test_the_log_score_is_exact_where_the_model_is_nearly_sure(tmp_path):
    tiny = np.array([1e-30, 1e-12, 1e-7, 3.0], dtype=np.float32)
    columns = random_rows(3, 4) | {
        "flags": np.ones(4, dtype=int),
        "top_nll": tiny,
        "n_gt": np.array([1, 1, 1, 1]),
        "sample": np.arange(4),
    }
    (found,) = shards(columns, [], tmp_path)
    # −ln(1 − e^−x) = −ln x + x/2 − …
    x = tiny.astype(np.float64)
    wanted = [-math.log(v) + v / 2 for v in x[:3]] + [-math.log(1 - math.exp(-3))]
    assert sorted(found.clusters["log"]) == pytest.approx(sorted(wanted), rel=1e-12)


def test_a_shard_without_supervised_rows(tmp_path):
    columns = random_rows(4, 5) | {"flags": np.zeros(5, dtype=int)}
    (found,) = shards(columns, [], tmp_path)
    assert all(
        frame.is_empty() for frame in (found.cells, found.histogram, found.clusters, found.binned, found.lone)
    )
    assert merge_partials([found, found]).cells.is_empty()
