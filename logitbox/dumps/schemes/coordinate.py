"""Coordinates, descriptions and format in written JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from logitbox.dumps.schemes.inputs import Inputs, masks_of
from logitbox.dumps.schemes.runs import TokenBytes, Vocab
from logitbox.dumps.schemes.spans import find_spans
from logitbox.dumps.spec import Group, TokenTypes
from logitbox.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

COORD, DESC, FORMAT = "coord", "desc", "format"


class CoordinateJson:
    r"""Types of written objects such as `{"desc":"two cats","bbox":[<312>,<87>,…]}`. A partition.

    `coord`: ids of the coordinate tokens. `desc`: other tokens that overlap the value of a JSON string whose key
    is one of `desc_keys` (escapes like `\"` belong to the value; one that is cut off reaches to the end of the
    text). `format`: all others with text. A special token (eos) is format, and ends a value that is still open.

    Args:
        vocab: a tokenizer, token strings, or a Vocabulary.
        coord_ids: ids of the coordinate tokens.
        desc_keys: keys whose values are descriptions.

    Raises:
        InputError: ids outside the vocabulary, no keys, a vocab without text.
    """

    def __init__(
        self, vocab: Vocab, coord_ids: Sequence[int], *, desc_keys: Sequence[str] = ("desc",)
    ) -> None:
        self._table = TokenBytes.build(vocab)
        self._coord = Group.build(COORD, coord_ids, self._table.vocabulary.size)
        self._value = _value_pattern(desc_keys)
        self._special = np.array(sorted(self._table.vocabulary.special), dtype=np.int64)

    @property
    def types(self) -> TokenTypes:
        """`coord`, `desc` and `format`, a partition."""
        return TokenTypes((COORD, DESC, FORMAT), partition=True)

    def masks(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See `Scheme.masks`."""
        inputs = Inputs.read(input_ids, labels, attention_mask, position_ids)
        known = self._table.has_text(inputs)
        coord = self._coord.contains(inputs.ids) & known
        desc = np.zeros(inputs.ids.shape, np.bool_)
        # Coordinate tokens are often declared special, to keep the tokenizer from splitting them.
        text = coord | ~np.isin(inputs.ids, self._special)
        for run in self._table.runs(inputs, among=text):
            desc[run.place] = run.covered(find_spans(self._value, run.text))
        desc &= ~coord
        return masks_of({COORD: coord, DESC: desc, FORMAT: known & ~coord & ~desc})


def _value_pattern(keys: Sequence[str]) -> re.Pattern[str]:
    """The inside of a string behind one of the keys, whether or not it is closed."""
    if isinstance(keys, str) or not keys or not all(isinstance(key, str) for key in keys):
        raise InputError(f"desc_keys is {keys!r}; give a list of at least one key: ['desc']")
    # JSON may write a key outside ASCII as it is or in \u escapes.
    written = {json.dumps(key, ensure_ascii=plain)[1:-1] for key in keys for plain in (True, False)}
    either = "|".join(re.escape(key) for key in sorted(written))
    return re.compile(rf'(?<!\\)"(?:{either})"\s*:\s*"(?P<type>(?:[^"\\]|\\.|\\\Z)*)', re.DOTALL)
