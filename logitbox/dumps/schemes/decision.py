r"""The token in which a decision is told, such as the one behind `\boxed{`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.schemes.answers import Answers
from logitbox.dumps.schemes.inputs import Inputs, masks_of
from logitbox.dumps.schemes.runs import TokenBytes, Vocab
from logitbox.dumps.schemes.spans import find_spans
from logitbox.dumps.spec import DECISION, Group, TokenTypes
from logitbox.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class DecisionSlot:
    r"""`decision`: the last supervised token of a document that is an answer and follows `after`; at most one.

    Follows: the first character behind `after` that is no whitespace lies in the token. So the token may hold
    whitespace or part of `after` itself: behind `\boxed{` come `Accept` and ` Accept`, behind `\boxed` may
    come `{Accept`. An answer in the prompt (label −100) is none. A document without such a token has none.

    Args:
        vocab: a tokenizer, token strings, or a Vocabulary.
        answers: ids by answer, or what `resolve_answers` found.
        after: literal text before the answer; None: the last supervised answer token, whatever is before it.

    Raises:
        InputError: fewer than two answers, ids outside the vocabulary, an empty `after`, a vocab without text.
    """

    def __init__(
        self, vocab: Vocab, answers: Mapping[str, Sequence[int]] | Answers, *, after: str | None = r"\boxed{"
    ) -> None:
        self._table = TokenBytes.build(vocab)
        groups = Answers.build(answers.groups if isinstance(answers, Answers) else answers).groups
        for name, ids in groups.items():
            Group.build(name, ids, self._table.vocabulary.size)
        self._ids = np.array(sorted(i for ids in groups.values() for i in ids), dtype=np.int64)
        self._after = None if after is None else _behind(after)

    @property
    def types(self) -> TokenTypes:
        """`decision` alone."""
        return TokenTypes((DECISION,))

    def masks(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See `Scheme.masks`."""
        inputs = Inputs.read(input_ids, labels, attention_mask, position_ids)
        answer = np.isin(inputs.ids, self._ids) & inputs.supervised & self._table.has_text(inputs)
        if self._after is not None:
            answer &= self._follows(self._after, inputs, answer)
        rows, columns = np.nonzero(answer)
        document = inputs.document[rows, columns]
        last = np.ones(len(rows), np.bool_)
        last[:-1] = (rows[1:] != rows[:-1]) | (document[1:] != document[:-1])
        decision = np.zeros(inputs.ids.shape, np.bool_)
        decision[rows[last], columns[last]] = True
        return masks_of({DECISION: decision})

    def _follows(
        self, after: re.Pattern[str], inputs: Inputs, answer: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """[B, T]: the token holds the first character behind `after`; looked for only where an answer is."""
        follows = np.zeros(inputs.ids.shape, np.bool_)
        for run in self._table.runs(inputs):
            if answer[run.place].any():
                follows[run.row, run.token_at(find_spans(after, run.text)[:, 0])] = True
        return follows


def _behind(after: str) -> re.Pattern[str]:
    """Matches wherever `after` begins (they may overlap); the span is the first character behind it."""
    if not isinstance(after, str) or not after:
        raise InputError(f"after is {after!r}; give the text before the answer, or None for any")
    return re.compile(rf"{re.escape(after[0])}(?={re.escape(after[1:])}\s*(?P<type>\S))")
