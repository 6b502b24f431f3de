"""What a logged key is the name of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """What the name of a logged key promises: its own definition is the token mean of a value over a population.

    Attributes:
        key: as logged, prefix included.
        terms: (value, population) each; a key is the sum of the token means of its terms, and all but composite losses
            have one. Values: "nll", "correct", "correct_top5", "entropy", "binary_entropy", "confidence", "mass_coord",
            "coord.gate", …. Populations: "" for all supervised tokens, else a token type, a group, its rest, or one of those
            without special tokens ("reasoning.plain").
        transform: "identity" or "exp" (perplexity), a name in `hypotheses.transforms`.
        phase, dataset: of the tokens it is about; `dataset` None where it could be of any.
        is_fraction: whether it lies in [0, 1].
        note: why it is audited as it is, or why not, in words; "" if there is nothing to say.
    """

    key: str
    terms: tuple[tuple[str, str], ...]
    transform: str = "identity"
    phase: str = "train"
    dataset: str | None = ""
    is_fraction: bool = False
    note: str = ""

    @property
    def value(self) -> str:
        """Value of the first term."""
        return self.terms[0][0]

    @property
    def population(self) -> str:
        """Population of the first term."""
        return self.terms[0][1]
