"""Several schemes, and types whose masks the caller gives, as one scheme that does not fail."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from logitbox.dumps.schemes.scheme import Scheme
from logitbox.dumps.spec import TokenTypes
from logitbox.errors import InputError

if TYPE_CHECKING:
    Part = Scheme | str | TokenTypes


class Combined:
    """A scheme made of `parts`; made by `combine`.

    A part that fails does not stop a training: its error is told once in a RuntimeWarning, its types are
    missing from the masks of that batch, and the other parts go on.

    Attributes:
        parts: none of them is made of others.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts: tuple[Part, ...] = tuple(
            one for part in parts for one in (part.parts if isinstance(part, Combined) else (part,))
        )
        parts = self.parts
        own = [_types_of(part) for part in parts]
        names = tuple(name for types in own for name in types.names)
        partition = own[0].partition if len(own) == 1 else False
        self._types = TokenTypes.build(TokenTypes(names, partition))
        self._schemes = [
            (part, types.names)
            for part, types in zip(parts, own, strict=True)
            if not isinstance(part, (str, TokenTypes))
        ]
        self._warned: set[int] = set()

    @property
    def types(self) -> TokenTypes:
        """All names in order of the parts; a partition only if there is one part and it is one."""
        return self._types

    def masks(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Masks of all schemes among the parts, as in `Scheme.masks`, less those of schemes that failed."""
        return self.attempt(input_ids, labels, attention_mask, position_ids, stack_level=3)[0]

    @property
    def told_by_schemes(self) -> frozenset[str]:
        """The types of the schemes; all others are told by the caller alone."""
        return frozenset(name for _, names in self._schemes for name in names)

    def attempt(
        self,
        input_ids: Tensor,
        labels: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        *,
        stack_level: int,
    ) -> tuple[dict[str, Tensor], frozenset[str]]:
        """(masks, types of the schemes that failed); `stack_level` is that of a warning given here, see `warnings`."""
        masks: dict[str, Tensor] = {}
        failed: set[str] = set()
        for number, (scheme, names) in enumerate(self._schemes):
            try:
                found = scheme.masks(input_ids, labels, attention_mask, position_ids)
                _check_masks(found, names, input_ids.shape)
            except Exception as error:  # noqa: BLE001 (a user's scheme may raise anything; training goes on)
                failed.update(names)
                self._warn(number, error, stack_level + 1)
            else:
                masks |= found
        return masks, frozenset(failed)

    def _warn(self, number: int, error: Exception, stack_level: int) -> None:
        if number in self._warned:
            return
        self._warned.add(number)
        scheme, names = self._schemes[number]
        warnings.warn(
            f"token types {', '.join(names)}: {type(scheme).__name__} failed with "
            f"{type(error).__name__}: {error}. They stay unknown wherever it fails, all other metrics go on; "
            "this is told once",
            RuntimeWarning,
            stacklevel=stack_level,
        )


def combine(parts: Sequence[Part]) -> Combined:
    """Put schemes and plain type names together, in the order given.

    Args:
        parts: schemes, names of types whose masks `record(types=…)` will be given, or `TokenTypes` of such.

    Raises:
        InputError: no part, something else among them, a name that two parts have, more types than the
            column has bits.
    """
    if isinstance(parts, (str, TokenTypes)) or not isinstance(parts, Sequence) or not parts:
        raise InputError(f"parts is {parts!r}; give a list of schemes and type names")
    return Combined(parts)


def _types_of(part: Any) -> TokenTypes:
    if isinstance(part, TokenTypes):
        return part
    if isinstance(part, str):
        return TokenTypes((part,))
    if not isinstance(part, type) and isinstance(part, Scheme):
        return part.types
    raise InputError(
        f"{part!r} is no scheme; give the name of a type, or an object with `types` and `masks(input_ids, …)`"
    )


def _check_masks(masks: Any, names: Sequence[str], shape: torch.Size) -> None:
    """Raise InputError unless these are bool CPU masks of known names: a broken one would stop the recording."""
    if not isinstance(masks, Mapping):
        raise InputError(
            f"masks() returned a {type(masks).__name__}; it must be a dict of masks by type name"
        )
    for name, mask in masks.items():
        if name not in names:
            raise InputError(f"masks() returned {name!r}; its types are {list(names)}")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.device.type != "cpu":
            kind = f"{mask.dtype} on {mask.device}" if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(f"the mask of {name!r} is {kind}; it must be a bool tensor on the CPU")
        if mask.shape != shape:
            raise InputError(
                f"the mask of {name!r} has shape {list(mask.shape)}; it must be {list(shape)}, like the input_ids"
            )
