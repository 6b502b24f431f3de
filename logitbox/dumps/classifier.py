"""Token types of a micro-batch: what the caller gave, completed by the schemes of the Recorder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from logitbox.dumps.circumstances import level_of_caller
from logitbox.dumps.detailed import AGENT_TYPES, DetailedSpec
from logitbox.dumps.flags import IGNORED
from logitbox.dumps.schemes.combine import Combined, combine
from logitbox.dumps.schemes.scheme import Scheme
from logitbox.dumps.spec import TokenTypes
from logitbox.errors import InputError

Part = str | Scheme | TokenTypes
Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class Typed:
    """What is known of the types of a micro-batch.

    Attributes:
        masks: by type, or bits, as `make_batch` takes them.
        known: types that the caller or a scheme told.
        unknown: types that a scheme was to tell and could not: it failed, is switched off or does not apply.
    """

    masks: Masks | Tensor | None
    known: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Classifier:
    """The schemes among `Recorder(types=…)`.

    Attributes:
        types: the names of all token types, of schemes or not.
        schemes: None where only names were given.
        switched_off: types of the schemes that are not to be asked.
    """

    types: TokenTypes
    schemes: Combined | None = None
    switched_off: frozenset[str] = frozenset()
    _told: set[str] = field(default_factory=set[str])

    @classmethod
    def of(
        cls, types: Scheme | TokenTypes | Sequence[Part] | None, detailed: bool | Mapping[str, Any] | None
    ) -> Classifier:
        """Tell schemes from names.

        Args:
            types: as the Recorder takes it.
            detailed: its `enable_token_classification` decides whether seed 001's types are classified.
        """
        if types is None or isinstance(types, TokenTypes):
            return cls(TokenTypes.build(types))
        if isinstance(types, str):
            raise InputError(f"types is {types!r}; give a list of names: [{types!r}]")
        parts: Sequence[Part] = [types] if isinstance(types, Scheme) else list(types)
        if all(isinstance(part, str) for part in parts):
            return cls(TokenTypes.build([str(part) for part in parts]))
        combined = combine(parts)
        if DetailedSpec.build(detailed, agent=False).enable_token_classification:
            return cls(combined.types, combined)
        asked = combine([_only_names(part) for part in combined.parts])
        return cls(combined.types, asked, combined.told_by_schemes - asked.told_by_schemes)

    def complete(
        self,
        given: Masks | Tensor | None,
        labels: Tensor,
        input_ids: Tensor | None,
        *,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
    ) -> Typed:
        """Masks by type, those that were given first; bits, which say all, as they are."""
        if isinstance(given, Tensor):
            return Typed(given, frozenset(self.types.names))
        if self.schemes is None or (given is not None and not isinstance(given, Mapping)):
            return Typed(given, frozenset(given or ()))
        masks, told = dict(given or {}), frozenset(given or ())
        ids = labels if input_ids is None else input_ids
        if not (isinstance(ids, Tensor) and isinstance(labels, Tensor) and ids.shape == labels.shape):
            return Typed(masks, told)  # `make_batch` tells what is wrong
        asked, level = self.schemes.told_by_schemes, level_of_caller()
        if labels.ndim == 1:
            self._tell_flat(asked - told, level)
            return Typed(masks, told, (asked | self.switched_off) - told)
        if input_ids is None:
            self._tell_gaps(labels, attention_mask, level)
        found, failed = self.schemes.attempt(ids, labels, attention_mask, position_ids, stack_level=level)
        return Typed(found | masks, told | (asked - failed), (failed | self.switched_off) - told)

    def _tell_gaps(self, labels: Tensor, attention_mask: Tensor | None, level: int) -> None:
        """Without `input_ids` a scheme sees the labels alone: what was masked is no text to it. Padding never is."""
        if "gaps" in self._told or labels.device.type != "cpu":
            return
        masked = labels == IGNORED
        if attention_mask is not None and attention_mask.shape == labels.shape:
            masked &= attention_mask.cpu() != 0
        if not masked.any():
            return
        self._told.add("gaps")
        warnings.warn(
            "labels hold −100 and no input_ids are given, so that the schemes of token types do not see the text there "
            "(a block or slot may begin in the prompt); pass input_ids=. This is told once",
            RuntimeWarning,
            stacklevel=level,
        )

    def _tell_flat(self, names: frozenset[str], level: int) -> None:
        if not names or "flat" in self._told:
            return
        self._told.add("flat")
        warnings.warn(
            f"token types {', '.join(name for name in self.types.names if name in names)}: a scheme reads rows of "
            "tokens, but logits are [N, V], so their types stay unknown; give logits [B, T, V], or masks as types=. "
            "This is told once",
            RuntimeWarning,
            stacklevel=level,
        )


def _only_names(part: Part) -> Part:
    """Of seed 001's scheme the names, so that nothing is classified; any other part as it is."""
    if isinstance(part, str | TokenTypes) or not set(part.types.names) <= set(AGENT_TYPES):
        return part
    return part.types
