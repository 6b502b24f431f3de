"""The Recorder from the caller's side: what each argument does to what is read back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from dumps_oracle import BETAS, as_float64, logsumexp, nll

from logitbox.dumps.dump import open_dump
from logitbox.dumps.flags import Flag
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError, NotADumpError, WriterError

V = 20
IGNORED = -100
Make = Callable[..., Recorder]


def some(rows: int = 2, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, width, V), torch.randint(0, V, (rows, width))


# Values.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_any_float_type_is_recorded_exactly(recorder: Make, path: Path, dtype: torch.dtype) -> None:
    logits = torch.randn(2, 4, V).mul(5).to(dtype).requires_grad_()
    labels = torch.randint(0, V, (2, 4))
    with recorder(V) as rec:
        rec.record(logits, labels)
    rows = open_dump(path).tokens.collect()
    exact = as_float64(logits)
    want = [nll(exact[b, t], int(labels[b, t + 1])) for b in range(2) for t in range(3)]
    assert all(math.isclose(g, w, rel_tol=2e-6, abs_tol=2e-6) for g, w in zip(rows["nll"], want, strict=True))
    assert logits.grad is None


def test_the_callers_tensors_may_change_at_once(recorder: Make, path: Path) -> None:
    """The writer is another thread: nothing it reads may still belong to the training loop."""
    logits, labels = some()
    ids, mask, weight = labels.clone(), torch.ones(2, 4), torch.rand(2, 4)
    sample, loss = torch.tensor([7, 8]), torch.tensor(1.5)
    exact, gold, want_weight = as_float64(logits).copy(), labels.clone(), weight.clone()
    with recorder(V) as rec:
        rec.record(
            logits, labels, input_ids=ids, attention_mask=mask, weight=weight, sample=sample, loss=loss
        )
        for tensor in (logits, labels, ids, mask, weight, sample, loss):
            tensor.zero_()
    dump = open_dump(path)
    rows = dump.tokens.collect()
    assert rows["gold"].to_list() == gold[:, 1:].flatten().tolist()
    assert rows["sample"].to_list() == [7] * 3 + [8] * 3
    assert rows["weight"].to_list() == want_weight[:, 1:].flatten().tolist()
    assert math.isclose(rows["nll"][0], nll(exact[0, 0], int(gold[0, 1])), rel_tol=2e-6)
    assert dump.samples.collect()["input_ids"].to_list() == gold.tolist()
    assert dump.batches.collect()["loss"].to_list() == [1.5]


def test_nonfinite_rows_are_kept_and_flagged(recorder: Make, path: Path) -> None:
    logits = torch.randn(5, V)
    logits[1, 3] = math.nan
    logits[2, 3] = math.inf
    logits[3, 0] = -math.inf  # masked gold
    logits[4, 1:] = -math.inf  # only gold is left
    with recorder(V) as rec:
        rec.record(logits, torch.zeros(5, dtype=torch.long), shift=False)
        live = rec.metrics()
    rows = open_dump(path).tokens.collect()
    assert ((rows["flags"] & int(Flag.NONFINITE)) != 0).to_list() == [False, True, True, True, False]
    assert rows["nll"].null_count() == 0
    assert math.isnan(rows["nll"][1])
    assert rows["nll"][3] == math.inf
    assert rows["nll"][4] == 0.0
    finite = [nll(as_float64(logits)[0], 0), 0.0]
    assert (live["n_tokens"], live["n_nonfinite"]) == (2, 3)
    assert math.isclose(live["nll"], sum(finite) / 2, rel_tol=1e-6)


def test_groups_types_and_nulls(recorder: Make, path: Path) -> None:
    """Ordered columns are null exactly where gold is outside; a group "n" must not touch n_gt."""
    logits = torch.randn(4, V)
    labels = torch.tensor([3, 9, 5, 19])
    groups = {"n": range(3, 8), "top": [9, 19], "n_x": [0, 9]}
    with recorder(V, groups=groups, ordered={"n": {}, "top": {}, "n_x": {}}, types=["top", "other"]) as rec:
        rec.record(logits, labels, types={"other": labels == 5})
    rows = open_dump(path).tokens.collect()
    for name, ids in groups.items():
        inside = [int(label) in list(ids) for label in labels]
        assert rows[f"logmass_{name}"].null_count() == 0
        for suffix in ("gate", "soft_ce", "w1", "bin", "mean"):
            assert rows[f"{name}_{suffix}"].is_not_null().to_list() == inside, (name, suffix)
    for fixed in ("n_gt", "n_eq", "n_eq_before", "n_finite", "top_ids", "top_gap", "top_nll"):
        assert rows[fixed].null_count() == 0
    assert rows["types"].to_list() == [0, 1, 2, 1]


def test_all_token_types_fit(recorder: Make, path: Path) -> None:
    names = [f"t{i}" for i in range(32)]
    with recorder(V, types=names) as rec:
        rec.record(
            torch.randn(2, V),
            torch.tensor([1, 2]),
            types={"t31": torch.tensor([1, 0]), "t0": torch.tensor([1, 1])},
        )
    with recorder(V, types=[*names[1:], names[0]]) as rec:
        rec.record(
            torch.randn(1, V), torch.tensor([1]), types={"t31": torch.tensor([1]), "t0": torch.tensor([1])}
        )
    dump = open_dump(path)
    assert dump.types.names == tuple(names)
    assert dump.tokens.collect()["types"].to_list() == [2**31 + 1, 1, 2**31 + 1]


@pytest.mark.parametrize(
    ("mode", "phases"),
    [("eval", {"eval"}), ("always", {"eval", "train"}), ("never", set()), (True, {"eval", "train"})],
)
def test_lse_beta(recorder: Make, path: Path, mode: Any, phases: set[str]) -> None:
    logits, labels = torch.randn(1, V).mul(3), torch.tensor([4])
    with recorder(V, lse_beta=mode) as rec:
        for phase in ("train", "eval"):
            rec.record(logits, labels, phase=phase)
    rows = open_dump(path).tokens.collect()
    if not phases:
        assert "lse_beta" not in rows.columns
        return
    for phase, values in rows.select("phase", "lse_beta").iter_rows():
        if phase not in phases:
            assert values is None
            continue
        want = [logsumexp(beta * as_float64(logits)[0]) for beta in BETAS]
        assert all(math.isclose(g, w, rel_tol=1e-5) for g, w in zip(values, want, strict=True))


def test_special_tokens_are_flagged(recorder: Make, path: Path) -> None:
    class Tiny:
        bos_token_id, eos_token_id, all_special_ids = 1, 2, (1, 2, 3)

        def __len__(self) -> int:
            return 5

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [f"t{i}" for i in ids]

    with recorder(Tiny(), vocab_size=V) as rec:
        rec.record(torch.randn(5, V), torch.tensor([0, 1, 2, 3, 4]))
    s, bos, eos, special = (int(f) for f in (Flag.SUPERVISED, Flag.BOS, Flag.EOS, Flag.SPECIAL))
    assert open_dump(path).tokens.collect()["flags"].to_list() == [
        s, s | bos | special, s | eos | special, s | special, s,
    ]  # fmt: skip


# Batches without tokens, k, every, scope.


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0,)])
def test_empty_batch_leaves_a_row(recorder: Make, path: Path, shape: tuple[int, ...]) -> None:
    with recorder(V, groups={"g": [1]}, probes=True) as rec:
        rec.record(torch.zeros(*shape, V), torch.zeros(shape, dtype=torch.long), loss=2.0)
        assert rec.metrics() == {}
    dump = open_dump(path)
    batch = dump.batches.collect().to_dicts()
    assert [(b["n_supervised"], b["n_recorded"], b["loss"], b["rows"]) for b in batch] == [
        (0, 0, 2.0, shape[0])
    ]
    assert dump.tokens.collect().height == 0
    assert {"nll", "logmass_g", "nll_next"} <= set(dump.tokens.collect_schema().names())


def test_batch_of_ignored_labels_leaves_a_row(recorder: Make, path: Path) -> None:
    with recorder(V) as rec:
        rec.record(torch.randn(2, 4, V), torch.full((2, 4), IGNORED), loss=torch.tensor(math.nan))
    batch = open_dump(path).batches.collect().to_dicts()[0]
    assert (batch["rows"], batch["padded_length"], batch["n_supervised"], batch["n_recorded"]) == (2, 4, 0, 0)
    assert math.isnan(batch["loss"])


def test_n_supervised_counts_what_has_a_logit_row(recorder: Make, path: Path) -> None:
    labels = torch.tensor([[1, 2, IGNORED], [3, IGNORED, IGNORED]])
    with recorder(V, probes=True) as rec:
        rec.record(torch.randn(2, 3, V), labels)
    batch = open_dump(path).batches.collect().to_dicts()[0]
    assert batch["n_supervised"] == 1  # labels at the first place have no row that predicts them
    assert batch["n_recorded"] == 1 + 2  # row 0 of each sequence, and the row after: edges by their left


@pytest.mark.parametrize(
    ("vocab", "k", "expected"), [(5, None, 5), (1, None, 1), (50, None, 32), (5, 5, 5), (5, 2, 2)]
)
def test_k(recorder: Make, path: Path, vocab: int, k: int | None, expected: int) -> None:
    with recorder(vocab, k) as rec:
        rec.record(torch.randn(3, vocab), torch.zeros(3, dtype=torch.long))
    assert open_dump(path).tokens.collect()["top_ids"].list.len().to_list() == [expected] * 3


BAD: list[tuple[dict[str, Any], str]] = [
    ({"k": 21}, "k is 21; allowed are 1 to the vocabulary size 20 (leave k out to have it clamped)"),
    ({"k": 0}, "k is 0"),
    ({"vocab": 0}, "vocabulary size is 0"),
    ({"vocab": None}, "vocab is None; give a tokenizer"),
    ({"vocab": True}, "vocab is True"),
    ({"vocab": ["a", 3]}, "vocab holds 3"),
    ({"vocab": 1.5}, "vocab is a float"),
    ({"vocab_size": 19}, "vocab_size is 19, but vocab has 20 tokens"),
    ({"every": 0}, "every is 0"),
    ({"scope": "most"}, "scope is 'most'"),
    ({"lse_beta": "sometimes"}, "lse_beta is 'sometimes'"),
    ({"on_full": "panic"}, "on_full is 'panic'; allowed are 'wait' and 'drop'"),
    ({"queue_size": 0}, "queue_size is 0"),
    ({"shard_rows": 0}, "shard_rows is 0"),
    ({"flush_seconds": 0}, "flush_seconds is 0"),
    ({"groups": {"g": [1, 20]}}, "group 'g' has token id 20; allowed are 0 to 19"),
    ({"groups": {"g": [-1]}}, "group 'g' has token id -1"),
    ({"groups": {"g": []}}, "group 'g' has no token ids"),
    ({"groups": {"g": [1, 1]}}, "group 'g' has repeated token ids"),
    ({"groups": {"g": ["a"]}}, "group 'g' holds something that is no token id"),
    ({"groups": {"a b": [1]}}, "group name 'a b'"),
    ({"ordered": {"g": {}}}, "ordered names 'g', which is no group"),
    ({"groups": {"g": [1]}, "ordered": {"g": {"sgima": 1}}}, "unknown option 'sgima'; known are sigma"),
    ({"groups": {"g": [1]}, "ordered": {"g": {"sigma": 0}}}, "sigma is 0; it must be a number above 0"),
    ({"groups": {"g": [1]}, "ordered": {"g": {"temperature": "1"}}}, "temperature is '1'"),
    ({"groups": {"g": [1]}, "ordered": {"g": {"truncate": -1}}}, "truncate is -1"),
    ({"types": ["a", "a"]}, "repeat a name"),
    ({"types": [f"t{i}" for i in range(33)]}, "33 token types; at most 32"),
    ({"rank": 1}, "rank is 1 without torch.distributed; pass session="),
    ({"rank": 2, "world": 2, "session": "0001-a"}, "rank is 2 of 2"),
    ({"session": "mine"}, "session is 'mine'"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_options_are_named_and_nothing_is_written(
    path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        Recorder(path, **{"vocab": V, **wrong})
    assert message in str(caught.value)
    assert not path.exists()


def test_every_counts_training_steps_only(recorder: Make, path: Path) -> None:
    with recorder(V, every=3) as rec:
        for step in range(7):
            rec.record(*some(), step=step)
            rec.record(*some(), step=step, phase="eval")
    batches = open_dump(path).batches.collect()
    assert batches.filter(pl.col("phase") == "train")["step"].to_list() == [0, 3, 6]
    assert batches.filter(pl.col("phase") == "eval")["step"].to_list() == list(range(7))


# Identity: micro-batches and passes.


def test_micro_batches_and_passes(recorder: Make, path: Path) -> None:
    said: list[tuple[str, str, int, int, int]] = []
    with recorder(V) as rec:

        def put(phase: str, dataset: str, step: int, pass_: int, number: int, **given: Any) -> None:
            rec.record(*some(1, 2), step=step, phase=phase, dataset=dataset, **given)
            said.append((phase, dataset, step, pass_, number))

        put("train", "", 1, 0, 0)
        put("train", "", 1, 0, 1)
        put("eval", "a", 1, 0, 0)
        put("eval", "a", 1, 0, 1)
        put("eval", "b", 1, 0, 0)
        put("train", "", 1, 0, 2)  # gradient accumulation goes on after the evaluation
        put("train", "", 2, 0, 0)
        put("eval", "a", 1, 1, 0)  # the same step evaluated again
        put("eval", "b", 1, 1, 0)
        put("eval", "b", 1, 1, 5, micro=5)
        put("eval", "b", 1, 2, 0, micro=0)  # going back begins a pass
        rec.start_pass("eval", "b")
        put("eval", "b", 1, 3, 0)
        put("train", "", 1, 1, 0)  # training was set back within the session
    got = open_dump(path).batches.select("phase", "dataset", "step", "pass", "micro").collect().rows()
    assert got == said
    assert len(set(got)) == len(got)


def test_rows_keep_the_order_of_recording(recorder: Make, path: Path) -> None:
    with recorder(V, shard_rows=5) as rec:
        for step in (3, 1, 2, 9, 0):
            rec.record(*some(2, 3), step=step, phase="eval" if step % 2 else "train")
    with recorder(V) as rec:
        rec.record(*some(2, 3), step=1)
    dump = open_dump(path)
    assert dump.tokens.collect()["step"].to_list() == [s for s in (3, 1, 2, 9, 0, 1) for _ in range(4)]
    assert len(dump.shards("tokens")) == 4
    assert (
        dump.tokens.filter(pl.col("phase") == "train").collect()["step"].to_list()
        == [2] * 4 + [0] * 4 + [1] * 4
    )


# Off, closed, behind.


def test_disabled_recorder_does_nothing(path: Path) -> None:
    with Recorder(path, V, enabled=False) as rec:
        rec.record(torch.zeros(3), "not even labels")  # type: ignore[arg-type]
        rec.scalars(1, {"loss": 1.0})
        rec.samples({"no": ["columns"]})
        rec.start_pass("eval")
        rec.flush()
        assert rec.metrics() == {}
        assert rec.metrics(all_reduce=True) == {}
        assert "off" in repr(rec)
    rec.close()
    assert not path.exists()


def test_closed_recorder_says_so(recorder: Make, path: Path) -> None:
    rec = recorder(V)
    rec.record(*some())
    rec.close()
    rec.close()
    for call in (
        lambda: rec.record(*some()),
        lambda: rec.scalars(1, {}),
        rec.flush,
        lambda: rec.samples({"key": []}),
    ):
        with pytest.raises(InputError, match=r"is closed; make a new Recorder"):
            call()
    assert rec.metrics()["n_tokens"] == 6
    assert open_dump(path).tokens.collect().height == 6


def test_live_metrics_are_the_dumps(recorder: Make, path: Path) -> None:
    with recorder(V, probes=True) as rec:
        for phase in ("train", "eval", "train"):
            logits, labels = some(3, 6)
            rec.record(logits * 3, labels.masked_fill(torch.rand(3, 6) < 0.4, IGNORED), phase=phase)
        live, again = rec.metrics(all_reduce=True), rec.metrics()  # one process: nothing to reduce over
    assert again == {}
    rows = open_dump(path).tokens.collect().filter((pl.col("flags") & 1) != 0)
    for phase, prefix in (("train", ""), ("eval", "eval_")):
        mine = rows.filter(pl.col("phase") == phase)
        rank = mine["n_gt"] + mine["n_eq_before"]
        assert live[f"{prefix}n_tokens"] == mine.height
        assert math.isclose(live[f"{prefix}nll"], mine["nll"].cast(pl.Float64).mean(), rel_tol=1e-9)
        assert math.isclose(
            live[f"{prefix}full_entropy"], mine["entropy"].cast(pl.Float64).mean(), rel_tol=1e-9
        )
        assert math.isclose(live[f"{prefix}token_acc"], (rank == 0).mean())
        assert math.isclose(live[f"{prefix}token_acc_top5"], (rank < 5).mean())


# Labels that only the writer can check (they were on a device).


@pytest.mark.parametrize("bad", [V, -1, -7])
def test_bad_labels_of_a_device_are_told_at_the_next_call(
    recorder: Make, path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    monkeypatch.setattr("logitbox.dumps.positions.check_ids", lambda *_: None)
    rec = recorder(V)
    rec.record(*some(), step=0)
    rec.flush()
    rec.record(torch.randn(1, 3, V), torch.tensor([[0, bad, 1]]), step=1)
    with pytest.raises(
        WriterError, match=rf"label {bad} is outside the vocabulary; allowed are 0 to {V - 1}"
    ):
        rec.flush()
    with pytest.raises(WriterError, match=r"start a new Recorder, or pass enabled=False"):
        rec.record(*some(), step=2)
    with pytest.raises(WriterError):
        rec.close()
    dump = open_dump(path)
    assert dump.tokens.collect()["step"].to_list() == [0] * 6
    assert dump.inventory.unfinished() == [dump.sessions[0].owner]


# Where it may write.


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(NotADumpError, match=r"holds other files and no dump.json"):
        Recorder(tmp_path, V)
    with pytest.raises(NotADumpError, match=r"is a file"):
        Recorder(tmp_path / "notes.txt", V)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_appending_to_a_dump(recorder: Make, path: Path) -> None:
    identities = set()
    for step in range(3):
        with recorder(V) as rec:
            rec.record(*some(), step=step)
        identities.add(open_dump(path).manifest.id)
    dump = open_dump(path)
    assert [session.ordinal for session in dump.sessions] == [1, 2, 3]
    assert dump.tokens.collect()["step"].to_list() == [0] * 6 + [1] * 6 + [2] * 6
    assert len(identities) == 1


def test_resuming_hides_what_is_trained_anew(recorder: Make, path: Path) -> None:
    with recorder(V) as rec:
        for step in range(5):
            rec.record(*some(1, 3), step=step)
            rec.record(*some(1, 3), step=step, phase="eval")
            rec.scalars(step, {"loss": float(step)})
    with recorder(V, resume_from=3) as rec:
        for step in (3, 4, 5):
            rec.record(*some(1, 3), step=step)
    with recorder(V) as rec:
        rec.record(*some(1, 3), step=6)
    dump = open_dump(path)
    train, evals = pl.col("phase") == "train", pl.col("phase") == "eval"
    assert dump.tokens.filter(train).collect()["step"].to_list() == [
        s for s in (0, 1, 2, 3, 4, 5, 6) for _ in range(2)
    ]
    assert dump.tokens.filter(evals).collect()["step"].to_list() == [s for s in range(5) for _ in range(2)]
    assert dump.batches.filter(train).collect()["step"].to_list() == [0, 1, 2, 3, 4, 5, 6]
    assert dump.scalars.collect()["step"].to_list() == [0, 1, 2]
    assert [dump.hidden_from(session) for session in dump.sessions] == [3, None, None]


def test_inference_mode_and_autocast(recorder: Make, path: Path) -> None:
    logits, labels = torch.randn(2, 4, V), torch.randint(0, V, (2, 4))
    with recorder(V) as rec:
        with torch.inference_mode():
            rec.record(logits * 1, labels, phase="eval")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rec.record(logits, labels, phase="eval", attention_mask=torch.ones(2, 4, dtype=torch.float64))
        live = rec.metrics()
    rows = open_dump(path).tokens.collect()
    want = [nll(as_float64(logits)[b, t], int(labels[b, t + 1])) for b in range(2) for t in range(3)]
    assert all(math.isclose(g, w, rel_tol=2e-6) for g, w in zip(rows["nll"], want * 2, strict=True))
    assert math.isclose(live["eval_nll"], sum(want) / 6, rel_tol=2e-6)


def test_scalars(recorder: Make, path: Path) -> None:
    with recorder(V) as rec:
        rec.scalars(3, {"loss": torch.tensor(1.25), "lr": 1e-4, "bad": math.nan}, phase="eval")
        with pytest.raises(InputError, match=r"scalar 'note' is 'x', a str; give a number"):
            rec.scalars(4, {"loss": 1, "note": "x"})
        rec.scalars(5, {})
    rows = open_dump(path).scalars.collect()
    assert rows.select("step", "phase", "key").rows() == [
        (3, "eval", "loss"),
        (3, "eval", "lr"),
        (3, "eval", "bad"),
    ]
    assert rows["value"].to_list()[:2] == [1.25, 1e-4]
    assert math.isnan(rows["value"][2])
    assert rows["value"].null_count() == 0
