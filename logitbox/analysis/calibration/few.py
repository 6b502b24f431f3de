"""What few clusters, or clusters of very unequal size, make of an error estimated from them.

A cluster pulls the mean towards itself, the more the larger its share h of the tokens, so that its deviation from the
mean comes out too small by 1 − h. Dividing by √(1 − h) makes variances right where clusters vary alike (HC2/CR2),
dividing by 1 − h is the jackknife (HC3/CR3; MacKinnon & White 1985, J. Econometrics 29; Bell & McCaffrey 2002, Survey
Methodology 28). What is left, that the variance itself is uncertain, Student's t allows for.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.special import chdtri, fdtri

from logitbox.analysis.calibration.atoms import Float

_LEAST = 2.0**-52
"""Of 1 − h, which rounds to 0 beside a cluster of all but everything."""
_MANY = 1e5
"""Degrees of freedom from which on nothing widens."""


def degrees(n: Float) -> float:
    """Degrees of freedom of a mean over clusters of n tokens each: (Σn)²/Σn² − 1 (Kish 1965), and 1 at least."""
    share = n / n.sum()
    return max(1 / float(share @ share) - 1, 1.0)


def rest(n: Float) -> Float:
    """1 − h of clusters of n tokens each: the share of all others."""
    return np.maximum(1 - n / n.sum(), _LEAST)


def influences(sums: Float, n: Float) -> Float:
    """What each cluster adds to the error of Σ sums / Σ n, [clusters]; their squares add up to its jackknife variance."""
    total = float(n.sum())
    return (sums - sums.sum() / total * n) / total / rest(n)


def widened(noise: Float, freedom: float) -> Float:
    """Replicates of noise, so that their 97.5 % quantile allows for a variance that is known to `freedom` degrees only.

    Replicates are made with the estimated variance as if it were known. Their square is about χ²_ν · mean / ν, with ν =
    2 mean²/variance (Satterthwaite 1946); where clusters tell each of ν parts to `freedom` degrees, the square of true
    noise is about F(ν, ν · freedom). A signed sum has ν = 1, and becomes Student's t. [replicates]
    """
    square = noise * noise
    mean, positive = float(square.mean()), float((noise > 0).mean())
    spread = float(square.var())
    if mean <= 0 or spread <= 0 or freedom > _MANY:
        return noise
    nu = max(2 * mean * (mean / spread), 1.0)
    tail = min(0.025 / max(positive, 0.025), 0.5)
    return noise * sqrt(nu * float(fdtri(nu, nu * freedom, 1 - tail)) / float(chdtri(nu, tail)))
