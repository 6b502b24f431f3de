"""What a scheme is: names of token types, and masks of a batch's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from logitbox.dumps.spec import TokenTypes


@runtime_checkable
class Scheme(Protocol):
    """Tells the type of each token from the tokens of a batch; any object with these two members is one."""

    @property
    def types(self) -> TokenTypes:
        """The names of its types."""
        ...

    def masks(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Bool CPU tensors [B, T] by type name, aligned with `input_ids` as the model takes them (not shifted).

        Args:
            input_ids: integers [B, T] on the CPU. An id outside the vocabulary, such as −100, is a gap:
                it has no text, no match reaches across it, and it has no type.
            labels: [B, T], −100 where ignored, not shifted; None: all tokens count as supervised.
            attention_mask: [B, T], 0 at padding, which is treated like a gap.
            position_ids: [B, T]; where they restart another packed document begins.

        Raises:
            InputError: a tensor that is not on the CPU, of another shape or of another dtype.
        """
        ...
