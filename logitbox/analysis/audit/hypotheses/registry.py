"""All hypotheses, reductions and transforms. Adding a convention is one entry in one of the files listed here."""

from __future__ import annotations

from logitbox.analysis.audit.hypotheses.alignment import ALIGNMENT
from logitbox.analysis.audit.hypotheses.averaging import AVERAGING
from logitbox.analysis.audit.hypotheses.denominators import DENOMINATORS
from logitbox.analysis.audit.hypotheses.entries import Hypothesis
from logitbox.analysis.audit.hypotheses.parts import PARTS
from logitbox.analysis.audit.hypotheses.per_token import PER_TOKEN
from logitbox.analysis.audit.hypotheses.reductions import REDUCTIONS
from logitbox.analysis.audit.hypotheses.scalings import SCALINGS
from logitbox.analysis.audit.hypotheses.token_sets import TOKEN_SETS
from logitbox.analysis.audit.hypotheses.transforms import TRANSFORMS

HYPOTHESES: tuple[Hypothesis, ...] = (
    *AVERAGING,
    *PARTS,
    *TOKEN_SETS,
    *ALIGNMENT,
    *PER_TOKEN,
    *DENOMINATORS,
    *SCALINGS,
)
"""In the order in which ties are listed: the usual conventions first."""

__all__ = ["HYPOTHESES", "REDUCTIONS", "TRANSFORMS"]
