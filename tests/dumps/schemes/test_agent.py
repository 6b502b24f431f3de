"""Function blocks in an agent's text, from ids and from the original text."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from schemes_oracle import GAP, Batch, batches, blocks, ids_of, token_lists, told, touched, whole

from logitbox.dumps.schemes.agent import FUNCTION_BLOCK, AgentText
from logitbox.errors import InputError


def truncated(text: str) -> list[tuple[int, int]]:
    """Whole blocks, then the first opening behind them to the end."""
    found = blocks(text)
    behind = found[-1][1] if found else 0
    opened = [start for start, _ in whole("<function=[^>]+>")(text) if start >= behind]
    return [*found, (opened[0], len(text))] if opened else found


@settings(max_examples=150, deadline=None)
@given(batches())
def test_against_a_loop_over_bytes(batch: Batch) -> None:
    for include, find in ((False, blocks), (True, truncated)):
        masks = AgentText(batch.vocab, include_truncated=include).masks(**batch.given())
        expected = batch.expected(find)
        assert masks["tool_call"].equal(expected)
        assert masks["reasoning"].equal(batch.text & ~expected)


@settings(max_examples=100, deadline=None)
@given(token_lists(["<function=a>", "</function>", "é", "🙂", "\n", "x>", "<"]))
def test_both_ways_agree_where_tokens_end_with_characters(tokens: list[bytes]) -> None:
    tokens = [token for token in tokens if not touched([token], whole("[\udc80-\udcff]"))[0]]
    texts = [token.decode() for token in tokens]
    ends = list(itertools.accumulate(map(len, texts)))
    scheme = AgentText(["no text", *tokens])
    types = scheme.classify("".join(texts), list(zip([0, *ends][:-1], ends, strict=True)))
    masks = scheme.masks(torch.arange(1, len(tokens) + 1)[None])
    assert [name == "tool_call" for name in types] == masks["tool_call"][0].tolist()
    assert types == ["tool_call" if hit else "reasoning" for hit in touched(tokens, blocks)]


VOCAB = ["I look", ".<", "function=ls>", "\n-l", "\n", "</function", ">\n", "ok", "<eos>"]


def test_tokens_over_the_edge_of_a_block_belong_to_it() -> None:
    ids = ids_of(["I look", ".<", "function=ls>", "\n-l", "\n", "</function", ">\n", "ok", "<eos>"], VOCAB)
    masks = AgentText(VOCAB).masks(ids)
    assert told(masks["tool_call"]) == [1, 2, 3, 4, 5, 6]
    assert told(masks["reasoning"]) == [0, 7, 8]  # special tokens have a type like any other


@pytest.mark.parametrize("include", [False, True])
def test_a_block_that_is_not_closed(include: bool) -> None:
    ids = ids_of(["I look", ".<", "function=ls>", "\n-l", "<eos>"], VOCAB)
    masks = AgentText(VOCAB, include_truncated=include).masks(ids)
    assert told(masks["tool_call"]) == ([1, 2, 3, 4] if include else [])


def test_a_truncated_block_ends_with_its_text() -> None:
    opened, other = ids_of([".<", "function=ls>", "ok"], VOCAB), ids_of(["ok", "ok"], VOCAB)
    scheme = AgentText(VOCAB, include_truncated=True)
    packed = torch.cat([opened, other], dim=1)
    masks = scheme.masks(packed, position_ids=torch.tensor([[0, 1, 2, 0, 1]]))
    assert told(masks["tool_call"]) == [0, 1, 2]
    gap = torch.cat([opened, torch.tensor([[GAP]]), other], dim=1)
    assert told(scheme.masks(gap)["tool_call"]) == [0, 1, 2]
    assert told(scheme.masks(gap)["reasoning"]) == [4, 5]


@pytest.mark.parametrize("include", [False, True])
def test_a_text_that_begins_inside_a_block_is_reasoning(include: bool) -> None:
    ids = ids_of(["\n-l", "</function", ">\n", "ok"], VOCAB)
    masks = AgentText(VOCAB, include_truncated=include).masks(ids)
    assert told(masks["reasoning"]) == [0, 1, 2, 3]


def test_another_pattern() -> None:
    scheme = AgentText(["<tool>", "ls", "</tool>", "ok"], "<tool>.*?</tool>", include_truncated=True)
    assert scheme.classify("<tool>ls</tool>ok<tool>", [(0, 6), (6, 8), (8, 15), (15, 17), (17, 23)]) == [
        "tool_call", "tool_call", "tool_call", "reasoning", "tool_call",
    ]  # fmt: skip
    assert told(scheme.masks(torch.tensor([[3, 0, 1, 2, 3, 0, 3]]))["tool_call"]) == [1, 2, 3, 5, 6]


def test_classify_takes_offsets_in_any_order() -> None:
    text = "a<function=b></function>c"
    offsets = [(0, 0), (0, 1), (1, 24), (12, 12), (24, 25), (0, 2), (0, 0)]
    assert AgentText(VOCAB).classify(text, offsets) == [
        "reasoning", "reasoning", "tool_call", "reasoning", "reasoning", "tool_call", "reasoning",
    ]  # fmt: skip
    assert AgentText(VOCAB).classify("", []) == []


@pytest.mark.parametrize(
    ("offsets", "why"),
    [
        ([(0, 1), (1, 4)], "offsets reach from 0 to 4, but the text has 3 characters"),
        ([(-1, 1)], "offsets reach from -1"),
        ([1, 2, 3], "offsets are no pairs"),
        ([[(0, 1)], [(1, 2)]], "offsets are no pairs.*of one text"),
        ([(0, 1), None], "offsets are no pairs"),
    ],
)
def test_wrong_offsets(offsets: list[tuple[int, int]], why: str) -> None:
    with pytest.raises(InputError, match=why):
        AgentText(VOCAB).classify("abc", offsets)


@pytest.mark.parametrize("pattern", ["<a>", "<a>.*?</a>|<b>.*?</b>", "(<a>.*?</a>)", ".*?</a>"])
def test_truncated_blocks_need_a_pattern_with_an_opening(pattern: str) -> None:
    AgentText(VOCAB, pattern)
    with pytest.raises(InputError, match=r"include_truncated=True, but the pattern .* is not of the form"):
        AgentText(VOCAB, pattern, include_truncated=True)


def test_the_pattern_is_the_one_of_the_seed() -> None:
    assert FUNCTION_BLOCK == "<function=[^>]+>.*?</function>"
    types = AgentText(VOCAB).types
    assert (types.names, types.partition) == (("reasoning", "tool_call"), True)
    with pytest.raises(InputError, match="pattern of 'tool_call'"):
        AgentText(VOCAB, "(")
