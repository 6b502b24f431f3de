"""Which token ids stand for which answer, from the words that are written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from logitbox.dumps.spec import ACCEPT_REJECT, MAX_VOCABULARY, Group
from logitbox.dumps.vocabulary import Tokenizer, build_vocabulary
from logitbox.errors import InputError

_ANCHOR = "\n"


@runtime_checkable
class Encoder(Tokenizer, Protocol):
    """A Hugging Face tokenizer, as far as answers need it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...


@dataclass(frozen=True)
class Answers:
    """The token ids of each answer; no id belongs to two. `groups` fits `Recorder(groups=…)`."""

    groups: Mapping[str, tuple[int, ...]]
    """Ids by answer, both in the order declared."""
    words: Mapping[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])
    """The words that gave each id; of a word of several tokens the id is the first one's."""

    @classmethod
    def build(
        cls, groups: Mapping[str, Sequence[int]], words: Mapping[int, tuple[str, ...]] | None = None
    ) -> Answers:
        """Check names and ids.

        Raises:
            InputError: fewer than two answers, one without ids, an id of two answers, a bad name.
        """
        _check_count(groups)
        kept: dict[str, tuple[int, ...]] = {}
        owner: dict[int, str] = {}
        for name, ids in groups.items():
            if not isinstance(ids, Iterable):
                raise InputError(f"the ids of answer {name!r} are {ids!r}; give a list: [{ids!r}]")
            kept[name] = tuple(Group.build(name, tuple(dict.fromkeys(ids)), MAX_VOCABULARY).ids)
            for i in kept[name]:
                if owner.setdefault(i, name) != name:
                    raise InputError(_shared(i, owner[i], name, (words or {}).get(i, ())))
        return cls(kept, dict(words or {}))


def resolve_answers(
    tokenizer: Encoder | Sequence[str | bytes],
    words: Mapping[str, Sequence[str]] = ACCEPT_REJECT,
    *,
    leading_space: bool = False,
    merged_brace: bool = False,
    first_token: bool = False,
) -> Answers:
    """Find the single token of every word of every answer.

    Args:
        tokenizer: a Hugging Face tokenizer, or a list of token strings in which words are looked up as they are;
            there, words that the list lacks are left out.
        words: the words of each answer, such as `{"yes": ["Yes", "yes"], "no": ["No", "no"]}`.
        leading_space: take " Yes" too, where it is a single token.
        merged_brace: take "{Yes" too, where it is a single token.
        first_token: a word of several tokens is told by its first one, as is then any other word that begins
            with that token; otherwise it is an error.

    Raises:
        InputError: fewer than two answers, a word of several tokens, an answer of whose words none is a token,
            an id of two answers.
    """
    _check_count(words)
    lookup = _Lookup.build(tokenizer)
    groups: dict[str, list[int]] = {}
    found: defaultdict[int, list[str]] = defaultdict(list)
    for name, base in words.items():
        forms = {word: lookup.word(word, first_token=first_token) for word in _checked_words(name, base)}
        for lead, wanted in ((" ", leading_space), ("{", merged_brace)):
            for word in base if wanted else ():
                forms.setdefault(lead + word, lookup.single(lead + word))
        groups[name] = [i for ids in forms.values() for i in ids]
        if not groups[name]:
            raise InputError(_unknown(name, forms))
        for form, ids in forms.items():
            for i in ids:
                found[i].append(form)
    return Answers.build(groups, {i: tuple(forms) for i, forms in found.items()})


@dataclass(frozen=True)
class _Lookup:
    """Tokens of a word, from an encoder or from the token strings alone."""

    tokens: tuple[bytes, ...]
    encoder: Encoder | None
    ids: Mapping[bytes, tuple[int, ...]]
    """Of a list of token strings: all ids of each."""

    @classmethod
    def build(cls, tokenizer: Any) -> _Lookup:
        if isinstance(tokenizer, Encoder):
            return cls(build_vocabulary(tokenizer).tokens, tokenizer, {})
        if isinstance(tokenizer, (str, bytes)) or not isinstance(tokenizer, Sequence):
            raise InputError(
                f"tokenizer is a {type(tokenizer).__name__}; give a Hugging Face tokenizer, or a list of token strings"
            )
        tokens = build_vocabulary(tokenizer).tokens
        ids: defaultdict[bytes, list[int]] = defaultdict(list)
        for i, token in enumerate(tokens):
            ids[token].append(i)
        return cls(tokens, None, {token: tuple(same) for token, same in ids.items()})

    def single(self, form: str) -> tuple[int, ...]:
        """Ids of the token that is exactly `form`; none if there is no such token."""
        if self.encoder is None:
            return self.ids.get(form.encode(), ())
        pieces = self._pieces(self.encoder, form)
        return tuple(pieces) if len(pieces) == 1 and self._spell(pieces) == form.encode() else ()

    def word(self, word: str, *, first_token: bool) -> tuple[int, ...]:
        """`single`, or of several tokens the first one's. Raises InputError for several otherwise."""
        pieces = [] if self.encoder is None else self._pieces(self.encoder, word)
        if len(pieces) < 2:
            return self.single(word)
        if first_token:
            return (pieces[0],)
        texts = [self._text(i) for i in pieces]
        raise InputError(
            f"the word {word!r} is {len(pieces)} tokens, not one: {', '.join(map(repr, texts))}; leave it out, "
            f"or tell it by its first token {texts[0]!r} (id {pieces[0]}) with first_token=True, "
            "which no other answer may then share"
        )

    def _pieces(self, encoder: Encoder, form: str) -> list[int]:
        """Tokens that spell exactly `form` where possible.

        SentencePiece puts a space before a text, which is not there behind a brace: then the form is
        encoded behind a line break, whose tokens are taken off again.
        """
        plain = [int(i) for i in encoder.encode(form, add_special_tokens=False)]
        if self._spell(plain) == form.encode():
            return plain
        anchor = [int(i) for i in encoder.encode(_ANCHOR, add_special_tokens=False)]
        whole = [int(i) for i in encoder.encode(_ANCHOR + form, add_special_tokens=False)]
        inside = whole[len(anchor) :]
        return inside if self._spell(inside) == form.encode() and whole[: len(anchor)] == anchor else plain

    def _spell(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.tokens[i] for i in ids)

    def _text(self, token_id: int) -> str:
        return self.tokens[token_id].decode("utf-8", errors="backslashreplace")


def _check_count(answers: object) -> None:
    if not isinstance(answers, Mapping) or len(answers) < 2:
        raise InputError(
            f"answers are {answers!r}; give at least two by name, as a decision needs: "
            "{'yes': ['Yes'], 'no': ['No']}"
        )


def _checked_words(answer: str, words: Sequence[str]) -> Sequence[str]:
    if isinstance(words, str) or not all(isinstance(word, str) and word for word in words):
        raise InputError(f"the words of answer {answer!r} are {words!r}; give a list: ['Yes', 'yes']")
    return words


def _unknown(answer: str, forms: Iterable[str]) -> str:
    return (
        f"no word of answer {answer!r} is a token of the vocabulary: {', '.join(map(repr, forms))}; "
        "give words as the tokenizer spells them"
    )


def _shared(token_id: int, one: str, other: str, words: Sequence[str]) -> str:
    told = f" (from {', '.join(map(repr, words))})" if words else ""
    return (
        f"token id {token_id}{told} belongs to the answers {one!r} and {other!r}; "
        "an id can tell one answer only: give words with tokens of their own"
    )
