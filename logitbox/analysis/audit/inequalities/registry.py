"""All inequalities. Adding one is one entry in one of the rooms listed here."""

from __future__ import annotations

from logitbox.analysis.audit.inequalities import accuracy, decisions, distribution, groups, perplexity
from logitbox.analysis.audit.inequalities.entries import Inequality

INEQUALITIES: tuple[Inequality, ...] = (
    *accuracy.INEQUALITIES,
    *distribution.INEQUALITIES,
    *perplexity.INEQUALITIES,
    *groups.INEQUALITIES,
    *decisions.INEQUALITIES,
)
