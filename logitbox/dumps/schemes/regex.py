"""Token types by regular expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from logitbox.dumps.schemes.inputs import Inputs, masks_of
from logitbox.dumps.schemes.runs import TokenBytes, Vocab
from logitbox.dumps.schemes.spans import compile_pattern, find_spans
from logitbox.dumps.spec import TokenTypes
from logitbox.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class RegexTypes:
    r"""One type per pattern: a token has it if it shares at least a byte with a match.

    What counts of a match is its group `(?P<type>…)` if the pattern has one, else the whole of it; other groups
    change nothing. Special tokens take part with their text, and get types like any other token.

    Args:
        vocab: a tokenizer, token strings, or a Vocabulary.
        patterns: a pattern by type name. In one given as a string `.` matches line breaks too; a compiled
            one keeps its flags.
        rest: name of the type of all tokens with text that nothing matched.
        partition: every token has exactly one type: the first pattern's that matched it, else `rest`, which
            must be given. Otherwise types may overlap.

    Raises:
        InputError: no pattern, one that is no regular expression, a bad name, a vocab without text.

    Example: `RegexTypes(tokenizer, {"code": r"```\w*\n(?P<type>.*?)```"}, rest="prose")`.
    """

    def __init__(
        self,
        vocab: Vocab,
        patterns: Mapping[str, str | re.Pattern[str]],
        *,
        rest: str | None = None,
        partition: bool = False,
    ) -> None:
        if (
            not isinstance(patterns, Mapping)
            or not patterns
            or not all(isinstance(name, str) for name in patterns)
        ):
            raise InputError(
                f"patterns is {patterns!r}; give a pattern by type name: {{'number': r'[0-9]+'}}"
            )
        if partition and rest is None:
            raise InputError(
                "partition=True without rest=: tokens that nothing matches would have no type; name theirs"
            )
        names = (*patterns, *([] if rest is None else [rest]))
        self._types = TokenTypes.build(TokenTypes(names, partition))
        self._patterns = {name: compile_pattern(name, pattern) for name, pattern in patterns.items()}
        self._rest = rest
        self._table = TokenBytes.build(vocab)

    @property
    def types(self) -> TokenTypes:
        """The patterns' names in order, then `rest`."""
        return self._types

    def masks(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See `Scheme.masks`."""
        inputs = Inputs.read(input_ids, labels, attention_mask, position_ids)
        masks = {name: np.zeros(inputs.ids.shape, np.bool_) for name in self._patterns}
        for run in self._table.runs(inputs):
            for name, pattern in self._patterns.items():
                masks[name][run.place] = run.covered(find_spans(pattern, run.text))
        left = self._table.has_text(inputs)
        for name, mask in masks.items():
            if self._types.partition:
                masks[name] = mask & left
            left = left & ~mask
        if self._rest is not None:
            masks[self._rest] = left
        return masks_of(masks)
