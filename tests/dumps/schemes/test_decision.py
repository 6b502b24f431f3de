"""Where a decision is told, against a search over text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schemes_oracle import GAP, Batch, batches, ids_of, told

from logitbox.dumps.schemes.answers import Answers
from logitbox.dumps.schemes.decision import DecisionSlot
from logitbox.errors import InputError

VOCAB = [
    "<eos>",
    "so ",
    "\\",
    "box",
    "ed",
    "{",
    "Accept",
    "Reject",
    " Accept",
    "{Accept",
    "}",
    " ",
    "\\boxed{",
    "ed{",
]
ANSWERS = {"accept": [6, 8, 9], "reject": [7]}


def slots(texts: list[str], labelled: slice = slice(None), after: str | None = "\\boxed{") -> list[int]:
    ids = ids_of(texts, VOCAB)
    labels = torch.full_like(ids, -100)
    labels[:, labelled] = ids[:, labelled]
    return told(DecisionSlot(VOCAB, ANSWERS, after=after).masks(ids, labels)["decision"])


BOX = ["\\", "box", "ed", "{"]


def test_behind_the_brace() -> None:
    assert slots(["so ", *BOX, "Accept", "}", "<eos>"]) == [5]
    assert slots(["so ", *BOX, " Accept", "}"]) == [5]
    assert slots([*BOX, " ", " ", "Reject", "}"]) == [6]
    assert slots(["\\", "box", "ed", "{Accept", "}"]) == [3]
    assert slots(["\\boxed{", "Reject", "}"]) == [1]
    assert slots(["\\", "box", "ed{", " ", " Accept"]) == [4]
    assert slots(["\\", "box", "ed{", "{Accept"]) == [3]


def test_not_behind_the_brace() -> None:
    assert slots(["so ", "Accept", "}"]) == []
    assert slots([*BOX, "so ", "Accept"]) == []
    assert slots([*BOX, "}", "Accept"]) == []
    assert slots([*BOX, "so "]) == []
    assert slots([*BOX]) == []
    assert slots(["ed", "{Accept"]) == []


def test_without_context() -> None:
    assert slots(["Accept", "so ", "Reject", "}"], after=None) == [2]
    assert slots(["Accept", "so ", "Reject", "}"], slice(0, 2), after=None) == [0]
    assert slots(["so "], after=None) == []


def test_only_the_last_supervised_slot_counts() -> None:
    two = ["\\boxed{", "Accept", "}", "\\boxed{", "Reject", "}"]
    assert slots(two) == [4]
    assert slots(two, slice(0, 3)) == [1]
    assert slots(two, slice(2, 4)) == []  # both answers are in what is ignored
    assert slots([*two, "Accept"]) == [4]


def test_the_context_may_be_ignored() -> None:
    assert slots(["\\boxed{", "Accept", "}"], slice(1, 3)) == [1]


def test_one_slot_in_each_document() -> None:
    one = ids_of(["\\boxed{", "Accept", "}"], VOCAB)
    none = ids_of(["so ", "Reject"], VOCAB)
    packed = torch.cat([one, none, one, one], dim=1)
    position = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 2]])
    scheme = DecisionSlot(VOCAB, ANSWERS)
    assert told(scheme.masks(packed, position_ids=position)["decision"]) == [1, 6, 9]
    assert told(scheme.masks(packed)["decision"]) == [9]  # one row, one document
    rows = scheme.masks(torch.cat([one, one]))["decision"]
    assert (told(rows), told(rows, 1)) == ([1], [1])


def test_a_gap_parts_the_context_but_not_the_document() -> None:
    one = ids_of(["\\boxed{", "Accept", "}"], VOCAB)
    gap = torch.tensor([[GAP]])
    scheme = DecisionSlot(VOCAB, ANSWERS)
    assert told(scheme.masks(torch.cat([one, gap, one], dim=1))["decision"]) == [5]
    assert told(scheme.masks(torch.cat([one[:, :1], gap, one[:, 1:]], dim=1))["decision"]) == []
    mask = torch.tensor([[1, 1, 1, 1, 0, 1, 1]])
    assert told(scheme.masks(torch.cat([one, gap, one], dim=1), attention_mask=mask)["decision"]) == [1]


Place = tuple[int, int, bytes, bytes]
"""Row, column, the text before the token, the token."""


def documents(batch: Batch) -> list[list[Place]]:
    """The tokens with text of each document: a new one begins where positions restart."""
    found: dict[tuple[int, int], list[Place]] = {}
    restarts = 0
    for row, columns, tokens in batch.stretches:
        restarts += int(batch.position_ids[row, columns[0]] == 0)
        places = found.setdefault((row, restarts), [])
        places += [(row, column, b"".join(tokens[:i]), tokens[i]) for i, column in enumerate(columns)]
    return list(found.values())


def follows(before: bytes, token: bytes, after: str) -> bool:
    """Whether one of the token's characters is no space and has `after`, or that and spaces, before it."""
    start = len(before.decode("utf-8", "surrogateescape"))
    both = (before + token).decode("utf-8", "surrogateescape")
    return any(not both[i].isspace() and both[:i].rstrip().endswith(after) for i in range(start, len(both)))


def expected(batch: Batch, labels: torch.Tensor, answers: list[int], after: str | None) -> torch.Tensor:
    result = torch.zeros_like(batch.text)
    for document in documents(batch):
        for row, column, before, token in reversed(document):
            supervised = labels[row, column] != -100 and int(batch.input_ids[row, column]) in answers
            if supervised and (after is None or follows(before, token, after)):
                result[row, column] = True
                break
    return result


@settings(max_examples=150, deadline=None)
@given(batches(("a", "é", "!", " ", "\n", "aa", "A", "B")), st.data())
def test_against_a_search_backwards(batch: Batch, data: st.DataObject) -> None:
    """Texts are cut anywhere, so that answers hold spaces and context; cut characters are in the next test."""
    plain = [i for i, token in enumerate(batch.vocab) if token.isascii()]
    assume(len(plain) > 1)
    ids = data.draw(st.lists(st.sampled_from(plain), min_size=2, unique=True))
    cells = st.lists(st.booleans(), min_size=batch.text.numel(), max_size=batch.text.numel())
    ignored = torch.tensor(data.draw(cells)).reshape(batch.text.shape)
    labels = batch.input_ids.masked_fill(ignored, -100)
    for after in (None, "a", "aa", "é", "!a"):
        scheme = DecisionSlot(batch.vocab, {"one": ids[:1], "two": ids[1:]}, after=after)
        mask = scheme.masks(batch.input_ids, labels, batch.attention_mask, batch.position_ids)["decision"]
        assert mask.equal(expected(batch, labels, ids, after)), after


def test_an_answer_that_begins_with_half_a_character() -> None:
    vocab = [b"=", b"\xe6\x97", b"\xa5", b"x"]  # 日 in two tokens
    scheme = DecisionSlot(vocab, {"day": [1], "other": [3]}, after="=")
    assert told(scheme.masks(torch.tensor([[0, 1, 2, 0, 3, 0, 1, 2]]))["decision"]) == [6]
    tail = DecisionSlot(vocab, {"day": [2], "other": [3]}, after="=")
    assert (
        told(tail.masks(torch.tensor([[0, 1, 2]]))["decision"]) == []
    )  # the first byte is the one that counts


@pytest.mark.parametrize(
    ("answers", "after", "why"),
    [
        ({"yes": [1]}, "x", "give at least two by name"),
        ({}, "x", "give at least two"),
        ({"yes": [1], "no": [1]}, "x", "token id 1 belongs to the answers 'yes' and 'no'"),
        (Answers({"yes": (1,), "no": (1,)}), "x", "token id 1 belongs"),
        ({"yes": [1], "no": [99]}, "x", "token id 99; allowed are 0 to 13"),
        ({"yes": [1], "no": []}, "x", "'no' has no token ids"),
        ({"yes": [1], "no": 2}, "x", r"ids of answer 'no' are 2; give a list: \[2\]"),
        ({"yes": [1], "no": [2]}, "", "after is ''; give the text before the answer, or None"),
    ],
)
def test_wrong_arguments(answers: Answers, after: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        DecisionSlot(VOCAB, answers, after=after)
