"""From words to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from logitbox.dumps.schemes.answers import ACCEPT_REJECT, Answers, resolve_answers
from logitbox.dumps.spec import build_spec
from logitbox.errors import InputError


class Greedy:
    """A tokenizer that takes the longest token of its list each time."""

    all_special_ids = ()
    bos_token_id = eos_token_id = None

    def __init__(self, tokens: Sequence[str], prefix: str = "", unknown: int | None = None) -> None:
        self.tokens, self.prefix, self.unknown = list(tokens), prefix, unknown

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        return [self.tokens[i] for i in ids]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        rest, ids = (self.prefix + text).replace(" ", "▁"), list[int]()
        while rest:
            fitting = [i for i, token in enumerate(self.tokens) if rest.startswith(token)]
            if not fitting:
                assert self.unknown is not None
                return [self.unknown]
            ids.append(max(fitting, key=lambda i: len(self.tokens[i])))
            rest = rest[len(self.tokens[ids[-1]]) :]
        return ids


LETTERS = [*"AaRrcejpt{▁\n"]
WORDS = ["Accept", "accept", "Reject", "reject"]


def test_the_seed_s_words() -> None:
    tokenizer = Greedy([*LETTERS, *WORDS, "▁Accept", "{Reject"])
    n = len(LETTERS)
    assert resolve_answers(tokenizer) == Answers(
        {"accept": (n, n + 1), "reject": (n + 2, n + 3)}, {n + i: (word,) for i, word in enumerate(WORDS)}
    )
    both = resolve_answers(tokenizer, leading_space=True, merged_brace=True)
    assert both.groups == {"accept": (n, n + 1, n + 4), "reject": (n + 2, n + 3, n + 5)}
    assert both.words[n + 4] == (" Accept",)
    assert both.words[n + 5] == ("{Reject",)
    assert resolve_answers(tokenizer, leading_space=True).groups["reject"] == (n + 2, n + 3)
    assert resolve_answers(tokenizer, merged_brace=True).groups["accept"] == (n, n + 1)
    assert ACCEPT_REJECT == {"accept": ("Accept", "accept"), "reject": ("Reject", "reject")}


def test_a_word_of_several_tokens() -> None:
    tokenizer = Greedy([*LETTERS, "Acc", "ept", "accept", "Re", "ject", "reject"])
    n = len(LETTERS)
    with pytest.raises(
        InputError,
        match=rf"the word 'Accept' is 2 tokens, not one: 'Acc', 'ept'; .*'Acc' \(id {n}\) with first_token=True",
    ):
        resolve_answers(tokenizer)
    answers = resolve_answers(tokenizer, first_token=True)
    assert answers.groups == {"accept": (n, n + 2), "reject": (n + 3, n + 5)}
    assert answers.words == {n: ("Accept",), n + 2: ("accept",), n + 3: ("Reject",), n + 5: ("reject",)}


def test_a_first_token_of_two_answers() -> None:
    tokenizer = Greedy([*"ablewxyz▁{\n", "un"])
    words = {"able": ["unable"], "well": ["unwell"]}
    with pytest.raises(
        InputError, match=r"id 11 \(from 'unable', 'unwell'\) belongs to .* 'able' and 'well'"
    ):
        resolve_answers(tokenizer, words, first_token=True)
    with pytest.raises(InputError, match="belongs to the answers 'one' and 'two'"):
        resolve_answers(["Yes", "No"], {"one": ["Yes"], "two": ["No", "Yes"]})


def test_options_of_several_tokens_never_count() -> None:
    """Their first token would be a bare space or brace, whatever the answer."""
    tokenizer = Greedy([*LETTERS, "Acc", "ept", "accept", "Re", "ject", "reject"])
    resolve = partial(resolve_answers, tokenizer, leading_space=True, merged_brace=True, first_token=True)
    assert resolve() == resolve_answers(tokenizer, first_token=True)
    base = {"a": [" Accept", "Accept"], "r": ["Reject"]}  # " Accept" is a base word here, and stays one
    space = tokenizer.tokens.index("▁")
    assert resolve(base).groups["a"][0] == space


def test_a_tokenizer_that_puts_a_space_before_a_text() -> None:
    """SentencePiece: behind `{` comes the token without the space, which encoding the bare word does not give."""
    tokens = [*LETTERS, *"YesNo", "▁Yes", "Yes", "▁No", "No", "Re", "▁Re", "ject"]
    tokenizer = Greedy(tokens, prefix="▁")
    yes = resolve_answers(tokenizer, {"yes": ["Yes"], "no": ["No"]})
    assert [tokens[ids[0]] for ids in yes.groups.values()] == ["Yes", "No"]
    spaced = resolve_answers(tokenizer, {"yes": ["Yes"], "no": ["No"]}, leading_space=True)
    assert [[tokens[i] for i in ids] for ids in spaced.groups.values()] == [["Yes", "▁Yes"], ["No", "▁No"]]
    with pytest.raises(InputError, match="'Reject' is 2 tokens, not one: 'Re', 'ject'"):
        resolve_answers(tokenizer, {"yes": ["Yes"], "no": ["Reject"]})
    first = resolve_answers(tokenizer, {"yes": ["Yes"], "no": ["Reject"]}, first_token=True)
    assert tokens[first.groups["no"][0]] == "Re"


def test_a_real_metaspace_tokenizer() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    pieces = ["<unk>", "▁", "\n", *"YesNo", "Ye", "Yes", "No", "▁Ye", "▁Yes", "▁No"]
    merges = [("Y", "e"), ("Ye", "s"), ("N", "o"), ("▁", "Yes"), ("▁", "No")]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme="first")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert tokenizer.encode("Yes", add_special_tokens=False) == [vocab["▁Yes"]]
    answers = resolve_answers(tokenizer, {"yes": ["Yes"], "no": ["No"]}, leading_space=True)
    assert answers.groups == {"yes": (vocab["Yes"], vocab["▁Yes"]), "no": (vocab["No"], vocab["▁No"])}


def test_a_token_that_is_not_the_word_is_none() -> None:
    tokenizer = Greedy(["<unk>", *"YesNo\n", "Yes"], unknown=0)
    with pytest.raises(
        InputError, match=r"no word of answer 'maybe' is a token .*: 'Perhaps', 'Maybe'; give"
    ):
        resolve_answers(tokenizer, {"yes": ["Yes"], "maybe": ["Perhaps", "Maybe"]})


def test_token_strings_are_looked_up_as_they_are() -> None:
    tokens = ["Yes", "no", " Yes", b"{no", "A", "No", "no"]
    answers = resolve_answers(tokens, {"yes": ["Yes", "yes"], "no": ["No", "no"]})
    assert answers.groups == {"yes": (0,), "no": (5, 1, 6)}  # both ids of a string that is there twice
    options = resolve_answers(
        tokens, {"yes": ["Yes", "yes"], "no": ["No", "no"]}, leading_space=True, merged_brace=True
    )
    assert options.groups == {"yes": (0, 2), "no": (5, 1, 6, 3)}
    with pytest.raises(InputError, match="no word of answer 'b' is a token of the vocabulary: 'B'"):
        resolve_answers(tokens, {"a": ["A"], "b": ["B"]})


def test_any_number_of_answers_makes_groups_of_a_recording() -> None:
    tokens = [*"ABCDE"]
    answers = resolve_answers(tokens, {letter: [letter] for letter in "DBCA"})
    assert answers.groups == {"D": (3,), "B": (1,), "C": (2,), "A": (0,)}
    spec = build_spec(5, None, answers.groups, None, None, probes=False, lse_beta=False, scope="supervised")
    assert [group.name for group in spec.groups] == [*"DBCA"]


@pytest.mark.parametrize(
    ("tokenizer", "words", "why"),
    [
        (["A"], {}, "answers are {}; give at least two"),
        (["A"], {"a": ["A"]}, r"answers are {'a': \['A'\]}; give at least two"),
        (["A"], ["A", "B"], r"answers are \['A', 'B'\]"),
        (["A", "B"], {"a": "A", "b": ["B"]}, "words of answer 'a' are 'A'; give a list"),
        (["A", "B"], {"a": ["A"], "b": [""]}, r"words of answer 'b' are \[''\]"),
        (["A", "B"], {"a": ["A"], "b": []}, "no word of answer 'b'"),
        (["A", "B"], {"a": ["A"], "b b": ["B"]}, "name 'b b'"),
        ("AB", {"a": ["A"], "b": ["B"]}, "tokenizer is a str"),
        (7, {"a": ["A"], "b": ["B"]}, "tokenizer is a int"),
    ],
)
def test_wrong_arguments(tokenizer: Any, words: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        resolve_answers(tokenizer, words)


def test_answers_by_hand() -> None:
    assert Answers.build({"a": [3, 1, 3], "b": range(5, 7)}).groups == {"a": (3, 1), "b": (5, 6)}
    for bad, why in [({"a": [1], "b": [-1]}, "token id -1"), ({"a": [1], "b": [0.5]}, "no token id")]:
        with pytest.raises(InputError, match=why):
            Answers.build(bad)  # pyright: ignore[reportArgumentType]
