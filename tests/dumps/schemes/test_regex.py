"""Types by regular expressions, against a loop over bytes."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from schemes_oracle import GAP, Batch, batches, ids_of, told, whole

from logitbox.dumps.schemes.regex import RegexTypes
from logitbox.errors import InputError

PATTERNS = {"wide": "[^\x00-\x7f]+", "tag": "<.*?>", "line": r"\n\s*", "late": "x.", "any": "."}


@settings(max_examples=150, deadline=None)
@given(batches())
def test_a_token_has_a_type_if_a_byte_of_it_is_matched(batch: Batch) -> None:
    masks = RegexTypes(batch.vocab, PATTERNS, rest="rest").masks(**batch.given())
    matched = torch.zeros_like(batch.text)
    for name, pattern in PATTERNS.items():
        expected = batch.expected(whole(pattern))
        assert masks[name].equal(expected), name
        matched |= expected
    assert masks["rest"].equal(batch.text & ~matched)


@settings(max_examples=100, deadline=None)
@given(batches())
def test_a_partition_gives_each_token_the_first_type_that_matches(batch: Batch) -> None:
    patterns = {"tag": "<.*?>", "wide": "[^\x00-\x7f]+"}
    masks = RegexTypes(batch.vocab, patterns, rest="rest", partition=True).masks(**batch.given())
    tag = batch.expected(whole(patterns["tag"]))
    wide = batch.expected(whole(patterns["wide"])) & ~tag
    assert masks["tag"].equal(tag)
    assert masks["wide"].equal(wide)
    assert masks["rest"].equal(batch.text & ~tag & ~wide)


def test_parts_of_characters() -> None:
    """🙂 is four bytes; a token with any of them is matched, and what follows is not shifted."""
    vocab = [b"a\xf0", b"\x9f", b"\x99\x82b", b"", b"\xff", b"c"]
    scheme = RegexTypes(vocab, {"smile": "🙂", "c": "c", "dot": "🙂..c"})
    masks = scheme.masks(torch.tensor([[0, 1, 3, 2, 4, 5]]))
    assert told(masks["smile"]) == [0, 1, 3]
    assert told(masks["c"]) == [5]  # the byte 0xff before it is one character, neither dropped nor widened
    assert told(masks["dot"]) == [0, 1, 3, 4, 5]  # b and 0xff are a character each


def test_the_group_named_type_counts_and_others_do_not() -> None:
    vocab = ["a", "=", "1", ";"]
    ids = ids_of(["a", "=", "1", ";"], vocab)
    patterns = {
        "named": r"=(?P<type>\d)",
        "numbered": r"=(\d)",
        "ahead": r"a(?==(?P<type>\d;))",
        "absent": r"a=(?P<type>x)?",
    }
    masks = RegexTypes(vocab, patterns).masks(ids)
    assert {name: told(mask) for name, mask in masks.items()} == {
        "named": [2], "numbered": [1, 2], "ahead": [2, 3], "absent": [],
    }  # fmt: skip


def test_strings_match_over_lines_and_compiled_patterns_keep_their_flags() -> None:
    vocab = ["a", "\n", "B"]
    patterns = {
        "string": "a.b|a.B",
        "plain": re.compile("a.B"),
        "loose": re.compile("a.b", re.DOTALL | re.IGNORECASE),
    }
    masks = RegexTypes(vocab, patterns).masks(torch.tensor([[0, 1, 2]]))
    assert {name: told(mask) for name, mask in masks.items()} == {
        "string": [0, 1, 2], "plain": [], "loose": [0, 1, 2],
    }  # fmt: skip


def test_no_match_reaches_across_a_gap() -> None:
    scheme = RegexTypes(["a", "b"], {"ab": "ab"}, rest="rest")
    for ids, mask, position, expected in [
        ([0, 1], [1, 1], [0, 1], [0, 1]),
        ([0, GAP, 1], [1, 1, 1], [0, 1, 2], []),
        ([0, 2, 1], [1, 1, 1], [0, 1, 2], []),
        ([0, 0, 1], [1, 0, 1], [0, 1, 2], []),
        ([0, 1, 0, 1], [1] * 4, [0, 0, 1, 2], [2, 3]),
    ]:
        given_it = [torch.tensor([value]) for value in (ids, mask, position)]
        masks = scheme.masks(given_it[0], None, given_it[1], given_it[2])
        assert told(masks["ab"]) == expected
        text = [c for c, (i, m) in enumerate(zip(ids, mask, strict=True)) if i in (0, 1) and m]
        assert told(masks["rest"]) == [column for column in text if column not in expected]


def test_rows_do_not_touch() -> None:
    masks = RegexTypes(["a", "b"], {"ab": "ab"}).masks(torch.tensor([[1, 0], [1, 0]]))
    assert not masks["ab"].any()


@pytest.mark.parametrize(
    ("patterns", "options", "why"),
    [
        ({"bad": "(a"}, {}, r"pattern of 'bad', '\(a', is no regular expression: missing \)"),
        ({"bad": re.compile(b"a")}, {}, r"pattern of 'bad' is re.compile\(b'a'\); give a string"),
        ({"bad": 3}, {}, "pattern of 'bad' is 3; give a string"),
        ({}, {}, "patterns is {}; give a pattern by type name"),
        (["a"], {}, r"patterns is \['a'\]"),
        ({3: "a"}, {}, "patterns is {3: 'a'}; give a pattern by type name"),
        ({"a b": "x"}, {}, "token type name 'a b'"),
        ({"a": "x"}, {"rest": "a"}, "repeat a name"),
        ({"a": "x"}, {"partition": True}, "partition=True without rest="),
    ],
)
def test_wrong_arguments(patterns: object, options: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        RegexTypes(["a"], patterns, **options)  # pyright: ignore[reportArgumentType]


def test_names_in_order() -> None:
    types = RegexTypes(["a"], {"z": "a", "y": "a"}, rest="x").types
    assert (types.names, types.partition) == (("z", "y", "x"), False)
    assert RegexTypes(["a"], {"z": "a"}, rest="x", partition=True).types.partition


def test_every_width_of_characters() -> None:
    """The first and last characters that UTF-8 writes in one, two, three and four bytes, each a token."""
    chars = [
        "\x00",
        "\x7f",
        "\x80",
        "\u07ff",
        "\u0800",
        "\ud7ff",
        "\ue000",
        "\uffff",
        "\U00010000",
        "\U0010ffff",
    ]
    for char in chars:
        masks = RegexTypes([*chars, "!"], {"one": char, "next": f"(?<={char})."}).masks(
            torch.arange(11)[None]
        )
        assert (told(masks["one"]), told(masks["next"])) == ([chars.index(char)], [chars.index(char) + 1])
