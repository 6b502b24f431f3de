"""The fused kernel where there is no GPU: by Triton's interpreter, which must be asked for before Triton is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from triton import language  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

from logitbox.dumps.reduce import GroupIndex, Targets, fused, kernel  # noqa: E402
from logitbox.dumps.spec import RecordSpec  # noqa: E402

INTEGERS = ("n_gt", "n_eq", "n_eq_before", "n_finite", "top_ids")


class _Nothing:
    def restore(self) -> None:
        pass


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """The interpreter puts its own functions in Triton's place at every call of a helper; here once for all."""
    if DEVICE.type == "cuda":
        yield
        return
    assert isinstance(language.sum, interpreter.InterpretedFunction), "Triton was imported before the tests"
    patch = interpreter._patch_lang
    scopes = [patch(kernel.scan_rows.fn), patch(language.sum.fn)]
    interpreter._patch_lang = lambda _: _Nothing()
    try:
        yield
    finally:
        interpreter._patch_lang = patch
        for scope in reversed(scopes):
            scope.restore()


def run(
    logits: torch.Tensor,
    gold: torch.Tensor,
    spec: RecordSpec,
    rows: torch.Tensor | None = None,
    *,
    lse_beta: bool = True,
    block: int = 512,
) -> dict[str, torch.Tensor]:
    got = fused.reduce_logits(
        logits.to(DEVICE),
        None if rows is None else rows.to(DEVICE),
        Targets(gold.to(DEVICE)),
        GroupIndex(spec),
        lse_beta=lse_beta,
        launch=fused.Launch(block=block),
    )
    return {name: value.cpu() for name, value in got.items()}


def agree(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    """With the reference, whatever the values: the same columns, dtypes, NaN and infinities."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        if value.is_floating_point():
            torch.testing.assert_close(
                got[name], value, rtol=4e-6, atol=4e-6, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
            )
        else:
            assert got[name].tolist() == value.tolist(), name
