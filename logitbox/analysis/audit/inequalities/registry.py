"""All inequalities. Adding one is one entry in one of the rooms listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from logitbox.analysis.audit.inequalities import accuracy, decisions, distribution, groups, perplexity
from logitbox.analysis.audit.inequalities.entries import Inequality

INEQUALITIES: tuple[Inequality, ...] = (
    *accuracy.INEQUALITIES,
    *distribution.INEQUALITIES,
    *perplexity.INEQUALITIES,
    *groups.INEQUALITIES,
    *decisions.INEQUALITIES,
)

CATALOGUE: Mapping[int, tuple[str, ...] | str] = MappingProxyType(
    {
        1: ("ce-accuracy",),
        2: ("ce-top-k", "ce-top-k-alone", "mrr-ce"),
        3: ("top-k-accuracy", "top-k-order", "mrr-accuracy", "accuracy-mrr", "confidence-ce"),
        4: ("below-zero", "entropy-ceiling", "entropy-confidence", "confidence-entropy", "entropy-binary"),
        5: ("ce-entropy",),
        6: ("entropy-top-k", "top-k-binary", "top-k-ceiling"),
        7: ("gate-mass", "ce-mass", "ce-mass-rest", "flip-out-accuracy", "flip-in-accuracy"),
        8: ("smoothing-floor",),
        9: "the loss at another scale of the logits is not logged",
        10: "the range of the logits is not logged; how high a loss can be, the notices loss-by-accuracy and first-loss watch",
        11: ("perplexity-below", "perplexity-above"),
        12: ("ece-overconfident", "ece-underconfident"),
        13: ("sequence-accuracy",),
        14: "a mean that is no whole number of hits is only noticed (granularity): accuracies are often means of means",
    }
)
"""Number in the catalogue of inequalities to the entries that check it, or in words why none does."""
