"""The Triton kernel of the fused reduction: one pass over each row's logits.

Needs Triton: imported only by `logitbox.dumps.reduce.fused`, when a reduction is about to run on it.

One program, by default one warp, takes one row. `scan_rows` reads it once, in blocks of whole 256-column tiles.
Everything a block needs of its neighbours is the largest logit so far, so sums are rescaled once a block and not
once a logit. What is rare is behind a branch on the whole block: ranks are counted only where the block's largest
logit reaches gold's, −inf and NaN are looked for only where the block's plain sum is not finite, groups only where
the block holds one of their ids.

The floor, per logit in bfloat16: 2 bytes read and 0.035 written (8 a tile, 4 a block); of k tiles a row 2 more are
read (`tournament`: k·256/V of the row). Arithmetic that has to be: widen, tile maximum, distance, scale, exp2, tile
sum, Σ d·e, Σ x, so 8 instructions, and about 3 for what 32 lanes exchange to reduce a tile. Compiled for sm_90, a
block that no branch concerns takes 511 instructions a thread for 32 logits: 16 each, the rest being unpacking (1),
masks (0.5) and the block's own work; ranks, where they are counted, are 5 more. With `lse_beta`, whose five products
and five sums need no exponential, it takes 832: 26 each.
"""

# pyright: basic, reportOperatorIssue=false, reportGeneralTypeIssues=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN201, ANN202, C901, D417, PLR0124, PLR0912, PLR0915
# Triton's language only looks like Python: it has no annotations beside constexpr, and a kernel is one function, which
# keeps what it has in registers. Strides are in elements.

from __future__ import annotations

import triton
import triton.language as tl

TILE = tl.constexpr(256)
LANES = tl.constexpr(32)
EACH = tl.constexpr(8)
FAR = tl.constexpr(-1.0e4)  # as in the reference: its exponential is 0 at every β
LOWEST = tl.constexpr(-3.4028234663852886e38)  # the least finite float32: where running maxima begin
LOG2_E = tl.constexpr(1.4426950408889634)
INFINITY = tl.constexpr(float("inf"))
HUGE = tl.constexpr(1.0e30)  # below it no distance between two finite logits overflows

# Columns of the buffer of numbers; the groups' maxima and sums follow.
SUM, TILTED, GOLD, LEFT, RIGHT, BETA, GROUP = (tl.constexpr(i) for i in (0, 1, 2, 3, 4, 5, 10))


@triton.jit
def clamped(d):
    """max(d, FAR), NaN staying NaN."""
    return tl.maximum(d, FAR, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def exp(d, FTZ: tl.constexpr, BETA: tl.constexpr = 1.0):
    """e^{βd}. With FTZ results below 2^−126 are 0, which saves the three instructions that numbers so small need."""
    d = d * (LOG2_E * BETA)
    if FTZ:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [d], tl.float32, is_pure=True, pack=1
        )
    return tl.exp2(d)


@triton.jit
def row(logits, rows, first, width, stride_b, stride_t, HAS_ROWS: tl.constexpr):
    """Where this program's row begins. Strides are in elements; row = b·width + t."""
    place = tl.program_id(0)
    at = tl.load(rows + place).to(tl.int64) if HAS_ROWS else (first + place).to(tl.int64)
    return logits + (at // width) * stride_b + (at % width) * stride_t


@triton.jit
def _at(base, labels, V, stride_v):
    """The logit of this program's label, widened; some logit of the row where the label is outside."""
    label = tl.load(labels + tl.program_id(0))
    inside = tl.minimum(tl.maximum(label, 0), V - 1).to(tl.int64)
    return tl.load(base + inside * stride_v).to(tl.float32)


@triton.jit
def columns(base, cols, V, stride_v, CONTIGUOUS: tl.constexpr):
    """Logits of the columns, widened; −inf beyond the vocabulary."""
    place = base + cols if CONTIGUOUS else base + cols.to(tl.int64) * stride_v
    return tl.load(place, mask=cols < V, other=-INFINITY).to(tl.float32)


@triton.jit
def _all(x):
    """Sum of all of [tiles, LANES, EACH], a scalar; in each thread first."""
    return tl.sum(tl.sum(tl.sum(x, 2), 0), 0)


@triton.jit
def _by_lane(x):
    """[tiles, LANES, EACH] summed to [LANES]: no lane exchanges anything."""
    return tl.sum(tl.sum(x, 2), 0)


@triton.jit
def _inside(g: tl.constexpr, cols, V, spans, members, LISTED: tl.constexpr):
    """Which columns belong to group g: a range of ids by comparison, others by their bit of the byte map."""
    if (LISTED >> g) & 1:
        byte = tl.load(members + (g // 8) * V + cols, mask=cols < V, other=0).to(tl.int32)
        return ((byte >> (g % 8)) & 1) != 0
    return (cols >= tl.load(spans + 2 * g)) & (cols < tl.load(spans + 2 * g + 1))


@triton.jit
def scan_rows(
    logits, rows, gold, left, right,
    spans, members, holds,
    tile_max, tile_sum, block_base, counts, numbers,
    first, width, stride_b, stride_t, stride_v, V,
    HAS_ROWS: tl.constexpr, CONTIGUOUS: tl.constexpr, FTZ: tl.constexpr, PROBES: tl.constexpr, BETAS: tl.constexpr,
    GROUPS: tl.constexpr, LISTED: tl.constexpr, NUMBERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One pass over a row.

    Args:
        logits: float16, bfloat16 or float32.
        rows: int64 row indices, if HAS_ROWS; else rows are first, first + 1, …
        gold: int64 labels, one a program; so are left and right, if PROBES.
        left: see `gold`.
        right: see `gold`.
        spans: int32 [GROUPS, 2], first id and the id after the last.
        members: uint8 [⌈GROUPS/8⌉, V], bit g % 8 of row g // 8: the id is in group g, if bit g of LISTED is set.
        holds: uint8 [blocks, 1 + GROUPS]: whether the block holds an id of any group, and of each; of none of a group
            of few scattered ids, which `tournament.gathered_sums` sees to.
        tile_max: float32 [programs, tiles], out: the tile's maximum, NaN where the tile has a NaN.
        tile_sum: float32 [programs, tiles], out: Σ e^{x − base}.
        block_base: float32 [programs, blocks], out: that base, the largest logit up to and with the block.
        counts: int32 [programs, 4], out: n_gt, n_eq with gold itself, n_eq_before, n_finite.
        numbers: float32 [programs, NUMBERS], out: Σ finite x; Σ (x − m) e^{x − m}; logits of gold, left, right;
            Σ e^{β(x − m)} at the five β; each group's maximum, then each group's Σ e^{x − maximum}.
    """
    place = tl.program_id(0).to(tl.int64)
    base = row(logits, rows, first, width, stride_b, stride_t, HAS_ROWS)
    gold_id = tl.minimum(tl.maximum(tl.load(gold + place), -1), V).to(tl.int32)
    gold_logit = _at(base, gold, V, stride_v)
    out = numbers + place * NUMBERS
    tl.store(out + GOLD, gold_logit)
    if PROBES:
        tl.store(out + LEFT, _at(base, left, V, stride_v))
        tl.store(out + RIGHT, _at(base, right, V, stride_v))

    n_tiles, n_blocks = tl.cdiv(V, TILE), tl.cdiv(V, BLOCK)
    tile = tl.arange(0, BLOCK // TILE)
    col = (
        tile[:, None, None] * TILE
        + tl.arange(0, LANES)[None, :, None] * EACH
        + tl.arange(0, EACH)[None, None, :]
    )
    m, s = LOWEST, 0.0
    total, lost = 0.0, 0.0  # a compensated sum: a vocabulary of logits around 1e4 adds up to 1e9
    above, equal, before, finite = 0, 0, 0, 0
    tilted = tl.zeros([LANES], tl.float32)
    if BETAS:
        b1 = tl.zeros([LANES], tl.float32)
        b2, b3, b6, b8 = b1, b1, b1, b1
    if GROUPS:
        group = tl.arange(0, triton.next_power_of_2(GROUPS))
        group_m = tl.zeros([triton.next_power_of_2(GROUPS)], tl.float32) + LOWEST
        group_s = tl.zeros([triton.next_power_of_2(GROUPS)], tl.float32)

    for start in range(0, V, BLOCK):
        cols = start + col
        x = columns(base, cols, V, stride_v, CONTIGUOUS)
        highest = tl.max(tl.max(x, 2), 1)
        block_m = tl.max(highest, 0)
        new = tl.maximum(m, block_m)

        # Ranks and groups come before the exponentials: registers hold the logits or their distances, not both.
        if (block_m >= gold_logit) | (block_m != block_m):
            # One sum for both counts: a block has fewer than 2^16 logits.
            both = _all((x > gold_logit).to(tl.int32) + ((x >= gold_logit).to(tl.int32) << 16))
            same = (both >> 16) - (both & 0xFFFF)
            if gold_logit == -INFINITY:  # which what lies beyond the vocabulary equals
                same -= tl.maximum(start + BLOCK - V, 0)
            above += both & 0xFFFF
            equal += same
            if start + BLOCK <= gold_id:
                before += same
            elif start < gold_id:
                before += _all(((x == gold_logit) & (cols < gold_id)).to(tl.int32))

        if GROUPS:
            held = holds + (start // BLOCK) * (1 + GROUPS)
            if tl.load(held) != 0:
                for g in tl.static_range(GROUPS):
                    if tl.load(held + 1 + g) != 0:
                        own = tl.where(_inside(g, cols, V, spans, members, LISTED), x, -INFINITY)
                        old = tl.sum(tl.where(group == g, group_m, 0.0), 0)
                        here = tl.maximum(old, tl.max(tl.max(tl.max(own, 2), 1), 0))
                        added = _all(exp(clamped(own - here), FTZ))
                        rescaled = group_s * exp(clamped(old - here), FTZ) + added
                        group_s = tl.where(group == g, rescaled, group_s)
                        group_m = tl.where(group == g, here, group_m)

        step = clamped(m - new)
        plain = _all(x)
        if (tl.abs(plain) < INFINITY) & (tl.abs(new) < HUGE):
            finite += BLOCK
            d = x - new
        else:
            is_finite = tl.abs(x) < INFINITY
            finite += _all(is_finite.to(tl.int32))
            plain = _all(tl.where(is_finite, x, 0.0))
            n_nan = tl.sum(tl.sum((x != x).to(tl.int32), 2), 1)
            highest = tl.where(n_nan > 0, float("nan"), highest)
            d = clamped(x - new)  # 0·(−inf) is avoided
        part = plain - lost
        after = total + part
        lost = tl.where(tl.abs(after) < INFINITY, (after - total) - part, 0.0)
        total = after

        if BETAS:
            u, p = exp(d, FTZ, 0.25), exp(step, FTZ, 0.25)
            u2, p2 = u * u, p * p
            e, decay = u2 * u2, p2 * p2
            u3, p3 = u2 * u, p2 * p
            b1 = b1 * p + _by_lane(u)
            b2 = b2 * p2 + _by_lane(u2)
            b3 = b3 * p3 + _by_lane(u3)
            b6 = b6 * (p3 * p3) + _by_lane(u3 * u3)
            b8 = b8 * (decay * decay) + _by_lane(e * e)
        else:
            e, decay = exp(d, FTZ), exp(step, FTZ)
        sums = tl.sum(tl.sum(e, 2), 1)
        # Σ (x − new) e^{x − new} of what came before: its own distances, and the step to the new maximum. s is
        # spread over the lanes: which lane holds which part of it makes no difference to the sum.
        tilted = (tilted + step * (s / LANES)) * decay + _by_lane(d * e)
        s = s * decay + tl.sum(sums, 0)
        m = new

        at = start // TILE + tile
        tl.store(tile_max + place * n_tiles + at, highest, mask=at < n_tiles)
        tl.store(tile_sum + place * n_tiles + at, sums, mask=at < n_tiles)
        tl.store(block_base + place * n_blocks + start // BLOCK, new)

    tl.store(counts + place * 4, above)
    tl.store(counts + place * 4 + 1, equal)
    tl.store(counts + place * 4 + 2, before)
    tl.store(counts + place * 4 + 3, finite)
    tl.store(out + SUM, total)
    tl.store(out + TILTED, tl.sum(tilted, 0))
    if BETAS:
        tl.store(out + BETA, tl.sum(b1, 0))
        tl.store(out + BETA + 1, tl.sum(b2, 0))
        tl.store(out + BETA + 2, tl.sum(b3, 0))
        tl.store(out + BETA + 3, tl.sum(b6, 0))
        tl.store(out + BETA + 4, tl.sum(b8, 0))
    if GROUPS:
        tl.store(out + GROUP + group, group_m, mask=group < GROUPS)
        tl.store(out + GROUP + GROUPS + group, group_s, mask=group < GROUPS)
