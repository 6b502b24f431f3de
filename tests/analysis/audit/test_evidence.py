"""Every sum of an audit's evidence, once more in plain loops over tokens; who belongs where comes from what was recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from evidence_oracle import PROBED, WHOLE, expected
from evidence_run import GIVEN, OWN, T, Target, V, fill, record

from logitbox.analysis.audit.evidence import MICRO, Evidence
from logitbox.analysis.audit.tallying import evidence_of
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder

Case = tuple[Evidence, list[Target], str, bool]


@pytest.fixture(
    scope="module", params=[("all", True), ("all", False), ("supervised", True), ("supervised", False)]
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    scope, probes = request.param
    path = tmp_path_factory.mktemp("audit") / "run"
    targets = fill(path, scope, probes)
    dump = open_dump(path)
    rows = dump.tokens.collect().to_dicts()
    for one, row in zip(targets, rows, strict=True):
        assert tuple(row[name] for name in MICRO) == one.micro
        assert row["gold"] == (one.ids[one.place] if one.exists else -1)
        one.row = row
    assert len(dump.shards("tokens")) > 4
    return evidence_of(dump), targets, scope, probes


def test_every_sum_is_that_of_a_loop_over_tokens(case: Case) -> None:
    evidence, targets, scope, probes = case
    wanted = expected(targets, scope, probes)
    names = {key[-1] for key in wanted}
    absent = set() if scope == "all" else WHOLE
    absent = absent | (set() if probes else PROBED)
    same = {
        name
        for name in names
        for suffix in OWN
        if name.endswith(suffix)
        and all(
            _same(row, wanted.get((*key[:-1], name)))
            for key, row in wanted.items()
            if key[-1] == name.removesuffix(suffix)
        )
        and not any(
            key[-1] == name and (*key[:-1], name.removesuffix(suffix)) not in wanted for key in wanted
        )
    }
    wanted = {key: row for key, row in wanted.items() if key[-1] not in absent | same}
    got = {
        tuple(row[name] for name in (*MICRO, "population")): row
        for row in evidence.cells.iter_rows(named=True)
    }
    assert len(got) == evidence.cells.height
    only_lost = {key for key, row in got.items() if row["n"] == 0}
    assert set(got) - only_lost == set(wanted)
    for key, row in wanted.items():
        for name, value in row.items():
            found = got[key].get(name)
            assert found == (None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)), (
                key,
                name,
            )


def _same(one: dict[str, Any], other: dict[str, Any] | None) -> bool:
    return other is not None and one["n"] == other["n"]


def test_the_recording_tells_what_is_unclear(case: Case) -> None:
    evidence, _, scope, probes = case
    beside = evidence.cells.filter(pl.col("population").str.contains(r"\.(?:previous|following)$"))
    assert 0 < beside["n"].null_count() < beside.height
    assert beside.filter(pl.col("n").is_null()).select(pl.col("nll", "sequence_correct").is_null().all()).row(
        0
    ) == (
        True,
        True,
    )
    names = set(evidence.cells["population"])
    assert names >= {
        "coord.previous",
        "reasoning.plain.following",
        ".duplicates",
        "text.no_eos",
        ".no_boundary",
    }
    assert names & WHOLE == (WHOLE if scope == "all" else set())
    assert names & PROBED == (PROBED if probes else set())
    assert (evidence.setup.scope, evidence.setup.probes) == (scope, probes)


def test_tokens_left_out_are_counted(case: Case) -> None:
    evidence, targets, _, _ = case
    lost = evidence.cells.filter(pl.col("n_nonfinite") > 0)
    assert lost["n_nonfinite"].sum() == sum(one.broken and one.supervised for one in targets) == 2
    assert set(lost["population"]) == {""}
    assert evidence.cells.filter(pl.col("population") != "")["n_nonfinite"].drop_nulls().is_empty()


def test_batches_hold_those_without_labels(case: Case) -> None:
    evidence, targets, _, _ = case
    assert evidence.batches.columns == [
        *MICRO,
        "epoch",
        "rows",
        "positions",
        "predicted",
        "n_supervised",
    ]
    sizes = evidence.batches.drop("epoch")
    rows = {tuple(row[: len(MICRO)]): row[len(MICRO) :] for row in sizes.iter_rows()}
    assert len(rows) == evidence.batches.height == 12
    for rank in (0, 1):
        assert rows["train", "", 0, 1, rank, 2] == (1, T, T - 1, 0)
        here = [one for one in targets if one.micro == ("eval", "", 0, 1, rank, 0)]
        assert rows["eval", "", 0, 1, rank, 0] == (3, 3 * T, 3 * (T - 1), sum(one.supervised for one in here))


def test_setup_tells_how_it_was_recorded(case: Case) -> None:
    setup = case[0].setup
    assert (setup.world, setup.accumulation, setup.vocab_size, setup.k, setup.every) == (2, 3, V, 32, 1)
    assert (setup.types, setup.groups) == (("coord", *GIVEN), ("coord",))


def line_of_types(path: Path, **options: Any) -> pl.DataFrame:
    """Cells of one line of six tokens, the third and the last of type "a"."""
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    labels = torch.tensor([[-100, -100, 3, 4, 5, 6]])
    with Recorder(path, V, types=["a"], scope="all") as rec:
        logits = torch.zeros(1, 6, V)
        rec.record(logits, labels, input_ids=ids, types={"a": torch.tensor([[0, 0, 1, 0, 0, 1]])}, **options)
    return evidence_of(open_dump(path)).cells


@pytest.mark.parametrize(
    ("options", "previous", "following"),
    [
        ({}, 1, 1),
        ({"flags": {"untyped": torch.tensor([[0, 0, 1, 0, 0, 1]])}}, 1, 1),
        ({"flags": {"untyped": torch.tensor([[0, 0, 0, 0, 1, 0]])}}, None, None),
        ({"flags": {"untyped": torch.tensor([[1, 1, 0, 0, 0, 0]])}}, None, 1),
        # Two samples in a line, of which nothing says that the second follows the first.
        ({"sample": torch.tensor([[1, 1, 1, 2, 2, 2]])}, None, None),
    ],
)
def test_a_neighbour_of_no_known_type_leaves_its_population_unknown(
    tmp_path: Path, options: dict[str, Any], previous: int | None, following: int | None
) -> None:
    cells = line_of_types(tmp_path / "run", **options)
    n = dict(cells.select("population", "n").iter_rows())
    assert (n["a"], n["a.previous"], n["a.following"]) == (2, previous, following)


def test_sessions_that_recorded_less_decide_and_replaced_steps_are_gone(tmp_path: Path) -> None:
    for probes, resume_from, steps in ((True, None, (0, 1)), (False, 1, (1, 2))):
        rng = np.random.default_rng(0)
        with Recorder(
            tmp_path, V, types=GIVEN, every=1, scope="all", probes=probes, resume_from=resume_from
        ) as rec:
            for step in steps:
                record(rec, rng, ["plain"], [step], phase="train", step=step, micro=0)
                rec.flush()  # one shard is hidden as a whole
    evidence = evidence_of(open_dump(tmp_path))
    assert (evidence.setup.scope, evidence.setup.probes, evidence.setup.accumulation) == ("all", False, None)
    whole = evidence.cells.filter(pl.col("population") == "")
    assert whole["step"].to_list() == evidence.batches["step"].to_list() == [0, 1, 2]
    assert whole["nll_unshifted"].null_count() == 3
    names = set(evidence.cells["population"])
    assert names.isdisjoint(PROBED)
    assert ".everything" in names


def test_finished_shards_come_from_the_cache_and_any_executor_does(tmp_path: Path) -> None:
    fill(tmp_path, "all", probes=True)
    dump = open_dump(tmp_path)
    told: list[tuple[int, int]] = []
    first = evidence_of(dump, progress=lambda done, total: told.append((done, total)))
    shards = len(dump.shards("tokens"))
    assert told == [(done, shards) for done in range(1, shards + 1)]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "tallies").iterdir()}
    assert len(kept) == shards
    with ThreadPoolExecutor(2) as executor:
        again = evidence_of(dump, executor)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tallies").iterdir()} == kept
    for path in kept:
        path.unlink()
    with ThreadPoolExecutor(2) as executor:
        anew = evidence_of(dump, executor)
    assert first.cells.equals(again.cells)
    assert first.cells.equals(anew.cells)


def test_a_name_given_twice_is_one_micro_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = []
    with Recorder(tmp_path, V, types=GIVEN) as rec:
        for sample in (1, 2):
            targets += record(rec, rng, ["plain"], [sample], phase="train", step=0, micro=0)
            rec.flush()  # each into a shard of its own
    evidence = evidence_of(open_dump(tmp_path))
    assert evidence.batches.select("rows", "positions", "n_supervised").rows() == [(2, 2 * T, len(targets))]
    assert evidence.cells.filter(pl.col("population") == "").select("n", "samples").rows() == [
        (len(targets), 2)
    ]
    assert not evidence.cells.select(*MICRO, "population").is_duplicated().any()


class Words:
    """As much of a tokenizer as the Recorder asks for."""

    all_special_ids = (3,)

    def __len__(self) -> int:
        return 5

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        return [["a", "bc", "é", "<end>", "defg"][i] for i in ids]


@pytest.mark.parametrize(("gold", "size"), [([0, 1, 2], 1 + 2 + 2), ([4, 3], 4), ([1, 6], None)])
def test_bytes_are_of_text_not_of_special_tokens(tmp_path: Path, gold: list[int], size: int | None) -> None:
    with Recorder(tmp_path, Words(), vocab_size=8) as rec:
        rec.record(torch.zeros(len(gold), 8), torch.tensor(gold))
    evidence = evidence_of(open_dump(tmp_path))
    assert evidence.batches["predicted"].item() == len(gold)  # nothing to shift
    cells = evidence.cells.filter(pl.col("population") == "")
    assert (cells["bytes"].item() if "bytes" in cells.columns else None) == size
