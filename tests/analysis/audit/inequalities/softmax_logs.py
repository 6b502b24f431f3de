"""Logs made of softmax distributions: every value that inequalities speak about, token by token, in plain numpy."""

from __future__ import annotations

import numpy as np
import polars as pl

from logitbox.analysis.audit.names import Meaning
from logitbox.analysis.logs.frame import SCHEMA, Logged

BEST = (2, 5, 10)
DECIMALS = 4
TYPES = ("coord", "text", "desc", "format")
ASKED = {
    "nll": ("", *TYPES), "correct": ("", *TYPES), "mass_coord": ("coord", "text"), "top_in_coord": TYPES[1:],
    "top_out_coord": ("coord",), **dict.fromkeys(("coord.gate", "coord.gate_mass", "coord.loss"), ("coord.finite",)),
}  # fmt: skip
"""Populations that a value is logged of; all tokens otherwise."""


def tokens(logits, gold):
    """Value → [rows, tokens] of logits [rows, tokens, V] and gold ids [rows, tokens]; ties go to the lowest id."""
    x = logits - logits.max(-1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    p = np.exp(log_p)
    nll = -np.take_along_axis(log_p, gold[..., None], -1)[..., 0]
    order = np.argsort(-x, axis=-1, kind="stable")
    rank = (order == gold[..., None]).argmax(-1)
    ranked = np.take_along_axis(p, order, -1)
    size = p.shape[-1]
    coord = np.arange(size) < max(1, size // 3)
    mass = p[..., coord].sum(-1)
    answers = p[..., 0], p[..., -1]
    top = order[..., 0]
    found = {
        "nll": nll,
        "correct": rank == 0,
        "reciprocal_rank": 1 / (rank + 1),
        "entropy": -(p * log_p).sum(-1),
        "confidence": ranked[..., 0],
        "binary_entropy": _bits([ranked[..., 0], 1 - ranked[..., 0]]),
        "mass_coord": mass,
        "coord.gate": -np.log(np.maximum(mass, 1e-300)),
        "coord.gate_mass": mass,
        "coord.loss": -np.log(np.maximum(mass, 1e-300)) * 0.7 + 0.1,
        "top_in_coord": coord[top] & ~coord[gold],
        "top_out_coord": coord[gold] & ~coord[top],
        "mass_accept": answers[0],
        "mass_reject": answers[1],
        "decision_mass": answers[0] + answers[1],
        "decision_confidence": np.maximum(*answers),
        "is_coord": coord[gold],
    }
    for k in BEST:
        found[f"correct_top{k}"] = rank < k
        found[f"top{k}_prob"] = ranked[..., :k].sum(-1)
        rest = np.maximum(1 - ranked[..., :k].sum(-1), 0)
        found[f"top{k}_entropy"] = _bits([*np.moveaxis(ranked[..., :k], -1, 0), rest])
    return {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}


def _bits(parts):
    return sum(-np.where(q > 0, q * np.log2(np.maximum(q, 1e-300)), 0.0) for q in parts)


def means(logits, gold, weight, is_desc):
    """ "value@population" → [rows]: weighted token means, NaN where a row has no such token."""
    values = tokens(logits, gold)
    is_coord = values["is_coord"].astype(bool)
    values["is_desc"] = (is_desc & ~is_coord).astype(float)
    values["is_format"] = (~is_desc & ~is_coord).astype(float)
    populations = {
        "": np.ones_like(is_coord),
        "coord": is_coord,
        "coord.finite": is_coord,
        "text": ~is_coord,
        "desc": is_desc & ~is_coord,
        "format": ~is_desc & ~is_coord,
    }
    found = {}
    for population, mask in populations.items():
        w = weight * mask
        n = w.sum(1)
        for value, x in values.items():
            if population not in ASKED.get(value, ("",)):
                continue
            found[f"{value}@{population}"] = np.where(n > 0, (w * x).sum(1) / np.where(n > 0, n, 1), np.nan)
    # Sequences of up to three tokens; counts say nothing of weighted tokens.
    starts = np.arange(0, gold.shape[1], 3)
    all_right = np.minimum.reduceat(values["correct"], starts, axis=1).mean(1)
    is_equal = np.ptp(weight) == 0
    for name, x in (
        ("sequence_correct", all_right),
        ("n_tokens", gold.shape[1]),
        ("n_sequences", len(starts)),
    ):
        found[f"{name}@"] = np.full(len(gold), x if is_equal else np.nan)
    gap = np.abs(found["correct@"] - found["confidence@"])
    found["ece@"] = gap
    found["composite@"] = found["nll@text"] + found["coord.loss@coord.finite"]
    found["perplexity@"] = np.exp(found["nll@"])
    return found


def meaning(key):
    """The meaning that a key "value@population" has."""
    if key == "composite@":
        return Meaning(key, (("nll", "text"), ("coord.loss", "coord.finite")))
    if key == "perplexity@":
        return Meaning(key, (("nll", ""),), transform="exp")
    value, population = key.split("@")
    shares = ("correct", "sequence_", "mass_", "is_", "top_", "decision_", "confidence", "coord.gate_mass")
    is_fraction = value.startswith(shares) or value.endswith("_prob")
    return Meaning(key, ((value, population),), is_fraction=is_fraction)


def rounded(x, how="decimals"):
    """(x as printed with 4 decimals or 4 significant digits, half a unit of the last)."""
    if how == "exact":
        return x, np.zeros_like(x)
    digits = np.full(x.shape, DECIMALS)
    if how == "significant":
        with np.errstate(divide="ignore", invalid="ignore"):
            exponent = np.where((x != 0) & np.isfinite(x), np.floor(np.log10(np.abs(x))), 0.0)
        digits = DECIMALS - 1 - exponent.astype(int)
    unit = 10.0 ** -digits.astype(float)
    return np.round(x / unit) * unit, unit / 2


def log_of(columns, how="decimals", framework="", meta=None, steps=None):
    """A `Logged` of one run, a row for each place in the columns (key → [rows])."""
    frames = []
    for key, x in columns.items():
        value, precision = rounded(np.asarray(x, dtype=np.float64), how)
        row = np.arange(len(x))
        phase = "eval" if key.startswith("eval") else "train"
        frame = pl.DataFrame(
            {
                "run": np.zeros(len(x), int),
                "row": row,
                "step": (row + 1) * 10 if steps is None else np.asarray(steps),
                "epoch": row / 10,
                "phase": [phase] * len(x),
                "key": [key] * len(x),
                "value": value,
                "precision": precision,
            },
            schema=SCHEMA,
        )
        frames.append(frame.filter(~np.isnan(x)) if np.isnan(x).any() else frame)
    frame = pl.concat(frames).sort("row", maintain_order=True)
    return Logged(frame, framework=framework, meta=meta or {})


def log_of_rows(rows, framework="", meta=None, precision=0.0, phases=None):
    """A `Logged` of one run from dicts, whose "step" and "epoch" are taken out."""
    told = [
        {
            "run": 0,
            "row": number,
            "step": row.get("step"),
            "epoch": row.get("epoch"),
            "phase": phases[number] if phases else ("eval" if key.startswith("eval") else "train"),
            "key": key,
            "value": float(value),
            "precision": precision,
        }
        for number, row in enumerate(rows)
        for key, value in row.items()
        if key not in ("step", "epoch")
    ]
    return Logged(pl.DataFrame(told, schema=SCHEMA), framework=framework, meta=meta or {})
