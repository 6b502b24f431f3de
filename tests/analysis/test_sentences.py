"""Sentences say what was recorded: every number in them from the oracle's logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logitbox.analysis.pairs.choice import choose
from logitbox.analysis.sentences import Token, describe, ordinal
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

VOCAB = ["a", "b", "cat", " dog", "<e>", "\n", "\x07", "\u202e", '"', "&<i>", "j", "k"]
"""Of one row each: logits of the first tokens (the rest −5) and gold."""
ROWS = {
    "sure": ([9, 1, 0], 0),
    "barely": ([3, 2.9, 2.8, 2.7], 0),
    "tied to": ([4, 4, 1], 0),
    "tied from": ([4, 4, 1], 1),
    "tied many": ([4, 4, 4], 2),
    "confident": ([1, 6, 0], 0),
    "near": ([2.5, 3, 2.9, 2.8], 0),
    "off": ([1, 3, 2.9, 2.8], 0),
    "lost": ([1, 2, 2.9, 2.8, 2.7, 2.6, 2.5], 0),
    "certain": ([30, 0, 0], 0),
    "bell": ([1, 0, 0, 0, 0, 0, 6, 5.5], 7),
    "nan": ([float("nan"), 0, 0], 0),
}


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentences") / "d"
    logits = torch.full((len(ROWS), len(VOCAB)), -5.0)
    for i, (row, _) in enumerate(ROWS.values()):
        logits[i, : len(row)] = torch.tensor(row)
    gold = torch.tensor([g for _, g in ROWS.values()])
    ids = torch.tensor([[4, 2, 3, 5, 6, 7, 8, 9]])
    with Recorder(path, vocab=VOCAB, k=4) as rec:
        rec.record(logits, gold, phase="eval", dataset="rows", sample=list(range(len(ROWS))))
        rec.samples({"sample": list(range(len(ROWS))), "dataset": ["rows"] * len(ROWS), "key": list(ROWS)})
        for step in (1, 2):  # a sequence with its text, twice
            x = torch.zeros(1, 8, len(VOCAB))
            x[0, 3, 6] = step
            rec.record(x, ids, phase="eval", dataset="text", step=step, sample=[70], input_ids=ids)
        rec.record(
            torch.zeros(1, 8, len(VOCAB)), ids, phase="eval", dataset="copy", sample=[70], input_ids=ids
        )
    return open_dump(path)


@pytest.fixture(scope="module")
def token(dump):
    return lambda key: describe(choose(dump, dataset="rows"), key, 0, mean_nll=0.5)


def oracle(key):
    row, gold = ROWS[key]
    x = np.full(len(VOCAB), -5.0)
    x[: len(row)] = row
    return x, np.exp(x) / np.exp(x).sum(), gold


@pytest.mark.parametrize("key", [key for key in ROWS if key != "nan"])
def test_fields(token, key):
    found = token(key)
    x, p, gold = oracle(key)
    order = np.lexsort((np.arange(len(x)), -x))
    rank = int(np.flatnonzero(order == gold)[0])
    rival = int(order[1] if rank == 0 else order[0])
    assert (found.rank, found.rival, found.gold, found.n_finite) == (rank, rival, gold, len(VOCAB))
    assert (found.p, found.rival_p) == pytest.approx((p[gold], p[rival]), rel=2e-3)
    assert found.nll == pytest.approx(-np.log(p[gold]), rel=1e-5, abs=1e-6)
    assert found.margin == pytest.approx(x[gold] - x[rival], rel=1e-3, abs=1e-6)
    assert found.tfa == (rank == 0)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("sure", 'sure pos 0: gold "a" is 1st of 12 (p 1 − 0.0005), 8.00 nats above "b" (p 0.00034); sure and right: TFA counts 1, TFCE 0.00047 nats (mean 0.50).'),
        ("barely", '"a" is 1st of 12 (p 0.29), 0.10 nats above "b" (p 0.26); barely right: TFA counts 1, TFCE 1.24 nats'),
        ("tied to", '"a" shares the best logit with "b" (p 0.49) and the tie goes to it, the lowest id; tied: TFA counts 1, TFCE 0.72'),
        ("tied from", '"b" shares the best logit with "a" (p 0.49) and the tie goes to another, the lowest id; tied: TFA counts 0, TFCE 0.72'),
        ("tied many", '"cat" shares the best logit with 2 others (p 0.33) and the tie goes to another'),
        ("confident", '"a" is 2nd of 12 (p 0.0067), 5.00 nats below "b" (p 0.99); confidently wrong: TFA counts 0, TFCE 5.01 nats'),
        ("near", '"a" is 4th of 12 (p 0.18), 0.50 nats below "b" (p 0.3); near miss: TFA counts 0, TFCE 1.70 nats'),
        ("off", '"a" is 4th of 12 (p 0.047), 2.00 nats below "b" (p 0.35); off: TFA counts 0'),
        ("lost", '"a" is 7th of 12'),
        ("certain", "(p 1 − 2e-13)"),
        ("bell", 'gold "\\u202e" is 2nd of 12 (p 0.37), 0.50 nats below "\\u0007" (p 0.62)'),
        ("nan", 'nan pos 0: gold "a" has NaN or infinite values: both metrics leave it out.'),
    ],
)  # fmt: skip
def test_sentence(token, key, told):
    assert told in str(token(key))


def test_lost_is_outside_the_recorded_best(token):
    assert token("lost").cell == "lost"
    assert "lost: TFA counts 0" in str(token("lost"))


def test_text_around_is_shown_plainly_and_nothing_in_it_is_invisible(dump):
    found = describe(choose(dump, dataset="text"), 70, 4)
    assert (found.before, found.gold_text, found.after) == ("<e>cat dog↵", "\\u0007", '\\u202e"&<i>')
    assert str(found).startswith('70 pos 4 «<e>cat dog↵»: gold "\\u0007" is 1st of 12')


def test_the_chosen_step_counts(dump):
    assert describe(choose(dump, dataset="text"), "70", 4).step == 2
    early = describe(choose(dump, step=1, dataset="text"), "70", 4)
    assert early.step == 1
    assert early.nll == pytest.approx(np.log(11 + np.e) - 1, rel=1e-5)
    assert describe(choose(dump, step="all", dataset="text"), "70", 4).step == 2


def test_a_long_context_is_cut_in_the_sentence_only(token):
    base = {**token("off").__dict__, "before": "x" * 50}
    assert str(Token(**base)).startswith(f"off pos 0 «…{'x' * 32}»: gold")
    assert str(Token(**base | {"before": "x" * 32})).startswith(f"off pos 0 «{'x' * 32}»: gold")


def test_no_recorded_rival_is_left_out(token):
    alone = Token(
        **{**token("off").__dict__, "rival": None, "rival_p": None, "margin": None, "mean_nll": None}
    )
    assert str(alone) == 'off pos 0: gold "a" is 4th of 12 (p 0.047); off: TFA counts 0, TFCE 3.05 nats.'


@pytest.mark.parametrize(
    ("n", "told"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"), (21, "21st"),
     (112, "112th"), (1022, "1,022nd")],
)  # fmt: skip
def test_ordinals(n, told):
    assert ordinal(n) == told


def test_errors(dump):
    with pytest.raises(InputError, match="no sample has key 'nope'; keys are 'sure', 'barely'"):
        describe(choose(dump, dataset="rows"), "nope", 0)
    with pytest.raises(InputError, match=r"no supervised token at pos 99.*nearest are 3, 4, 5, 6, 7"):
        describe(choose(dump, dataset="text"), "70", 99)
    with pytest.raises(InputError, match="data sets 'copy', 'text'; say which with dataset="):
        describe(choose(dump), "70", 4)
