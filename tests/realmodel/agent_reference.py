"""Seed 001's metrics a second time: one softmax in float64 per token, then plain means.

Nothing of logitbox is used.
"""

import math

import numpy as np
import polars as pl

BEST = (1, 2, 5, 10)


def token_table(logits, batch, special, phase, step, entropy_k=10):
    """A frame with one row per supervised token.

    Args:
        logits: float32 [B, T, V]; row i predicts token i + 1.
        batch: an `AgentBatch`.
        special: ids that the metrics leave out.
        phase, step: noted in every row.
        entropy_k: how many of the best tokens the top-k entropy tells apart.
    """
    rows = []
    for b, text in enumerate(batch.texts):
        for i in range(batch.labels.shape[1] - 1):
            gold = int(batch.labels[b, i + 1])
            if gold == -100:
                continue
            place = i + 1 - batch.starts[b]
            assert text.ids[place] == gold
            told = {"phase": phase, "step": step, "key": text.key, "pos": place, "gold": gold}
            told |= {"type": text.types[place], "special": gold in special}
            rows.append(told | quantities(logits[b, i].double().numpy(), gold, entropy_k))
    return pl.DataFrame(rows)


def quantities(x, gold, entropy_k):
    """Of one row of logits, float64 [V]."""
    e = np.exp(x - x.max())
    p = e / e.sum()
    most = max(*BEST, entropy_k)
    best = np.sort(np.partition(p, len(p) - most)[-most:])[::-1]
    out = {f"top{n}_prob": best[:n].sum() for n in BEST}
    out["nll"] = -math.log(p[gold])
    out["entropy"] = entropy_bits([best[0], p.sum() - best[0]])
    out[f"top{entropy_k}_entropy"] = entropy_bits([*best[:entropy_k], p.sum() - best[:entropy_k].sum()])
    return out


def entropy_bits(p):
    """−Σ p log₂ p."""
    return -sum(q * math.log2(q) for q in p if q > 0)


def metrics(tokens, entropy_k=10, prefixes=(("train", "train_"), ("eval", "val_"))):
    """The seed's keys over a token table: token means, special tokens left out."""
    out = {}
    plain = tokens.filter(~pl.col("special"))
    for phase, prefix in prefixes:
        for kind in ("", "reasoning", "tool_call"):
            mine = plain.filter((pl.col("phase") == phase) & (pl.col("type").eq(kind) | (kind == "")))
            before = prefix + (f"{kind}_" if kind else "")
            names = ["entropy", *(f"top{n}_prob" for n in BEST), f"top{entropy_k}_entropy"]
            out |= {before + name: mine[name].mean() for name in names}
            out[before + "perplexity"] = min(math.exp(mine["nll"].mean()), 1e6)
    return out
