"""Reasoning and tool calls in an agent's text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from logitbox.dumps.detailed import AGENT_TYPES, REASONING, TOOL_CALL
from logitbox.dumps.schemes.inputs import Inputs, masks_of
from logitbox.dumps.schemes.runs import TokenBytes, Vocab
from logitbox.dumps.schemes.spans import Spans, compile_pattern, find_spans, overlaps
from logitbox.dumps.spec import TokenTypes
from logitbox.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FUNCTION_BLOCK = r"<function=[^>]+>.*?</function>"
_LAZY = ".*?"


class AgentText:
    """`tool_call`: tokens that overlap a function block. `reasoning`: all others with text. A partition.

    A block that is never closed is reasoning, and so is the remainder of one that was opened before the
    text begins. Special tokens (pad, eos, bos) get a type like any other; their flag keeps them out of metrics.

    Args:
        vocab: a tokenizer, token strings, or a Vocabulary.
        pattern: a block, as in `RegexTypes`.
        include_truncated: a block that is opened and never closed reaches to the end of its text (up to the
            next gap, padding or document). The pattern must then be of the form `opening.*?closing`.

    Raises:
        InputError: a bad pattern, a vocab without text.
    """

    def __init__(
        self,
        vocab: Vocab,
        pattern: str | re.Pattern[str] = FUNCTION_BLOCK,
        *,
        include_truncated: bool = False,
    ) -> None:
        self._block = compile_pattern(TOOL_CALL, pattern)
        self._opening = _opening(self._block) if include_truncated else None
        self._table = TokenBytes.build(vocab)

    @property
    def types(self) -> TokenTypes:
        """`reasoning` and `tool_call`, a partition."""
        return TokenTypes(AGENT_TYPES, partition=True)

    def masks(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See `Scheme.masks`."""
        inputs = Inputs.read(input_ids, labels, attention_mask, position_ids)
        call = np.zeros(inputs.ids.shape, np.bool_)
        for run in self._table.runs(inputs):
            call[run.place] = run.covered(self._blocks(run.text))
        return masks_of({REASONING: self._table.has_text(inputs) & ~call, TOOL_CALL: call})

    def classify(self, text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
        """The type of each token, from the original text: the way for a collator that has it.

        Args:
            text: what was tokenized.
            offsets: (start, end) in characters of each token, a fast tokenizer's `offset_mapping`. Where they
                are empty, as those of tokens added around the text, the token is reasoning.

        Raises:
            InputError: offsets that are no pairs, or lie outside the text.
        """
        pairs = _pairs(offsets, len(text))
        call = overlaps(pairs[:, 0], pairs[:, 1], self._blocks(text))
        return [TOOL_CALL if inside else REASONING for inside in call.tolist()]

    def _blocks(self, text: str) -> Spans:
        spans = find_spans(self._block, text)
        if self._opening is None:
            return spans
        # An opening behind the last whole block has no closing, or it would have been one.
        last = max((match.end() for match in self._block.finditer(text)), default=0)
        opening = self._opening.search(text, last)
        if opening is None:
            return spans
        return np.concatenate([spans, np.array([[opening.start(), len(text)]], dtype=np.int64)])


def _pairs(offsets: Sequence[tuple[int, int]], length: int) -> Spans:
    """The offsets as an array [tokens, 2]."""
    try:
        pairs = np.array([*offsets], dtype=np.int64) if len(offsets) else np.zeros((0, 2), np.int64)
    except (TypeError, ValueError):
        pairs = None
    if pairs is None or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputError("offsets are no pairs; give (start, end) in characters for each token of one text")
    if pairs.size and not 0 <= pairs.min() <= pairs.max() <= length:
        raise InputError(
            f"offsets reach from {pairs.min()} to {pairs.max()}, but the text has {length} characters; "
            "give the text that was tokenized, with its own offsets"
        )
    return pairs


def _opening(block: re.Pattern[str]) -> re.Pattern[str]:
    """What comes before the `.*?` of a block."""
    parts = block.pattern.split(_LAZY)
    try:
        if len(parts) == 2 and parts[0]:
            return re.compile(parts[0], block.flags)
    except re.error:
        pass
    raise InputError(
        f"include_truncated=True, but the pattern {block.pattern!r} is not of the form opening{_LAZY}closing, "
        "so that the opening is not known; give one like '<tool>.*?</tool>', or leave include_truncated out"
    )
