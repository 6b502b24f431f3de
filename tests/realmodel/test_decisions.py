"""Seed 003 on a real model: decisions about real measurements, against a float64 softmax at the slot."""

from dataclasses import dataclass

import decision_prompts
import pytest
import torch

import logitbox as lb
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.schemes.answers import ACCEPT_REJECT, resolve_answers
from logitbox.dumps.schemes.decision import DecisionSlot
from logitbox.errors import InputError

pytestmark = pytest.mark.realmodel

LETTERS = {letter.lower(): [letter] for letter in "ABCD"}


@dataclass(frozen=True)
class Evaluated:
    """A recorded evaluation, and what every slot of it should come to."""

    live: dict
    dump: object
    rows: list
    prompts: int


@pytest.fixture(scope="module")
def evaluate(tokenizer, model, tmp_path_factory):
    """A function that runs decisions through the model, records them, and computes the reference."""

    def run(decisions, answers, ids, types=None):
        path = tmp_path_factory.mktemp("dump") / "run"
        rows = []
        with Recorder(path, vocab=tokenizer, answers=answers, types=types) as recorder:
            for batch in decision_prompts.batches(tokenizer, decisions):
                with torch.inference_mode():
                    logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits
                recorder.record(
                    logits,
                    batch.labels,
                    step=5,
                    phase="eval",
                    sample=[decision.key for decision in batch.decisions],
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                )
                rows += decision_prompts.reference(logits, batch, ids)
            live = recorder.metrics()
        return Evaluated(live, lb.open(path), rows, len(decisions))

    return run


@pytest.fixture(scope="module")
def answers(tokenizer):
    """As a user finds them: "Reject" is two tokens here, and is told by its first one."""
    return resolve_answers(tokenizer, ACCEPT_REJECT, leading_space=True, merged_brace=True, first_token=True)


def ids_of(tokenizer):
    """The ids of Accept and Reject, written out: first tokens of the bare words, and " accept" forms that are one token."""
    first = {
        word: tokenizer.encode(word, add_special_tokens=False)[0]
        for word in ("Accept", "accept", "Reject", "reject")
    }
    spaced = {word: tokenizer.encode(f" {word}", add_special_tokens=False) for word in first}
    return {
        name: [
            *(first[word] for word in first if word.lower() == name),
            *(pieces[0] for word, pieces in spaced.items() if word.lower() == name and len(pieces) == 1),
        ]
        for name in ("accept", "reject")
    }


@pytest.fixture(scope="module")
def claims(evaluate, answers, tokenizer):
    return evaluate(
        decision_prompts.claims(), answers, ids_of(tokenizer), types=DecisionSlot(tokenizer, answers)
    )


@pytest.fixture(scope="module")
def choices(evaluate, tokenizer):
    """Without a scheme: the last supervised answer token is the slot."""
    letters = resolve_answers(tokenizer, LETTERS)
    ids = {name: [tokenizer.convert_tokens_to_ids(words[0])] for name, words in LETTERS.items()}
    return evaluate(decision_prompts.choices(), letters, ids)


def from_dump(dump):
    return dict(lb.metrics(dump).to_frame().select("key", "value").iter_rows())


def assert_metrics(evaluated, names):
    want = decision_prompts.metrics(evaluated.rows, names)
    print({key: round(value, 4) for key, value in want.items()})  # shown by `pytest -s`
    for got in (evaluated.live, from_dump(evaluated.dump)):
        for key, value in want.items():
            assert got[key] == pytest.approx(value, abs=1e-6, rel=1e-5), key
        assert got["eval_decision_slots"] == evaluated.prompts


def test_the_prompts_are_short_and_both_answers_are_due_equally_often(tokenizer):
    claims = decision_prompts.claims()
    assert len(claims) == len({claim.key for claim in claims}) == 80
    assert sum(claim.answer == "accept" for claim in claims) == 40
    assert len({(claim.answer, "malignant" in claim.prompt) for claim in claims}) == 4
    assert all(decision_prompts.BOX in claim.prompt for claim in claims)  # a box that is not the slot
    assert max(len(tokenizer.encode(claim.text)) for claim in claims) < 80
    assert {choice.word for choice in decision_prompts.choices()} == set("ABCD")


def test_a_word_of_several_tokens_is_refused_with_the_remedy(tokenizer):
    assert len(tokenizer.encode("Reject", add_special_tokens=False)) == 2
    with pytest.raises(InputError, match=r"the word 'Reject' is 2 tokens.* 'Re', 'ject'.*first_token=True"):
        resolve_answers(tokenizer)


def test_first_token_and_leading_space_give_the_ids_that_the_tokenizer_has(tokenizer, answers):
    assert {name: set(mine) for name, mine in answers.groups.items()} == {
        name: set(mine) for name, mine in ids_of(tokenizer).items()
    }
    pieces = {name: set(tokenizer.convert_ids_to_tokens(list(mine))) for name, mine in answers.groups.items()}
    assert pieces == {"accept": {"Accept", "accept", "ĠAccept", "Ġaccept"}, "reject": {"Re", "re", "Ġreject"}}


def test_accept_and_reject_live_and_from_the_dump(claims):
    assert_metrics(claims, ("accept", "reject"))


def test_letters_live_and_from_the_dump_without_a_scheme(choices):
    assert_metrics(choices, ("a", "b", "c", "d"))


@pytest.mark.parametrize("name", ["claims", "choices"])
def test_every_single_decision_of_the_dump(name, request):
    evaluated = request.getfixturevalue(name)
    found = lb.decisions(evaluated.dump)
    records = list(found.records())
    assert len(records) == len(evaluated.rows)
    for record, want in zip(records, evaluated.rows, strict=True):
        assert record["sample_id"] == want["key"]
        assert record["gt"] == want["answer"]
        assert record["pred"] == want["likeliest"]
        assert record["correct"] == (want["likeliest"] == want["answer"])
        for key, value in want.items():
            if key.startswith("p_"):
                assert record[key] == pytest.approx(value, abs=1e-6, rel=1e-5)
    assert found.frame["elsewhere"].to_list() == [row["elsewhere"] for row in evaluated.rows]


@pytest.mark.parametrize("name", ["claims", "choices"])
def test_the_model_decides_in_several_ways_and_errs_at_times(name, request):
    """Else the comparisons would be those of constants."""
    rows = request.getfixturevalue(name).rows
    right = [row["likeliest"] == row["answer"] for row in rows]
    assert len({row["likeliest"] for row in rows}) > 1
    assert 0.1 < sum(right) / len(right) < 0.95
    masses = [sum(value for key, value in row.items() if key.startswith("p_")) for row in rows]
    assert max(masses) > 0.05
    assert max(masses) - min(masses) > 0.01
