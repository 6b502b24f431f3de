"""The Triton kernels beside the pass over the logits: the best tokens of each row, small groups, gates at T ≠ 1.

`best_of_rows` reads again the tiles that hold a top-k logit, at most k of them: k·256/V of the row, once each from
memory (a second look at a tile finds it in the cache).
"""

# pyright: basic, reportOperatorIssue=false, reportGeneralTypeIssues=false
# ruff: noqa: ANN001, ANN201, ANN202, ARG001, D417, PLR0124
# Triton's language only looks like Python: it has no annotations beside constexpr, and a kernel is one function, which
# keeps what it has in registers. Strides are in elements.

from __future__ import annotations

import triton
import triton.language as tl

from logitbox.dumps.reduce.kernel import GROUP, INFINITY, LOWEST, TILE, clamped, columns, exp, row

NO_KEY = tl.constexpr(-0x80000000)  # sorts below −inf
NAN_KEY = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _key(x):
    """int32 that sorts as the float does: −0 as 0, every NaN above +inf."""
    bits = x.to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(x != x, NAN_KEY, tl.where(key == -1, 0, key))


@triton.jit
def _value(key):
    """Inverse of `_key`."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def best_of_rows(
    logits, rows, tile_max, tile_sum, block_base,
    top_logits, top_ids, tail,
    first, width, stride_b, stride_t, stride_v, V,
    HAS_ROWS: tl.constexpr, CONTIGUOUS: tl.constexpr, FTZ: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The k best of a row, lowest id first among equals, and Σ e^{x − m} over all others.

    A tournament: the best that is left is in the tile with the largest maximum that is left, the lowest tile among
    equals. It is taken out, and the tile's maximum and sum are made anew of what it still has. So the tail is a sum of
    positive numbers, never a difference: it keeps its digits where one token has nearly all the mass.

    Args:
        logits: as for `scan_rows`; so are rows and the other shapes.
        rows: see `logits`.
        tile_max: what `scan_rows` wrote; so are tile_sum and block_base.
        tile_sum: see `tile_max`.
        block_base: see `tile_max`.
        top_logits: float32 [programs, K], out, descending.
        top_ids: int32 [programs, K], out.
        tail: float32 [programs], out.
    """
    place = tl.program_id(0).to(tl.int64)
    base = row(logits, rows, first, width, stride_b, stride_t, HAS_ROWS)
    n_tiles, n_blocks = tl.cdiv(V, TILE), tl.cdiv(V, BLOCK)
    tiles = tl.arange(0, TILES)
    is_tile = tiles < n_tiles
    keys = _key(tl.load(tile_max + place * n_tiles + tiles, mask=is_tile, other=0.0))
    keys = tl.where(is_tile, keys, NO_KEY)
    m = _value(tl.max(keys, 0))
    against = tl.load(block_base + place * n_blocks + tiles // (BLOCK // TILE), mask=is_tile, other=0.0)
    weight = tl.where(against == m, 1.0, exp(clamped(against - m), FTZ))
    sums = tl.load(tile_sum + place * n_tiles + tiles, mask=is_tile, other=0.0) * weight
    sums = tl.where(is_tile, sums, 0.0)

    last, last_col = NAN_KEY, -1
    for i in range(K):
        best = tl.max(keys, 0)
        at = tl.min(tl.where(keys == best, tiles, TILES), 0)
        cols = at * TILE + tl.arange(0, TILE)
        x = columns(base, cols, V, stride_v, CONTIGUOUS)
        key = tl.where(cols < V, _key(x), NO_KEY)
        # What was taken lies before (last, last_col) in the order of all, so this says what is left.
        ready = (key == best) & ((best < last) | (cols > last_col))
        col = tl.min(tl.where(ready, cols, V - 1), 0)
        left = ((key < best) | ((key == best) & (cols > col))) & (cols < V)
        tl.store(top_logits + place * K + i, _value(best))
        tl.store(top_ids + place * K + i, col)
        others = tl.sum(tl.where(left, exp(clamped(x - m), FTZ), 0.0), 0)
        keys = tl.where(tiles == at, tl.max(tl.where(left, key, NO_KEY), 0), keys)
        sums = tl.where(tiles == at, others, sums)
        last, last_col = best, col
    tl.store(tail + place, tl.sum(sums, 0))


@triton.jit
def tempered_sums(
    logits, rows, highest, sums, inverse,
    first, width, stride_b, stride_t, stride_v, V,
    HAS_ROWS: tl.constexpr, CONTIGUOUS: tl.constexpr, FTZ: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Σ e^{(x − m) · inverse} of a row, m being its largest logit: for a gate at a temperature other than 1."""
    place = tl.program_id(0)
    base = row(logits, rows, first, width, stride_b, stride_t, HAS_ROWS)
    m = tl.load(highest + place)
    col = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        x = columns(base, start + col, V, stride_v, CONTIGUOUS)
        total += tl.where(start + col < V, exp(clamped((x - m) * inverse), FTZ), 0.0)
    tl.store(sums + place, tl.sum(total, 0))


@triton.jit
def gathered_sums(
    logits, rows, ids, numbers, n_ids, group,
    first, width, stride_b, stride_t, stride_v, V,
    HAS_ROWS: tl.constexpr, CONTIGUOUS: tl.constexpr, FTZ: tl.constexpr, GROUPS: tl.constexpr, NUMBERS: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """A group's maximum and Σ e^{x − maximum}, into its places among `scan_rows`' numbers, by reading its ids alone.

    For few scattered ids: each costs a sector of 32 bytes, but the pass would do a whole block's work for it.

    Args:
        logits: as for `scan_rows`; so are rows, numbers and the shapes.
        rows: see `logits`.
        ids: int64 [n_ids].
        numbers: see `logits`.
        n_ids: how many ids.
        group: number of the group.
    """
    place = tl.program_id(0).to(tl.int64)
    base = row(logits, rows, first, width, stride_b, stride_t, HAS_ROWS)
    m, s = LOWEST, 0.0
    for start in range(0, n_ids, SIZE):
        at = start + tl.arange(0, SIZE)
        col = tl.load(ids + at, mask=at < n_ids, other=0)
        x = tl.load(base + col * stride_v, mask=at < n_ids, other=-INFINITY).to(tl.float32)
        new = tl.maximum(m, tl.max(x, 0))
        s = s * exp(clamped(m - new), FTZ) + tl.sum(exp(clamped(x - new), FTZ), 0)
        m = new
    out = numbers + place * NUMBERS + GROUP + group
    tl.store(out, m)
    tl.store(out + GROUPS, s)
