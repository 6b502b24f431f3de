"""Recording inside compiled steps, under gradient checkpointing, and while a CUDA graph is captured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from logitbox.dumps.circumstances import refuse_capture
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

V, H = 19, 6
MakeRecorder = Callable[..., Recorder]


class Model(nn.Module):
    """Hidden states, logits and a loss; records where a trainer's hook would."""

    def __init__(self, rec: Recorder, *, by_hidden: bool = False) -> None:
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(V, H), nn.Linear(H, H), nn.Linear(H, V, bias=False)
        self.rec, self.by_hidden = rec, by_hidden

    def forward(self, ids: Tensor, step: int) -> Tensor:
        hidden = torch.tanh(self.inner(self.embed(ids)))
        logits = self.head(hidden)
        if self.by_hidden:
            self.rec.record_hidden(hidden, self.head.weight, ids, step=step)
        else:
            self.rec.record(logits, ids, step=step)
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch hides it, but not from errors
@pytest.mark.parametrize(("backend", "by_hidden"), [("eager", False), ("aot_eager", True)])
def test_a_compiled_step_records_once(
    backend: str, by_hidden: bool, recorder: MakeRecorder, path: Path
) -> None:
    torch._dynamo.reset()
    with recorder(V) as rec:
        model = Model(rec, by_hidden=by_hidden)
        step_of = torch.compile(model, backend=backend)
        wanted: list[float] = []
        for step in range(10):
            loss = step_of(torch.randint(0, V, (2, 5)), step)
            loss.backward()
            wanted.append(loss.item())
    rows = open_dump(path).tokens.collect()
    assert rows.group_by("step").len().sort("step").rows() == [(step, 8) for step in range(10)]
    means = rows.group_by("step").agg(pl.col("nll").mean()).sort("step")["nll"]
    assert means.to_list() == pytest.approx(wanted, rel=1e-5)


def test_the_compiler_is_not_imported_for_those_who_do_not_use_it(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from logitbox.dumps.recorder import Recorder\n"
        "with Recorder(sys.argv[1], 5) as rec: rec.record(torch.zeros(2, 5), torch.tensor([1, 2]))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    folder = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "dump")], cwd=folder, check=False, timeout=60
    )
    assert done.returncode == 0


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_records_once(use_reentrant: bool, recorder: MakeRecorder, path: Path) -> None:
    calls = 0
    with recorder(V) as rec:
        model = Model(rec)

        def forward(ids: Tensor, step: int, start: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return model(ids, step) + 0 * start

        for step in range(3):
            ids, start = torch.randint(0, V, (2, 5)), torch.zeros((), requires_grad=True)
            loss = checkpoint(forward, ids, step, start, use_reentrant=use_reentrant)
            assert isinstance(loss, Tensor)
            loss.backward()
        assert rec.metrics()["n_tokens"] == 3 * 8
    assert calls == 6
    rows = open_dump(path).tokens.collect()
    assert rows.group_by("step", "micro").len().sort("step").rows() == [(step, 0, 8) for step in range(3)]


def test_a_call_that_repeats_nothing_is_told(recorder: MakeRecorder) -> None:
    x = torch.randn(2, V, requires_grad=True)
    with recorder(V) as rec:
        x.register_hook(lambda grad: rec.record(grad, torch.tensor([1, 2])))
        with pytest.raises(InputError, match="in a backward pass and never before in a forward pass"):
            x.sum().backward()


def test_a_captured_graph_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_capture(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    refuse_capture(torch.device("cpu"))
    with pytest.raises(InputError, match="while a CUDA graph is captured; a replay would record nothing"):
        refuse_capture(torch.device("cuda"))


def test_bf16_autocast_records_the_bf16_tensor(recorder: MakeRecorder, path: Path) -> None:
    """Not a float32 copy: neighbouring logits are whole bfloat16 steps apart, and ties are counted."""
    head, x = nn.Linear(H, 2000), torch.randn(40, H)
    with torch.autocast("cpu", torch.bfloat16), recorder(2000) as rec:
        logits = head(x)
        rec.record(logits, torch.arange(40))
    assert logits.dtype == torch.bfloat16
    rows = open_dump(path).tokens.collect()
    ties = (logits == logits.gather(1, torch.arange(40).unsqueeze(1))).sum(1) - 1
    assert rows["n_eq"].to_list() == ties.tolist()
    assert ties.sum() > 40
