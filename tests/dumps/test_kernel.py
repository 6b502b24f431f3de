"""The fused kernel's numbers against float64 and against the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from dumps_oracle import as_float64, columns_of, logsumexp, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import DEVICE, INTEGERS, agree, quick_interpreter, run

from logitbox.dumps.reduce import GroupIndex, Targets, fused, reference
from logitbox.dumps.reduce.tiles import group_tables

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of inf − inf in the interpreter

FLOATS = ("nll", "top_nll", "lse", "entropy", "mean_logit")
GPU = 2.0 if DEVICE.type == "cuda" else 1.0
"""The GPU's exponential errs by two units in the last place where NumPy's errs by one."""


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with quick_interpreter():
        yield


def near(got: float, want: float, tolerance: float) -> bool:
    return got == want or abs(got - want) <= GPU * tolerance * max(1.0, abs(want))


def check(got: dict[str, torch.Tensor], logits: torch.Tensor, gold: torch.Tensor, k: int) -> None:
    """Against float64, row by row."""
    for i, row in enumerate(as_float64(logits)):
        want = columns_of(row, int(gold[i]), k)
        for name in INTEGERS:
            assert got[name][i].tolist() == want[name], (i, name)
        for name in FLOATS:
            assert near(float(got[name][i]), want[name], 1e-6), (i, name, float(got[name][i]), want[name])
        assert math.isclose(float(got["tail_mass"][i]), want["tail_mass"], rel_tol=2e-5, abs_tol=1e-37)
        for mine, true in zip(
            got.get("lse_beta", torch.zeros(0))[i : i + 1].flatten().tolist(), want["lse_beta"], strict=False
        ):
            assert near(mine, true, 2e-6)
        gaps = torch.tensor(want["top_gap"], dtype=torch.float32).to(torch.float16)
        assert torch.equal(got["top_gap"][i], gaps)


@pytest.mark.parametrize(
    ("width", "k", "dtype", "block"),
    [
        (1, 1, torch.float32, 256),
        (7, 5, torch.bfloat16, 1024),
        (255, 32, torch.float16, 256),
        (256, 1, torch.bfloat16, 256),
        (257, 5, torch.float32, 256),
        (1000, 32, torch.bfloat16, 512),
        (2500, 5, torch.float16, 1024),
        (2500, 32, torch.float32, 256),
    ],
)
def test_random_logits(width: int, k: int, dtype: torch.dtype, block: int) -> None:
    logits = torch.randn(3, width).mul(4).to(dtype)
    gold = torch.randint(0, width, (3,))
    kept = min(k, width)
    check(run(logits, gold, spec_of(width, kept), block=block), logits, gold, kept)


@settings(deadline=None, max_examples=16)
@given(
    seed=st.integers(0, 2**31),
    width=st.sampled_from([5, 255, 256, 257, 513, 700]),
    grid=st.sampled_from([0.0, 0.5, 4.0]),
    scale=st.sampled_from([0.01, 3.0, 40.0]),
    masked=st.sampled_from([0.0, 0.3, 0.99]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    lse_beta=st.booleans(),
)
def test_property(
    seed: int, width: int, grid: float, scale: float, masked: float, dtype: torch.dtype, lse_beta: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, width, generator=generator) * scale
    logits = (logits / grid).round() * grid if grid else logits
    gold = torch.randint(0, width, (2,), generator=generator)
    mask = torch.rand(2, width, generator=generator) < masked
    mask[torch.arange(2), gold] = False
    logits = logits.masked_fill(mask, -torch.inf).to(dtype)
    check(run(logits, gold, spec_of(width, 3), lse_beta=lse_beta, block=256), logits, gold, 3)


@pytest.mark.parametrize("gold", [0, 255, 256, 511, 512, 599])
def test_gold_at_the_edges_of_tiles_and_blocks(gold: int) -> None:
    logits = torch.randn(1, 600).mul(2).round()
    check(run(logits, torch.tensor([gold]), spec_of(600, 4)), logits, torch.tensor([gold]), 4)


@pytest.mark.parametrize("offset", [1.0e4, -1.0e4])
def test_a_common_offset_costs_nothing_but_the_digits_of_lse(offset: float) -> None:
    logits = torch.randn(3, 1000).mul(4) + offset
    gold = torch.tensor([3, 500, 999])
    check(run(logits, gold, spec_of(1000, 8)), logits, gold, 8)


def test_the_tail_of_a_sure_token_keeps_its_digits() -> None:
    logits = torch.full((2, 700), -30.0)
    logits[0, 300], logits[1, [4, 650]] = 0.0, 0.0
    got = run(logits, torch.tensor([300, 4]), spec_of(700, 2))
    assert math.isclose(float(got["top_nll"][0]), 699 * math.exp(-30), rel_tol=1e-5)
    assert math.isclose(float(got["tail_mass"][0]), 698 * math.exp(-30), rel_tol=1e-5)
    assert math.isclose(float(got["tail_mass"][1]), 698 * math.exp(-30) / 2, rel_tol=1e-5)


def strange_rows(width: int = 600) -> torch.Tensor:
    """NaN, infinities, masks and extremes, one kind a row."""
    rows = torch.randn(13, width)
    rows[0, 300] = torch.nan
    rows[1] = torch.nan
    rows[2, [5, 400]] = torch.inf
    rows[3, 100:110] = torch.inf
    rows[4] = -torch.inf
    rows[5] = -torch.inf
    rows[5, 555] = 2.0
    rows[6, :512] = -torch.inf  # whole blocks before the first finite logit
    rows[7, 512:] = -torch.inf
    rows[8] = torch.finfo(torch.float32).min  # masks of another school
    rows[8, 7] = 1.0
    rows[9] = torch.finfo(torch.float32).min
    rows[10, 0], rows[10, 1] = torch.nan, torch.inf
    rows[11] = rows[11].round() * 0.0  # zeros of both signs
    rows[12, 599] = -torch.nan
    return rows


@pytest.mark.parametrize(("width", "k"), [(600, 4), (3, 3), (1, 1)])
def test_strange_rows_are_those_of_the_reference(width: int, k: int) -> None:
    logits = strange_rows()[:, -width:] if width > 3 else strange_rows()[:, 299 : 299 + width]
    groups = {"low": range(width // 2 + 1), "some": sorted({0, width // 2, width - 1}), "last": [width - 1]}
    spec = spec_of(
        width, k, groups=groups, ordered={"low": {}, "some": {"gate_temperature": 2.0}}, detailed=True
    )
    gold = torch.arange(len(logits)) * 37 % width
    want = reference.reduce_logits(logits, None, Targets(gold), GroupIndex(spec), lse_beta=True)
    agree(run(logits, gold, spec, block=256), want)


def test_masked_gold() -> None:
    logits = torch.randn(2, 300)
    logits[:, 40:60] = -torch.inf
    gold = torch.tensor([50, 59])
    got = run(logits, gold, spec_of(300, 4), block=256)  # the last block ends beyond the vocabulary
    assert got["nll"].tolist() == [math.inf, math.inf]
    assert got["n_gt"].tolist() == [280, 280]
    assert got["n_eq"].tolist() == [19, 19]
    assert got["n_eq_before"].tolist() == [10, 19]


GROUPS = {
    "range": range(250, 530),
    "scattered": [599, 2, 300, 17],
    "large": list(range(0, 1100, 3)),
    "one": [513],
    "two": [3, 1000],
    "everything": range(1100),
    "edge": range(256, 512),
    "last": range(1099, 1100),
    "ninth": list(range(1, 1100, 2)),
}


@pytest.mark.parametrize("block", [256, 512])
def test_groups(block: int) -> None:
    logits = torch.randn(3, 1100).mul(5)
    logits[0, 250:530] -= 300.0  # a shared maximum would underflow here
    logits[1, 256:512] = -torch.inf
    spec = spec_of(1100, 4, groups=GROUPS)
    got = run(logits, torch.tensor([0, 4, 1000]), spec, block=block)
    for i, row in enumerate(as_float64(logits)):
        for name, ids in GROUPS.items():
            want = logsumexp(row[list(ids)]) - logsumexp(row)
            assert near(float(got[f"logmass_{name}"][i]), want, 1e-6), name
    tables = group_tables(spec, block)
    assert tables.gathered == (1, 3, 4)
    assert tables.listed == (1 << 2) | (1 << 8)


def test_ordered_groups_probes_and_detailed_columns() -> None:
    logits = torch.randn(2, 5, 900).mul(3).bfloat16()[:, :-1]  # a view: [2, 4, 900], not [8, 900]
    spec = spec_of(
        900,
        32,
        groups={"bins": range(100, 160), "listed": [7, 300, 5, 899]},
        ordered={"bins": {"temperature": 1.5}, "listed": {}},
        probes=True,
        detailed=True,
        min_prob=1e-4,
    )
    rows = torch.tensor([7, 0, 3, 4])
    gold = torch.tensor([120, 300, 7, 159])
    targets = [t.to(DEVICE) for t in (gold, gold - 1, gold + 1)]
    got = fused.reduce_logits(
        logits.to(DEVICE), rows.to(DEVICE), Targets(*targets), GroupIndex(spec), lse_beta=False
    )
    want = reference.reduce_logits(
        logits, rows, Targets(gold, gold - 1, gold + 1), GroupIndex(spec), lse_beta=False
    )
    agree({name: value.cpu() for name, value in got.items()}, want)


def test_the_size_of_blocks_makes_no_difference() -> None:
    logits = torch.randn(2, 1300).bfloat16()
    gold = torch.tensor([1024, 77])
    spec = spec_of(1300, 3, groups={"g": range(500, 1290)})
    first, *others = (run(logits, gold, spec, block=block) for block in (256, 1024, 2048))
    for other in others:
        agree(other, first)
        for name in (*INTEGERS, "top_gap"):
            assert torch.equal(other[name], first[name])


def test_labels_outside_the_vocabulary() -> None:
    logits, gold = torch.randn(3, 300).round(), torch.tensor([-1, 300, 2**40])
    spec = spec_of(300, 2)
    want = reference.reduce_logits(logits, None, Targets(gold), GroupIndex(spec), lse_beta=False)
    agree(run(logits, gold, spec, lse_beta=False), want)
