from __future__ import annotations

import numpy as np
import pytest
import torch
from dumps_oracle import as_float64, best_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.dumps.topk import TILE, topk_lowest_id


def check(logits: torch.Tensor, k: int) -> None:
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    values, ids = topk_lowest_id(wide, k)
    exact = as_float64(logits)
    expected = np.stack([best_ids(row, k) for row in exact])
    assert ids.tolist() == expected.tolist()
    assert (values.double().numpy() == np.take_along_axis(exact, expected, axis=1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("width", "k"),
    [
        (1, 1),
        (5, 5),
        (256, 3),
        (257, 257),
        (1000, 1),
        (5000, 3),
        (5119, 9),
        (5120, 9),
        (5121, 9),
        (50_257, 32),
    ],
)
def test_random_rows(width: int, k: int, dtype: torch.dtype) -> None:
    check(torch.randn(4, width).mul(3).to(dtype), k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [7, 5000])
def test_all_equal_rows_give_the_lowest_ids(width: int, dtype: torch.dtype) -> None:
    _, ids = topk_lowest_id(torch.full((3, width), -2.5, dtype=dtype), 5)
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [6, 5000])
def test_minus_zero_equals_zero(width: int, dtype: torch.dtype) -> None:
    row = torch.full((1, width), -1.0, dtype=dtype)
    row[0, -6:] = torch.tensor([-0.0, 0.0, -0.0, -0.0, 0.0, -0.0])
    _, ids = topk_lowest_id(row, 6)
    assert ids.tolist() == [list(range(width - 6, width))]


@pytest.mark.parametrize("width", [9, 3 * TILE + 5, 5001])
def test_masked_vocabulary_is_filled_up_with_the_lowest_masked_ids(width: int) -> None:
    row = torch.full((2, width), -torch.inf)
    row[0, [width - 1, 4]] = torch.tensor([1.0, 0.5])
    _, ids = topk_lowest_id(row, 4)
    assert ids.tolist() == [[width - 1, 4, 0, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [8, 5001])
def test_nan_of_either_sign_comes_first(width: int, dtype: torch.dtype) -> None:
    row = torch.randn(1, width, dtype=dtype)
    negative_nan = torch.full((1,), -0.0, dtype=dtype).log().sub(torch.tensor(-torch.inf, dtype=dtype))
    row[0, 3], row[0, width - 2] = torch.nan, -negative_nan.abs()[0]
    row[0, 5] = torch.inf
    _, ids = topk_lowest_id(row, 3)
    assert ids[0].tolist() == [3, width - 2, 5]


def test_no_rows() -> None:
    values, ids = topk_lowest_id(torch.zeros(0, 5000), 3)
    assert values.shape == ids.shape == (0, 3)


def test_strided_rows() -> None:
    logits = torch.randn(5000, 6).round(decimals=1).T
    assert not logits.is_contiguous()
    check(logits, 4)


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 700),
    st.integers(1, 12),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_heavy_ties(width: int, k: int, seed: int, dtype: torch.dtype) -> None:
    """Few distinct values, so that the order is decided by ids nearly everywhere."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 0.5])
    pick = torch.randint(0, 5, (3, width), generator=generator)
    check(levels[pick].to(dtype), min(k, width))


@settings(deadline=None, max_examples=25)
@given(st.integers(2500, 6000), st.integers(1, 4), st.integers(0, 2**31))
def test_heavy_ties_across_tiles(width: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rare = torch.rand(2, width, generator=generator)
    check((rare > 0.999).float() + (rare > 0.9995).float(), k)
