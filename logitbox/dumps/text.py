"""Token ids back to text that can be shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TokenText:
    """The bytes of each token id; ids without known bytes are shown as `<id>`."""

    tokens: Sequence[bytes] | Mapping[int, bytes]
    """All from 0 on, or those that are known."""

    def raw(self, token_id: int) -> bytes:
        """Bytes of one token."""
        known = (
            token_id in self.tokens if isinstance(self.tokens, Mapping) else 0 <= token_id < len(self.tokens)
        )
        if known:
            return self.tokens[token_id]
        return f"<{token_id}>".encode()

    def piece(self, token_id: int) -> str:
        """One token as a visible string: line breaks and bytes that are no UTF-8 are escaped."""
        text = self.raw(token_id).decode("utf-8", errors="backslashreplace")
        return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")

    def decode(self, token_ids: Iterable[int]) -> str:
        """A run of tokens as text; characters split over tokens are whole again."""
        return b"".join(self.raw(token_id) for token_id in token_ids).decode("utf-8", errors="replace")
