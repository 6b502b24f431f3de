"""What the recorder knows about the vocabulary: its size, the bytes of each token, the special ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from logitbox.errors import InputError

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used; any object with it will do."""

    def __len__(self) -> int: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        """The piece of each id."""
        ...


@dataclass(frozen=True)
class Vocabulary:
    """Size of the logits' last dimension and, where known, the bytes of each token.

    `tokens` may be shorter than `size`: embeddings are often padded beyond the tokenizer.
    """

    size: int
    tokens: tuple[bytes, ...] = ()
    special: frozenset[int] = frozenset()
    bos: int | None = None
    eos: int | None = None

    @property
    def fingerprint(self) -> str:
        """Equal for equal vocabularies; used to tell whether two dumps share a tokenizer."""
        digest = hashlib.sha256(str(self.size).encode())
        for token in self.tokens:
            digest.update(len(token).to_bytes(4, "little") + token)
        return digest.hexdigest()[:32]

    def noted(self) -> dict[str, Any]:
        """What `session.json` says about it."""
        return {
            "vocabulary_fingerprint": self.fingerprint,
            "has_token_text": bool(self.tokens),
            "bos": self.bos,
            "eos": self.eos,
        }


def build_vocabulary(source: int | Sequence[str | bytes] | Tokenizer, size: int | None = None) -> Vocabulary:
    """A Vocabulary from a size, a list of token strings, or a tokenizer.

    Args:
        source: see above.
        size: the logits' last dimension where it is larger than the tokenizer (padded embeddings).
    """
    if isinstance(source, bool) or source is None:
        raise InputError(
            f"vocab is {source!r}; give a tokenizer, a list of token strings, or the vocabulary size"
        )
    if isinstance(source, (int, np.integer)):
        vocabulary = Vocabulary(int(source))
    elif isinstance(source, Tokenizer):
        vocabulary = _from_tokenizer(source)
    elif isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        vocabulary = _from_strings(source)
    else:
        raise InputError(
            f"vocab is a {type(source).__name__}; give a tokenizer, a list of token strings, or the vocabulary size"
        )
    if size is not None and size < vocabulary.size:
        raise InputError(
            f"vocab_size is {size}, but vocab has {vocabulary.size} tokens; it cannot be smaller"
        )
    if size is None:
        return vocabulary
    return Vocabulary(size, vocabulary.tokens, vocabulary.special, vocabulary.bos, vocabulary.eos)


def _from_strings(tokens: Sequence[str | bytes]) -> Vocabulary:
    for token in tokens:
        if not isinstance(token, (str, bytes)):
            raise InputError(
                f"vocab holds {token!r}, a {type(token).__name__}; tokens must be strings or bytes"
            )
    encoded = tuple(
        token if isinstance(token, bytes) else token.encode(errors="surrogatepass") for token in tokens
    )
    return Vocabulary(len(encoded), encoded)


def _from_tokenizer(tokenizer: Tokenizer) -> Vocabulary:
    size = len(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(list(range(size)))
    special = frozenset(int(i) for i in cast("Iterable[int]", getattr(tokenizer, "all_special_ids", ())))
    literal = special | _added_ids(tokenizer)
    byte_level = _is_byte_level(tokenizer)
    tokens = tuple(
        (piece or "").encode() if i in literal else _piece_bytes(piece or "", byte_level=byte_level)
        for i, piece in enumerate(pieces)
    )
    return Vocabulary(
        size,
        tokens,
        special,
        getattr(tokenizer, "bos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    )


def _added_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens added beside the model's pieces; their strings are the text itself, not an encoding of it."""
    return frozenset(int(i) for i in cast("Iterable[int]", getattr(tokenizer, "added_tokens_decoder", {})))


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    decoder = cast("dict[str, Any] | None", json.loads(backend.to_str()).get("decoder"))
    steps = [] if decoder is None else [decoder, *decoder.get("decoders", [])]
    return any(step.get("type") == "ByteLevel" for step in steps)


def _piece_bytes(piece: str, *, byte_level: bool) -> bytes:
    """The text bytes of a tokenizer's piece: byte-level BPE, or SentencePiece's ▁ and <0xNN>."""
    if byte_level:
        table = _byte_of_char()
        if all(char in table for char in piece):
            return bytes(table[char] for char in piece)
        return piece.encode()
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace("▁", " ").encode()


@lru_cache(maxsize=1)
def _byte_of_char() -> dict[str, int]:
    """The byte-level alphabet: printable Latin-1 bytes stand for themselves, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}
