from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from dumps_oracle import as_float64, columns_of, logsumexp, nll, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.dumps.reduce import GroupIndex, Targets, reduce_logits
from logitbox.dumps.reduce import reference as reduce_module
from logitbox.dumps.spec import RecordSpec

EXACT = ("n_finite", "n_gt", "n_eq", "n_eq_before", "top_ids")
CLOSE = ("nll", "top_nll", "lse", "entropy")


def run(
    logits: torch.Tensor, gold: torch.Tensor, spec: RecordSpec, rows: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    return reduce_logits(logits, rows, Targets(gold), GroupIndex(spec), lse_beta=True)


def near(got: float, want: float, tolerance: float) -> bool:
    """Relative or absolute, as float32 columns need; infinities must be the same ones."""
    return got == want or abs(got - want) <= tolerance * max(1.0, abs(want))


def check(logits: torch.Tensor, gold: torch.Tensor, k: int, tolerance: float = 2e-6) -> None:
    got = run(logits, gold, spec_of(logits.shape[-1], k))
    for i, row in enumerate(as_float64(logits)):
        want = columns_of(row, int(gold[i]), k)
        for name in EXACT:
            assert got[name][i].tolist() == want[name], (i, name)
        for name in CLOSE:
            assert near(float(got[name][i]), want[name], tolerance), (
                i,
                name,
                float(got[name][i]),
                want[name],
            )
        assert abs(float(got["tail_mass"][i]) - want["tail_mass"]) <= 1e-6
        assert near(float(got["mean_logit"][i]), want["mean_logit"], 1e-5)
        for beta_got, beta_want in zip(got["lse_beta"][i].tolist(), want["lse_beta"], strict=True):
            assert near(beta_got, beta_want, 1e-5)
        for gap_got, gap_want in zip(got["top_gap"][i].tolist(), want["top_gap"], strict=True):
            assert gap_got == gap_want or abs(gap_got - gap_want) <= gap_want * 2**-10 + 2**-24


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "width", "k"), [(6, 1, 1), (6, 7, 7), (6, 300, 32), (5, 5000, 5), (3, 50_257, 32)]
)
def test_random_logits(rows: int, width: int, k: int, dtype: torch.dtype) -> None:
    check(torch.randn(rows, width).mul(4).to(dtype), torch.randint(0, width, (rows,)), k)


@pytest.mark.parametrize("offset", [120.0, -120.0])
def test_a_common_offset_costs_little_precision(offset: float) -> None:
    logits = torch.randn(8, 3000).mul(4) + offset
    check(logits, torch.randint(0, 3000, (8,)), 16, tolerance=4e-6)


@pytest.mark.parametrize("offset", [0.0, 120.0])
def test_confidence_stays_exact_near_one(offset: float) -> None:
    """1 − p(top) of 1e-9 would vanish in lse − m; ln s keeps its leading digits."""
    logits = torch.full((1, 4), offset)
    logits[0, 2] += 20.0
    got = run(logits, torch.tensor([2]), spec_of(4, 2))
    assert math.isclose(float(got["top_nll"]), math.log1p(3 * math.exp(-20)), rel_tol=1e-6)
    assert math.isclose(float(got["nll"]), math.log1p(3 * math.exp(-20)), rel_tol=1e-6)


def test_all_equal_rows() -> None:
    width = 1000
    got = run(torch.full((1, width), 3.0), torch.tensor([7]), spec_of(width, 4))
    assert (got["n_gt"], got["n_eq"], got["n_eq_before"]) == (0, width - 1, 7)
    assert got["top_ids"].tolist() == [[0, 1, 2, 3]]
    assert math.isclose(float(got["entropy"]), math.log(width), rel_tol=1e-6)
    assert math.isclose(float(got["tail_mass"]), 1 - 4 / width, rel_tol=1e-6)


def test_masked_vocabulary_is_legal() -> None:
    logits = torch.randn(4, 600)
    logits[:, 100:500] = -torch.inf
    gold = torch.tensor([3, 99, 550, 0])
    check(logits, gold, 8)
    assert run(logits, gold, spec_of(600, 8))["n_finite"].tolist() == [200] * 4


def test_masked_gold_has_infinite_nll_and_nothing_else() -> None:
    logits = torch.randn(1, 50)
    logits[0, 9] = -torch.inf
    got = run(logits, torch.tensor([9]), spec_of(50, 4))
    assert float(got["nll"]) == math.inf
    assert math.isfinite(float(got["lse"]))
    assert math.isfinite(float(got["entropy"]))
    assert int(got["n_gt"]) == 49


def test_more_masked_than_k() -> None:
    logits = torch.full((1, 40), -torch.inf)
    logits[0, 11] = 0.5
    got = run(logits, torch.tensor([11]), spec_of(40, 3))
    assert got["top_ids"].tolist() == [[11, 0, 1]]
    assert got["top_gap"].tolist() == [[0.0, math.inf, math.inf]]
    assert float(got["nll"]) == float(got["entropy"]) == float(got["tail_mass"]) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits_never_look_like_numbers(bad: float) -> None:
    logits = torch.randn(2, 30)
    logits[0, 4] = bad
    got = run(logits, torch.tensor([1, 1]), spec_of(30, 3))
    assert not math.isfinite(float(got["nll"][0]))
    assert not math.isfinite(float(got["lse"][0]))
    assert math.isnan(float(got["entropy"][0]))
    assert int(got["n_finite"][0]) == 29
    assert near(float(got["nll"][1]), nll(as_float64(logits)[1], 1), 2e-6)


def test_row_of_nothing_but_masks_is_nan() -> None:
    got = run(torch.full((1, 6), -torch.inf), torch.tensor([2]), spec_of(6, 2))
    assert math.isnan(float(got["nll"]))
    assert math.isnan(float(got["mean_logit"]))
    assert int(got["n_finite"]) == 0


def test_float32_keeps_an_nll_that_float16_could_not() -> None:
    """fp16 and bf16 logits are widened before anything is subtracted."""
    logits = torch.tensor([[60000.0, -60000.0, 0.0]], dtype=torch.float16)
    assert float(run(logits, torch.tensor([1]), spec_of(3, 1))["nll"]) == 120000.0


def test_rows_are_picked_and_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, gold = torch.randn(37, 90), torch.randint(0, 90, (37,))
    rows = torch.tensor([36, 0, 5, 5, 20])
    spec = spec_of(90, 6)
    monkeypatch.setattr(reduce_module, "CHUNK_BYTES_CPU", 4 * 90 * 2)
    chunked = run(logits, gold[rows], spec, rows)
    for i, row in enumerate(rows.tolist()):
        want = columns_of(as_float64(logits)[row], int(gold[row]), 6)
        assert near(float(chunked["nll"][i]), want["nll"], 2e-6)
        assert chunked["top_ids"][i].tolist() == want["top_ids"]


@pytest.mark.parametrize("with_rows", [True, False])
def test_sliced_logits_are_neither_copied_nor_changed(
    with_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.randn(3, 6, 41)
    before = whole.clone()
    logits = whole[:, :-1]  # what `logits[..., :-1, :]` hands over: cannot be viewed as [N, V]
    gold = torch.randint(0, 41, (15,))
    rows = torch.arange(15).flip(0) if with_rows else None
    monkeypatch.setattr(torch.Tensor, "reshape", lambda *_: pytest.fail("a reshape would copy all logits"))
    got = run(logits, gold if rows is None else gold[rows], spec_of(41, 3), rows)
    monkeypatch.undo()
    flat = as_float64(before[:, :-1].reshape(15, 41))
    order = range(15) if rows is None else rows.tolist()
    for i, row in enumerate(order):
        assert near(float(got["nll"][i]), nll(flat[row], int(gold[row])), 2e-6)
    assert torch.equal(whole, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_left_as_they_are(dtype: torch.dtype) -> None:
    logits = torch.randn(5, 33, dtype=dtype)
    before = logits.clone()
    run(logits, torch.zeros(5, dtype=torch.long), spec_of(33, 4))
    run(logits, torch.zeros(2, dtype=torch.long), spec_of(33, 4), torch.tensor([1, 2]))
    assert torch.equal(logits, before)


def test_no_graph_is_built() -> None:
    logits = torch.randn(4, 20, requires_grad=True)
    got = run(logits * 2, torch.zeros(4, dtype=torch.long), spec_of(20, 2))
    assert not any(value.requires_grad for value in got.values())


def test_inference_mode() -> None:
    with torch.inference_mode():
        logits = torch.randn(4, 20)
    check(logits, torch.tensor([0, 1, 2, 3]), 2)


def test_labels_beyond_the_vocabulary_do_not_index_out_of_bounds() -> None:
    """On a GPU that would end the process; the writer reports such labels instead."""
    got = run(torch.randn(3, 10), torch.tensor([10, 99999, -7]), spec_of(10, 2))
    assert got["nll"].shape == (3,)


def test_no_rows_give_empty_columns() -> None:
    got = run(torch.randn(3, 3000), torch.zeros(0, dtype=torch.long), spec_of(3000, 2), torch.zeros(0).long())
    assert got["top_ids"].shape == (0, 2)
    assert got["nll"].shape == (0,)


GROUPS = {
    "plain": range(3, 9),
    "stepped": range(0, 20, 4),
    "scattered": [17, 2, 30, 11],
    "one": [5],
    "everything": range(40),
}


def test_group_mass() -> None:
    logits = torch.randn(6, 40).mul(5)
    logits[0, 3:9] -= 300.0  # a shared maximum would underflow here
    got = run(logits, torch.zeros(6, dtype=torch.long), spec_of(40, 4, groups=GROUPS))
    for i, row in enumerate(as_float64(logits)):
        for name, ids in GROUPS.items():
            want = logsumexp(row[list(ids)]) - logsumexp(row)
            assert near(float(got[f"logmass_{name}"][i]), want, 2e-6), name
    assert (got["logmass_everything"] <= 0).all()


def test_fully_masked_group_has_no_mass() -> None:
    logits = torch.randn(1, 40)
    logits[0, 3:9] = -torch.inf
    spec = spec_of(40, 4, groups={"plain": range(3, 9)}, ordered={"plain": {}})
    got = run(logits, torch.tensor([4]), spec)
    assert float(got["logmass_plain"]) == -math.inf
    assert float(got["plain_gate"]) == math.inf
    assert float(got["nll"]) == math.inf


@pytest.mark.parametrize("gate_temperature", [None, 1.0, 0.7, 2.5])
@pytest.mark.parametrize("ids", [range(5, 25), [30, 4, 22, 17, 9, 12]])
def test_gate(ids: range | list[int], gate_temperature: float | None) -> None:
    logits = torch.randn(5, 40).mul(3)
    spec = spec_of(
        40, 4, groups={"g": ids}, ordered={"g": {"temperature": 1.6, "gate_temperature": gate_temperature}}
    )
    got = run(logits, torch.full((5,), ids[2]), spec)
    temperature = 1.6 if gate_temperature is None else gate_temperature
    for i, row in enumerate(as_float64(logits) / temperature):
        assert near(float(got["g_gate"][i]), logsumexp(row) - logsumexp(row[list(ids)]), 2e-6)


def test_bins_follow_the_order_of_the_ids() -> None:
    ids = [30, 4, 22, 17]
    logits = torch.full((4, 40), -9.0)
    logits[torch.arange(4), torch.tensor(ids)] = 5.0
    spec = spec_of(40, 4, groups={"g": ids}, ordered={"g": {"sigma": 0.1}})
    got = run(logits, torch.tensor(ids), spec)
    assert got["g_bin"].tolist() == [0, 1, 2, 3]
    assert np.allclose(got["g_w1"].numpy(), 0.0, atol=1e-4)  # each gold at its own bin


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    width=st.integers(1, 700),
    scale=st.sampled_from([0.01, 1.0, 8.0, 40.0]),
    offset=st.sampled_from([0.0, 0.0, 120.0, -120.0]),
    masked=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_property(
    seed: int, width: int, scale: float, offset: float, masked: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, width, generator=generator) * scale + offset).to(dtype)
    gold = torch.randint(0, width, (3,), generator=generator)
    mask = torch.rand(3, width, generator=generator) < masked
    mask[torch.arange(3), gold] = False
    check(logits.masked_fill(mask, -torch.inf), gold, min(9, width), tolerance=4e-6 if offset else 2e-6)


@pytest.mark.parametrize("vocab", [1000, 40_000])
def test_chunks_are_sized_by_their_peak(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 36 bytes a logit where the top k sorts the whole row, 16 otherwise."""
    seen: list[int] = []
    reduce_chunk = reduce_module._reduce_chunk

    def counted(x: torch.Tensor, *args: Any, **options: Any) -> Any:
        seen.append(len(x))
        return reduce_chunk(x, *args, **options)

    monkeypatch.setattr(reduce_module, "_reduce_chunk", counted)
    monkeypatch.setattr(reduce_module, "CHUNK_BYTES_CPU", 36 * vocab * 4)
    gold = torch.zeros(20, dtype=torch.long)
    spec = spec_of(vocab)
    reduce_module.reduce_logits(
        torch.randn(20, vocab),
        None,
        reduce_module.Targets(gold),
        reduce_module.GroupIndex(spec),
        lse_beta=False,
    )
    assert max(seen) == (4 if vocab == 1000 else 9)


def test_bins_of_a_listed_group_need_no_matrix() -> None:
    spec = spec_of(30, groups={"g": [7, 3, 29]}, ordered={"g": {}})
    index = reduce_module.GroupIndex(spec)
    bins, inside = index.bins(torch.tensor([3, 29, 7, 0, -1, 30]), spec.group("g"))
    assert bins.tolist() == [1, 2, 0, 0, 0, 0]
    assert inside.tolist() == [True, True, True, False, False, False]
