"""`record` never waits for the device: nothing of a tensor's values is looked at before the metrics are read.

Tensors on the meta device have no values, so whatever looks at one (item, tolist, bool, a copy to the host, a shape that
depends on values) is an error there. The one thing put aside is the copy to the host, which is made on a side stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from scenario import Words
from torch import Tensor

from logitbox.dumps.definitions.entries import Quantity
from logitbox.dumps.definitions.values import Sheet
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.transfer import Pending

V, SHAPE = len(Words()), (3, 9)
OPTIONS = {
    "groups": {"coord": range(10, 20), "odd": [1, 33, 7], "accept": [30, 31], "reject": [32]},
    "ordered": {"coord": {"gate_temperature": 2.0}, "odd": {"gate_weight": -1.0}},
    "types": ["coord", "desc", "reasoning", "tool_call"],
    "probes": True,
    "lse_beta": True,
    "k": 12,
}
CASES: list[dict[str, Any]] = [OPTIONS, OPTIONS | {"detailed": True}, OPTIONS | {"k": 3, "detailed": False}]


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none on the meta device."""
    for room in ("reduce.reference", "reduce.hidden", "intake"):
        monkeypatch.setattr(f"logitbox.dumps.{room}.plain_arithmetic", lambda _: nullcontext())


class Nowhere:
    """Copies to the host, of tensors without values: nothing is to be kept of them."""

    def start(self, tensors: Mapping[str, Tensor]) -> Pending:
        return Pending({name: torch.zeros(x.shape, dtype=x.dtype) for name, x in tensors.items()})


@contextmanager
def recorder(path: Path, device: str, options: Mapping[str, Any] = OPTIONS) -> Iterator[Recorder]:
    with Recorder(path / f"{device}{len(list(path.iterdir()))}", Words(), **options) as rec:
        if device == "meta":
            rec._intake._copier = Nowhere()  # type: ignore[assignment]
        yield rec


def record(rec: Recorder, device: str) -> None:
    """Several micro-batches and steps, with everything that `record` takes; 75 tokens."""

    def make(fill: float, *shape: int, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.full(shape, fill, dtype=dtype, device=device)

    for step in (1, 1, 2):
        ids, mask = make(0, *SHAPE), make(1, *SHAPE, dtype=torch.bool)
        rec.record(
            make(0.5, *SHAPE, V, dtype=torch.float32),
            ids,
            step,
            sample=[make(3, *SHAPE), make(3, SHAPE[0]), None][step % 3],
            input_ids=ids,
            attention_mask=mask,
            position_ids=ids,
            types={"desc": mask},
            flags={"image": mask},
            weight=make(1, *SHAPE, dtype=torch.float32),
            loss=make(1, dtype=torch.float32),
        )
    rec.record(make(0, 3, V, dtype=torch.bfloat16), make(0, 3), 3, sample=make(2, 3), flags=make(0, 3))
    half = torch.float16
    rec.record_hidden(make(1, 3, 4, dtype=half), make(1, V, 4, dtype=half), make(0, 3), step=3, softcap=9.0)


@pytest.mark.parametrize("options", CASES)
def test_recording_looks_at_no_value(options: dict[str, Any], tmp_path: Path) -> None:
    with recorder(tmp_path, "meta", options) as rec:
        record(rec, "meta")
        sums = list(rec._live._sums["train"].values())
        assert [(one.device.type, one.shape) for one in sums] == [("meta", Sheet(rec.spec).shape)] * 3
    with recorder(tmp_path, "cpu", options) as rec:  # and on a device with values, there are some
        record(rec, "cpu")
        assert rec.metrics()["n_tokens"] == 3 * 3 * 8 + 3 + 3


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
def test_the_guard_sees_what_definitions_do(
    peek: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def value(rows: Any) -> Tensor:
        peek(rows["nll"][:1])
        return rows["nll"]

    peeking = Quantity("peeking", "x", ("nll",), value)
    monkeypatch.setattr("logitbox.dumps.definitions.values.quantities_of", lambda _: (peeking,))
    check_caught(tmp_path)


@pytest.mark.parametrize(
    "place", ["intake.select_rows", "intake.most_rows", "intake.whole_batch", "intake.layout"]
)
def test_the_guard_sees_what_the_recorder_does(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, name = place.split(".")
    room = __import__(f"logitbox.dumps.{module}", fromlist=[name])
    real = getattr(room, name)

    def peeking(first: Any, *given: Any, **named: Any) -> Any:
        (first.gold if hasattr(first, "gold") else first.labels).flatten()[0].item()
        return real(first, *given, **named)

    monkeypatch.setattr(room, name, peeking)
    check_caught(tmp_path)


def check_caught(path: Path) -> None:
    """It is seen on the meta device, and works elsewhere."""
    with recorder(path, "cpu") as rec:
        record(rec, "cpu")
    with (
        recorder(path, "meta") as rec,
        pytest.raises((NotImplementedError, RuntimeError, TypeError), match=r"(?i)meta"),
    ):
        record(rec, "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", CASES)
def test_recording_does_not_wait_for_cuda(options: dict[str, Any], tmp_path: Path) -> None:
    with recorder(tmp_path, "cuda", options) as rec:
        record(rec, "cuda")  # what is made once per device may wait
        rec.metrics()
        torch.cuda.set_sync_debug_mode("error")
        try:
            record(rec, "cuda")
            with pytest.raises(RuntimeError, match="synchroniz"):
                torch.ones(1, device="cuda").item()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert rec.metrics()["n_tokens"] == 3 * 3 * 8 + 3 + 3
