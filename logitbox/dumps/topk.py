"""Exact top-k with the lowest id first among equals.

`torch.topk` leaves the order of equal values open, and in bfloat16 equal values are the rule: 97 % of
rows have a tie at the 32nd place. Here the order is part of the record, so it is made exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 256
"""Columns per tile; only the k tiles with the largest maxima can hold a top-k value."""

_LOWEST, _HIGHEST = -0x7F800001, 0x7F800000
"""Sortable bits of −inf and +inf in float32."""


def topk_lowest_id(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row and their column numbers, lowest column first among equals.

    The k tiles with the largest maxima (lowest tile first among equals) hold every top-k element: an
    element of another tile is preceded by one element from each of those k tiles. So only k·256
    candidates per row are sorted, instead of the whole vocabulary.

    Args:
        values: float32 or float64, shape [rows, V]; −0 counts as equal to 0, NaN above everything.
        k: 1 <= k <= V.

    Returns:
        (values [rows, k], ids [rows, k] int64), descending.
    """
    n_rows, width = values.shape
    n_tiles = -(-width // TILE)
    if n_tiles <= 2 * k:
        return _topk_all(values, torch.arange(width, device=values.device).expand(n_rows, width), k)
    whole = width // TILE * TILE
    maxima = values[:, :whole].reshape(n_rows, whole // TILE, TILE).amax(-1)
    if whole < width:
        maxima = torch.cat([maxima, values[:, whole:].amax(-1, keepdim=True)], dim=1)
    tiles = torch.arange(n_tiles, device=values.device).expand(n_rows, n_tiles)
    _, best = _topk_all(maxima, tiles, k)
    ids = (best.sort(dim=1).values.unsqueeze(-1) * TILE + torch.arange(TILE, device=values.device)).flatten(1)
    candidates = values.gather(1, ids.clamp(max=width - 1))
    if whole < width:
        candidates = candidates.masked_fill(ids >= width, -torch.inf)
    return _topk_all(candidates, ids, k)


def _topk_all(values: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k of `values`, ties by the lowest entry of `ids` (both [rows, n]; ids ascend in each row)."""
    if values.dtype == torch.float64:
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    else:
        order = _packed_keys(values, ids).topk(k, dim=1).indices
    return values.gather(1, order), ids.gather(1, order)


def _packed_keys(values: Tensor, ids: Tensor) -> Tensor:
    """int64 keys that order like (value, −id): the sortable bits of the float above the inverted id."""
    bits = (values + 0.0).view(torch.int32)  # + 0 turns −0 into 0
    sortable = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    # A NaN with its sign bit set (x86 makes them: 0/0, inf - inf) would sort below -inf. All are equal.
    sortable = torch.where((sortable < _LOWEST) | (sortable > _HIGHEST), 0x7FFFFFFF, sortable)
    return (sortable.long() << 32) | (0xFFFFFFFF - ids)
