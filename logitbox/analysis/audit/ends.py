"""Where the data end: which ranks a trainer leaves out there that cuts what it gathered to the samples left over."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_MOMENT = ("pass", "step")


def cut_ranks(batches: pl.DataFrame, *, is_train: bool, has_repeats: bool) -> Mask:
    """Micro-batches of ranks beyond the number of samples left over at the end of the data, bool [M].

    One number of each rank is gathered, and cut as if it were one of each sample: the first `samples left over` ranks stay.
    In training that befalls all micro-batches of an epoch's last step, for they are fetched before the first of them runs;
    elsewhere the last micro-batch of a pass.

    Args:
        batches: pass, step, micro, rank, epoch, unrepeated of every micro-batch.
        is_train: of which phase.
        has_repeats: whether samples that the sampler repeated were flagged, so that those left over can be counted. Else
            one is taken to be left: rank 0 stays.
    """
    is_last = pl.col("micro") == pl.col("micro").max()
    moments = batches.group_by(_MOMENT).agg(
        pl.col("epoch").first(),
        pl.col("micro").max().alias("last"),
        pl.col("unrepeated").filter(is_last).sum().alias("left"),
    )
    moments = moments.sort(_MOMENT).with_columns(ends=_ends_epoch() if is_train else pl.lit(value=True))
    here = batches.join(moments.drop("epoch"), on=_MOMENT, how="left", maintain_order="left")
    at_end = pl.col("ends") & (pl.lit(is_train) | (pl.col("micro") == pl.col("last")))
    beyond = pl.col("rank") >= (pl.col("left") if has_repeats else 1)
    return here.select((at_end & beyond).fill_null(value=False)).to_series().to_numpy()


def _ends_epoch() -> pl.Expr:
    """Whether a step is its epoch's last. Epochs are as they were told before the step, as 0, 0.5, 1, 1.5."""
    epoch, next_epoch = pl.col("epoch"), pl.col("epoch").shift(-1)
    is_next = pl.col("step").shift(-1) == pl.col("step") + 1
    begun = is_next & (next_epoch.floor() > epoch.floor())
    # No step follows the last one: it ends the epoch if another step of the usual size would.
    usual = (next_epoch - epoch).filter(is_next & (next_epoch.floor() == epoch.floor())).max()
    completes = epoch + usual > epoch.floor() + 1 - 1e-4
    is_final = pl.int_range(pl.len()) == pl.len() - 1
    return pl.when(is_final).then(completes).otherwise(begun).fill_null(value=False)
