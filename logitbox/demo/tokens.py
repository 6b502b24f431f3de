"""The demo's vocabulary, and the writing of a scene as token ids.

A scene is written as ``[{"desc":"seven","bbox":[<312>,<87>,<540>,<320>]}]``: JSON text in a few fixed
pieces (*format*), the digit's name in one or two pieces (*desc*) and four of 1000 ordered bins (*coord*).
Ids: 0-2 pad, bos, eos; 3-7 format; 8-23 desc; 24-1023 coord.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SPECIAL: tuple[str, ...] = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(3)

FORMAT: tuple[str, ...] = ('[{"desc":"', '","bbox":[', ",", ']},{"desc":"', "]}]")
OPEN, BOX, COMMA, NEXT, CLOSE = range(len(SPECIAL), len(SPECIAL) + len(FORMAT))

# Onset and rime: shared onsets (two/three, four/five, six/seven) leave the second piece something to decide.
DIGIT_PIECES: tuple[tuple[str, ...], ...] = (
    ("z", "ero"),
    ("one",),
    ("t", "wo"),
    ("t", "hree"),
    ("f", "our"),
    ("f", "ive"),
    ("s", "ix"),
    ("s", "even"),
    ("e", "ight"),
    ("n", "ine"),
)
DIGIT_NAMES: tuple[str, ...] = tuple("".join(pieces) for pieces in DIGIT_PIECES)
DESC: tuple[str, ...] = tuple(dict.fromkeys(piece for pieces in DIGIT_PIECES for piece in pieces))

BINS = 1000
COORD_IDS = range(len(SPECIAL) + len(FORMAT) + len(DESC), len(SPECIAL) + len(FORMAT) + len(DESC) + BINS)
TOKENS: tuple[str, ...] = (*SPECIAL, *FORMAT, *DESC, *(f"<{value}>" for value in range(BINS)))
TYPES: tuple[str, ...] = ("coord", "desc", "format")

_DESC_START = len(SPECIAL) + len(FORMAT)
_DESC_ID: dict[str, int] = {piece: _DESC_START + index for index, piece in enumerate(DESC)}
_IGNORED = -100


@dataclass(frozen=True)
class Item:
    """One digit in a scene: its class (0-9) and its box ``(x1, y1, x2, y2)`` in bins 0-999."""

    digit: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class TextBatch:
    """A padded batch of written scenes; every tensor is ``[B, T]``.

    Attributes:
        input_ids: int64 token ids, ``<bos>`` first, ``<pad>`` at the end.
        labels: int64, equal to ``input_ids`` (not shifted), -100 at ``<bos>`` and ``<pad>``.
        attention_mask: bool, True where the token is not ``<pad>``.
        types: one bool mask per name in ``TYPES``; together they cover each label once. ``<eos>`` is format.
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    types: dict[str, Tensor]


def encode(items: Sequence[Item]) -> list[int]:
    """Write a scene of at least one item as token ids, from ``<bos>`` to ``<eos>``."""
    ids = [BOS]
    for index, item in enumerate(items):
        ids.append(NEXT if index else OPEN)
        ids.extend(_DESC_ID[piece] for piece in DIGIT_PIECES[item.digit])
        ids.append(BOX)
        for corner, value in enumerate(item.box):
            ids.extend([COMMA] if corner else [])
            ids.append(COORD_IDS[value])
    return [*ids, CLOSE, EOS]


def decode(ids: Sequence[int]) -> str:
    """Return the text of token ids; pad, bos and eos are left out."""
    return "".join(TOKENS[index] for index in ids if index >= len(SPECIAL))


def collate(scenes: Sequence[Sequence[Item]]) -> TextBatch:
    """Encode scenes and pad them to the longest of the batch."""
    rows = [torch.tensor(encode(items)) for items in scenes]
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    supervised = (input_ids != PAD) & (input_ids != BOS)
    coord = (input_ids >= COORD_IDS.start) & (input_ids < COORD_IDS.stop)
    desc = (input_ids >= _DESC_START) & (input_ids < COORD_IDS.start)
    return TextBatch(
        input_ids=input_ids,
        labels=input_ids.masked_fill(~supervised, _IGNORED),
        attention_mask=input_ids != PAD,
        types={"coord": coord, "desc": desc, "format": supervised & ~coord & ~desc},
    )
