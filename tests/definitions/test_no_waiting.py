"""`record` never waits for the device: nothing of a tensor's values is looked at before the metrics are read.

Tensors on the meta device have no values, so whatever looks at one (item, tolist, bool, a copy to the host, a shape that
depends on values) is an error there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from logitbox.dumps.definitions.entries import Quantity
from logitbox.dumps.definitions.values import Sheet
from logitbox.dumps.hostbatch import select_rows
from logitbox.dumps.live import LiveMetrics
from logitbox.dumps.marks import Marks
from logitbox.dumps.passes import Where
from logitbox.dumps.positions import layout, make_batch
from logitbox.dumps.reduce import GroupIndex, Targets, reduce_logits
from logitbox.dumps.spec import RecordSpec, build_spec
from logitbox.dumps.vocabulary import Vocabulary

V, SHAPE = 40, (3, 9)


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none on the meta device."""
    monkeypatch.setattr("logitbox.dumps.reduce.plain_arithmetic", lambda _: nullcontext())


def spec_of(k: int = 12, **options: object) -> RecordSpec:
    groups = {"coord": range(10, 20), "odd": [1, 33, 7], "accept": [30, 31], "reject": [32]}
    ordered = {"coord": {"gate_temperature": 2.0}, "odd": {"gate_weight": -1.0}}
    types = ["coord", "desc", "reasoning", "tool_call"]
    return build_spec(V, k, groups, ordered, types, probes=True, lse_beta=True, scope="supervised", **options)


def added(spec: RecordSpec, device: str) -> LiveMetrics:
    """What happens on the device in `Recorder.record`, several micro-batches and steps of it."""
    live = LiveMetrics(GroupIndex(spec))
    marks = Marks(Vocabulary(size=V, tokens=(), special=frozenset({2, 3}), bos=2, eos=3), live.groups)
    for step in (1, 1, 2):
        logits, ids = (
            torch.randn(*SHAPE, V, device=device),
            torch.zeros(SHAPE, dtype=torch.long, device=device),
        )
        types = {"desc": torch.ones(SHAPE, dtype=torch.bool, device=device)}
        batch = make_batch(logits, ids, spec, shift=True, input_ids=ids, position_ids=ids, types=types)
        plan = layout(batch, spec)
        plan.columns["types"] |= marks.decision(plan, batch.labels.shape)
        rows, columns = select_rows(plan, now=False)
        targets = Targets(columns["gold"], columns["left"], columns["right"])
        columns |= reduce_logits(logits, rows, targets, live.groups, lse_beta=True)
        columns["flags"] = marks.flags(columns)
        live.add(Where("train", "", 0, step, None, 0, 0), columns)
    return live


@pytest.mark.parametrize("spec", [spec_of(), spec_of(detailed=True), spec_of(3, detailed=False)])
def test_recording_looks_at_no_value(spec: RecordSpec) -> None:
    for sums in added(spec, "meta")._sums["train"].values():
        assert (sums.device.type, sums.shape) == ("meta", Sheet(spec).shape)
    values = added(spec, "cpu").read()  # and on a device with values, there are some
    assert values["n_tokens"] == 3 * 3 * 8


PEEKS: list[Callable[[Tensor], object]] = [
    Tensor.item,
    Tensor.tolist,
    Tensor.cpu,
    Tensor.numpy,
    bool,
    lambda x: x.nonzero(),
    lambda x: x[x > 0],
    lambda x: float(x.sum()),
    lambda x: 1 if x.sum() > 0 else 0,
]


@pytest.mark.parametrize("peek", PEEKS)
def test_the_guard_can_fail(peek: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A definition that looks at values is caught."""

    def value(rows: object) -> Tensor:
        peek(rows["nll"][:1])  # type: ignore[index]
        return rows["nll"]  # type: ignore[index]

    added(spec_of(), "meta")
    peeking = Quantity("peeking", "x", ("nll",), value)
    monkeypatch.setattr("logitbox.dumps.definitions.values.quantities_of", lambda _: (peeking,))
    added(spec_of(), "cpu")
    with pytest.raises((NotImplementedError, RuntimeError, TypeError)):
        added(spec_of(), "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("spec", [spec_of(), spec_of(detailed=True)])
def test_recording_does_not_wait_for_cuda(spec: RecordSpec) -> None:
    added(spec, "cuda")  # what is made once per device may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        live = added(spec, "cuda")
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert live.read()["n_tokens"] == 3 * 3 * 8
