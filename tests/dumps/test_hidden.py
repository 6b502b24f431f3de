"""Hidden states recorded as the logits that `lm_head` would have made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import Tensor
from torch.nn.functional import linear

from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.reduce import hidden as module
from logitbox.dumps.reduce.hidden import HiddenRows
from logitbox.errors import InputError

V, H, B, T = 83, 8, 3, 11
OPTIONS: dict[str, Any] = {
    "groups": {"coord": range(20, 60), "some": (3, 70)},
    "ordered": {"coord": {"sigma": 1.5}},
    "k": 9,
    "lse_beta": "always",
}
MakeRecorder = Callable[..., Recorder]


def whole_numbers(*shape: int) -> Tensor:
    """Small integers: sums of their products are exact in any order, and many are equal."""
    return torch.randint(-3, 4, shape).float()


def batch() -> dict[str, Tensor]:
    ids = torch.randint(0, V, (B, T))
    labels = ids.clone()
    labels[:, :3] = -100
    labels[1] = -100
    mask = torch.ones(B, T, dtype=torch.long)
    mask[2, 9:] = 0
    return {"labels": labels.masked_fill(mask == 0, -100), "input_ids": ids, "attention_mask": mask}


def rows(path: Path) -> pl.DataFrame:
    return open_dump(path).tokens.collect()


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, of four rows in float32."""
    monkeypatch.setattr(module, "BUFFER_BYTES_CPU", 4 * V * 4 + 3)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "probes": {"options": {"probes": True}},
    "everything": {"options": {"scope": "all", "probes": True, "detailed": True}},
    "bias": {"bias": whole_numbers(V)},
    "scale": {"logit_scale": 0.0625},
    "scale tensor": {"logit_scale": torch.tensor(0.5)},
    "softcap": {"softcap": 30.0},
    "all three": {"bias": whole_numbers(V), "logit_scale": 0.5, "softcap": 7},
    "flat": {"flat": True},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_record_of_the_logits(
    name: str, dtype: torch.dtype, recorder: MakeRecorder, tmp_path: Path
) -> None:
    case = dict(CASES[name])
    options, is_flat = OPTIONS | case.pop("options", {}), case.pop("flat", False)
    hidden, weight = whole_numbers(B, T, H).to(dtype), whole_numbers(V, H).to(dtype).requires_grad_()
    given = batch()
    if is_flat:
        hidden, given = hidden.flatten(0, 1), {"labels": given["labels"].flatten()}
    bias = None if "bias" not in case else case["bias"].to(dtype)
    logits = linear(hidden, weight, bias).detach()
    if "logit_scale" in case:
        logits = logits * case["logit_scale"]
    if "softcap" in case:
        logits = torch.tanh(logits / case["softcap"]) * case["softcap"]
    assert logits.dtype == dtype
    with recorder(V, at=tmp_path / "logits", **options) as rec:
        rec.record(logits, step=4, phase="eval", loss=1.5, **given)
        wanted = rec.metrics()
    with recorder(V, at=tmp_path / "hidden", **options) as rec:
        rec.record_hidden(
            hidden.requires_grad_(),
            weight,
            **given,
            step=4,
            phase="eval",
            loss=1.5,
            **case | ({} if bias is None else {"bias": bias}),
        )
        told = rec.metrics()
    assert told.keys() == wanted.keys()
    known = {key: value for key, value in wanted.items() if value is not None}
    assert {key: told[key] for key in known} == pytest.approx(known, rel=1e-6, abs=1e-9)
    found, expected = rows(tmp_path / "hidden"), rows(tmp_path / "logits")
    assert expected.height > 8
    assert (expected["n_eq"] > 0).any()
    exact = [name for name, kind in expected.schema.items() if not kind.is_float() and kind != pl.List]
    assert_frame_equal(
        found.select(*exact, "top_ids", "top_gap"),
        expected.select(*exact, "top_ids", "top_gap"),
        check_exact=True,
    )
    assert_frame_equal(found, expected, rel_tol=1e-6, abs_tol=1e-6)
    batches = [open_dump(tmp_path / name).batches.collect() for name in ("hidden", "logits")]
    assert_frame_equal(*batches)


def test_any_values(recorder: MakeRecorder, tmp_path: Path) -> None:
    hidden, weight, given = torch.randn(B, T, H), torch.randn(V, H), batch()
    with recorder(V, at=tmp_path / "logits") as rec:
        rec.record(linear(hidden, weight), **given)
    with recorder(V, at=tmp_path / "hidden") as rec:
        rec.record_hidden(hidden, weight, **given)
    found, expected = rows(tmp_path / "hidden"), rows(tmp_path / "logits")
    assert_frame_equal(found.drop("top_gap"), expected.drop("top_gap"), rel_tol=1e-5, abs_tol=2e-6)


def test_autocast_makes_the_logits_of_the_model(recorder: MakeRecorder, tmp_path: Path) -> None:
    """In a hook outside autocast they are others: by 1e-3 nats and more."""
    hidden, weight, given = torch.randn(B, T, 64), torch.randn(V, 64) / 4, batch()
    with torch.autocast("cpu", torch.bfloat16):
        logits = linear(hidden, weight)
        assert logits.dtype == torch.bfloat16
        with recorder(V, at=tmp_path / "logits") as rec:
            rec.record(logits, **given)
        with recorder(V, at=tmp_path / "inside") as rec:
            rec.record_hidden(hidden, weight, **given)
    with recorder(V, at=tmp_path / "outside") as rec:
        rec.record_hidden(hidden, weight, **given)
    wanted = rows(tmp_path / "logits")
    assert_frame_equal(rows(tmp_path / "inside"), wanted, rel_tol=1e-6, abs_tol=1e-6)
    assert (rows(tmp_path / "outside")["nll"] - wanted["nll"]).abs().max() > 1e-3


def test_only_the_recorded_rows_are_projected_into_one_buffer(
    recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = torch.mm

    def watched(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
        seen.append((len(left), out.data_ptr()))
        assert len(left) * V <= 4 * V
        return real(left, right, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    given = batch()
    with recorder(V) as rec:
        rec.record_hidden(torch.randn(B, T, H), torch.randn(V, H), **given)
    supervised = int((given["labels"][:, 1:] != -100).sum())
    assert supervised < B * T / 2
    assert sum(count for count, _ in seen) == supervised
    assert len(seen) > 2
    assert len({place for _, place in seen}) == 1


def test_where_nothing_is_to_be_recorded(recorder: MakeRecorder, path: Path) -> None:
    labels = torch.full((2, 4), -100)
    with recorder(V, every=2) as rec:
        rec.record_hidden(torch.randn(2, 4, H), torch.randn(V, H), labels, step=2)
        rec.record_hidden("not looked at", None, labels, step=3)  # type: ignore[arg-type]
    with Recorder(path, V, enabled=False) as off:
        off.record_hidden("not looked at", None, labels)  # type: ignore[arg-type]
    assert rows(path).is_empty()
    assert open_dump(path).batches.collect()["n_recorded"].to_list() == [0]


def test_all_rows_where_choosing_would_mean_waiting() -> None:
    read = HiddenRows.read(whole_numbers(2, 3, H), whole_numbers(V, H), None, None, None)
    everything = torch.cat([logits.clone() for _, logits in read.chunks(None)])
    assert torch.equal(everything, linear(read.hidden, read.weight).flatten(0, 1))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"hidden": [[1.0]]}, "hidden states are a list; give a torch tensor"),
    ({"hidden": torch.zeros(2, 4, H).long()}, "hidden states are torch.int64; give a floating-point tensor"),
    ({"hidden": torch.zeros(2, 5, H)}, r"hidden states have shape \[2, 5, 8\] and labels \[2, 4\]; give hidden states \[B, T, H\]"),
    ({"hidden": torch.zeros(2, 4, 7)}, r"lm_head_weight has shape \[83, 8\] and hidden states \[2, 4, 7\]; give \[V, H\]"),
    ({"lm_head_weight": torch.zeros(H, V)}, r"lm_head_weight has shape \[8, 83\]"),
    ({"lm_head_weight": torch.zeros(V + 1, H)}, "lm_head_weight has 84 rows, the Recorder's vocabulary 83; pass vocab_size=84"),
    ({"lm_head_weight": torch.zeros(0)}, r"is empty, shape \[0\]; where parameters are partitioned \(ZeRO-3\)"),
    ({"lm_head_weight": torch.zeros(V, H, device="meta")}, "lm_head_weight is on meta, hidden states on cpu"),
    ({"bias": torch.zeros(H)}, r"bias has shape \[8\]; give \[83\]"),
    ({"logit_scale": "2"}, "logit_scale is '2'; give the number"),
    ({"logit_scale": torch.zeros(2)}, "logit_scale has 2 values; give one"),
    ({"softcap": 0.0}, "softcap is 0.0; give a number above 0"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "message"), BAD)
def test_what_does_not_fit(changed: dict[str, Any], message: str, recorder: MakeRecorder) -> None:
    given = {"hidden": torch.zeros(2, 4, H), "lm_head_weight": torch.zeros(V, H)}
    with recorder(V) as rec, pytest.raises(InputError, match=message):
        rec.record_hidden(labels=torch.zeros(2, 4).long(), **given | changed)


def test_an_argument_that_record_has_not(recorder: MakeRecorder) -> None:
    with recorder(V) as rec, pytest.raises(TypeError, match="stride"):
        rec.record_hidden(torch.zeros(2, H), torch.zeros(V, H), torch.zeros(2).long(), stride=2)  # type: ignore[call-arg]
