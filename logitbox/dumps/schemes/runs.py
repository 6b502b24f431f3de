"""The text of a batch's tokens, in runs without a gap, and which tokens a piece of it falls on.

Text is put together from the bytes of the tokens, so that a token holding part of a character is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.schemes.inputs import Inputs
from logitbox.dumps.schemes.spans import Spans, overlaps
from logitbox.dumps.vocabulary import Tokenizer, Vocabulary, build_vocabulary
from logitbox.errors import InputError

Vocab = Vocabulary | Sequence[str | bytes] | Tokenizer


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of one document, all with text: columns `start` to `stop` of a row."""

    row: int
    start: int
    stop: int
    raw: bytes
    lengths: NDArray[np.int64]
    """Bytes of each token."""

    @property
    def place(self) -> tuple[int, slice]:
        """Where it is in an array [B, T]."""
        return self.row, slice(self.start, self.stop)

    @cached_property
    def text(self) -> str:
        """One character for each byte that is no UTF-8."""
        return self.raw.decode("utf-8", errors="surrogateescape")

    def covered(self, spans: Spans) -> NDArray[np.bool_]:
        """[tokens]: shares at least a byte with one of the spans of characters."""
        ends = self.lengths.cumsum()
        return overlaps(ends - self.lengths, ends, self._bytes_at(spans))

    def token_at(self, characters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Column in the batch of the token that holds the first byte of each character."""
        return self.start + np.searchsorted(self.lengths.cumsum(), self._bytes_at(characters), side="right")

    def _bytes_at(self, characters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes before each character; any shape."""
        if not characters.size or len(self.text) == len(self.raw):
            return characters
        # A lone surrogate stands for one byte that is no UTF-8.
        code = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), "<u4")
        width = 1 + (code >= 0x80) + (code >= 0x800) + (code >= 0x10000)
        width[(code >= 0xDC80) & (code <= 0xDCFF)] = 1
        return np.concatenate([[0], width.cumsum()])[characters]


@dataclass(frozen=True)
class TokenBytes:
    """The bytes of each id and their number, for quick assembly."""

    vocabulary: Vocabulary
    lengths: NDArray[np.int64]

    @classmethod
    def build(cls, vocab: Vocab) -> TokenBytes:
        """From a tokenizer, token strings, or a Vocabulary. Raises InputError where no text is known."""
        vocabulary = vocab if isinstance(vocab, Vocabulary) else build_vocabulary(vocab)
        if not vocabulary.tokens:
            raise InputError(
                f"vocab has {vocabulary.size} ids without text, and types are found in text; "
                "give the tokenizer, or the list of token strings"
            )
        return cls(vocabulary, np.array([len(token) for token in vocabulary.tokens], dtype=np.int64))

    def has_text(self, inputs: Inputs) -> NDArray[np.bool_]:
        """[B, T]: neither padding nor a gap."""
        return inputs.real & (inputs.ids >= 0) & (inputs.ids < len(self.lengths))

    def runs(self, inputs: Inputs, among: NDArray[np.bool_] | None = None) -> Iterator[Run]:
        """The longest runs of tokens with text (of those `among`, bool [B, T]) within one document."""
        inside = self.has_text(inputs)
        if among is not None:
            inside &= among
        joined = inside[:, 1:] & inside[:, :-1] & (inputs.document[:, 1:] == inputs.document[:, :-1])
        edge = np.zeros_like(inside[:, :1])
        rows, starts = np.nonzero(inside & ~np.concatenate([edge, joined], axis=1))
        _, lasts = np.nonzero(inside & ~np.concatenate([joined, edge], axis=1))
        tokens = self.vocabulary.tokens
        for row, start, last in zip(rows.tolist(), starts.tolist(), lasts.tolist(), strict=True):
            ids = inputs.ids[row, start : last + 1]
            raw = b"".join([tokens[i] for i in ids.tolist()])
            yield Run(row, start, last + 1, raw, self.lengths[ids])
