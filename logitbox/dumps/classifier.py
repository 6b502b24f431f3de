"""Token types of a micro-batch: what the caller gave, completed by the schemes of the Recorder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from logitbox.dumps.detailed import AGENT_TYPES, DetailedSpec
from logitbox.dumps.schemes.combine import Combined, combine
from logitbox.dumps.schemes.scheme import Scheme
from logitbox.dumps.spec import TokenTypes
from logitbox.errors import InputError

Part = str | Scheme | TokenTypes


@dataclass(frozen=True)
class Classifier:
    """The schemes among `Recorder(types=…)`.

    Attributes:
        types: the names of all token types, of schemes or not.
        schemes: None where only names were given.
    """

    types: TokenTypes
    schemes: Combined | None = None

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
        if not DetailedSpec.build(detailed, agent=False).enable_token_classification:
            parts = [_only_names(part) for part in parts]
        combined = combine(parts)
        return cls(combined.types, combined)

    def complete(
        self,
        given: Mapping[str, Tensor] | None,
        labels: Tensor,
        input_ids: Tensor | None,
        *,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
    ) -> Mapping[str, Tensor] | None:
        """Masks by type, those that were given first; the schemes label [B, T] tokens only."""
        ids = labels if input_ids is None else input_ids
        fits = isinstance(ids, Tensor) and isinstance(labels, Tensor) and ids.shape == labels.shape
        if self.schemes is None or not fits or labels.ndim != 2:  # wrong shapes are told of by `make_batch`
            return given
        masks = self.schemes.masks(
            ids, labels=labels, attention_mask=attention_mask, position_ids=position_ids
        )
        return masks | dict(given or {})


def _only_names(part: Part) -> Part:
    """Of seed 001's scheme the names, so that nothing is classified; any other part as it is."""
    if isinstance(part, str | TokenTypes) or not set(part.types.names) <= set(AGENT_TYPES):
        return part
    return part.types
