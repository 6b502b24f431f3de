"""What of a dump an audit needs: sums of every value over every population, for each micro-batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

MICRO = ("phase", "dataset", "pass", "step", "rank", "micro")
"""What one micro-batch (or eval batch) of one rank is."""

SAMPLE_MEANS = "@samples"
"""Suffix of columns Σᵢ xᵢ/nᵢ over the samples of a micro-batch that have tokens of the population."""


@dataclass(frozen=True)
class Setup:
    """Facts of the recording.

    Attributes:
        world: data-parallel ranks; accumulation: micro-batches a step, None if it was not noted.
        vocab_size, k: of the logits and of the recorded best; of sessions that differ, the most and the fewest.
        scope, probes: as the Recorder was told; "all" and True only if every session was.
        every: recorded training steps are multiples of this.
        types: token types; groups: vocabulary groups.
        ordered: ordered group to the name of its rest (the tokens whose gold is outside it).
    """

    world: int = 1
    accumulation: int | None = None
    vocab_size: int = 0
    k: int = 0
    scope: str = "supervised"
    probes: bool = False
    every: int = 1
    types: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    ordered: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, eq=False)
class Evidence:
    """Sums of a dump, from which every hypothesis is predicted.

    Attributes:
        cells: one row per micro-batch (`MICRO`) and population (column `population`) that has tokens there: `n` tokens,
            `samples` with any, and for every value x two float64 columns, `x` = Σ x over tokens and `x@samples` = Σᵢ xᵢ/nᵢ over
            samples. Null (not 0) where x was not recorded or cannot be made. A value that is only bounded has two
            columns, `x.low` and `x.high`, each with its `@samples`. All is null, `n` too, where the recording does not tell
            which tokens belong to the population. A sample that comes twice in a micro-batch is two. `n_nonfinite`: tokens
            of "" that were left out, null for other populations. "{population}.duplicates", ".no_eos", ".no_special",
            ".no_boundary" and ".no_image" are there for all micro-batches where they differ from `population` in any, and
            otherwise not at all.
        batches: one row per micro-batch, also of those without any label: `epoch` (null if it was not told), `rows`,
            `positions` (rows × padded length), `predicted` (rows × (padded length − 1), or `positions` where nothing was
            shifted), `n_supervised`.
        setup: facts of the recording.
    """

    cells: pl.DataFrame
    batches: pl.DataFrame
    setup: Setup
