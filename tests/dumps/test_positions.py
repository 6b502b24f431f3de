"""Which rows are recorded, and as what: against a slow loop over tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from dumps_oracle import as_float64, nll, spec_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logitbox.dumps import intake as intake_module
from logitbox.dumps.dump import open_dump
from logitbox.dumps.flags import Flag
from logitbox.dumps.hostbatch import select_rows
from logitbox.dumps.positions import layout, make_batch
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

V = 23
IGNORED = -100


@dataclass
class Case:
    """A random ragged batch."""

    logits: torch.Tensor
    labels: torch.Tensor
    input_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    shift: bool
    scope: str
    probes: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    ids = torch.randint(0, V, (rows, width), generator=generator)
    if draw(st.booleans()):
        ids[0] = ids[-1]  # the same sample twice
    mask, positions = torch.ones(rows, width, dtype=torch.long), torch.zeros(rows, width, dtype=torch.long)
    left = draw(st.booleans())
    for b in range(rows):
        n_pad = draw(st.integers(0, width - 1))
        real = slice(n_pad, width) if left else slice(0, width - n_pad)
        mask[b] = 0
        mask[b, real] = 1
        cuts = draw(st.sets(st.integers(1, width - 1))) if width > 1 else set()
        place = 0
        for t in range(*real.indices(width)):
            place = 0 if t in cuts else place
            positions[b, t], place = place, place + 1
    drop = torch.rand(rows, width, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    padded = draw(st.booleans())
    if not padded:
        mask = torch.ones_like(mask)
    labels = ids.masked_fill(drop | (mask == 0), IGNORED)
    scope = draw(st.sampled_from(["supervised", "all"]))
    return Case(
        torch.randn(rows, width, V, generator=generator),
        labels,
        ids if scope == "all" or draw(st.booleans()) else None,
        mask if padded else None,
        positions if padded and draw(st.booleans()) else None,
        draw(st.booleans()),
        scope,
        draw(st.booleans()),
    )


def documents(case: Case, b: int) -> list[int]:
    """Document number of each token of row b: a new one where positions start anew within the text."""
    numbers, current = [], 0
    for t in range(case.labels.shape[1]):
        if (
            case.position_ids is not None
            and t > 0
            and case.position_ids[b, t] <= case.position_ids[b, t - 1]
            and (case.attention_mask is None or (case.attention_mask[b, t] and case.attention_mask[b, t - 1]))
        ):
            current += 1
        numbers.append(current)
    return numbers


def place(case: Case, b: int, t: int) -> int:
    """Index of token t in its document; one past the last for the row without a target."""
    if t == case.labels.shape[1]:
        return place(case, b, t - 1) + 1
    if case.position_ids is not None:
        return int(case.position_ids[b, t])
    first = 0 if case.attention_mask is None else case.attention_mask[b].tolist().index(1)
    return t - first


def content(case: Case, b: int, doc: int) -> tuple[int, ...]:
    """What a sample is recognised by."""
    mine = [t for t, d in enumerate(documents(case, b)) if d == doc]
    if case.input_ids is not None:
        real = [t for t in mine if case.attention_mask is None or case.attention_mask[b, t]]
        return tuple(int(case.input_ids[b, t]) for t in real)
    labels = [int(case.labels[b, t]) for t in mine]
    supervised = [i for i, label in enumerate(labels) if label != IGNORED]
    return tuple(labels[supervised[0] : supervised[-1] + 1]) if supervised else tuple(labels)


def slow_rows(case: Case) -> list[dict[str, Any]]:
    """One token at a time."""
    rows = []
    n_rows, width = case.labels.shape
    exact = as_float64(case.logits)
    names: dict[tuple[int, int], tuple[object, ...]] = {}
    times: Counter[tuple[int, ...]] = Counter()
    for b in range(n_rows):
        docs = documents(case, b)

        def label(t: int, b: int = b) -> int:
            return int(case.labels[b, t]) if 0 <= t < width else IGNORED

        for i in range(width):
            t = i + 1 if case.shift else i
            exists = t < width
            own, left, right = label(t), label(t - 1), label(t + 1)
            edge = case.probes and own == IGNORED and (left != IGNORED or right != IGNORED)
            if not (own != IGNORED or edge or (case.scope == "all" and exists)):
                continue
            gold = own
            if own == IGNORED:
                gold = int(case.input_ids[b, t]) if exists and case.input_ids is not None else -1
            pad = exists and case.attention_mask is not None and not case.attention_mask[b, t]
            doc = docs[min(t, width - 1)]
            bits = Flag(0)
            bits |= Flag.SUPERVISED if own != IGNORED else Flag(0)
            bits |= Flag.PROMPT if own == IGNORED and exists and not pad else Flag(0)
            bits |= Flag.PAD if pad else Flag(0)
            bits |= Flag.EDGE if edge else Flag(0)
            bits |= Flag.BOUNDARY if exists and t > 0 and docs[t] != docs[t - 1] else Flag(0)
            if (b, doc) not in names:
                key = content(case, b, doc)
                times[key] += 1
                names[b, doc] = (key, times[key])
            x = exact[b, i]
            rows.append(
                {
                    "gold": gold,
                    "pos": place(case, b, t),
                    "flags": int(bits),
                    "sample": names[b, doc],
                    "nll": nll(x, gold) if gold >= 0 else None,
                    "nll_unshifted": nll(x, left) if left >= 0 else None,
                    "nll_next": nll(x, right) if right >= 0 else None,
                }
            )
    return rows


def close(got: float | None, want: float | None) -> bool:
    return got is want if got is None or want is None else math.isclose(got, want, rel_tol=2e-6, abs_tol=2e-6)


def record(case: Case, path: Path) -> pl.DataFrame:
    with Recorder(path, V, k=3, scope=case.scope, probes=case.probes) as rec:
        rec.record(
            case.logits,
            case.labels,
            input_ids=case.input_ids,
            attention_mask=case.attention_mask,
            position_ids=case.position_ids,
            shift=case.shift,
        )
    return open_dump(path).tokens.collect()


def compare(case: Case, table: pl.DataFrame) -> None:
    want = slow_rows(case)
    got = table.to_dicts()
    assert len(got) == len(want)
    same: dict[int, object] = {}
    for mine, theirs in zip(got, want, strict=True):
        assert {name: mine[name] for name in ("gold", "pos", "flags")} == {
            name: theirs[name] for name in ("gold", "pos", "flags")
        }
        assert close(mine["nll"], theirs["nll"])
        assert same.setdefault(mine["sample"], theirs["sample"]) == theirs["sample"]
        for probe in ("nll_unshifted", "nll_next") if case.probes else ():
            assert close(mine[probe], theirs[probe]), probe
    assert len(set(map(repr, same.values()))) == len(same)  # and no two ids for one sample


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_recorded_rows_equal_a_loop_over_tokens(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    compare(case, record(case, tmp_path_factory.mktemp("d") / "dump"))


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_the_path_of_a_device_records_the_same(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Labels on a device: all rows are reduced, and the writer keeps the right ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake_module, "select_rows", lambda plan, now: select_rows(plan, now=not now))
        table = record(case, tmp_path_factory.mktemp("d") / "dump")
    compare(case, table)


def test_columns_of_the_device_path_share_no_memory_with_the_caller() -> None:
    labels, weight = torch.randint(0, V, (2, 4)), torch.rand(2, 4)
    spec = spec_of(V, probes=True)
    batch = make_batch(torch.randn(2, 4, V), labels, spec, shift=False, weight=weight, position_ids=labels)
    _, columns = select_rows(layout(batch, spec), now=False)
    taken = {labels.data_ptr(), weight.data_ptr()}
    assert not taken & {value.data_ptr() for value in columns.values()}


# Probes: what a trainer with a shift bug would have logged, from the same logits.


@pytest.mark.parametrize("scope", ["supervised", "all"])
def test_probes_are_the_losses_of_shifted_labels(
    recorder: Callable[..., Recorder], path: Path, scope: str
) -> None:
    logits = torch.randn(2, 7, V)
    ids = torch.randint(0, V, (2, 7))
    labels = ids.clone()
    labels[0, :3] = IGNORED  # a prompt: row 2 predicts the first supervised token
    labels[1, 4:] = IGNORED
    with recorder(V, probes=True, scope=scope) as rec:
        rec.record(logits, labels, input_ids=ids)
    rows = open_dump(path).tokens.collect()
    flat = logits.double().reshape(-1, V)
    unshifted = torch.nn.functional.cross_entropy(flat, labels.reshape(-1))
    doubly = torch.nn.functional.cross_entropy(
        logits[:, :-2].double().reshape(-1, V), labels[:, 2:].reshape(-1)
    )
    assert math.isclose(rows["nll_unshifted"].drop_nulls().mean(), float(unshifted), rel_tol=1e-6)
    assert (
        rows["nll_unshifted"].drop_nulls().len() == 8
    )  # both rows' every label, the last logit row included
    assert math.isclose(rows["nll_next"].drop_nulls().mean(), float(doubly), rel_tol=1e-6)
    assert rows["nll_next"].drop_nulls().len() == 4 + 2
    edges = rows.filter((pl.col("flags") & int(Flag.EDGE)) != 0)
    last = edges.filter(pl.col("pos") == 7)
    assert last["gold"].to_list() == [-1]
    assert last["nll"].to_list() == [None]
    assert last["n_gt"].to_list() == [None]
    assert math.isclose(
        last["nll_unshifted"][0], nll(as_float64(logits)[0, 6], int(labels[0, 6])), rel_tol=2e-6
    )
    before = edges.filter(pl.col("pos") == 2)  # target ignored, the next one supervised
    assert before["gold"].to_list()[:1] == [int(ids[0, 2])]
    assert math.isclose(before["nll"][0], nll(as_float64(logits)[0, 1], int(ids[0, 2])), rel_tol=2e-6)
    assert math.isclose(before["nll_next"][0], nll(as_float64(logits)[0, 1], int(labels[0, 3])), rel_tol=2e-6)


def test_edges_need_probes(recorder: Callable[..., Recorder], path: Path) -> None:
    labels = torch.tensor([[IGNORED, IGNORED, 3, 4]])
    with recorder(V) as rec:
        rec.record(torch.randn(1, 4, V), labels)
    rows = open_dump(path).tokens.collect()
    assert rows["pos"].to_list() == [2, 3]
    assert "nll_unshifted" not in rows.columns


# Packing, padding, and places.


def test_packed_documents(recorder: Callable[..., Recorder], path: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 5, 6, 8, 9]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    with recorder(V) as rec:
        rec.record(torch.randn(1, 7, V), ids, input_ids=ids, position_ids=positions)
    dump = open_dump(path)
    rows, samples = dump.tokens.collect(), dump.samples.collect()
    assert rows["pos"].to_list() == [1, 2, 0, 1, 2, 3]
    assert ((rows["flags"] & int(Flag.BOUNDARY)) != 0).to_list() == [False, False, True, False, False, False]
    assert samples["input_ids"].to_list() == [[5, 6, 7], [5, 6, 8, 9]]
    tokens = {row["sample"]: row["input_ids"] for row in samples.to_dicts()}
    assert [tokens[s][p] for s, p in rows.select("sample", "pos").iter_rows()] == rows["gold"].to_list()


def test_left_padding_is_left_out_of_places_and_samples(
    recorder: Callable[..., Recorder], path: Path
) -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7], [5, 6, 7, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    with recorder(V, scope="all") as rec:
        rec.record(
            torch.randn(2, 5, V), ids.masked_fill(mask == 0, IGNORED), input_ids=ids, attention_mask=mask
        )
    dump = open_dump(path)
    rows, samples = dump.tokens.collect(), dump.samples.collect()
    supervised = rows.filter((pl.col("flags") & 1) != 0)
    assert supervised["pos"].to_list() == [0, 1, 2, 1, 2]
    assert samples["input_ids"].to_list() == [[5, 6, 7], [5, 6, 7]]
    assert samples["key"][1] == samples["key"][0] + "#2"
    assert ((rows["flags"] & int(Flag.PAD)) != 0).sum() == 1 + 2


def test_a_batch_without_padding_but_with_mask_bits_as_floats(
    recorder: Callable[..., Recorder], path: Path
) -> None:
    ids = torch.randint(0, V, (1, 4))
    with recorder(V) as rec:
        rec.record(torch.randn(1, 4, V), ids, attention_mask=torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    assert open_dump(path).tokens.collect()["flags"].to_list() == [1, 1, 1 | int(Flag.PAD)]


def test_aligned_labels_have_their_own_places(recorder: Callable[..., Recorder], path: Path) -> None:
    labels = torch.tensor([[4, IGNORED, 6]])
    logits = torch.randn(1, 3, V)
    with recorder(V) as rec:
        rec.record(logits, labels, shift=False)
    rows = open_dump(path).tokens.collect()
    assert rows["pos"].to_list() == [0, 2]
    exact = as_float64(logits)[0]
    assert np.allclose(rows["nll"].to_numpy(), [nll(exact[0], 4), nll(exact[2], 6)], atol=2e-6)


def test_weights_types_and_flags_move_with_their_tokens(
    recorder: Callable[..., Recorder], path: Path
) -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    weight = torch.tensor([[0.5, 1.5, 2.5, 3.5]])
    masks = {"b": torch.tensor([[1, 0, 1, 0]]).bool(), "a": torch.tensor([[0, 0, 1, 1]]).bool()}
    with recorder(V, types=["a", "b"]) as rec:
        rec.record(torch.randn(1, 4, V), ids, weight=weight, types=masks, flags={"image": masks["b"]})
        rec.record(
            torch.randn(1, 4, V),
            ids,
            types=torch.tensor([[3, 2, 1, 255]]),
            flags=torch.tensor([[64, 65, 0, 64]]),
        )
    rows = open_dump(path).tokens.collect()
    assert rows["weight"].to_list() == [1.5, 2.5, 3.5, 1.0, 1.0, 1.0]
    assert rows["types"].to_list() == [0, 3, 1, 2, 1, 3]  # bits without a name are not kept
    image = int(Flag.IMAGE)
    assert rows["flags"].to_list() == [1, 1 | image, 1, 1 | image, 1, 1 | image]


@pytest.mark.parametrize("placeholder", [-200, V, 99999])
def test_placeholders_outside_the_vocabulary_have_no_gold(
    recorder: Callable[..., Recorder], path: Path, placeholder: int
) -> None:
    ids = torch.tensor([[3, placeholder, 5, 6]])
    labels = torch.tensor([[IGNORED, IGNORED, 5, 6]])
    with recorder(V, scope="all") as rec:
        rec.record(torch.randn(1, 4, V), labels, input_ids=ids)
    dump = open_dump(path)
    rows = dump.tokens.collect()
    assert rows["gold"].to_list() == [-1, 5, 6]
    assert rows["nll"].is_null().to_list() == [True, False, False]
    assert dump.samples.collect()["input_ids"].to_list() == [[3, placeholder, 5, 6]]


# Arguments that do not fit.

BAD: list[tuple[dict[str, Any], str]] = [
    ({"labels": torch.zeros(2, 4).long()}, "labels [2, 4]"),
    ({"labels": torch.zeros(2, 3)}, "labels are torch.float32"),
    ({"labels": torch.zeros(2, 3).bool()}, "labels are torch.bool"),
    ({"labels": [[1, 2, 3]]}, "labels are a list; give a torch tensor"),
    ({"logits": np.zeros((2, 3, V))}, "logits are a ndarray; give a torch tensor"),
    ({"logits": torch.zeros(2, 3, V).long()}, "logits are torch.int64"),
    ({"logits": torch.zeros(2, 3, V + 1)}, f"logits have {V + 1} columns, the Recorder's vocabulary {V}"),
    ({"logits": torch.zeros(6, V)}, "give logits [B, T, V] with labels [B, T]"),
    ({"labels": torch.full((2, 3), V)}, f"label {V} is outside the vocabulary; allowed are 0 to {V - 1}"),
    ({"labels": torch.full((2, 3), -1)}, "label -1 is outside the vocabulary"),
    ({"input_ids": torch.zeros(2, 4).long()}, "input_ids has shape [2, 4]; it must be [2, 3]"),
    ({"attention_mask": torch.zeros(2, 1, 3, 3)}, "attention_mask has shape [2, 1, 3, 3]"),
    ({"position_ids": [0, 1, 2]}, "position_ids is a list; give a tensor of shape [2, 3]"),
    ({"weight": torch.ones(3)}, "weight has shape [3]"),
    ({"types": {"no": torch.zeros(2, 3)}}, "token type 'no' is not declared; Recorder(types=…) has ['a']"),
    ({"types": {"a": torch.zeros(2, 2)}}, "types['a'] has shape [2, 2]"),
    ({"types": torch.zeros(2, 3).bool()}, "types is a torch.bool tensor; give integer bits"),
    ({"types": "a"}, "types is a str; give a tensor of bits or a dict"),
    ({"flags": {"supervised": torch.zeros(2, 3)}}, "flag 'supervised' cannot be given; allowed are prompt"),
    ({"sample": [1, 2, 3]}, "sample has shape [3]; it must be [2] (one a row) or [2, 3] (one a token)"),
    ({"sample": torch.zeros(2)}, "sample is a torch.float32 tensor; give integer ids or string keys"),
    ({"sample": [None, 1]}, "sample holds None; give integer ids or string keys"),
    ({"sample": ["a", 1]}, "sample holds"),
    ({"sample": [["a"] * 3] * 2}, "give one key a row"),
    ({"loss": torch.zeros(3)}, "loss has 3 values; give the micro-batch's one loss"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_named_and_nothing_is_lost(
    recorder: Callable[..., Recorder], path: Path, wrong: dict[str, Any], message: str
) -> None:
    right = {"logits": torch.randn(2, 3, V), "labels": torch.zeros(2, 3).long()}
    rec = recorder(V, types=["a"])
    rec.record(**right)
    with pytest.raises(InputError) as caught:
        rec.record(**{**right, **wrong})
    assert message in str(caught.value)
    rec.record(**right)
    rec.close()
    dump = open_dump(path)
    assert dump.batches.collect()["micro"].to_list() == [0, 1]  # the refused call used up no number
    assert dump.tokens.collect().height == 8


def test_scope_all_needs_the_tokens(recorder: Callable[..., Recorder]) -> None:
    rec = recorder(V, scope="all")
    with pytest.raises(InputError, match=r"pass input_ids="):
        rec.record(torch.randn(1, 3, V), torch.zeros(1, 3).long())


def test_documents_with_padding_between_them_are_told_apart(
    recorder: Callable[..., Recorder], path: Path
) -> None:
    """Documents padded to a multiple of four each (context parallelism, FP8)."""
    mask = torch.tensor([[1, 1, 1, 0, 1, 1, 1, 0]])
    ids = torch.tensor([[1, 2, 3, 0, 5, 6, 7, 0]])
    with recorder(V) as rec:
        rec.record(
            torch.randn(1, 8, V),
            ids.masked_fill(mask == 0, -100),
            input_ids=ids,
            attention_mask=mask,
            position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]]),
        )
    dump = open_dump(path)
    rows = dump.tokens.collect()
    assert rows["pos"].to_list() == [1, 2, 0, 1, 2]
    assert dump.samples.collect()["input_ids"].to_list() == [[1, 2, 3], [5, 6, 7]]
    assert rows["sample"].n_unique() == 2
    assert ((rows["flags"] & int(Flag.BOUNDARY)) != 0).to_list() == [False, False, True, False, False]


def test_holes_in_the_mask_are_not_counted(recorder: Callable[..., Recorder], path: Path) -> None:
    mask = torch.tensor([[0, 1, 0, 0, 1, 1]])
    ids = torch.tensor([[0, 2, 0, 0, 5, 6]])
    with recorder(V, scope="all") as rec:
        rec.record(torch.randn(1, 6, V), ids.masked_fill(mask == 0, -100), input_ids=ids, attention_mask=mask)
    rows = open_dump(path).tokens.collect()
    real = rows.filter(pl.col("gold") > 0)
    assert dict(real.select("gold", "pos").rows()) == {2: 0, 5: 1, 6: 2}
    assert rows["pos"].n_unique() == rows.height
