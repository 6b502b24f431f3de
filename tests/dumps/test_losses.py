"""The training loss: against slow float64 arithmetic, against what the recorder writes, and at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from dumps_oracle import as_float64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import wasserstein_distance

from logitbox.dumps import losses
from logitbox.dumps.dump import open_dump
from logitbox.dumps.losses import composite_loss, ordered_losses
from logitbox.dumps.lossinput import GroupColumns
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.spec import Group, OrderedSpec
from logitbox.errors import InputError

V = 40
RANGE = range(6, 30)
LISTED = (11, 3, 33, 20, 8, 0, 25, 14)
GROUPS = [RANGE, LISTED]
PARTS = ("soft_ce", "w1", "gate")
SPECS = [
    OrderedSpec(),
    OrderedSpec(sigma=0.5, truncate=0, gate_temperature=1.9),
    OrderedSpec(sigma=3.0, truncate=4, temperature=1.7, soft_ce_weight=0.3, w1_weight=5.0, gate_weight=0.7),
    OrderedSpec(sigma=9.0, temperature=0.6, gate_temperature=1.0, normalize_w1=True, gate_weight=-0.5),
]


@pytest.fixture(params=["picked", "masked"])
def _rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of leaving rows out: by index, as on the CPU, and by masking, as on a device."""
    if request.param == "masked":
        monkeypatch.setattr(losses, "_rows", lambda wanted: None)


def slow(row: np.ndarray, gold: int, ids: Sequence[int], spec: OrderedSpec) -> dict[str, float]:
    """The parts of one position and their weighted sum, from float64 logits [V]."""
    bins, at = np.arange(len(ids)), list(ids).index(gold)
    inside = row[list(ids)]
    log_p = log_softmax(inside / spec.temperature)
    q = np.exp(-0.5 * ((bins - at) / spec.sigma) ** 2)
    if spec.truncate is not None:
        q[np.abs(bins - at) > spec.truncate] = 0.0
    q /= q.sum()
    w1 = wasserstein_distance(bins, bins, np.exp(log_p), q) / (len(ids) if spec.normalize_w1 else 1)
    t = spec.temperature if spec.gate_temperature is None else spec.gate_temperature
    parts = {
        "soft_ce": -float(q[q > 0] @ log_p[q > 0]),
        "w1": w1,
        "gate": float(logsumexp(row / t) - logsumexp(inside / t)),
    }
    return parts | {"total": sum(getattr(spec, f"{name}_weight") * parts[name] for name in PARTS)}


def golds(ids: Sequence[int], n: int) -> torch.Tensor:
    return torch.tensor(list(ids))[torch.randint(0, len(ids), (n,))]


def batch(ids: Sequence[int], rows: int = 3, length: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, T, V] and labels [B, T] of all kinds: ignored, in the group, others."""
    kind = torch.randint(0, 3, (rows, length))
    other = torch.tensor([i for i in range(V) if i not in ids])[torch.randint(0, V - len(ids), kind.shape)]
    inside = golds(ids, kind.numel()).view(kind.shape)
    labels = torch.where(kind == 0, -100, torch.where(kind == 1, inside, other))
    return torch.randn(rows, length, V) * 3, labels


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.one_of(
        st.sampled_from(GROUPS),
        st.lists(st.integers(0, V - 1), min_size=1, max_size=V, unique=True),
    ),
    spec=st.builds(
        OrderedSpec,
        sigma=st.floats(0.3, 50),
        truncate=st.none() | st.integers(0, 50),
        temperature=st.floats(0.3, 4),
        gate_temperature=st.none() | st.floats(0.3, 4),
        normalize_w1=st.booleans(),
        soft_ce_weight=st.floats(0, 3),
        w1_weight=st.floats(0, 3),
        gate_weight=st.floats(0, 3),
    ),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 80.0, -300.0]),
)
def test_parts_agree_with_float64(ids: Sequence[int], spec: OrderedSpec, seed: int, offset: float) -> None:
    torch.manual_seed(seed)
    logits, gold = torch.randn(5, V) * 4 + offset, golds(ids, 5)
    got = ordered_losses(logits, gold, ids, spec)
    for i, row in enumerate(as_float64(logits)):
        for name, value in slow(row, int(gold[i]), ids, spec).items():
            assert float(getattr(got, name)[i]) == pytest.approx(value, rel=3e-6, abs=5e-6), name


@pytest.mark.parametrize("ids", GROUPS)
def test_the_recorder_writes_what_the_trainer_trains_on(
    recorder: Callable[..., Recorder], path: Path, ids: Sequence[int]
) -> None:
    options = product((0.5, 3.0), (None, 0, 4), (1.0, 0.7), (None, 1.0, 1.9), (False, True))
    names = ("sigma", "truncate", "temperature", "gate_temperature", "normalize_w1")
    specs = {f"g{i}": dict(zip(names, values, strict=True)) for i, values in enumerate(options)}
    logits, gold = torch.randn(16, V) * 3, golds(ids, 16)
    with recorder(V, groups=dict.fromkeys(specs, ids), ordered=specs) as rec:
        rec.record(logits, gold)
    tokens = open_dump(path).tokens.collect()
    for name, given_options in specs.items():
        got = ordered_losses(logits, gold, ids, given_options)
        for part in PARTS:
            recorded = torch.from_numpy(tokens[f"{name}_{part}"].to_numpy().copy())
            torch.testing.assert_close(getattr(got, part), recorded, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
@pytest.mark.parametrize("ids", GROUPS)
def test_gradients_of_the_parts(ids: Sequence[int], spec: OrderedSpec) -> None:
    logits, gold = torch.randn(2, V, dtype=torch.float64, requires_grad=True), golds(ids, 2)
    for name in (*PARTS, "total"):
        assert torch.autograd.gradcheck(
            lambda x, name=name: getattr(ordered_losses(x, gold, ids, spec), name), logits
        )


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
@pytest.mark.usefixtures("_rows")
def test_gradient_of_the_composite(spec: OrderedSpec) -> None:
    logits, labels = batch(LISTED, 2, 4)
    labels[:, 1:] = torch.tensor([[5, LISTED[0], -100], [LISTED[3], 7, LISTED[1]]])
    wide = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: composite_loss(x, labels, LISTED, spec).total, wide)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("ids", GROUPS)
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
@pytest.mark.usefixtures("_rows")
def test_composite_against_a_loop(
    spec: OrderedSpec, shift: bool, ids: Sequence[int], dtype: torch.dtype
) -> None:
    logits, labels = batch(ids)
    logits = logits.to(dtype)
    x, y = (logits[:, :-1], labels[:, 1:]) if shift else (logits, labels)
    rows = [
        slow(row, int(label), ids, spec)
        for row, label in zip(as_float64(x).reshape(-1, V), y.flatten(), strict=True)
        if int(label) in ids
    ]
    text = torch.tensor([[label if label not in ids else -100 for label in row] for row in y.tolist()])
    base = torch.nn.functional.cross_entropy(x.double().flatten(0, 1), text.flatten(), ignore_index=-100)
    got = composite_loss(logits, labels, ids, asdict(spec), shift=shift)
    means = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    means |= {"base": float(base), "ordered": means["total"], "total": float(base) + means["total"]}
    for name, value in means.items():
        assert float(getattr(got, name)) == pytest.approx(value, rel=2e-6, abs=2e-6), name
    assert (int(got.n_base), int(got.n_ordered)) == (int((text >= 0).sum()), len(rows))
    assert got.total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got.n_base.dtype == got.n_ordered.dtype == torch.long


def test_ignore_index_may_be_an_id_even_of_the_group() -> None:
    logits, labels = batch(RANGE)
    labels = torch.where(labels == RANGE[2], RANGE[3], labels)
    want = composite_loss(logits, labels, RANGE, {})
    got = composite_loss(
        logits, torch.where(labels == -100, RANGE[2], labels), RANGE, {}, ignore_index=RANGE[2]
    )
    assert vars(got) == vars(want)


def test_packed_rows_give_the_loss_of_their_documents() -> None:
    logits, labels = batch(RANGE, rows=2, length=6)
    labels[:, 0] = -100
    want = composite_loss(logits, labels, RANGE, {})
    packed = composite_loss(
        logits.reshape(1, 12, V), labels.reshape(1, 12), Group("bins", RANGE), OrderedSpec()
    )
    for name, value in vars(want).items():
        torch.testing.assert_close(getattr(packed, name), value)


@pytest.mark.parametrize("label", [RANGE[4], 2, -100])
@pytest.mark.parametrize("shape", [(2, 5), (7,), (2, 0), (0,)])
@pytest.mark.usefixtures("_rows")
def test_terms_without_targets_are_zero(label: int, shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, V, requires_grad=True)
    got = composite_loss(logits, torch.full(shape, label), RANGE, {})
    empty = [name for name, n in (("base", got.n_base), ("ordered", got.n_ordered)) if not n]
    empty += [*PARTS] if not got.n_ordered else []
    for name in empty:
        assert getattr(got, name).item() == 0.0
        (gradient,) = torch.autograd.grad(getattr(got, name), logits, retain_graph=True)
        assert not gradient.any()
    got.total.backward()
    assert logits.grad is not None
    assert bool(logits.grad.any()) == bool(got.n_base + got.n_ordered > 0)


def test_a_gate_that_leaks_nothing_is_not_below_0() -> None:
    logits = torch.randn(500, V)
    logits[:, list(LISTED)] += 20.0
    gate = ordered_losses(logits, golds(LISTED, 500), LISTED, {}).gate
    assert 0.0 <= gate.min() <= gate.max() < 1e-6


@pytest.mark.parametrize("left_out", [*PARTS, "all"])
def test_a_part_of_weight_0_does_not_enter(left_out: str) -> None:
    names = PARTS if left_out == "all" else (left_out,)
    spec = replace(SPECS[2], **{f"{name}_weight": 0.0 for name in names})
    logits, gold = torch.randn(3, V), golds(RANGE, 3)
    want = sum(
        getattr(SPECS[2], f"{name}_weight") * getattr(ordered_losses(logits, gold, RANGE, spec), name)
        for name in PARTS
        if name not in names
    )
    total = ordered_losses(logits, gold, RANGE, spec).total
    torch.testing.assert_close(total, want if names != PARTS else torch.zeros(3))


@pytest.mark.usefixtures("_rows")
def test_an_infinite_part_of_weight_0_leaves_loss_and_gradient_finite() -> None:
    logits, labels = batch(RANGE)
    logits[..., RANGE[5]] = -torch.inf
    labels[0, 1] = RANGE[5]
    logits.requires_grad_()
    got = composite_loss(logits, labels, RANGE, {"soft_ce_weight": 0.0, "sigma": 0.5, "truncate": 0})
    assert got.soft_ce.item() == math.inf
    assert math.isfinite(got.total.item())
    assert torch.autograd.grad(got.total, logits)[0].isfinite().all()


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
@pytest.mark.usefixtures("_rows")
def test_a_masked_vocabulary_is_as_if_it_were_not_there(spec: OrderedSpec) -> None:
    """Ids outside the group, −inf everywhere; the whole group, −inf where an ordinary token is due."""
    logits, labels = batch(RANGE)
    labels[labels >= RANGE.stop] = 2
    kept = logits[..., : RANGE.stop].clone().requires_grad_()
    want = composite_loss(kept, labels, RANGE, spec)
    logits[..., RANGE.stop :] = -torch.inf
    logits.requires_grad_()
    got = composite_loss(logits, labels, RANGE, spec)
    for name, value in vars(want).items():
        torch.testing.assert_close(getattr(got, name), value)
    want.total.backward()
    got.total.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[..., : RANGE.stop], kept.grad)
    assert not logits.grad[..., RANGE.stop :].any()
    text_only = (labels[:, 1:] == 2).unsqueeze(2) & torch.tensor([v in RANGE for v in range(V)])
    hidden = logits.detach().clone()
    hidden[:, :-1].masked_fill_(text_only, -torch.inf)
    hidden.requires_grad_()
    again = composite_loss(hidden, labels, RANGE, spec)
    torch.testing.assert_close(again.ordered, got.ordered)
    again.total.backward()
    assert again.base < got.base
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_masked_bins_and_masked_gold() -> None:
    logits = torch.zeros(3, V)
    logits[0, RANGE[0]] = -torch.inf  # 20 bins from gold: beyond what the target wants
    logits[1, RANGE[20]] = -torch.inf
    logits[2, RANGE.start : RANGE.stop] = -torch.inf
    logits.requires_grad_()
    got = ordered_losses(logits, torch.full((3,), RANGE[20]), RANGE, {"truncate": 2})
    assert got.soft_ce[0].item() == pytest.approx(math.log(len(RANGE) - 1))
    assert got.soft_ce[1].item() == got.total[1].item() == math.inf
    assert got.gate[2].item() == math.inf
    assert got.soft_ce[2].isnan()
    assert got.w1[2].isnan()
    for part in (got.w1[:2].sum(), got.gate[:2].sum(), got.total[0]):
        gradient = torch.autograd.grad(part, logits, retain_graph=True)[0]
        assert gradient[:2].isfinite().all()
    assert composite_loss(logits[1:2], torch.tensor([RANGE[20]]), range(3), {}).base.item() == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.usefixtures("_rows")
def test_ignored_positions_never_enter(bad: float) -> None:
    logits, labels = batch(RANGE)
    want = composite_loss(logits, labels, RANGE, {}, shift=False)
    logits[labels == -100] = bad
    logits.requires_grad_()
    got = composite_loss(logits, labels, RANGE, {}, shift=False)
    assert vars(got) == vars(want)
    got.total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[labels == -100].any()


@pytest.mark.parametrize("ids", GROUPS)
@pytest.mark.parametrize("shift", [True, False])
def test_nothing_is_read_back_from_a_device(ids: Sequence[int], shift: bool) -> None:
    """The meta device has no values: whatever waits for one fails there."""
    logits = torch.empty(2, 5, V, device="meta", dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(2, 5, device="meta", dtype=torch.long)
    composite_loss(logits, labels, ids, SPECS[1], shift=shift).total.backward()
    assert logits.grad is not None
    ordered_losses(logits[0], labels[0], ids, {}).total.sum().backward()


def test_ids_that_cannot_be_checked_make_the_loss_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device; here the checks of the CPU are switched off."""
    monkeypatch.setattr(GroupColumns, "check_gold", lambda self, gold, inside: None)
    monkeypatch.setattr(losses, "check_labels", lambda labels, vocab_size, ignore_index: None)
    got = ordered_losses(torch.randn(2, V), torch.tensor([RANGE[0], 2]), RANGE, {})
    assert [bool(v.isnan()) for v in got.total] == [False, True]
    for label in (V, -5):
        assert composite_loss(torch.randn(2, V), torch.tensor([1, label]), RANGE, {}).total.isnan()


@pytest.mark.parametrize(
    "ids", [range(6, 30), list(range(6, 30)), Group("bins", tuple(range(6, 30))), np.arange(6, 30)]
)
def test_a_group_may_be_given_in_many_ways(ids: Sequence[int]) -> None:
    logits, labels = batch(RANGE)
    assert vars(composite_loss(logits, labels, ids, {})) == vars(composite_loss(logits, labels, RANGE, {}))


def test_under_autocast_and_after_inference_mode() -> None:
    logits, labels = batch(LISTED)
    with torch.inference_mode():
        want = composite_loss(logits, labels, LISTED, {})
    logits.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        got = composite_loss(logits, labels, LISTED, {})
    got.total.backward()
    torch.testing.assert_close(got.total.detach(), want.total.clone())


def test_training_on_it_reduces_it() -> None:
    logits, labels = batch(RANGE)
    logits.requires_grad_()
    optimizer, seen = torch.optim.SGD([logits], lr=2.0), []
    for _ in range(20):
        loss = composite_loss(logits, labels, RANGE, {"truncate": 4, "normalize_w1": True})
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        seen.append([float(x.detach()) for x in (loss.total, loss.base, loss.ordered, loss.w1, loss.gate)])
    assert all(last < 0.8 * first for first, last in zip(seen[0], seen[-1], strict=True))
    assert [row[0] for row in seen] == sorted((row[0] for row in seen), reverse=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: ordered_losses(x, y + 2, RANGE, {}), r"gold id 2 is not in group 'ordered' \(24 ids, 6 to 29\)"),
        (lambda x, y: ordered_losses(x, y - 100, LISTED, {}), "gold id -100 is not in group"),
        (lambda x, y: ordered_losses(x[None], y[None], RANGE, {}), r"shape \[1, 4, 40\] and gold \[1, 4\]"),
        (lambda x, y: composite_loss(x, y[:2], RANGE, {}), r"give logits \[N, V\] with labels \[N\], or"),
        (lambda x, y: composite_loss(x, y + V, RANGE, {}), "label 40 is outside the vocabulary; allowed are 0 to 39"),
        (lambda x, y: composite_loss(x, y - 100, RANGE, {}, ignore_index=-1), "label -100 is .* and -1 for ignored"),
        (lambda x, y: composite_loss(x.long(), y, RANGE, {}), "logits are torch.int64"),
        (lambda x, y: composite_loss(x, y.float(), RANGE, {}), "labels are torch.float32"),
        (lambda x, y: composite_loss(x, y.tolist(), RANGE, {}), "labels are a list; give a torch tensor"),
        (lambda x, y: composite_loss(x, y, range(30, 50), {}), "token id 49; allowed are 0 to 39"),
        (lambda x, y: composite_loss(x, y, Group("bins", RANGE), {"sigm": 1}), "'bins': unknown option 'sigm'"),
        (lambda x, y: composite_loss(x, y, RANGE, OrderedSpec(sigma=0)), "sigma is 0"),
        (lambda x, y: composite_loss(x, y, RANGE, None), "options are a NoneType; give an OrderedSpec, or a dict"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[torch.Tensor, torch.Tensor], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(torch.randn(4, V), torch.zeros(4, dtype=torch.long))
