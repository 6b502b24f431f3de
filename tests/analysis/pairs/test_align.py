"""Which tokens of two recorded dumps are paired, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logitbox.analysis.pairs.align import align
from logitbox.analysis.pairs.choice import choose
from logitbox.analysis.pairs.comparison import compare
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

V, T = 17, 6


def logits_of(seed, rows):
    return torch.randn(rows, T, V, generator=torch.Generator().manual_seed(seed))


LABELS = torch.randint(0, V, (8, T), generator=torch.Generator().manual_seed(99))


def record(path, order, seed=0, *, labels=LABELS, step=0, dataset="", keys=None, shard_rows=13, **options):
    """One evaluation of these samples in this order, two a call; the logits of a sample depend on it and the seed."""
    whole = logits_of(seed, len(labels))
    with Recorder(path, vocab=V, k=5, types=["even"], shard_rows=shard_rows) as rec:
        rec.start_pass("eval", dataset)
        for i in range(0, len(order), 2):
            rows = order[i : i + 2]
            sample = [keys[r] for r in rows] if keys else rows
            rec.record(
                whole[rows], labels[rows], step=step, phase="eval", dataset=dataset, sample=sample,
                types={"even": labels[rows] % 2 == 0}, shift=False, **options,
            )  # fmt: skip
    return open_dump(path)


def expected(seed_a, seed_b, samples, positions=range(T)):
    """(nll, right) of both sides, float64, ordered by sample and position."""
    found = []
    for seed in (seed_a, seed_b):
        x = logits_of(seed, 8).double()
        nll = -x.log_softmax(-1).gather(-1, LABELS[..., None])[..., 0]
        right = x.argmax(-1) == LABELS
        found.append(
            (nll[samples][:, list(positions)].flatten(), right[samples][:, list(positions)].flatten())
        )
    return found


def check(pair, seeds, samples, positions=range(T)):
    for (nll, right), got_nll, got_right in zip(
        expected(*seeds, samples, positions), pair.nll, pair.right, strict=True
    ):
        assert got_nll == pytest.approx(nll.numpy(), abs=1e-6)
        assert (got_right == right.numpy()).all()


def in_key_order(pair):
    """Rows of the pair by sample id (keys are numbers as text) and position."""
    sample = np.array([int(key) for key in pair.keys])[pair.cluster]
    return np.lexsort((pair.pos, sample))


def test_samples_are_found_in_any_order(tmp_path):
    a = record(tmp_path / "a", [0, 1, 2, 3, 4, 5, 6, 7], seed=1)
    b = record(tmp_path / "b", [6, 3, 0, 7, 2, 5, 4, 1], seed=2)
    pair = align(choose(a), choose(b))
    assert len(pair) == 8 * T
    assert str(pair.unaligned) == "nothing left out"
    order = in_key_order(pair)
    for side, (nll, right) in enumerate(expected(1, 2, list(range(8)))):
        assert pair.nll[side][order] == pytest.approx(nll.numpy(), abs=1e-6)
        assert (pair.right[side][order] == right.numpy()).all()
    assert (pair.gold[order] == LABELS.flatten().numpy()).all()
    assert (pair.of_type()["even"][order] == (LABELS.flatten() % 2 == 0).numpy()).all()


def test_string_keys_and_only_some_in_common(tmp_path):
    names = [f"doc-{i}" for i in range(8)]
    a = record(tmp_path / "a", [0, 1, 2, 3, 4, 5], seed=1, keys=names)
    b = record(tmp_path / "b", [7, 6, 5, 4, 3, 2], seed=2, keys=names)
    pair = align(choose(a), choose(b))
    assert sorted(pair.keys) == names[2:6]
    assert (pair.unaligned.only_a, pair.unaligned.only_b) == (2 * T, 2 * T)
    assert "12 only in A, 12 only in B" in str(pair.unaligned)


def test_another_gold_token_is_no_pair(tmp_path):
    changed = LABELS.clone()
    changed[3, 2] = (changed[3, 2] + 1) % V
    a = record(tmp_path / "a", list(range(8)), seed=1)
    b = record(tmp_path / "b", list(range(8)), seed=1, labels=changed)
    pair = align(choose(a), choose(b))
    assert pair.unaligned.other_gold == 1
    assert len(pair) == 8 * T - 1
    assert not ((pair.keys.gather(pair.cluster).to_numpy() == "3") & (pair.pos == 2)).any()


def test_truncation_leaves_positions_out(tmp_path):
    short = LABELS.clone()
    short[:, 4:] = -100
    a = record(tmp_path / "a", list(range(8)), seed=1)
    b = record(tmp_path / "b", list(range(8)), seed=2, labels=short)
    pair = align(choose(a), choose(b))
    assert pair.unaligned.only_a == 16
    assert pair.unaligned.only_b == 0
    assert set(pair.pos) == {0, 1, 2, 3}


def test_two_steps_of_one_dump(tmp_path):
    record(tmp_path / "a", list(range(8)), seed=1, step=10)
    dump = record(tmp_path / "a", list(range(8)), seed=2, step=20)
    result = compare(dump, dump, step=10, against_step=20)
    (nll_a, _), (nll_b, _) = expected(1, 2, list(range(8)))
    assert result.delta_tfce.value == pytest.approx(float((nll_a - nll_b).mean()), abs=1e-6)
    again = compare(dump, dump, step="last", against_step=10)
    assert again.delta_tfce.value == pytest.approx(-result.delta_tfce.value, abs=1e-12)


def test_all_steps_means_the_latest_evaluation_of_each_token(tmp_path):
    record(tmp_path / "a", [0, 1, 2, 3], seed=1, step=10)
    a = record(tmp_path / "a", [2, 3, 4, 5], seed=3, step=20)
    b = record(tmp_path / "b", [0, 1, 2, 3, 4, 5], seed=2)
    pair = align(choose(a, step="all"), choose(b))
    assert len(pair) == 6 * T
    assert pair.unaligned.replaced == 2 * T
    order = in_key_order(pair)
    old, new = expected(1, 2, [0, 1])[0][0], expected(3, 2, [2, 3, 4, 5])[0][0]
    assert pair.nll[0][order] == pytest.approx(torch.cat([old, new]).numpy(), abs=1e-6)


def test_data_sets_of_other_names_and_two_data_sets(tmp_path):
    a = record(tmp_path / "a", list(range(8)), seed=1, dataset="validation")
    b = record(tmp_path / "b", list(range(8)), seed=2, dataset="val")
    assert len(align(choose(a), choose(b))) == 8 * T
    record(tmp_path / "c", [0, 1], seed=1, dataset="x")
    c = record(tmp_path / "c", [0, 1], seed=2, dataset="y")
    record(tmp_path / "d", [0, 1], seed=3, dataset="y")
    d = record(tmp_path / "d", [0, 1], seed=4, dataset="x")
    pair = align(choose(c), choose(d))
    assert len(pair) == 4 * T
    assert len(pair.keys) == 4  # the same key in two data sets is two samples
    only = align(choose(c, dataset="x"), choose(d, dataset="x"))
    check(only, (1, 4), [0, 1])


def test_nan_rows_and_duplicates(tmp_path):
    whole = logits_of(1, 8)
    whole[2, 1] = float("nan")
    with Recorder(tmp_path / "a", vocab=V, types=["even"]) as rec:
        flags = {"duplicate": torch.zeros(8, T, dtype=torch.bool)}
        flags["duplicate"][7] = True
        rec.record(whole, LABELS, phase="eval", sample=list(range(8)), shift=False, flags=flags)
    b = record(tmp_path / "b", list(range(8)), seed=2)
    pair = align(choose(open_dump(tmp_path / "a")), choose(b))
    assert pair.unaligned.nonfinite == 1
    assert pair.unaligned.only_b == T
    assert len(pair) == 7 * T - 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"keys": [f"other-{i}" for i in range(8)]}, "no sample key is in both"),
        ({"labels": (LABELS + 1) % V}, "another gold token: another tokenizer"),
    ],
)
def test_too_little_in_common_is_refused_with_the_reason(tmp_path, change, told):
    a = record(tmp_path / "a", list(range(8)), seed=1)
    b = record(tmp_path / "b", list(range(8)), seed=2, **change)
    with pytest.raises(InputError, match=told):
        align(choose(a), choose(b))


def test_the_share_that_must_align_can_be_set(tmp_path):
    a = record(tmp_path / "a", [0, 1, 2, 3, 4, 5], seed=1)
    b = record(tmp_path / "b", [5, 4, 6, 7], seed=2)
    pair = align(choose(a), choose(b), min_aligned=0.5)
    check(pair, (1, 2), [4, 5]) if [int(k) for k in pair.keys] == [4, 5] else None
    assert len(pair) == 2 * T
    with pytest.raises(InputError, match=r"only 12 of 24 tokens \(50.0%\) are in both"):
        align(choose(a), choose(b), min_aligned=0.6)


def test_other_positions_of_the_same_samples(tmp_path):
    head, tail = LABELS.clone(), LABELS.clone()
    head[:, 3:], tail[:, :3] = -100, -100
    a = record(tmp_path / "a", list(range(8)), seed=1, labels=head)
    b = record(tmp_path / "b", list(range(8)), seed=2, labels=tail)
    with pytest.raises(InputError, match="samples are the same but not their positions"):
        align(choose(a), choose(b))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"phase": "test"}, "phase is 'test'; the dump has eval"), ({"step": 5}, "step is 5; the nearest recorded"),
     ({"dataset": "x"}, "dataset is 'x'")],
)  # fmt: skip
def test_what_was_not_recorded(tmp_path, wrong, told):
    dump = record(tmp_path / "a", [0, 1], seed=1)
    with pytest.raises(InputError, match=told):
        choose(dump, **wrong)


def test_hidden_training_rows_stay_hidden(tmp_path):
    for seed, resume in ((1, None), (2, 1)):
        with Recorder(tmp_path / "a", vocab=V, resume_from=resume) as rec:
            for step in (0, 1) if resume is None else (1,):
                rec.record(logits_of(seed, 8), LABELS, step=step, sample=list(range(8)), shift=False)
    dump = open_dump(tmp_path / "a")
    pair = align(choose(dump, phase="train", step="all"), choose(dump, phase="train", step=0))
    check(pair, (2, 1), list(range(8))) if [int(k) for k in pair.keys] == list(range(8)) else None
    assert pair.unaligned.replaced == 8 * T
    order = in_key_order(pair)
    assert pair.nll[0][order] == pytest.approx(expected(2, 1, list(range(8)))[0][0].numpy(), abs=1e-6)
