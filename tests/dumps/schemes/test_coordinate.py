"""Coordinates, descriptions and format: against the demo's own types, and against a JSON parser."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schemes_oracle import ids_of, told

from logitbox.demo.tokens import COORD_IDS, TOKENS, TYPES, Item, collate
from logitbox.dumps.schemes.coordinate import CoordinateJson
from logitbox.dumps.vocabulary import Vocabulary
from logitbox.errors import InputError


def test_the_demo_s_own_types_come_out() -> None:
    chance = random.Random(0)
    scenes = [
        [
            Item(
                chance.randrange(10),
                (
                    chance.randrange(1000),
                    chance.randrange(1000),
                    chance.randrange(1000),
                    chance.randrange(1000),
                ),
            )
            for _ in range(chance.randint(1, 4))
        ]
        for _ in range(40)
    ]
    batch = collate(scenes)
    scheme = CoordinateJson(TOKENS, COORD_IDS)
    assert scheme.types.names == TYPES
    masks = scheme.masks(batch.input_ids, batch.labels, batch.attention_mask)
    supervised = batch.labels != -100
    for name in TYPES:
        assert (masks[name] & supervised).equal(batch.types[name]), name
    assert all(batch.types[name].sum() > 40 for name in TYPES)


def split(text: str, at: list[int]) -> list[str]:
    cuts = [0, *sorted(at), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["desc", "name", "désc", "x"]), st.text(max_size=6)), max_size=4),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", " : "), (",\n", ":\t")]),
    st.lists(st.integers(0, 80), max_size=20),
)
def test_values_as_a_json_encoder_wrote_them(
    pairs: list[tuple[str, str]], ascii_only: bool, marks: tuple[str, str], cuts: list[int]
) -> None:
    """The text is put together piece by piece, so that each character's type is known."""
    text, kinds = "[", [False]
    for key, value in pairs:
        inside = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        before = json.dumps(key, ensure_ascii=ascii_only) + marks[1] + '"'
        for part, kind in (
            ("{", False),
            (before, False),
            (inside, key in ("desc", "désc")),
            ('"}' + marks[0], False),
        ):
            text += part
            kinds += [kind] * len(part)
    tokens = split(text, [cut for cut in cuts if cut <= len(text)])
    scheme = CoordinateJson(["<0>", *tokens], [0], desc_keys=["desc", "désc"])
    masks = scheme.masks(torch.arange(1, len(tokens) + 1)[None])
    at, expected = 0, list[bool]()
    for token in tokens:
        expected.append(any(kinds[at : at + len(token)]))
        at += len(token)
    assert masks["desc"][0].tolist() == expected
    assert masks["format"][0].tolist() == [not desc for desc in expected]


def desc_of(texts: list[str], **options: list[str]) -> list[str]:
    """The tokens that are desc."""
    masks = CoordinateJson(["<0>", *texts], [0], **options).masks(torch.arange(1, len(texts) + 1)[None])
    return [texts[column] for column in told(masks["desc"])]


def test_values_by_hand() -> None:
    assert desc_of(['{"desc":"', "two", " cats", '","b":1}']) == ["two", " cats"]
    assert desc_of(['{"desc":"tw', "o", '","b":1}']) == ['{"desc":"tw', "o"]  # a token over the edge
    assert desc_of(['{"desc":"', '"', ',"b":"', "x", '"}']) == []  # an empty value
    assert desc_of(['{"desc"', " \n: ", '"', "a", '\\"', "b", "\\\\", '"', "c", '"}']) == [
        "a",
        '\\"',
        "b",
        "\\\\",
    ]
    assert desc_of(['{"desc": "', "a", " b"]) == ["a", " b"]  # cut off
    assert desc_of(['{"desc": "', "a", "\\"]) == ["a", "\\"]  # cut off within an escape
    assert desc_of(['{"a":"desc"', ',"b":"', "x", '"}']) == []  # a value that reads like the key
    assert desc_of(['{"a":"q \\"desc\\": \\"', "x", '\\""}']) == []  # the same, quoted within a string
    assert desc_of(['{"my\\"desc":"', "x", '"}']) == []  # another key that ends like it
    assert desc_of(['{"desc": 5, "bbox": "', "x", '"}']) == []  # no string
    assert desc_of(['{"label":"', "x", '","desc":"', "y", '"}'], desc_keys=["label"]) == ["x"]
    assert desc_of(['{"a.c":"', "x", '","abc":"', "y", '"}'], desc_keys=["a.c"]) == ["x"]


def test_coordinates_come_before_descriptions() -> None:
    vocab = ['{"desc":"', "at ", "<5>", '"}']
    masks = CoordinateJson(vocab, [2]).masks(ids_of(['{"desc":"', "at ", "<5>", "at ", '"}', "<5>"], vocab))
    assert {name: told(mask) for name, mask in masks.items()} == {
        "coord": [2, 5], "desc": [1, 3], "format": [0, 4],
    }  # fmt: skip


def test_special_tokens_are_format_and_end_a_value() -> None:
    tokens = (b'{"desc":"', b"cat", b"<eos>", b"<5>", b"You")
    vocab = Vocabulary(5, tokens, special=frozenset({2, 3}))  # coordinates are often special too
    masks = CoordinateJson(vocab, [3]).masks(torch.tensor([[0, 1, 3, 1, 2, 4]]))
    assert {name: told(mask) for name, mask in masks.items()} == {
        "coord": [2], "desc": [1, 3], "format": [0, 4, 5],
    }  # fmt: skip


def test_a_value_ends_with_its_document() -> None:
    masks = CoordinateJson(['{"desc":"', "cat", "<5>"], [2]).masks(
        torch.tensor([[0, 1, 1, 1], [0, 1, -100, 1]]), position_ids=torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    )
    assert told(masks["desc"]) == told(masks["desc"], 1) == [1]
    assert told(masks["format"], 1) == [0, 3]


@pytest.mark.parametrize(
    ("coord", "keys", "why"),
    [
        ([7], ["desc"], "token id 7; allowed are 0 to 1"),
        ([], ["desc"], "no token ids"),
        ([0], "desc", "desc_keys is 'desc'; give a list"),
        ([0], [], r"desc_keys is \[\]"),
    ],
)
def test_wrong_arguments(coord: list[int], keys: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        CoordinateJson(["a", "b"], coord, desc_keys=keys)
