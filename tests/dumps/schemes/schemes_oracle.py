"""Token types the slow way: byte by byte, in plain Python, one stretch of text at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

GAP = -100
PIECES = ("<function=a>", "</function>", "<function=", ">", "<", "x", "é", "🙂", "日本", "\n", " ", "\x00")
BROKEN = (b"\xff", b"\xf0\x9f", b"\x80", "é".encode()[:1], b"\xed\xa0\x80")  # the last is a lone surrogate


def spans_in_bytes(text: bytes, find: Callable[[str], list[tuple[int, int]]]) -> set[int]:
    """The bytes that lie in what `find` finds among the characters; bytes that are no UTF-8 are one each."""
    decoded = text.decode("utf-8", "surrogateescape")
    bytes_of: list[list[int]] = []
    at = 0
    for char in decoded:
        width = len(char.encode("utf-8", "surrogateescape"))
        bytes_of.append(list(range(at, at + width)))
        at += width
    assert at == len(text)
    return {byte for start, end in find(decoded) for char in range(start, end) for byte in bytes_of[char]}


def touched(tokens: Sequence[bytes], find: Callable[[str], list[tuple[int, int]]]) -> list[bool]:
    """Which of the tokens of one stretch of text hold a byte that `find` finds."""
    inside = spans_in_bytes(b"".join(tokens), find)
    result: list[bool] = []
    at = 0
    for token in tokens:
        result.append(any(byte in inside for byte in range(at, at + len(token))))
        at += len(token)
    return result


def blocks(text: str) -> list[tuple[int, int]]:
    """Function blocks, found without a regular expression."""
    found: list[tuple[int, int]] = []
    at = 0
    while (start := text.find("<function=", at)) >= 0:
        name = text.find(">", start + len("<function="))
        if name == start + len("<function="):  # a name needs a character
            at = start + 1
            continue
        close = -1 if name < 0 else text.find("</function>", name + 1)
        if close < 0:
            break
        at = close + len("</function>")
        found.append((start, at))
    return found


def whole(pattern: str) -> Callable[[str], list[tuple[int, int]]]:
    """The matches of a pattern."""
    return lambda text: [match.span() for match in re.finditer(pattern, text, re.DOTALL)]


@dataclass(frozen=True)
class Batch:
    """Rows of stretches: each stretch is text of its own, and what lies between is a gap, padding or a restart."""

    vocab: list[bytes]
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    stretches: list[tuple[int, list[int], list[bytes]]]
    """(row, columns, tokens) of each."""

    def expected(self, find: Callable[[str], list[tuple[int, int]]]) -> Tensor:
        mask = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        for row, columns, tokens in self.stretches:
            mask[row, columns] = torch.tensor(touched(tokens, find), dtype=torch.bool)
        return mask

    @property
    def text(self) -> Tensor:
        mask = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        for row, columns, _ in self.stretches:
            mask[row, columns] = True
        return mask

    def given(self) -> dict[str, Tensor]:
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


@st.composite
def token_lists(draw: st.DrawFn, pieces: Sequence[str] = PIECES) -> list[bytes]:
    """A text cut into tokens anywhere, also within characters, with empty tokens and broken bytes among them."""
    parts = draw(st.lists(st.sampled_from([*(p.encode() for p in pieces), *BROKEN]), min_size=1, max_size=12))
    text = b"".join(parts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))  # equal cuts make an empty token
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def batches(draw: st.DrawFn, pieces: Sequence[str] = PIECES) -> Batch:
    """Up to three rows of up to three stretches."""
    vocab: list[bytes] = [b"<pad>"]
    rows: list[list[tuple[int, int, int]]] = []  # (id, mask, position)
    stretches: list[tuple[int, list[int], list[bytes]]] = []
    for row in range(draw(st.integers(1, 3))):
        cells: list[tuple[int, int, int]] = [(0, 0, 0)] * draw(st.integers(0, 2))
        position = 0
        for number in range(draw(st.integers(1, 3))):
            between = draw(st.sampled_from(["gap", "beyond", "padding", "restart"])) if number else "none"
            if between == "restart":
                position = 0
            elif between != "none":
                cells.append(
                    {"gap": (GAP, 1, position), "beyond": (10**6, 1, position)}.get(between, (0, 0, 0))
                )
                position += 1
            tokens = draw(token_lists(pieces))
            stretches.append((row, list(range(len(cells), len(cells) + len(tokens))), tokens))
            cells += [(len(vocab) + i, 1, position + i) for i in range(len(tokens))]
            position += len(tokens)
            vocab += tokens
        rows.append(cells)
    width = max(map(len, rows))
    table = torch.tensor([cells + [(0, 0, 0)] * (width - len(cells)) for cells in rows])
    return Batch(vocab, table[..., 0], table[..., 1], table[..., 2], stretches)


def ids_of(texts: Sequence[str], vocab: Sequence[str]) -> Tensor:
    """[1, T]: the tokens by their strings."""
    return torch.tensor([[vocab.index(text) for text in texts]])


def told(mask: Tensor, row: int = 0) -> list[int]:
    """Columns where the mask is True."""
    return torch.nonzero(mask[row]).flatten().tolist()
